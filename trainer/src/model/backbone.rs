//! f: ResNet without its pooling and classifier (He et al., 2016; torchvision's variant, whose bottleneck strides in
//! its 3×3 convolution). A view `[N, S, S, 3]` becomes a map `[N, S/32, S/32, C]`.

use candle_core::{Result, Tensor};
use scrl_schemas::named_choice;

use super::{BatchNormLayer, Builder};
use crate::ops::{Conv2d, MaxPool, Tape};

named_choice! {
    /// Which ResNet, under torchvision's name.
    pub enum Arch {
        /// 18 layers, basic blocks.
        Resnet18 = "resnet18",
        /// 34 layers, basic blocks.
        Resnet34 = "resnet34",
        /// 50 layers, bottlenecks.
        Resnet50 = "resnet50",
        /// 101 layers, bottlenecks.
        Resnet101 = "resnet101",
    }
}

impl Arch {
    /// Blocks in each of the four stages.
    fn blocks(self) -> [usize; 4] {
        match self {
            Self::Resnet18 => [2, 2, 2, 2],
            Self::Resnet34 | Self::Resnet50 => [3, 4, 6, 3],
            Self::Resnet101 => [3, 4, 23, 3],
        }
    }

    /// Channels out of a block for each channel inside.
    fn expansion(self) -> usize {
        match self {
            Self::Resnet18 | Self::Resnet34 => 1,
            Self::Resnet50 | Self::Resnet101 => 4,
        }
    }

    /// The one with so many blocks in each stage, of this kind.
    pub fn of_blocks(blocks: [usize; 4], bottleneck: bool) -> Option<Self> {
        let expansion = if bottleneck { 4 } else { 1 };
        Self::ALL.iter().copied().find(|arch| arch.blocks() == blocks && arch.expansion() == expansion)
    }

    /// Channels of the map.
    pub fn channels(self) -> usize {
        512 * self.expansion()
    }

    /// The blocks in their order, each with torchvision's name, such as `layer1.0`.
    pub fn block_shapes(self) -> Vec<(String, BlockShape)> {
        let mut shapes = Vec::new();
        let mut inputs = STEM_CHANNELS;
        for (stage, count) in self.blocks().into_iter().enumerate() {
            for index in 0..count {
                let width = STEM_CHANNELS << stage;
                let outputs = width * self.expansion();
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let name = format!("layer{}.{index}", stage + 1);
                shapes.push((name, BlockShape { inputs, width, outputs, stride }));
                inputs = outputs;
            }
        }
        shapes
    }
}

/// Channels behind the stem.
pub const STEM_CHANNELS: usize = 64;

/// A ResNet up to its last map.
pub struct Backbone {
    stem: Tensor,
    stem_norm: BatchNormLayer,
    blocks: Vec<Block>,
}

impl Backbone {
    /// Builds the layers of `arch` under torchvision's names.
    pub fn new(arch: Arch, builder: &mut Builder) -> Result<Self> {
        let stem = builder.below("conv1").filter(3, STEM_CHANNELS, 7)?;
        let stem_norm = BatchNormLayer::new(STEM_CHANNELS, &mut builder.below("bn1"))?;
        let blocks = arch
            .block_shapes()
            .into_iter()
            .map(|(name, shape)| Block::new(arch, shape, &mut builder.below(name)))
            .collect::<Result<_>>()?;
        Ok(Self { stem, stem_norm, blocks })
    }

    /// `[N, S, S, 3]`, normalised, → `[N, S/32, S/32, C]`.
    pub fn forward(&self, tape: &mut Tape, views: &Tensor) -> Result<Tensor> {
        let stem = Conv2d { stride: 2, padding: 3, input_gradient: false };
        let x = tape.two(stem, views, &self.stem)?;
        let x = self.stem_norm.forward(tape, &x, true)?;
        let mut x = tape.one(MaxPool { kernel: 3, stride: 2, padding: 1 }, &x)?;
        for block in &self.blocks {
            x = block.forward(tape, &x)?;
        }
        Ok(x)
    }
}

/// The channels of a block and its stride.
#[derive(Clone, Copy, Debug)]
pub struct BlockShape {
    /// Channels in.
    pub inputs: usize,
    /// Channels of the 3×3 convolutions.
    pub width: usize,
    /// Channels out.
    pub outputs: usize,
    /// Step of the block.
    pub stride: usize,
}

/// A convolution of a block by its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Side of the filter; as many zeros surround the input as keep its size where the stride is 1.
    pub kernel: usize,
    /// Step between neighbouring output pixels.
    pub stride: usize,
}

impl BlockShape {
    /// The convolutions one behind the other, named `conv1` and `bn1` and so on: two of 3×3, or 1×1, 3×3, 1×1 for a
    /// bottleneck.
    pub fn convolutions(&self, arch: Arch) -> Vec<ConvShape> {
        let &Self { inputs, width, outputs, stride } = self;
        let shape = |inputs, outputs, kernel, stride| ConvShape { inputs, outputs, kernel, stride };
        match arch.expansion() {
            1 => vec![shape(inputs, width, 3, stride), shape(width, width, 3, 1)],
            _ => {
                vec![shape(inputs, width, 1, 1), shape(width, width, 3, stride), shape(width, outputs, 1, 1)]
            }
        }
    }

    /// The 1×1 convolution of the shortcut, named `downsample.0` and `downsample.1`, where the shape changes.
    pub fn downsample(&self) -> Option<ConvShape> {
        let &Self { inputs, outputs, stride, .. } = self;
        (stride != 1 || inputs != outputs).then_some(ConvShape { inputs, outputs, kernel: 1, stride })
    }
}

/// A convolution and the batch norm behind it.
struct ConvNorm {
    filter: Tensor,
    stride: usize,
    norm: BatchNormLayer,
}

impl ConvNorm {
    fn new(shape: ConvShape, names: [&str; 2], b: &mut Builder) -> Result<Self> {
        let ConvShape { inputs, outputs, kernel, stride } = shape;
        let filter = b.below(names[0]).filter(inputs, outputs, kernel)?;
        Ok(Self { filter, stride, norm: BatchNormLayer::new(outputs, &mut b.below(names[1]))? })
    }

    fn convolve(&self, tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
        let padding = self.filter.dim(1)? / 2;
        tape.two(Conv2d { stride: self.stride, padding, input_gradient: true }, x, &self.filter)
    }
}

/// A basic block (two 3×3 convolutions) or a bottleneck (1×1, 3×3, 1×1), and its shortcut.
pub struct Block {
    layers: Vec<ConvNorm>,
    downsample: Option<ConvNorm>,
}

impl Block {
    /// A block of the kind that `arch` uses, with torchvision's names below `builder`'s; a shortcut that changes shape
    /// gets a 1×1 convolution.
    pub fn new(arch: Arch, shape: BlockShape, builder: &mut Builder) -> Result<Self> {
        let mut layers = Vec::new();
        for (index, conv) in shape.convolutions(arch).into_iter().enumerate() {
            let names = [format!("conv{}", index + 1), format!("bn{}", index + 1)];
            layers.push(ConvNorm::new(conv, [&names[0], &names[1]], builder)?);
        }
        let downsample = shape
            .downsample()
            .map(|conv| ConvNorm::new(conv, ["0", "1"], &mut builder.below("downsample")))
            .transpose()?;
        Ok(Self { layers, downsample })
    }

    /// `[N, H, W, inputs]` → `[N, H/stride, W/stride, outputs]`.
    pub fn forward(&self, tape: &mut Tape, input: &Tensor) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some(layer) => {
                let x = layer.convolve(tape, input)?;
                layer.norm.forward(tape, &x, false)?
            }
            None => input.clone(),
        };
        let mut x = input.clone();
        let last = self.layers.len() - 1;
        for layer in &self.layers[..last] {
            x = layer.convolve(tape, &x)?;
            x = layer.norm.forward(tape, &x, true)?;
        }
        x = self.layers[last].convolve(tape, &x)?;
        self.layers[last].norm.forward_add_relu(tape, &x, &shortcut)
    }
}
