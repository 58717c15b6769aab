//! Pixels to network input.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};
use rayon::prelude::*;

use super::CHUNK;

/// Mean of ImageNet's red, green and blue, of values in [0, 1].
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Their standard deviation.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Bytes `[N, H, W, 3]` → float32 of the same shape: `(v / 255 − mean) / std`.
#[derive(Clone, Copy, Debug)]
pub struct NormalizePixels;

impl CustomOp1 for NormalizePixels {
    fn name(&self) -> &'static str {
        "normalize-pixels"
    }

    fn cpu_fwd(&self, pixels: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::U8(bytes), Some((start, end))) = (pixels, layout.contiguous_offsets()) else {
            bail!("expected contiguous bytes on the CPU");
        };
        if layout.dims().last() != Some(&3) {
            bail!("expected [N, H, W, 3], got {:?}", layout.dims());
        }
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
        Ok((CpuStorage::F32(normalized), layout.shape().clone()))
    }
}
