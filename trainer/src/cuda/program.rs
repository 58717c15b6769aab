//! Lists of work on the device, and the plan of the memory they need.
//!
//! What only lives within a program lies in buffers. Their first and last uses are known from the list, so each gets a
//! place in one piece of memory ahead of time, and buffers that are not needed at the same time share theirs.

use crate::run::Precision;

/// The boundary at which buffers begin, in bytes; enough for every access of kernels and libraries.
pub const ALIGNMENT: usize = 256;

/// The next multiple of [`ALIGNMENT`].
pub fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// A place on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// None at all.
    Null,
    /// In what is kept between programs, so many bytes from its beginning.
    Kept(usize),
    /// The buffer of this number.
    Buffer(usize),
    /// In the memory through which the host hands over a batch: 0 its description, 1 its pixels.
    Staged(usize),
}

impl Operand {
    /// The place so many bytes further; only in kept memory.
    pub fn offset(self, bytes: usize) -> Self {
        match self {
            Self::Kept(start) => Self::Kept(start + bytes),
            other => panic!("an offset into {other:?}"),
        }
    }
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// bfloat16.
    Bf16,
    /// float32.
    F32,
}

impl Numbers {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// How many a kernel takes at a time: 16 bytes.
    pub fn lanes(self) -> usize {
        16 / self.bytes()
    }
}

impl From<Precision> for Numbers {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Bf16 => Self::Bf16,
            Precision::F32 => Self::F32,
        }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer.
    Place(Operand),
    /// An `int`.
    Int(i32),
    /// A `long long`.
    Long(i64),
    /// A `float`.
    Float(f32),
}

/// A kernel of `kernels/`.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Its name.
    pub kernel: &'static str,
    /// Blocks, both ways.
    pub grid: [u32; 2],
    /// Threads of a block, both ways.
    pub block: [u32; 2],
    /// In the kernel's order.
    pub arguments: Vec<Argument>,
}

/// Which of a convolution's three computations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Input and filter give the output.
    Forward,
    /// Gradient of the output and filter give that of the input.
    Data,
    /// Input and gradient of the output give that of the filter.
    Filter,
}

/// A convolution of `[n, side, side, inputs]` with `[outputs, kernel, kernel, inputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolve {
    /// Which computation.
    pub pass: Pass,
    /// The sizes.
    pub shape: ConvolutionShape,
    /// The input, or with [`Pass::Data`] its gradient, which is the result.
    pub input: Operand,
    /// The filter, or with [`Pass::Filter`] its gradient, which is the result.
    pub filter: Operand,
    /// The output, which is the result of [`Pass::Forward`], or its gradient.
    pub output: Operand,
    /// Whether the result is added to what is there.
    pub accumulate: bool,
}

/// The sizes of a convolution and its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvolutionShape {
    /// Images.
    pub n: usize,
    /// Side of the input in pixels.
    pub side: usize,
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Side of the filter; half of it, rounded down, is the padding.
    pub kernel: usize,
    /// Step between neighbouring output pixels.
    pub stride: usize,
    /// Of all three tensors; sums are float32.
    pub numbers: Numbers,
}

impl ConvolutionShape {
    /// Zeros around the input, on each side.
    pub fn padding(&self) -> usize {
        self.kernel / 2
    }

    /// Side of the output in pixels.
    pub fn out_side(&self) -> usize {
        (self.side + 2 * self.padding() - self.kernel) / self.stride + 1
    }
}

/// A matrix product of row-major matrices, `result[rows, columns] = left[rows, inner] · right[inner, columns]`, sums in
/// float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiply {
    /// The sizes.
    pub shape: ProductShape,
    /// The left matrix.
    pub left: Operand,
    /// The right matrix.
    pub right: Operand,
    /// The product.
    pub result: Operand,
}

/// The sizes of a matrix product and its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProductShape {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub columns: usize,
    /// Terms of each sum.
    pub inner: usize,
    /// Whether the left matrix lies in memory as `[inner, rows]`.
    pub left_transposed: bool,
    /// Whether the right matrix lies in memory as `[columns, inner]`.
    pub right_transposed: bool,
    /// Of both factors.
    pub factors: Numbers,
    /// Of the result.
    pub result: Numbers,
    /// Whether the result is added to what is there.
    pub accumulate: bool,
}

/// What the device can be told to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Run a kernel.
    Launch(Launch),
    /// Convolve.
    Convolve(Convolve),
    /// Multiply matrices.
    Multiply(Multiply),
    /// Copy bytes.
    Copy {
        /// From here,
        from: Operand,
        /// to there.
        to: Operand,
        /// How many.
        bytes: usize,
    },
}

/// A piece of work.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// The part of the step it belongs to, for measurements.
    pub part: &'static str,
    /// What is done.
    pub work: Work,
}

impl Op {
    /// The places it reads and writes.
    pub fn operands(&self) -> Vec<Operand> {
        match &self.work {
            Work::Launch(launch) => launch
                .arguments
                .iter()
                .filter_map(|argument| match argument {
                    Argument::Place(place) => Some(*place),
                    _ => None,
                })
                .collect(),
            Work::Convolve(c) => vec![c.input, c.filter, c.output],
            Work::Multiply(m) => vec![m.left, m.right, m.result],
            Work::Copy { from, to, .. } => vec![*from, *to],
        }
    }
}

impl Work {
    /// Floating-point operations of a convolution or a matrix product, two for each term of its sums; 0 for other work.
    fn operations(&self) -> f64 {
        let terms = match self {
            Self::Convolve(Convolve { shape, .. }) => [
                shape.n * shape.out_side() * shape.out_side(),
                shape.outputs * shape.kernel * shape.kernel,
                shape.inputs,
            ],
            Self::Multiply(Multiply { shape, .. }) => [shape.rows, shape.columns, shape.inner],
            _ => return 0.0,
        };
        2.0 * terms.iter().map(|count| *count as f64).product::<f64>()
    }
}

/// A list of work and the places of its buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// A name that no other program of a learner has.
    pub name: &'static str,
    /// In order.
    pub ops: Vec<Op>,
    /// Where each buffer begins, in bytes.
    pub offsets: Vec<usize>,
    /// Bytes that hold all buffers.
    pub bytes: usize,
}

impl Program {
    /// Floating-point operations of its convolutions and matrix products.
    pub fn operations(&self) -> f64 {
        self.ops.iter().map(|op| op.work.operations()).sum()
    }
}

/// Writes a program down.
pub struct Recorder {
    name: &'static str,
    part: &'static str,
    ops: Vec<Op>,
    /// Bytes of each buffer.
    sizes: Vec<usize>,
}

impl Recorder {
    /// An empty program.
    pub fn new(name: &'static str) -> Self {
        Self { name, part: "", ops: Vec::new(), sizes: Vec::new() }
    }

    /// What is added from here on belongs to this part of the step.
    pub fn begin(&mut self, part: &'static str) {
        self.part = part;
    }

    /// A new buffer.
    pub fn buffer(&mut self, bytes: usize) -> Operand {
        self.sizes.push(bytes);
        Operand::Buffer(self.sizes.len() - 1)
    }

    /// Adds work.
    pub fn add(&mut self, work: Work) {
        self.ops.push(Op { part: self.part, work });
    }

    /// Gives every buffer its place.
    pub fn finish(self) -> Program {
        let (offsets, bytes) = plan(&self.sizes, &lifetimes(&self.ops, self.sizes.len()));
        Program { name: self.name, ops: self.ops, offsets, bytes }
    }
}

/// The first and the last op that uses each buffer; `None` for one that none uses.
fn lifetimes(ops: &[Op], buffers: usize) -> Vec<Option<(usize, usize)>> {
    let mut lifetimes: Vec<Option<(usize, usize)>> = vec![None; buffers];
    for (index, op) in ops.iter().enumerate() {
        for operand in op.operands() {
            if let Operand::Buffer(buffer) = operand {
                let first = lifetimes[buffer].map_or(index, |(first, _)| first);
                lifetimes[buffer] = Some((first, index));
            }
        }
    }
    lifetimes
}

/// The offset of each buffer and the bytes of all: one after the other by their first use, each goes to the lowest place
/// that no buffer alive at the same time takes.
fn plan(sizes: &[usize], lifetimes: &[Option<(usize, usize)>]) -> (Vec<usize>, usize) {
    let mut order: Vec<(usize, (usize, usize))> =
        lifetimes.iter().enumerate().filter_map(|(buffer, life)| Some((buffer, (*life)?))).collect();
    order.sort_by_key(|(buffer, (first, _))| (*first, *buffer));
    let mut offsets = vec![0; sizes.len()];
    let (mut alive, mut bytes): (Vec<(usize, usize, usize)>, usize) = (Vec::new(), 0);
    for (buffer, (first, last)) in order {
        alive.retain(|(_, _, until)| *until >= first);
        alive.sort_unstable();
        let size = aligned(sizes[buffer]);
        let mut place = 0;
        for (begin, end, _) in &alive {
            if place + size <= *begin {
                break;
            }
            place = place.max(*end);
        }
        offsets[buffer] = place;
        alive.push((place, place + size, last));
        bytes = bytes.max(place + size);
    }
    (offsets, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(from: Operand, to: Operand) -> Work {
        Work::Copy { from, to, bytes: 1 }
    }

    #[test]
    fn buffers_that_are_alive_together_have_places_of_their_own() {
        let mut recorder = Recorder::new("chain");
        let buffers: Vec<Operand> =
            [1000, 300, 1000, 50, 700].map(|bytes| recorder.buffer(bytes)).into_iter().collect();
        for pair in buffers.windows(2) {
            recorder.add(copy(pair[0], pair[1]));
        }
        let program = recorder.finish();
        for (index, pair) in program.offsets.windows(2).enumerate() {
            let size = |buffer: usize| aligned([1000, 300, 1000, 50, 700][buffer]);
            let apart = pair[0] + size(index) <= pair[1] || pair[1] + size(index + 1) <= pair[0];
            assert!(apart, "{:?}", program.offsets);
        }
        assert!(program.bytes < 1000 + 300 + 1000 + 50 + 700);
    }

    #[test]
    fn a_buffer_lives_from_its_first_to_its_last_use() {
        let mut recorder = Recorder::new("long");
        let (kept, short, other) = (recorder.buffer(256), recorder.buffer(256), recorder.buffer(256));
        recorder.add(copy(Operand::Null, kept));
        recorder.add(copy(Operand::Null, short));
        recorder.add(copy(Operand::Null, other));
        recorder.add(copy(kept, Operand::Null));
        assert_eq!(recorder.finish().offsets, [0, 256, 256]);
    }
}
