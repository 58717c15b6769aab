//! What stays on the device between steps, and where: one piece of memory, laid out ahead.
//!
//! Parameters that are optimised lie one behind the other in an array of float32; their gradients, velocities, working
//! copies, and the target's parameters lie in arrays of the same layout, so that one place names all of them. The online
//! parameters begin with those that the target has as well. Running statistics have two arrays of their own.

use super::backend::OUTCOME_NUMBERS;
use super::kernels::{BATCH_BYTES, Table};
use super::program::{Numbers, Operand, aligned};
use crate::learner::Learner;
use crate::model::{Parameter, Role};

/// The boundary, in numbers, at which tensors begin: 256 bytes of bfloat16, as matrix products expect.
const TENSOR_ALIGNMENT: usize = 128;

/// Numbers of a chunk, the unit of the optimiser's work.
const CHUNK: usize = 1 << 15;

/// Bits of `Chunk.kind` of `kernels/optim.cu`.
const ADAPTED: i32 = 1;
const WATCHING: i32 = 2;
const FOLLOWED: i32 = 4;

/// Bytes of the structs `Chunk` and `Span` there.
const CHUNK_BYTES: usize = 24;
const SPAN_BYTES: usize = 8;

/// The network that a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// The one that learns.
    Online,
    /// The one that follows.
    Target,
}

/// A tensor's part of an array.
#[derive(Clone, Debug)]
struct Slot {
    /// The layer's name without its network's.
    layer: String,
    role: Role,
    /// In numbers from the array's beginning.
    begin: usize,
    count: usize,
}

impl Slot {
    fn is_followed(&self) -> bool {
        !self.layer.starts_with("predictor") && !self.layer.starts_with("classifier")
    }

    fn kind(&self) -> i32 {
        let bit = |is: bool, bit: i32| if is { bit } else { 0 };
        bit(self.role.is_adapted(), ADAPTED)
            | bit(self.layer.starts_with("classifier"), WATCHING)
            | bit(self.is_followed(), FOLLOWED)
    }
}

/// Tensors one behind the other.
#[derive(Clone, Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    /// Numbers of all, with what lies between them.
    count: usize,
}

impl Slots {
    fn push(&mut self, parameter: &Parameter) {
        let count = parameter.tensor.elem_count();
        let layer = local_name(&parameter.layer).to_owned();
        self.slots.push(Slot { layer, role: parameter.role, begin: self.count, count });
        self.count += count.next_multiple_of(TENSOR_ALIGNMENT);
    }

    fn find(&self, layer: &str, role: Role) -> &Slot {
        let found = self.slots.iter().find(|slot| slot.role == role && slot.layer == layer);
        found.unwrap_or_else(|| panic!("no {role:?} of {layer}"))
    }
}

/// A layer's name without `momentum.` and without its network.
fn local_name(layer: &str) -> &str {
    let layer = layer.strip_prefix("momentum.").unwrap_or(layer);
    layer.strip_prefix("online.").or_else(|| layer.strip_prefix("target.")).unwrap_or(layer)
}

/// The kept arrays that do not depend on the parameters.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of the description of a batch.
    pub description: usize,
    /// Bytes of the normalised views.
    pub views: usize,
    /// Bytes of the vectors of one network.
    pub vectors: usize,
    /// Dimensions of a vector.
    pub width: usize,
}

/// The layout.
#[derive(Clone, Debug)]
pub struct Layout {
    optimized: Slots,
    running: Slots,
    numbers: Numbers,
    chunks: usize,
    /// Bytes of everything.
    pub bytes: usize,
    parameters: usize,
    targets: usize,
    gradients: usize,
    velocities: usize,
    working: usize,
    working_targets: usize,
    running_online: usize,
    running_target: usize,
    chunk_table: usize,
    span_table: usize,
    description: usize,
    views: usize,
    vectors: [usize; 2],
    moments: [usize; 2],
    outcome: usize,
}

/// Hands out bytes one after the other.
struct Bytes(usize);

impl Bytes {
    fn take(&mut self, bytes: usize) -> usize {
        let begin = self.0;
        self.0 += aligned(bytes);
        begin
    }
}

impl Layout {
    /// For the tensors of `learner` and maps of such numbers.
    pub fn new(learner: &Learner, numbers: Numbers, sizes: Sizes) -> Self {
        let (mut optimized, mut running) = (Slots::default(), Slots::default());
        let learnt = |p: &&Parameter| !p.layer.starts_with("target.") && !p.layer.starts_with("momentum.");
        for parameter in learner.state().filter(learnt) {
            let slots = if parameter.role.is_optimized() { &mut optimized } else { &mut running };
            slots.push(parameter);
        }
        let chunks: usize = optimized.slots.iter().map(|slot| slot.count.div_ceil(CHUNK)).sum();
        let mut bytes = Bytes(0);
        let array = 4 * optimized.count;
        let working = if numbers == Numbers::Bf16 { 2 * optimized.count } else { 0 };
        let layout = Self {
            numbers,
            chunks,
            bytes: 0,
            parameters: bytes.take(array),
            targets: bytes.take(array),
            gradients: bytes.take(array),
            velocities: bytes.take(array),
            working: bytes.take(working),
            working_targets: bytes.take(working),
            running_online: bytes.take(4 * running.count),
            running_target: bytes.take(4 * running.count),
            chunk_table: bytes.take(chunks * CHUNK_BYTES),
            span_table: bytes.take(optimized.slots.len() * SPAN_BYTES),
            description: bytes.take(sizes.description),
            views: bytes.take(sizes.views),
            vectors: [bytes.take(sizes.vectors), bytes.take(sizes.vectors)],
            moments: [bytes.take(16 * sizes.width), bytes.take(16 * sizes.width)],
            outcome: bytes.take(4 * OUTCOME_NUMBERS),
            optimized,
            running,
        };
        Self { bytes: bytes.0, ..layout }
    }

    /// Numbers of all optimised parameters, with what lies between them.
    pub fn parameter_numbers(&self) -> usize {
        self.optimized.count
    }

    /// The beginnings of the arrays of parameters and of their working copies, for both networks.
    pub fn copies(&self) -> [(Operand, Operand); 2] {
        [(self.parameters, self.working), (self.targets, self.working_targets)]
            .map(|(from, to)| (Operand::Kept(from), Operand::Kept(to)))
    }

    /// The beginning of the gradients.
    pub fn gradients(&self) -> Operand {
        Operand::Kept(self.gradients)
    }

    /// The beginning of the velocities.
    pub fn velocities(&self) -> Operand {
        Operand::Kept(self.velocities)
    }

    /// The description of the batch under way.
    pub fn description(&self) -> Operand {
        Operand::Kept(self.description)
    }

    /// Where the RoIs begin in it.
    pub fn rois(&self) -> Operand {
        Operand::Kept(self.description + aligned(BATCH_BYTES))
    }

    /// The normalised views.
    pub fn views(&self) -> Operand {
        Operand::Kept(self.views)
    }

    /// The projections of the online network, and of the target network.
    pub fn vectors(&self, branch: Branch) -> Operand {
        Operand::Kept(self.vectors[branch as usize])
    }

    /// The moments of those.
    pub fn moments(&self, branch: Branch) -> Operand {
        Operand::Kept(self.moments[branch as usize])
    }

    /// What the host is told: the number of this index among its fields.
    pub fn outcome(&self, number: usize) -> Operand {
        Operand::Kept(self.outcome + 4 * number)
    }

    /// A parameter as convolutions and matrix products take it.
    pub fn weight(&self, branch: Branch, layer: &str, role: Role) -> Operand {
        let slot = self.optimized.find(layer, role);
        let begin = match (self.numbers, branch) {
            (Numbers::F32, _) => return self.master(branch, layer, role),
            (Numbers::Bf16, Branch::Online) => self.working,
            (Numbers::Bf16, Branch::Target) => self.working_targets,
        };
        Operand::Kept(begin + 2 * slot.begin)
    }

    /// A parameter as float32.
    pub fn master(&self, branch: Branch, layer: &str, role: Role) -> Operand {
        let begin = match branch {
            Branch::Online => self.parameters,
            Branch::Target => self.targets,
        };
        Operand::Kept(begin + 4 * self.optimized.find(layer, role).begin)
    }

    /// The gradient of an online parameter, float32.
    pub fn gradient(&self, layer: &str, role: Role) -> Operand {
        Operand::Kept(self.gradients + 4 * self.optimized.find(layer, role).begin)
    }

    /// A layer's running statistics.
    pub fn running(&self, branch: Branch, layer: &str) -> Operand {
        let begin = match branch {
            Branch::Online => self.running_online,
            Branch::Target => self.running_target,
        };
        Operand::Kept(begin + 4 * self.running.find(layer, Role::RunningStatistics).begin)
    }

    /// Where a tensor of the learner's state lies.
    pub fn place(&self, parameter: &Parameter) -> Operand {
        let (layer, role) = (local_name(&parameter.layer), parameter.role);
        let target = parameter.layer.starts_with("target.");
        let branch = if target { Branch::Target } else { Branch::Online };
        if role == Role::RunningStatistics {
            self.running(branch, layer)
        } else if parameter.layer.starts_with("momentum.") {
            Operand::Kept(self.velocities + 4 * self.optimized.find(layer, role).begin)
        } else {
            self.master(branch, layer, role)
        }
    }

    /// The optimiser's table.
    pub fn table(&self) -> Table {
        Table {
            chunks: Operand::Kept(self.chunk_table),
            chunk_count: self.chunks,
            spans: Operand::Kept(self.span_table),
            span_count: self.optimized.slots.len(),
        }
    }

    /// The bytes of the table's two parts.
    pub fn table_bytes(&self) -> [Vec<u8>; 2] {
        let (mut chunks, mut spans) = (Vec::new(), Vec::new());
        let mut first = 0i32;
        for (tensor, slot) in self.optimized.slots.iter().enumerate() {
            let count = slot.count.div_ceil(CHUNK);
            spans.extend([first, count as i32].map(i32::to_le_bytes).concat());
            first += count as i32;
            for begin in (0..slot.count).step_by(CHUNK) {
                // Whole groups of four; what lies behind a tensor is zero in all arrays.
                let length = CHUNK.min(slot.count - begin).next_multiple_of(4);
                chunks.extend(((slot.begin + begin) as i64).to_le_bytes());
                chunks.extend([length as i32, tensor as i32, slot.kind(), 0].map(i32::to_le_bytes).concat());
            }
        }
        [chunks, spans]
    }
}
