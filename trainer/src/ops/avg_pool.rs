//! The mean of a map: one vector an image.

use candle_core::{Result, Tensor};

use super::autograd::Op;
use super::cpu::f32s;
use super::gpu::{Arg, Gpu, grid};

/// `[N, H, W, C]` → `[N, C]`.
#[derive(Clone, Copy, Debug)]
pub struct GlobalAveragePool;

impl Op<1> for GlobalAveragePool {
    fn forward(&mut self, [map]: [&Tensor; 1]) -> Result<Tensor> {
        let (n, h, w, c) = map.dims4()?;
        if let Some(gpu) = Gpu::of(map) {
            let means = gpu.empty((n, c), map.dtype())?;
            launch(&gpu, "average_pool", [map, &means], map)?;
            return Ok(means);
        }
        let mut means = vec![0.0; n * c];
        for (mean, image) in means.chunks_exact_mut(c).zip(f32s(map)?.chunks_exact(h * w * c)) {
            for pixel in image.chunks_exact(c) {
                mean.iter_mut().zip(pixel).for_each(|(mean, value)| *mean += value);
            }
            mean.iter_mut().for_each(|mean| *mean /= (h * w) as f32);
        }
        Tensor::from_vec(means, (n, c), map.device())
    }

    /// Each pixel gets its share.
    fn backward(
        &self,
        [map]: [&Tensor; 1],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        let (_, h, w, c) = map.dims4()?;
        if let Some(gpu) = Gpu::of(grad) {
            let dmap = gpu.empty(map.shape(), map.dtype())?;
            launch(&gpu, "average_pool_backward", [grad, &dmap], map)?;
            return Ok([Some(dmap)]);
        }
        let pixels = h * w;
        let mut dmap = Vec::with_capacity(map.elem_count());
        for grad in f32s(grad)?.chunks_exact(c) {
            for _ in 0..pixels {
                dmap.extend(grad.iter().map(|value| value / pixels as f32));
            }
        }
        Ok([Some(Tensor::from_vec(dmap, map.shape(), map.device())?)])
    }

    fn reads_input(&self, _: usize) -> bool {
        false
    }

    fn reads_output(&self) -> bool {
        false
    }
}

/// Either kernel, a thread for each pack of its result.
fn launch(gpu: &Gpu, kernel: &'static str, [from, to]: [&Tensor; 2], map: &Tensor) -> Result<()> {
    let (n, h, w, c) = map.dims4()?;
    let threads = grid::packs(to.elem_count(), c, map.dtype())?;
    let arguments =
        [Arg::Tensor(from), Arg::Tensor(to), Arg::int(n)?, Arg::int(h * w)?, Arg::int(c)?];
    gpu.launch(kernel, map.dtype(), grid::line(threads)?, &arguments)
}
