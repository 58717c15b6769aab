//! The memory of a GPU that a step needs, computed from the shapes of its tensors.
//!
//! In memory are the maps that the way back reads, see
//! [`Op::reads_input`](crate::ops::Op::reads_input), of large batches most when it begins; and the
//! gradients of the weights, of which there are more with each block that it has passed.

use candle_core::DType;

use super::config::TrainConfig;
use super::options::Method;
use crate::data::Dataset;
use crate::model::{Arch, HeadSizes, STEM_CHANNELS};
use crate::ops::gpu::room;
use crate::{Error, Result};

/// What decides about the memory of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepMemory {
    /// The backbone.
    pub arch: Arch,
    /// The heads.
    pub sizes: HeadSizes,
    /// The type of the feature maps.
    pub dtype: DType,
    /// Side of a view in pixels.
    pub side: usize,
    /// The most matched boxes of a pair; `None` for BYOL.
    pub boxes: Option<usize>,
    /// Whether gradients are kept from one micro-batch to the next.
    pub accumulates: bool,
}

/// Gradients of the last map that are in memory at the same time: of the result, of the residual
/// and of the input of its batch norm, but without the result itself.
const LAST_GRADIENTS: usize = 3 - 1;

/// Room for the workspaces of cuDNN, whose largest in bfloat16 are of 41 MiB and in float32 of 981,
/// and for what the pool cannot use again.
const WORKSPACE: usize = 400 << 20;
const WORKSPACE_F32: usize = 1200 << 20;

/// Bytes of a pack, to which the channels of the views are padded.
const PACK: usize = 16;

impl StepMemory {
    /// Of the steps of a run.
    pub fn new(config: &TrainConfig, dataset: &Dataset) -> Self {
        let (options, shards) = (&config.hyperparameters, &dataset.manifest().options);
        Self {
            arch: options.arch,
            sizes: HeadSizes { hidden: options.hidden, projection: options.projection },
            dtype: options.precision.dtype(),
            side: shards.size as usize,
            boxes: (options.method == Method::Scrl).then_some(shards.boxes as usize),
            accumulates: options.accumulate > 1,
        }
    }

    /// Bytes of a step of `pairs` pairs on one GPU, beside the parameters, their velocities, and
    /// the workspaces of cuDNN and cuBLAS.
    pub fn bytes(&self, pairs: usize) -> usize {
        let (views, element) = (2 * pairs, self.dtype.size_in_bytes());
        let rows = self.boxes.map_or(views, |boxes| views * boxes);
        let HeadSizes { hidden, projection } = self.sizes;
        let inputs = self.arch.channels();
        let head = |inputs: usize| hidden * (inputs + projection);
        let (projector, predictor) = (head(inputs), head(projection));
        // Weights as bfloat16, of both networks.
        let copies = match self.dtype {
            DType::BF16 => 2 * (self.backbone_parameters() + projector) + predictor,
            _ => 0,
        };
        let upload = 2 * (room(3 * self.side * self.side * views) + room(20 * rows));

        let mut kept = self.bytes_before_blocks();
        let blocks: Vec<(Block, Maps)> = self.blocks().collect();
        kept += blocks.iter().map(|(_, maps)| maps.bytes(element)).sum::<usize>();
        // Of each row the features, both layers of the online network's heads before and after
        // batch norm, the projection and the prediction, and the target.
        let of_row = inputs + 4 * hidden + 3 * projection;
        let mut gradients = projector + predictor;
        if self.accumulates {
            gradients += self.backbone_parameters();
        }
        let mut most = views * kept + element * rows * of_row + 4 * gradients;
        for (block, maps) in blocks.into_iter().rev() {
            if !self.accumulates {
                gradients += block.parameters();
            }
            let of_block = LAST_GRADIENTS * element * maps.output;
            let embeddings = element * rows * 2 * projection;
            most = most.max(views * (kept + of_block) + embeddings + 4 * gradients);
            kept -= maps.bytes(element);
        }
        most + element * copies + upload
    }

    /// Bytes of a view that are kept of the input, the stem and the pooling.
    fn bytes_before_blocks(&self) -> usize {
        let (stem, pooled) = (halved(self.side), halved(halved(self.side)));
        let (stem, pooled) = (stem * stem * STEM_CHANNELS, pooled * pooled * STEM_CHANNELS);
        // Of each pooled value a byte says which pixel won.
        PACK * self.side * self.side + self.dtype.size_in_bytes() * (stem + pooled) + pooled
    }

    fn backbone_parameters(&self) -> usize {
        let blocks = self.blocks().map(|(block, _)| block.parameters());
        3 * 49 * STEM_CHANNELS + blocks.sum::<usize>()
    }

    /// The blocks of the backbone, and the maps that each keeps of a view.
    fn blocks(&self) -> impl Iterator<Item = (Block, Maps)> {
        let (expansion, mut inputs) = (self.arch.expansion(), STEM_CHANNELS);
        let mut side = halved(halved(self.side));
        let counts = self.arch.blocks().into_iter().enumerate();
        let places = counts.flat_map(|(stage, count)| (0..count).map(move |block| (stage, block)));
        places.map(move |(stage, block)| {
            let width = STEM_CHANNELS << stage;
            let outputs = width * expansion;
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let downsample = stride != 1 || inputs != outputs;
            let block = Block { inputs, width, outputs, bottleneck: expansion > 1, downsample };
            let before = side;
            side = if stride == 2 { halved(side) } else { side };
            inputs = outputs;
            (block, block.maps(before, side))
        })
    }

    fn workspace(&self) -> usize {
        if self.dtype == DType::BF16 { WORKSPACE } else { WORKSPACE_F32 }
    }

    /// The most pairs whose step fits into `free` bytes; 0 if not even one does.
    pub fn most_pairs(&self, free: usize) -> usize {
        let (mut fits, mut exceeds) = (0, 1 << 16);
        while exceeds - fits > 1 {
            let pairs = (fits + exceeds) / 2;
            match self.bytes(pairs) + self.workspace() <= free {
                true => fits = pairs,
                false => exceeds = pairs,
            }
        }
        fits
    }

    /// Refuses a step that does not fit into the `free` bytes beside the parameters.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the options of a step that does.
    pub(super) fn check(&self, free: usize, config: &TrainConfig, ranks: usize) -> Result<()> {
        let pairs = config.hyperparameters.batch_size / ranks;
        let needed = self.bytes(pairs) + self.workspace();
        if needed <= free {
            return Ok(());
        }
        let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
        let whose = if ranks > 1 { " of a process" } else { "" };
        Err(Error::OutOfMemory {
            cause: format!(
                "{pairs} pairs{whose} need {:.1} GiB, the GPU has {:.1}",
                gib(needed),
                gib(free)
            ),
            advice: advice(config, ranks, |pairs| self.bytes(pairs) + self.workspace() <= free),
        })
    }
}

/// Adds advice to the error of a GPU whose memory was full.
pub(super) fn explain_out_of_memory(error: Error, config: &TrainConfig, ranks: usize) -> Error {
    let Some(sign) = error.sign_of_full_memory() else { return error };
    let pairs = config.hyperparameters.batch_size / ranks;
    Error::OutOfMemory {
        cause: format!("the GPU's memory is full with {pairs} pairs ({sign})"),
        advice: advice(config, ranks, |fewer| fewer < pairs),
    }
}

/// What to do for a step of so few pairs a process that it `fits`.
fn advice(config: &TrainConfig, ranks: usize, fits: impl Fn(usize) -> bool) -> String {
    let (batch, accumulate) =
        (config.hyperparameters.batch_size, config.hyperparameters.accumulate);
    let own = batch / ranks;
    match (2..=own).find(|parts| own.is_multiple_of(*parts) && fits(own / parts)) {
        Some(parts) => format!(
            "use --batch-size {} --accumulate {}, or stop other programs on the GPU",
            batch / parts,
            accumulate * parts
        ),
        None => "a smaller --batch-size with --accumulate does not help: stop other programs on \
                 the GPU, or use one with more memory"
            .to_owned(),
    }
}

/// The side of a map after a stride of 2.
fn halved(side: usize) -> usize {
    side.div_ceil(2)
}

/// A block of a backbone.
#[derive(Clone, Copy)]
struct Block {
    inputs: usize,
    /// Channels of its 3×3 convolutions.
    width: usize,
    outputs: usize,
    bottleneck: bool,
    downsample: bool,
}

/// Values of a view that a block keeps.
struct Maps {
    /// Of all maps.
    all: usize,
    /// Of its result, where for each pack of 16 bytes a byte says which values ReLU passed.
    output: usize,
}

impl Block {
    fn parameters(self) -> usize {
        let Self { inputs, width, outputs, bottleneck, downsample } = self;
        let layers = match bottleneck {
            true => width * (inputs + 9 * width + outputs),
            false => 9 * width * (inputs + outputs),
        };
        layers + if downsample { inputs * outputs } else { 0 }
    }

    /// The maps on an input of `before` by `before` pixels and a result of `side` by `side`: of each
    /// layer the one before batch norm and the one after it, of the shortcut's the one before.
    fn maps(self, before: usize, side: usize) -> Maps {
        let output = side * side * self.outputs;
        let first = if self.bottleneck { 2 * before * before * self.width } else { 0 };
        let shortcut = if self.downsample { output } else { 0 };
        Maps { all: first + 2 * side * side * self.width + 2 * output + shortcut, output }
    }
}

impl Maps {
    fn bytes(&self, element: usize) -> usize {
        element * self.all + element * self.output / PACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(arch: Arch) -> StepMemory {
        StepMemory {
            arch,
            sizes: HeadSizes { hidden: 4096, projection: 256 },
            dtype: DType::BF16,
            side: 224,
            boxes: Some(10),
            accumulates: false,
        }
    }

    #[test]
    fn parameters_of_the_backbones_are_those_of_torchvision() {
        // torchvision's counts without the classifier and batch norm.
        for (arch, expected) in [
            (Arch::Resnet18, 11_166_912),
            (Arch::Resnet34, 21_267_648),
            (Arch::Resnet50, 23_454_912),
            (Arch::Resnet101, 42_394_816),
        ] {
            assert_eq!(memory(arch).backbone_parameters(), expected);
        }
    }

    /// The table of docs/gpu.md.
    #[test]
    fn the_largest_batches() {
        // The networks and velocities, the driver's context and its libraries.
        const OTHER: usize = 1 << 30;
        // Pairs whose stem cuDNN can index at 224 px.
        const MOST: usize = 1337;
        // What nvidia-smi shows of an RTX 4080, an RTX 4090, an A100, an H100 and an H200.
        let cards = [16_376, 24_564, 40_960, 81_559, 143_771];
        let most = cards.map(|mebibytes: usize| {
            [Arch::Resnet18, Arch::Resnet50, Arch::Resnet101]
                .map(|arch| memory(arch).most_pairs((mebibytes << 20) - OTHER).min(MOST))
        });
        let expected = [
            [765, 181, 120],
            [1175, 280, 188],
            [MOST, 480, 323],
            [MOST, 977, 657],
            [MOST, MOST, 1169],
        ];
        assert_eq!(most, expected);
    }
}
