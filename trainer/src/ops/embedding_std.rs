//! The standard deviation of embeddings, which falls to zero when a network collapses to one
//! output.

use candle_core::{DType, Result, Tensor};

/// Norms below this count as this, as in the loss.
const SMALLEST_NORM: f64 = 1e-12;

/// Embeddings `[R, D]`, scaled to length 1, give the scalar mean over the D dimensions of their
/// standard deviation over the R embeddings: about 1/√D where they point everywhere, 0 where they
/// are all the same (Chen and He, Exploring Simple Siamese Representation Learning, 2021, section
/// 4.1). Computed in float64.
pub fn embedding_std(embeddings: &Tensor) -> Result<Tensor> {
    let embeddings = embeddings.to_dtype(DType::F64)?;
    let length = embeddings.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(SMALLEST_NORM)?;
    let units = embeddings.broadcast_div(&length)?;
    let deviations = units.broadcast_sub(&units.mean_keepdim(0)?)?;
    deviations.sqr()?.mean(0)?.sqrt()?.mean_all()?.to_dtype(DType::F32)
}
