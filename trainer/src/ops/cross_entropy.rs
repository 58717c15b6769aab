//! The loss of a classifier, −log softmax(logits)\[class\], and how many of its predictions are
//! correct.

use candle_core::{DType, Result, Tensor, bail};

use super::autograd::Op;
use super::cpu::f32s;
use super::gpu::{Arg, Gpu, grid};

/// Stands for an unknown class.
pub const UNKNOWN_CLASS: i64 = -1;

/// Logits `[N, C]` and classes `[N]` (int64, [`UNKNOWN_CLASS`] where not known) give the scalar Σ
/// −log softmax over the rows whose class is known, divided by the labeled rows.
#[derive(Debug)]
pub struct CrossEntropy {
    labeled: f64,
    /// The gradient of the logits, which the device computes with the loss.
    gradient: Option<Tensor>,
}

impl CrossEntropy {
    /// The mean over `labeled` rows of known class: those of the global batch.
    pub fn new(labeled: usize) -> Self {
        Self { labeled: labeled as f64, gradient: None }
    }
}

/// A row of logits whose class is known.
struct Labeled<'a> {
    row: usize,
    logits: &'a [f32],
    class: usize,
}

/// The rows of logits whose class is known.
fn labeled<'a>(logits: &'a [f32], dims: &[usize], classes: &Tensor) -> Result<Vec<Labeled<'a>>> {
    let &[rows, count] = dims else { bail!("logits are [N, C], got {dims:?}") };
    let classes = classes.to_vec1::<i64>()?;
    if rows != classes.len() || count == 0 {
        bail!("{} classes for {rows} rows of {count} logits", classes.len());
    }
    let rows = logits.chunks_exact(count).zip(classes).enumerate();
    rows.filter(|(_, (_, class))| *class != UNKNOWN_CLASS)
        .map(|(row, (logits, class))| match usize::try_from(class) {
            Ok(class) if class < count => Ok(Labeled { row, logits, class }),
            _ => bail!("class {class} of {count}"),
        })
        .collect()
}

/// log Σ exp(logits), and the largest logit, which keeps it finite.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum::<f64>().ln()
}

/// What the kernel computes of logits and classes: each row's loss and whether it is correct, and
/// the gradient.
fn launch(gpu: &Gpu, logits: &Tensor, classes: &Tensor, labeled: f64) -> Result<[Tensor; 3]> {
    let (rows, width) = logits.dims2()?;
    let gradient = gpu.empty(logits.shape(), DType::F32)?;
    let (losses, correct) = (gpu.empty(rows, DType::F64)?, gpu.empty(rows, DType::F64)?);
    let tensors = [logits, classes, &gradient, &losses, &correct].map(Arg::Tensor);
    let numbers = [Arg::int(width)?, Arg::Double(labeled)];
    let arguments: Vec<Arg> = tensors.into_iter().chain(numbers).collect();
    gpu.launch("cross_entropy", DType::F32, grid::blocks(rows)?, &arguments)?;
    Ok([losses, correct, gradient])
}

impl Op<2> for CrossEntropy {
    fn forward(&mut self, [logits, classes]: [&Tensor; 2]) -> Result<Tensor> {
        if let Some(gpu) = Gpu::of(logits) {
            let [losses, _, gradient] = launch(&gpu, logits, classes, self.labeled)?;
            self.gradient = Some(gradient);
            return losses.sum_all()?.to_dtype(DType::F32);
        }
        let numbers = f32s(logits)?;
        let rows = labeled(&numbers, logits.dims(), classes)?;
        let losses =
            rows.into_iter().map(|row| log_sum_exp(row.logits) - f64::from(row.logits[row.class]));
        Tensor::new((losses.sum::<f64>() / self.labeled) as f32, logits.device())
    }

    /// Of the logits: (softmax − 1 at the class) / labeled; 0 in rows of unknown class.
    fn backward(
        &self,
        [logits, classes]: [&Tensor; 2],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        if let Some(gradient) = &self.gradient {
            return Ok([Some(gradient.broadcast_mul(grad)?), None]);
        }
        let numbers = f32s(logits)?;
        let mut gradient = vec![0.0; numbers.len()];
        for Labeled { row, logits, class } in labeled(&numbers, logits.dims(), classes)? {
            let log_sum = log_sum_exp(logits);
            let row = &mut gradient[row * logits.len()..][..logits.len()];
            for (index, (gradient, logit)) in row.iter_mut().zip(logits).enumerate() {
                let expected = if index == class { 1.0 } else { 0.0 };
                *gradient =
                    (((f64::from(*logit) - log_sum).exp() - expected) / self.labeled) as f32;
            }
        }
        let gradient = Tensor::from_vec(gradient, logits.shape(), logits.device())?;
        Ok([Some(gradient.broadcast_mul(grad)?), None])
    }
}

/// Logits `[N, C]` and classes `[N]` as in [`CrossEntropy`] give the scalar number of rows whose
/// largest logit, the first of equal ones, is at their class.
pub fn count_correct(logits: &Tensor, classes: &Tensor) -> Result<Tensor> {
    if let Some(gpu) = Gpu::of(logits) {
        let [_, correct, _] = launch(&gpu, logits, classes, 1.0)?;
        return correct.sum_all()?.to_dtype(DType::F32);
    }
    let is_correct = |row: &&Labeled| {
        let (before, after) = row.logits.split_at(row.class);
        before.iter().all(|logit| *logit < after[0]) && after.iter().all(|logit| *logit <= after[0])
    };
    let numbers = f32s(logits)?;
    let rows = labeled(&numbers, logits.dims(), classes)?;
    Tensor::new(rows.iter().filter(is_correct).count() as f32, logits.device())
}
