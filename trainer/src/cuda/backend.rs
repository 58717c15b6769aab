//! Who runs programs.

use super::program::{Operand, Program};
use crate::Result;

/// Where a program's operands lie on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The memory that is kept between programs.
    pub kept: u64,
    /// The memory that programs share for their buffers.
    pub buffers: u64,
    /// What [`Backend::stage`] gave.
    pub staged: [u64; 2],
}

impl Places {
    /// The address of an operand of `program`.
    pub fn address(&self, program: &Program, operand: Operand) -> u64 {
        match operand {
            Operand::Null => 0,
            Operand::Kept(offset) => self.kept + offset as u64,
            Operand::Buffer(buffer) => self.buffers + program.offsets[buffer] as u64,
            Operand::Staged(part) => self.staged[part],
        }
    }
}

/// What a step's kernels leave for the host, as the struct `Outcome` of `kernels/loss.cu`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Outcome {
    /// The loss.
    pub loss: f32,
    /// The online evaluation's loss.
    pub online_loss: f32,
    /// Labelled views whose class the online evaluation named.
    pub right: f32,
    /// How much the online network's projections differ.
    pub projection_spread: f32,
    /// How much the target network's projections differ.
    pub target_spread: f32,
}

/// Numbers of an [`Outcome`].
pub const OUTCOME_NUMBERS: usize = 5;

impl Outcome {
    /// From the numbers in the order of the fields.
    pub fn from_numbers(numbers: [f32; OUTCOME_NUMBERS]) -> Self {
        let [loss, online_loss, right, projection_spread, target_spread] = numbers;
        Self { loss, online_loss, right, projection_spread, target_spread }
    }
}

/// A device that runs programs one after the other, in the order of the calls.
///
/// Only [`Backend::upload`], [`Backend::download`] and [`Backend::fetched`] wait for the device.
pub trait Backend {
    /// So many bytes of zeros, for as long as the backend lives.
    fn allocate(&mut self, bytes: usize) -> Result<u64>;

    /// Whatever of a program can be decided ahead, and the memory it needs beyond its buffers.
    fn prepare(&mut self, program: &Program) -> Result<()>;

    /// Copies bytes to the device.
    fn upload(&mut self, bytes: &[u8], to: u64) -> Result<()>;

    /// Copies bytes from the device.
    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<()>;

    /// Hands over a batch: its description and its pixels. The addresses are good for programs until the call after the
    /// next.
    fn stage(&mut self, description: &[u8], pixels: &[u8]) -> Result<[u64; 2]>;

    /// Runs a program that was prepared.
    fn run(&mut self, program: &Program, places: &Places) -> Result<()>;

    /// Begins to copy an [`Outcome`] to the host. At most two are under way.
    fn fetch(&mut self, from: u64) -> Result<()>;

    /// Waits for the oldest outcome under way.
    fn fetched(&mut self) -> Result<Outcome>;
}
