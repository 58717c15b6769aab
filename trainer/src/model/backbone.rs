//! f: ResNet without pooling and classifier (He et al., 2016), in torchvision's variant, whose
//! bottlenecks have their stride in the 3×3 convolution.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use scrl_schemas::named_choice;

use super::batch_norm::BatchNormLayer;
use crate::ops::{Conv2d, Geometry, MaxPool, Tape};

named_choice! {
    /// A ResNet by torchvision's name.
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
    pub(crate) fn blocks(self) -> [usize; 4] {
        match self {
            Self::Resnet18 => [2, 2, 2, 2],
            Self::Resnet34 | Self::Resnet50 => [3, 4, 6, 3],
            Self::Resnet101 => [3, 4, 23, 3],
        }
    }

    /// Output channels of a block, divided by the channels of its 3×3 convolutions: 4 for
    /// bottlenecks, 1 for basic blocks.
    pub(crate) fn expansion(self) -> usize {
        match self {
            Self::Resnet18 | Self::Resnet34 => 1,
            Self::Resnet50 | Self::Resnet101 => 4,
        }
    }

    /// The architecture with these numbers of blocks in its stages, bottlenecks or basic blocks.
    pub fn of_blocks(blocks: [usize; 4], bottleneck: bool) -> Option<Self> {
        let expansion = if bottleneck { 4 } else { 1 };
        Self::ALL
            .iter()
            .copied()
            .find(|arch| arch.blocks() == blocks && arch.expansion() == expansion)
    }

    /// Channels of the feature maps of the four stages.
    pub(crate) fn stage_channels(self) -> [usize; 4] {
        [0, 1, 2, 3].map(|stage| (STEM_CHANNELS << stage) * self.expansion())
    }

    /// Channels of the last feature map.
    pub fn channels(self) -> usize {
        self.stage_channels()[3]
    }
}

/// Output channels of the stem.
pub(crate) const STEM_CHANNELS: usize = 64;

/// A ResNet up to its last feature map.
pub struct Backbone {
    stem: ConvBn,
    blocks: Vec<Block>,
}

impl Backbone {
    /// The layers of `arch`, under torchvision's names.
    pub fn new(arch: Arch, vb: &VarBuilder) -> Result<Self> {
        let stem = ConvBn::new([3, STEM_CHANNELS], 7, 2, [vb.pp("conv1"), vb.pp("bn1")])?;
        let mut blocks = Vec::new();
        let mut inputs = STEM_CHANNELS;
        for (stage, count) in arch.blocks().into_iter().enumerate() {
            let width = STEM_CHANNELS << stage;
            let vb = vb.pp(format!("layer{}", stage + 1));
            for index in 0..count {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                blocks.push(Block::new(arch, [inputs, width], stride, &vb.pp(index))?);
                inputs = width * arch.expansion();
            }
        }
        Ok(Self { stem, blocks })
    }

    /// `[N, S, S, 3]`, normalized, → `[N, S/32, S/32, C]`.
    pub fn forward(&self, tape: &mut Tape, views: &Tensor) -> Result<Tensor> {
        let mut x = self.stem(tape, views)?;
        for block in &self.blocks {
            x = block.forward(tape, &x)?;
        }
        Ok(x)
    }

    /// The first convolution and the pooling. The large maps in between end with this function.
    fn stem(&self, tape: &mut Tape, views: &Tensor) -> Result<Tensor> {
        let x = self.stem.convolve(tape, views, false)?;
        let x = self.stem.bn.forward(tape, &x, true)?;
        tape.apply(pool(), [&x])
    }

    /// The convolutions that [`Self::forward`] applies to `views` views of `size` by `size` pixels,
    /// with their sizes.
    pub fn convolutions(&self, views: usize, size: usize) -> Result<Vec<(Conv2d, Geometry)>> {
        let stem = self.stem.sized(views, size, false)?;
        let mut side = pool().output(stem.1.out_h);
        let mut found = vec![stem];
        for block in &self.blocks {
            side = block.add_convolutions(views, side, &mut found)?;
        }
        Ok(found)
    }
}

/// The pooling after the stem.
fn pool() -> MaxPool {
    MaxPool::new(3, 2, 1)
}

/// A convolution and the batch norm after it.
struct ConvBn {
    filter: Tensor,
    stride: usize,
    bn: BatchNormLayer,
}

impl ConvBn {
    /// A convolution of `kernel` × `kernel` pixels, with Kaiming's normal initialization, fan-out.
    fn new(
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        stride: usize,
        [conv, bn]: [VarBuilder; 2],
    ) -> Result<Self> {
        let stdev = (2.0 / (outputs * kernel * kernel) as f64).sqrt();
        let init = Init::Randn { mean: 0.0, stdev };
        let filter = conv.get_with_hints((outputs, kernel, kernel, inputs), "weight", init)?;
        Ok(Self { filter, stride, bn: BatchNormLayer::new(outputs, &bn)? })
    }

    fn convolve(&self, tape: &mut Tape, x: &Tensor, input_gradient: bool) -> Result<Tensor> {
        tape.apply(self.conv(input_gradient)?, [x, &self.filter])
    }

    fn conv(&self, input_gradient: bool) -> Result<Conv2d> {
        Ok(Conv2d { stride: self.stride, padding: self.filter.dim(1)? / 2, input_gradient })
    }

    /// The convolution, and its sizes on maps of `side` by `side` pixels.
    fn sized(&self, views: usize, side: usize, input_gradient: bool) -> Result<(Conv2d, Geometry)> {
        let conv = self.conv(input_gradient)?;
        let input = [views, side, side, self.filter.dim(3)?];
        let geometry = Geometry::new(conv.stride, conv.padding, &input, self.filter.dims())?;
        Ok((conv, geometry))
    }
}

/// A basic block (two 3×3 convolutions) or a bottleneck (1×1, 3×3, 1×1), with its shortcut.
pub struct Block {
    layers: Vec<ConvBn>,
    downsample: Option<ConvBn>,
}

impl Block {
    /// A block of `arch` with `width` channels in its 3×3 convolutions. A shortcut between
    /// different shapes gets a 1×1 convolution.
    pub fn new(
        arch: Arch,
        [inputs, width]: [usize; 2],
        stride: usize,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let layer = |number: usize, channels: [usize; 2], kernel: usize, stride: usize| {
            let names = ["conv", "bn"].map(|name| vb.pp(format!("{name}{number}")));
            ConvBn::new(channels, kernel, stride, names)
        };
        let outputs = width * arch.expansion();
        let layers = match arch.expansion() {
            1 => vec![layer(1, [inputs, width], 3, stride)?, layer(2, [width, width], 3, 1)?],
            _ => vec![
                layer(1, [inputs, width], 1, 1)?,
                layer(2, [width, width], 3, stride)?,
                layer(3, [width, outputs], 1, 1)?,
            ],
        };
        let downsample = if stride != 1 || inputs != outputs {
            let vb = vb.pp("downsample");
            Some(ConvBn::new([inputs, outputs], 1, stride, [vb.pp(0), vb.pp(1)])?)
        } else {
            None
        };
        Ok(Self { layers, downsample })
    }

    /// `[N, H, W, inputs]` → `[N, H/stride, W/stride, outputs]`.
    pub fn forward(&self, tape: &mut Tape, input: &Tensor) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some(layer) => {
                let x = layer.convolve(tape, input, true)?;
                layer.bn.forward(tape, &x, false)?
            }
            None => input.clone(),
        };
        let mut x = input.clone();
        let last = self.layers.len() - 1;
        for layer in &self.layers[..last] {
            x = layer.convolve(tape, &x, true)?;
            x = layer.bn.forward(tape, &x, true)?;
        }
        x = self.layers[last].convolve(tape, &x, true)?;
        self.layers[last].bn.forward_add_relu(tape, &x, &shortcut)
    }

    /// Adds the convolutions on maps of `side` by `side` pixels, and returns the output's side.
    fn add_convolutions(
        &self,
        views: usize,
        mut side: usize,
        found: &mut Vec<(Conv2d, Geometry)>,
    ) -> Result<usize> {
        if let Some(layer) = &self.downsample {
            found.push(layer.sized(views, side, true)?);
        }
        for layer in &self.layers {
            let sized = layer.sized(views, side, true)?;
            side = sized.1.out_h;
            found.push(sized);
        }
        Ok(side)
    }
}
