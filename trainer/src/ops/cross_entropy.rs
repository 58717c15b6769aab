//! The loss of a classifier, −log softmax(logits)\[class\], and how many of its answers are right.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::f32s;

/// Stands for an unknown class.
pub const UNKNOWN_CLASS: i64 = -1;

/// Logits `[N, C]` and classes `[N]` (int64, [`UNKNOWN_CLASS`] where not known) give the scalar Σ −log softmax over
/// the rows whose class is known, divided by `labelled`.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// The rows of known class in the global batch.
    pub labelled: f64,
}

/// The rows of logits whose class is known, with that class.
fn labelled<'a>(
    logits: (&'a CpuStorage, &Layout),
    classes: (&'a CpuStorage, &Layout),
) -> Result<Vec<(usize, &'a [f32], usize)>> {
    let (&[rows, count], &[classes_rows]) = (logits.1.dims(), classes.1.dims()) else {
        bail!("logits are [N, C] and classes [N], got {:?} and {:?}", logits.1.dims(), classes.1.dims());
    };
    let (CpuStorage::I64(numbers), Some((start, end))) = (classes.0, classes.1.contiguous_offsets()) else {
        bail!("expected contiguous int64 classes on the CPU");
    };
    if rows != classes_rows || count == 0 {
        bail!("{classes_rows} classes for {rows} rows of {count} logits");
    }
    let rows = f32s(logits.0, logits.1)?.chunks_exact(count).zip(&numbers[start..end]).enumerate();
    rows.filter(|(_, (_, class))| **class != UNKNOWN_CLASS)
        .map(|(row, (logits, class))| match usize::try_from(*class) {
            Ok(class) if class < count => Ok((row, logits, class)),
            _ => bail!("class {class} of {count}"),
        })
        .collect()
}

/// log Σ exp(logits), and the largest logit, which keeps it finite.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum::<f64>().ln()
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        classes: &CpuStorage,
        classes_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let rows = labelled((logits, logits_layout), (classes, classes_layout))?;
        let sum: f64 =
            rows.into_iter().map(|(_, logits, class)| log_sum_exp(logits) - f64::from(logits[class])).sum();
        Ok((CpuStorage::F32(vec![(sum / self.labelled) as f32]), ().into()))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        classes: &Tensor,
        _loss: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = logits.apply_op2_no_bwd(classes, &CrossEntropyGradient(*self))?;
        Ok((Some(gradient.broadcast_mul(grad)?), None))
    }
}

/// (logits, classes) → gradient of the logits: (softmax − 1 at the class) / labelled; 0 in rows of unknown class.
struct CrossEntropyGradient(CrossEntropy);

impl CustomOp2 for CrossEntropyGradient {
    fn name(&self) -> &'static str {
        "cross-entropy-gradient"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        classes: &CpuStorage,
        classes_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let rows = labelled((logits, logits_layout), (classes, classes_layout))?;
        let mut gradient = vec![0.0; logits_layout.shape().elem_count()];
        for (row, logits, class) in rows {
            let log_sum = log_sum_exp(logits);
            let row = &mut gradient[row * logits.len()..][..logits.len()];
            for (index, (gradient, logit)) in row.iter_mut().zip(logits).enumerate() {
                let expected = if index == class { 1.0 } else { 0.0 };
                *gradient = (((f64::from(*logit) - log_sum).exp() - expected) / self.0.labelled) as f32;
            }
        }
        Ok((CpuStorage::F32(gradient), logits_layout.shape().clone()))
    }
}

/// Logits `[N, C]` and classes `[N]` as in [`CrossEntropy`] give the scalar number of rows whose largest logit, the
/// first of equal ones, is at their class.
#[derive(Clone, Copy, Debug)]
pub struct CountRight;

impl CustomOp2 for CountRight {
    fn name(&self) -> &'static str {
        "count-right"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        classes: &CpuStorage,
        classes_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let rows = labelled((logits, logits_layout), (classes, classes_layout))?;
        let is_right = |(_, logits, class): &(usize, &[f32], usize)| {
            let (before, after) = logits.split_at(*class);
            before.iter().all(|logit| *logit < after[0]) && after.iter().all(|logit| *logit <= after[0])
        };
        Ok((CpuStorage::F32(vec![rows.iter().filter(|row| is_right(row)).count() as f32]), ().into()))
    }
}
