//! The record of a forward pass, and the backward pass over it.
//!
//! Candle can differentiate by itself, but adds every gradient to a tensor of zeros first and keeps
//! the whole graph until the end. With both imitated here, a step of ResNet-50 at 224 px with 8
//! pairs took 4,697 ms instead of 3,523 (+33 %), one of ResNet-18 at 96 px with 16 pairs 721 ms
//! instead of 647 (+11 %), and both 15 % more memory (medians of 3 in turns, two cores of an AMD
//! EPYC with AVX-512, 2026-11-24). So the tape takes the first gradient of a tensor as it is, adds
//! further ones in place, and drops each tensor as soon as it has been used.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::{Result, Tensor, TensorId};
use rayon::prelude::*;
use scrl_preprocess::vectorized;

use super::cpu::{CHUNK, change, f32s};
use super::gpu::Gpu;
use super::profile;
use crate::collective::Ranks;

/// A computation of one tensor from `N` others, and its gradients. A value is applied once, and may
/// store what the gradients need besides inputs and output.
pub trait Op<const N: usize>: 'static {
    /// The result, a tensor of its own.
    fn forward(&mut self, inputs: [&Tensor; N]) -> Result<Tensor>;

    /// The gradient of each input from that of the output, `None` where it is zero or not wanted.
    /// No two of them, nor any and `grad`, may share memory, since further gradients are added to
    /// them in place.
    fn backward(
        &self,
        inputs: [&Tensor; N],
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; N]>;
}

/// A forward pass, recorded for a backward pass or not.
pub struct Tape {
    steps: Vec<Box<dyn Step>>,
    recording: bool,
    normalization: Normalization,
    ranks: Ranks,
}

/// With which mean and variance batch norms normalize in a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normalization {
    /// Those of the batch, which enter the running ones with this weight.
    Batch {
        /// From 0, the running ones stay, to 1, the batch's take their place.
        momentum: f32,
    },
    /// The running ones, which stay as they are.
    Running,
}

/// How much of a batch's statistics goes into the running ones, PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// An application of an op.
trait Step {
    fn output(&self) -> &Tensor;

    fn inputs(&self) -> &[Tensor];

    /// Each input with its gradient.
    fn backward(&self, grad: &Tensor) -> Result<Vec<(TensorId, Option<Tensor>)>>;
}

struct Applied<O, const N: usize> {
    op: O,
    inputs: [Tensor; N],
    output: Tensor,
}

impl<const N: usize, O: Op<N>> Step for Applied<O, N> {
    fn output(&self) -> &Tensor {
        &self.output
    }

    fn inputs(&self) -> &[Tensor] {
        &self.inputs
    }

    fn backward(&self, grad: &Tensor) -> Result<Vec<(TensorId, Option<Tensor>)>> {
        let backward = || self.op.backward(self.inputs.each_ref(), &self.output, grad);
        let gradients = profile::of_op::<O, _>("backward", grad.device(), backward)?;
        Ok(self.inputs.iter().map(Tensor::id).zip(gradients).collect())
    }
}

/// The gradients of the leaves: the tensors that were never a result on the tape.
#[derive(Default)]
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// The gradient of the loss with respect to `leaf`, in its shape; `None` if the loss does not
    /// depend on it.
    pub fn get(&self, leaf: &Tensor) -> Option<&Tensor> {
        self.0.get(&leaf.id())
    }

    /// Drops a leaf's gradient.
    pub fn forget(&mut self, leaf: &Tensor) {
        self.0.remove(&leaf.id());
    }

    fn add(&mut self, tensor: TensorId, gradient: Tensor) -> Result<()> {
        match self.0.entry(tensor) {
            Entry::Vacant(entry) => {
                entry.insert(gradient);
            }
            Entry::Occupied(mut entry) if Gpu::of(&gradient).is_some() => {
                let sum = (entry.get() + gradient)?;
                entry.insert(sum);
            }
            Entry::Occupied(entry) => {
                let gradient = f32s(&gradient)?;
                change(entry.get(), |sum| {
                    let chunks = sum.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
                    chunks.for_each(|(sum, gradient)| vectorized!(add(sum, gradient)));
                })?;
            }
        }
        Ok(())
    }
}

#[inline(always)]
fn add(sum: &mut [f32], gradient: &[f32]) {
    sum.iter_mut().zip(gradient).for_each(|(sum, gradient)| *sum += gradient);
}

impl FromIterator<(Tensor, Tensor)> for Gradients {
    /// Gradients that were computed elsewhere: (leaf, gradient) each.
    fn from_iter<I: IntoIterator<Item = (Tensor, Tensor)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(leaf, gradient)| (leaf.id(), gradient)).collect())
    }
}

impl Tape {
    /// A tape that records every step for [`Tape::backward`].
    pub fn recording() -> Self {
        Self { recording: true, ..Self::forward_only() }
    }

    /// A tape that records nothing: for a forward pass alone.
    pub fn forward_only() -> Self {
        Self::normalizing(Normalization::Batch { momentum: MOMENTUM })
    }

    /// A tape that records nothing, with this normalization in batch norms.
    pub fn normalizing(normalization: Normalization) -> Self {
        Self { steps: Vec::new(), recording: false, normalization, ranks: Ranks::default() }
    }

    /// The same tape for a batch that is divided among `ranks`.
    pub fn among(self, ranks: &Ranks) -> Self {
        Self { ranks: ranks.clone(), ..self }
    }

    /// The processes that share the batch.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// What batch norms do in this pass.
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }

    /// Applies `op`.
    pub fn apply<const N: usize, O: Op<N>>(
        &mut self,
        mut op: O,
        inputs: [&Tensor; N],
    ) -> Result<Tensor> {
        let device = inputs[0].device();
        let output = profile::of_op::<O, _>("forward", device, || op.forward(inputs))?;
        if self.recording {
            self.steps.push(Box::new(Applied {
                op,
                inputs: inputs.map(Tensor::clone),
                output: output.clone(),
            }));
        }
        Ok(output)
    }

    /// The backward pass from `result`, whose own gradient is `gradient`.
    pub fn backward(self, result: &Tensor, gradient: Tensor) -> Result<Gradients> {
        self.backward_onto(Gradients::default(), result, gradient, |_, _| Ok(()))
    }

    /// [`Tape::backward`], whose gradients are added to those of an earlier pass over the same
    /// leaves. `complete` is called with each leaf's sum as soon as this pass has no more to add.
    pub fn backward_onto(
        mut self,
        mut gradients: Gradients,
        result: &Tensor,
        gradient: Tensor,
        mut complete: impl FnMut(TensorId, &Tensor) -> Result<()>,
    ) -> Result<Gradients> {
        let mut uses: HashMap<TensorId, usize> = HashMap::new();
        for input in self.steps.iter().flat_map(|step| step.inputs()) {
            *uses.entry(input.id()).or_default() += 1;
        }
        for step in &self.steps {
            uses.remove(&step.output().id());
        }
        gradients.add(result.id(), gradient)?;
        while let Some(step) = self.steps.pop() {
            // A result that the loss does not depend on has no gradient.
            if let Some(gradient) = gradients.0.remove(&step.output().id()) {
                for (input, gradient) in step.backward(&gradient)? {
                    if let Some(gradient) = gradient {
                        gradients.add(input, gradient)?;
                    }
                }
            }
            for leaf in step.inputs().iter().map(Tensor::id) {
                let Some(left) = uses.get_mut(&leaf) else { continue };
                *left -= 1;
                if *left == 0
                    && let Some(gradient) = gradients.0.get(&leaf)
                {
                    complete(leaf, gradient)?;
                }
            }
        }
        Ok(gradients)
    }
}
