//! The record of a forward pass, and the walk back through it.
//!
//! Candle can differentiate by itself, but it adds every gradient to a tensor of zeros first, which for feature maps
//! costs three passes over memory on top of the one that is needed, and it keeps the whole graph until the end. The tape
//! calls the same `bwd` of the same custom ops, takes the first gradient of a tensor as it is, adds further ones in
//! place, and lets go of each tensor as soon as it has been passed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, InplaceOp2, Layout, Result, Tensor, TensorId,
};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{CHUNK, f32s, f32s_mut};

/// A forward pass being recorded, or merely run.
pub struct Tape {
    steps: Vec<Step>,
    recording: bool,
    normalization: Normalization,
}

/// With which mean and variance batch norms normalise in a pass.
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

enum Step {
    One { op: Box<dyn CustomOp1>, x: Tensor, y: Tensor },
    Two { op: Box<dyn CustomOp2>, a: Tensor, b: Tensor, y: Tensor },
    Three { op: Box<dyn CustomOp3>, a: Tensor, b: Tensor, c: Tensor, y: Tensor },
}

/// The gradients of the leaves: the tensors that were never a result on the tape.
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// The gradient of the loss with respect to `leaf`, in its shape; `None` if the loss does not depend on it.
    pub fn get(&self, leaf: &Tensor) -> Option<&Tensor> {
        self.0.get(&leaf.id())
    }

    /// Lets go of a leaf's gradient, which nobody asks for.
    pub fn forget(&mut self, leaf: &Tensor) {
        self.0.remove(&leaf.id());
    }

    /// Adds the gradients of another pass, over the same leaves or others.
    pub fn accumulate(&mut self, other: Self) -> Result<()> {
        other.0.into_iter().try_for_each(|(leaf, gradient)| self.add(leaf, gradient))
    }

    fn add(&mut self, tensor: TensorId, gradient: Tensor) -> Result<()> {
        match self.0.entry(tensor) {
            Entry::Vacant(entry) => {
                entry.insert(gradient);
                Ok(())
            }
            Entry::Occupied(entry) => entry.get().inplace_op2(&gradient, &AddAssign),
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
    /// A tape that remembers every step for [`Tape::backward`].
    pub fn recording() -> Self {
        Self { recording: true, ..Self::forward_only() }
    }

    /// A tape that remembers nothing: a forward pass alone.
    pub fn forward_only() -> Self {
        Self::normalizing(Normalization::Batch { momentum: MOMENTUM })
    }

    /// A forward pass alone in which batch norms do this.
    pub fn normalizing(normalization: Normalization) -> Self {
        Self { steps: Vec::new(), recording: false, normalization }
    }

    /// What batch norms do in this pass.
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }

    /// Applies `op` to `x`.
    pub fn one<Op: CustomOp1 + 'static>(&mut self, op: Op, x: &Tensor) -> Result<Tensor> {
        let y = x.apply_op1_no_bwd(&op)?;
        if self.recording {
            self.steps.push(Step::One { op: Box::new(op), x: x.clone(), y: y.clone() });
        }
        Ok(y)
    }

    /// Applies `op` to `a` and `b`.
    pub fn two<Op: CustomOp2 + 'static>(&mut self, op: Op, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let y = a.apply_op2_no_bwd(b, &op)?;
        if self.recording {
            self.steps.push(Step::Two { op: Box::new(op), a: a.clone(), b: b.clone(), y: y.clone() });
        }
        Ok(y)
    }

    /// Applies `op` to `a`, `b` and `c`.
    pub fn three<Op: CustomOp3 + 'static>(
        &mut self,
        op: Op,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
    ) -> Result<Tensor> {
        let y = a.apply_op3_no_bwd(b, c, &op)?;
        if self.recording {
            let (a, b, c) = (a.clone(), b.clone(), c.clone());
            self.steps.push(Step::Three { op: Box::new(op), a, b, c, y: y.clone() });
        }
        Ok(y)
    }

    /// Walks back from `result`, whose own gradient is `gradient`.
    ///
    /// An op's `bwd` must return tensors that nothing else holds, since further gradients are added to them in place.
    pub fn backward(mut self, result: &Tensor, gradient: Tensor) -> Result<Gradients> {
        let mut gradients = Gradients(HashMap::from([(result.id(), gradient)]));
        while let Some(step) = self.steps.pop() {
            let y = match &step {
                Step::One { y, .. } | Step::Two { y, .. } | Step::Three { y, .. } => y,
            };
            // A result that the loss does not depend on has no gradient.
            let Some(gradient) = gradients.0.remove(&y.id()) else { continue };
            let found = match &step {
                Step::One { op, x, y } => vec![(x, op.bwd(x, y, &gradient)?)],
                Step::Two { op, a, b, y } => {
                    let (da, db) = op.bwd(a, b, y, &gradient)?;
                    vec![(a, da), (b, db)]
                }
                Step::Three { op, a, b, c, y } => {
                    let (da, db, dc) = op.bwd(a, b, c, y, &gradient)?;
                    vec![(a, da), (b, db), (c, dc)]
                }
            };
            for (tensor, gradient) in found {
                if let Some(gradient) = gradient {
                    gradients.add(tensor.id(), gradient)?;
                }
            }
        }
        Ok(gradients)
    }
}

/// `dst += src`.
struct AddAssign;

impl InplaceOp2 for AddAssign {
    fn name(&self) -> &'static str {
        "add-assign"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        dst_layout: &Layout,
        src: &CpuStorage,
        src_layout: &Layout,
    ) -> Result<()> {
        let (dst, src) = (f32s_mut(dst, dst_layout)?, f32s(src, src_layout)?);
        dst.par_chunks_mut(CHUNK).zip(src.par_chunks(CHUNK)).for_each(|(dst, src)| add(dst, src));
        Ok(())
    }
}

#[multiversion(targets = "simd")]
fn add(dst: &mut [f32], src: &[f32]) {
    dst.iter_mut().zip(src).for_each(|(d, s)| *d += s);
}
