//! The mean of a map: one vector an image.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::f32s;

/// `[N, H, W, C]` → `[N, C]`.
#[derive(Clone, Copy, Debug)]
pub struct GlobalAveragePool;

impl CustomOp1 for GlobalAveragePool {
    fn name(&self) -> &'static str {
        "global-average-pool"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, h, w, c) = layout.shape().dims4()?;
        let mut means = vec![0.0; n * c];
        for (mean, image) in means.chunks_exact_mut(c).zip(f32s(input, layout)?.chunks_exact(h * w * c)) {
            for pixel in image.chunks_exact(c) {
                mean.iter_mut().zip(pixel).for_each(|(mean, value)| *mean += value);
            }
            mean.iter_mut().for_each(|mean| *mean /= (h * w) as f32);
        }
        Ok((CpuStorage::F32(means), (n, c).into()))
    }

    fn bwd(&self, input: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, _) = input.dims4()?;
        grad.apply_op1_no_bwd(&Spread { height, width }).map(Some)
    }
}

/// `[N, C]` → `[N, H, W, C]`: each vector's share for each pixel.
struct Spread {
    height: usize,
    width: usize,
}

impl CustomOp1 for Spread {
    fn name(&self) -> &'static str {
        "global-average-pool-gradient"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c) = layout.shape().dims2()?;
        let pixels = self.height * self.width;
        let mut result = Vec::with_capacity(n * pixels * c);
        for grad in f32s(grad, layout)?.chunks_exact(c) {
            for _ in 0..pixels {
                result.extend(grad.iter().map(|value| value / pixels as f32));
            }
        }
        Ok((CpuStorage::F32(result), (n, self.height, self.width, c).into()))
    }
}
