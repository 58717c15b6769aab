//! Whole steps: the programs, and the shapes they are made for.

use super::super::kernels::{Arrays, BATCH_BYTES, MapShape};
use super::super::layout::{Branch, Layout, Sizes};
use super::super::program::{Numbers, Operand, Program, Work, aligned};
use super::Schedule;
use super::backbone::{Map, VIEW_CHANNELS};
use super::heads::HeadShape;
use crate::model::{Arch, HeadSizes};
use crate::optim::LarsConfig;

/// Numbers of a RoI.
const ROI_NUMBERS: usize = 5;

/// What all steps of a learner have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepShape {
    /// The backbone.
    pub arch: Arch,
    /// The heads.
    pub sizes: HeadSizes,
    /// Pairs of a micro-batch.
    pub pairs: usize,
    /// Side of a view in pixels.
    pub size: usize,
    /// The most matched boxes of a pair; `None` where whole views are compared.
    pub boxes: Option<usize>,
    /// Classes of the online evaluation.
    pub classes: Option<usize>,
    /// Of the maps.
    pub numbers: Numbers,
    /// Of the optimiser.
    pub lars: LarsConfig,
}

impl StepShape {
    /// Views of a micro-batch.
    pub fn views(&self) -> usize {
        2 * self.pairs
    }

    /// The most vectors that are compared.
    pub fn vectors(&self) -> usize {
        self.views() * self.boxes.unwrap_or(1)
    }

    /// Pixels of all views of a micro-batch.
    fn pixels(&self) -> usize {
        self.views() * self.size * self.size
    }

    /// Bytes of the views of a micro-batch as the host hands them over.
    pub fn pixel_bytes(&self) -> usize {
        3 * self.pixels()
    }

    fn roi_bytes(&self) -> usize {
        aligned(4 * ROI_NUMBERS * self.vectors())
    }

    fn first_bytes(&self) -> usize {
        aligned(4 * (self.views() + 1))
    }

    /// Bytes of a batch's description: the struct `Batch`, the RoIs, where each view's begin, and the classes of the views.
    pub fn description_bytes(&self) -> usize {
        aligned(BATCH_BYTES) + self.roi_bytes() + self.first_bytes() + aligned(4 * self.views())
    }

    /// Where the parts of the description begin.
    pub fn description_parts(&self) -> [usize; 4] {
        let rois = aligned(BATCH_BYTES);
        let first = rois + self.roi_bytes();
        [0, rois, first, first + self.first_bytes()]
    }

    fn first_at(&self, layout: &Layout) -> Operand {
        layout.description().offset(self.description_parts()[2])
    }

    /// Where the views' classes lie.
    pub fn classes_at(&self, layout: &Layout) -> Operand {
        layout.description().offset(self.description_parts()[3])
    }

    /// What must be kept between programs.
    pub fn kept(&self) -> Sizes {
        let bytes = self.numbers.bytes();
        Sizes {
            description: self.description_bytes(),
            views: self.pixels() * VIEW_CHANNELS * bytes,
            vectors: self.vectors() * self.sizes.projection * bytes,
            width: self.sizes.projection,
        }
    }
}

/// The programs of a learner.
pub struct Programs {
    /// Makes the working copies of the parameters.
    pub copy: Program,
    /// Takes in what was staged.
    pub input: Program,
    /// Takes in a description without pixels.
    pub describe: Program,
    /// Loss and gradients of a step's first micro-batch.
    pub compute: Program,
    /// The same of a further one, added to what is there.
    pub compute_more: Program,
    /// How much the vectors of a step's first micro-batch differ: their moments.
    pub spread: Program,
    /// The same of a further one.
    pub spread_more: Program,
    /// The result of those.
    pub spread_end: Program,
    /// Moves the parameters.
    pub update: Program,
    /// Moves the target's alone.
    pub follow: Program,
}

impl Programs {
    /// Writes them all down.
    pub fn new(layout: &Layout, shape: &StepShape) -> Self {
        Self {
            copy: copy(layout, shape),
            input: input("input", layout, shape, true),
            describe: input("describe", layout, shape, false),
            compute: compute("compute", layout, shape, false),
            compute_more: compute("compute more", layout, shape, true),
            spread: spread("spread", layout, shape, false),
            spread_more: spread("spread more", layout, shape, true),
            spread_end: spread_end(layout, shape),
            update: update(layout, shape),
            follow: follow(layout, shape),
        }
    }

    /// All of them.
    pub fn all(&self) -> [&Program; 10] {
        [
            &self.copy,
            &self.input,
            &self.describe,
            &self.compute,
            &self.compute_more,
            &self.spread,
            &self.spread_more,
            &self.spread_end,
            &self.update,
            &self.follow,
        ]
    }

    /// Bytes that the buffers of any of them need.
    pub fn buffer_bytes(&self) -> usize {
        self.all().iter().map(|program| program.bytes).max().unwrap_or(0)
    }
}

fn copy(layout: &Layout, shape: &StepShape) -> Program {
    let mut schedule = Schedule::new("copy", layout, shape);
    if shape.numbers == Numbers::Bf16 {
        for (parameters, working) in layout.copies() {
            schedule.recorder.make_working_copy(parameters, working, layout.parameter_numbers());
        }
    }
    schedule.recorder.finish()
}

fn input(name: &'static str, layout: &Layout, shape: &StepShape, pixels: bool) -> Program {
    let mut schedule = Schedule::new(name, layout, shape);
    schedule.recorder.begin("input");
    let bytes = shape.description_bytes();
    schedule.recorder.add(Work::Copy { from: Operand::Staged(0), to: layout.description(), bytes });
    if pixels {
        schedule.recorder.normalize_pixels(Operand::Staged(1), layout.views(), shape.pixels());
    }
    schedule.recorder.finish()
}

fn compute(name: &'static str, layout: &Layout, shape: &StepShape, accumulate: bool) -> Program {
    let mut schedule = Schedule { accumulate, ..Schedule::new(name, layout, shape) };
    let projection = shape.sizes.projection;
    let hidden = shape.sizes.hidden;
    let projector = HeadShape { inputs: shape.arch.channels(), hidden, outputs: projection };
    let predictor = HeadShape { inputs: projection, hidden, outputs: projection };

    let map = schedule.backbone(Branch::Target).map;
    let vectors = schedule.regions(Branch::Target, map);
    let targets = layout.vectors(Branch::Target);
    schedule.head(Branch::Target, "projector", projector, [vectors, targets]);

    let backbone = schedule.backbone(Branch::Online);
    let vectors = schedule.regions(Branch::Online, backbone.map);
    let projections = layout.vectors(Branch::Online);
    let project = schedule.head(Branch::Online, "projector", projector, [vectors, projections]);
    let predictions = schedule.numbers_buffer(shape.vectors() * projection);
    let predict = schedule.head(Branch::Online, "predictor", predictor, [projections, predictions]);
    if let Some(classes) = shape.classes {
        schedule.classifier(backbone.map, classes);
    }

    schedule.recorder.begin("loss");
    let gradient = schedule.numbers_buffer(shape.vectors() * projection);
    schedule.recorder.cosine_loss(
        [predictions, targets, gradient],
        (layout.description(), layout.outcome(0), accumulate),
        (shape.vectors(), projection),
    );
    let gradient = schedule.head_backward(&predict, gradient);
    let gradient = schedule.head_backward(&project, gradient);
    let gradient = schedule.regions_backward(backbone.map, gradient);
    schedule.backbone_backward(&backbone, gradient);
    schedule.recorder.finish()
}

impl Schedule<'_> {
    /// The map's vectors: of RoIs, or of whole views.
    fn regions(&mut self, branch: Branch, map: Map) -> Operand {
        self.begin(branch, ["regions", "target's regions"]);
        let MapShape { n, channels, .. } = map.shape;
        let vectors = self.numbers_buffer(self.shape.vectors() * channels);
        match self.shape.boxes {
            Some(_) => {
                let rois = (self.layout.rois(), self.shape.vectors(), self.layout.description());
                self.recorder.roi_align(map.at, rois, vectors, map.shape);
            }
            None => {
                debug_assert_eq!(n, self.shape.vectors());
                self.recorder.average_pool(map.at, vectors, (map.shape, self.numbers()));
            }
        }
        vectors
    }

    /// The gradient of the map from that of its vectors.
    fn regions_backward(&mut self, map: Map, gradient: Operand) -> Operand {
        self.recorder.begin("regions");
        let dmap = self.numbers_buffer(map.shape.count());
        match self.shape.boxes {
            Some(_) => {
                let rois = (self.layout.rois(), self.shape.first_at(self.layout));
                self.recorder.roi_align_backward(gradient, rois, dmap, map.shape);
            }
            None => self.recorder.average_pool_backward(gradient, dmap, (map.shape, self.numbers())),
        }
        dmap
    }
}

fn spread(name: &'static str, layout: &Layout, shape: &StepShape, accumulate: bool) -> Program {
    let mut schedule = Schedule::new(name, layout, shape);
    schedule.recorder.begin("spread");
    for branch in [Branch::Online, Branch::Target] {
        let given = [layout.vectors(branch), layout.description(), layout.moments(branch)];
        let size = (shape.vectors(), shape.sizes.projection);
        schedule.recorder.unit_moments(given, size, accumulate);
    }
    schedule.recorder.finish()
}

fn spread_end(layout: &Layout, shape: &StepShape) -> Program {
    let mut schedule = Schedule::new("spread end", layout, shape);
    schedule.recorder.begin("spread");
    for (branch, number) in [(Branch::Online, 3), (Branch::Target, 4)] {
        let (moments, batch) = (layout.moments(branch), layout.description());
        schedule.recorder.unit_spread(moments, shape.sizes.projection, batch, layout.outcome(number));
    }
    schedule.recorder.finish()
}

fn arrays(layout: &Layout, shape: &StepShape) -> Arrays {
    let [(parameters, working), (targets, working_targets)] = layout.copies();
    let only_bf16 = |place| if shape.numbers == Numbers::Bf16 { place } else { Operand::Null };
    Arrays {
        batch: layout.description(),
        outcome: layout.outcome(0),
        parameters,
        gradients: layout.gradients(),
        velocities: layout.velocities(),
        targets,
        working: only_bf16(working),
        working_targets: only_bf16(working_targets),
    }
}

fn update(layout: &Layout, shape: &StepShape) -> Program {
    let mut schedule = Schedule::new("update", layout, shape);
    schedule.recorder.begin("optimiser");
    let (table, arrays) = (layout.table(), arrays(layout, shape));
    let LarsConfig { momentum, weight_decay } = shape.lars;
    let ratios = schedule.recorder.lars_ratios(table, arrays.parameters, arrays.gradients, weight_decay);
    schedule.recorder.lars_update(table, arrays, ratios, momentum, weight_decay);
    schedule.recorder.finish()
}

fn follow(layout: &Layout, shape: &StepShape) -> Program {
    let mut schedule = Schedule::new("follow", layout, shape);
    schedule.recorder.begin("optimiser");
    schedule.recorder.follow(layout.table(), arrays(layout, shape));
    schedule.recorder.finish()
}
