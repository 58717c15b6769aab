//! Pixels to network input.

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::cpu::CHUNK;
use super::gpu::{Arg, Gpu, grid};

/// Mean of ImageNet's red, green and blue, of values in [0, 1].
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Their standard deviation.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Bytes `[N, H, W, 3]` → `(v / 255 − mean) / std` as `dtype`: of the same shape on the CPU; on a
/// device with as many channels as a pack has numbers, zeros after the third, as [`super::Conv2d`]
/// expects in the first layer.
pub fn normalize_pixels(pixels: &Tensor, dtype: DType) -> Result<Tensor> {
    let &[n, h, w, 3] = pixels.dims() else {
        bail!("expected [N, H, W, 3], got {:?}", pixels.dims())
    };
    if let Some(gpu) = Gpu::of(pixels) {
        let views = gpu.empty((n, h, w, grid::lanes(dtype)), dtype)?;
        let arguments = [Arg::Tensor(pixels), Arg::Tensor(&views), Arg::Long((n * h * w) as i64)];
        gpu.launch("normalize_pixels", dtype, grid::line(n * h * w)?, &arguments)?;
        return Ok(views);
    }
    let (storage, layout) = pixels.storage_and_layout();
    let (Storage::Cpu(CpuStorage::U8(bytes)), Some((start, end))) =
        (&*storage, layout.contiguous_offsets())
    else {
        bail!("expected contiguous bytes on the CPU");
    };
    // 256 values a channel: a table holds them all.
    let table: [[f32; 256]; 3] = std::array::from_fn(|channel| {
        std::array::from_fn(|value| {
            (value as f32 / 255.0 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        })
    });
    let bytes = &bytes[start..end];
    let mut normalized = vec![0.0; bytes.len()];
    let size = CHUNK / 3 * 3;
    normalized.par_chunks_mut(size).zip(bytes.par_chunks(size)).for_each(|(normalized, bytes)| {
        for (out, pixel) in normalized.chunks_exact_mut(3).zip(bytes.chunks_exact(3)) {
            for channel in 0..3 {
                out[channel] = table[channel][usize::from(pixel[channel])];
            }
        }
    });
    Tensor::from_vec(normalized, pixels.shape(), pixels.device())
}
