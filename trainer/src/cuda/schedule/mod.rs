//! What a step consists of: the programs that a learner runs.

mod backbone;
mod heads;
mod step;

pub use step::{Programs, StepShape};

use super::layout::{Branch, Layout};
use super::program::{Numbers, Operand, Recorder};

/// Writes the parts of a step into a program.
struct Schedule<'a> {
    recorder: Recorder,
    layout: &'a Layout,
    shape: &'a StepShape,
    /// Whether gradients are added to those of an earlier micro-batch.
    accumulate: bool,
}

impl<'a> Schedule<'a> {
    fn new(name: &'static str, layout: &'a Layout, shape: &'a StepShape) -> Self {
        Self { recorder: Recorder::new(name), layout, shape, accumulate: false }
    }

    fn numbers(&self) -> Numbers {
        self.shape.numbers
    }

    /// A buffer of numbers of the maps.
    fn numbers_buffer(&mut self, count: usize) -> Operand {
        let bytes = count * self.numbers().bytes();
        self.recorder.buffer(bytes)
    }

    /// How measurements call a part of the work of a network.
    fn begin(&mut self, branch: Branch, [online, target]: [&'static str; 2]) {
        self.recorder.begin(match branch {
            Branch::Online => online,
            Branch::Target => target,
        });
    }
}
