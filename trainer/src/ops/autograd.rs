//! The record of a forward pass, and the backward pass over it.
//!
//! Candle can differentiate by itself, but adds every gradient to a tensor of zeros first and keeps
//! the whole graph until the end. With both imitated here, a step of ResNet-50 at 224 px with 8
//! pairs took 4,697 ms instead of 3,523 (+33 %), one of ResNet-18 at 96 px with 16 pairs 721 ms
//! instead of 647 (+11 %), and both 15 % more memory (medians of 3 in turns, two cores of an AMD
//! EPYC with AVX-512, 2026-11-24). So the tape takes the first gradient of a tensor as it is, adds
//! further ones in place, keeps only the values that an op says it will read, and drops each tensor
//! as soon as it has been used.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::{Device, Result, Tensor, TensorId};

use super::add::add_in_place;
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

    /// [`Op::backward`], its gradients added to those that the inputs have already.
    fn backward_onto(
        &self,
        inputs: [&Tensor; N],
        output: &Tensor,
        grad: &Tensor,
        before: [Option<Tensor>; N],
    ) -> Result<[Option<Tensor>; N]> {
        sums(before, self.backward(inputs, output, grad)?)
    }

    /// Whether the gradients depend on the values of this input after `forward`, and not just on
    /// its shape and type. What no op reads is not kept.
    fn reads_input(&self, _index: usize) -> bool {
        true
    }

    /// Whether they depend on the values of the output.
    fn reads_output(&self) -> bool {
        true
    }
}

/// Adds gradients to those that were there before, in place.
pub(super) fn sums<const N: usize>(
    mut before: [Option<Tensor>; N],
    gradients: [Option<Tensor>; N],
) -> Result<[Option<Tensor>; N]> {
    for (sum, gradient) in before.iter_mut().zip(gradients) {
        match (&*sum, gradient) {
            (Some(sum), Some(gradient)) => add_in_place(sum, &gradient)?,
            (None, gradient) => *sum = gradient,
            (Some(_), None) => {}
        }
    }
    Ok(before)
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
        /// From 0, the running ones stay to the bit, to 1, the batch's take their place.
        momentum: f32,
    },
    /// Those of each batch in the pass; the running ones become the mean of all batches'.
    Batches {
        /// Images of a batch. Those that are left over are dropped.
        images: usize,
        /// Batches of earlier passes.
        before: usize,
    },
    /// The running ones, which stay as they are.
    Running,
}

/// How much of a batch's statistics goes into the running ones, PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// An application of an op.
trait Step {
    fn output(&self) -> TensorId;

    fn inputs(&self) -> &[TensorId];

    /// Adds the gradients of the inputs, from that of the output, to `gradients`.
    fn backward(&self, grad: &Tensor, gradients: &mut Gradients) -> Result<()>;
}

struct Applied<O, const N: usize> {
    op: O,
    ids: [TensorId; N],
    inputs: [Tensor; N],
    output_id: TensorId,
    output: Tensor,
}

impl<O: Op<N>, const N: usize> Applied<O, N> {
    fn new(op: O, inputs: [&Tensor; N], output: &Tensor) -> Result<Self> {
        let mut kept = inputs.map(Tensor::clone);
        for (index, input) in kept.iter_mut().enumerate() {
            if !op.reads_input(index) {
                *input = without_values(input)?;
            }
        }
        let output_id = output.id();
        let output = if op.reads_output() { output.clone() } else { without_values(output)? };
        Ok(Self { op, ids: inputs.map(Tensor::id), inputs: kept, output_id, output })
    }
}

/// A tensor of the same shape and type on the CPU that takes no memory.
fn without_values(tensor: &Tensor) -> Result<Tensor> {
    Tensor::zeros((), tensor.dtype(), &Device::Cpu)?.broadcast_as(tensor.shape())
}

impl<const N: usize, O: Op<N>> Step for Applied<O, N> {
    fn output(&self) -> TensorId {
        self.output_id
    }

    fn inputs(&self) -> &[TensorId] {
        &self.ids
    }

    fn backward(&self, grad: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let before = self.ids.map(|id| gradients.0.remove(&id));
        let inputs = self.inputs.each_ref();
        let backward = || self.op.backward_onto(inputs, &self.output, grad, before);
        let sums = profile::of_op::<O, _>("backward", grad.device(), backward)?;
        for (id, sum) in self.ids.into_iter().zip(sums) {
            if let Some(sum) = sum {
                gradients.add(id, sum)?;
            }
        }
        Ok(())
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
                Ok(())
            }
            Entry::Occupied(entry) => add_in_place(entry.get(), &gradient),
        }
    }
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
            self.steps.push(Box::new(Applied::new(op, inputs, &output)?));
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
            *uses.entry(*input).or_default() += 1;
        }
        for step in &self.steps {
            uses.remove(&step.output());
        }
        gradients.add(result.id(), gradient)?;
        while let Some(step) = self.steps.pop() {
            // A result that the loss does not depend on has no gradient.
            if let Some(gradient) = gradients.0.remove(&step.output()) {
                step.backward(&gradient, &mut gradients)?;
            }
            for leaf in step.inputs() {
                let Some(left) = uses.get_mut(leaf) else { continue };
                *left -= 1;
                if *left == 0
                    && let Some(gradient) = gradients.0.get(leaf)
                {
                    complete(*leaf, gradient)?;
                }
            }
        }
        Ok(gradients)
    }
}
