//! f: the ResNet of `model/backbone.rs`, forward for both networks and backward for the online one.

use super::super::kernels::{MapShape, Mask, NormPlaces, Rows};
use super::super::layout::Branch;
use super::super::program::{
    ConvolutionShape, Convolve, Multiply, Numbers, Operand, Pass, ProductShape, Work,
};
use super::Schedule;
use crate::model::{BlockShape, ConvShape, Role, STEM_CHANNELS};

/// Names of the parts of a step, for the online and the target network.
const CONVOLVE: [&str; 2] = ["convolutions, forward", "target's convolutions"];
const NORMALIZE: [&str; 2] = ["batch norm, forward", "target's batch norm"];
const CONVOLVE_BACK: &str = "convolutions, backward";
const NORMALIZE_BACK: &str = "batch norm, backward";
const POOL: &str = "max-pool";

/// Channels of the views: three, and one of zeros.
pub const VIEW_CHANNELS: usize = 4;

/// Side of the stem's filter.
const STEM_KERNEL: usize = 7;

/// A map in memory.
#[derive(Clone, Copy)]
pub struct Map {
    pub at: Operand,
    pub shape: MapShape,
}

impl Map {
    /// As a matrix of pixels by channels.
    fn rows(&self, numbers: Numbers) -> Rows {
        let MapShape { n, side, channels } = self.shape;
        Rows { rows: n * side * side, valid: Operand::Null, channels, numbers }
    }
}

/// What the backward pass needs of a convolution and its batch norm.
struct Layer {
    /// The names of the convolution and the batch norm.
    names: [String; 2],
    conv: ConvShape,
    input: Map,
    /// What comes out of the convolution.
    raw: Map,
    scale: Operand,
}

/// What it needs of a block.
struct Block {
    layers: Vec<Layer>,
    downsample: Option<Layer>,
    output: Map,
}

/// What it needs of the backbone.
pub struct Backbone {
    stem: Stem,
    blocks: Vec<Block>,
    /// The last map.
    pub map: Map,
}

/// What it needs of the stem.
struct Stem {
    views: Map,
    raw: Map,
    scale: Operand,
    winners: Operand,
    pooled: Map,
}

impl Schedule<'_> {
    /// The normalised views → the last map.
    pub fn backbone(&mut self, branch: Branch) -> Backbone {
        let stem = self.stem(branch);
        let mut map = stem.pooled;
        let mut blocks = Vec::new();
        for (name, shape) in self.shape.arch.block_shapes() {
            let block = self.block(branch, &format!("backbone.{name}"), shape, map);
            map = block.output;
            blocks.push(block);
        }
        Backbone { stem, blocks, map }
    }

    fn stem(&mut self, branch: Branch) -> Stem {
        let (n, side) = (self.shape.views(), self.shape.size);
        let views = Map { at: self.layout.views(), shape: MapShape { n, side, channels: VIEW_CHANNELS } };
        self.begin(branch, CONVOLVE);
        let filter = self.numbers_buffer(STEM_CHANNELS * STEM_KERNEL * STEM_KERNEL * VIEW_CHANNELS);
        let master = self.layout.master(branch, "backbone.conv1", Role::Filter);
        self.recorder.pad_filter(master, filter, STEM_CHANNELS * STEM_KERNEL * STEM_KERNEL);
        let raw_shape = MapShape { n, side: side.div_ceil(2), channels: STEM_CHANNELS };
        let raw = self.new_map(raw_shape);
        let shape = self.stem_shape();
        self.convolve(Pass::Forward, shape, [views.at, filter, raw.at], false);
        let scale = self.statistics(branch, "backbone.bn1", raw);
        self.recorder.begin(POOL);
        let pooled = self.new_map(MapShape { side: raw_shape.side.div_ceil(2), ..raw_shape });
        // Only the backward pass asks who won.
        let winners = match branch {
            Branch::Online => self.recorder.buffer(pooled.shape.count()),
            Branch::Target => Operand::Null,
        };
        self.recorder.max_pool((raw.at, scale), pooled.at, winners, (raw_shape, self.numbers()));
        Stem { views, raw, scale, winners, pooled }
    }

    fn stem_shape(&self) -> ConvolutionShape {
        ConvolutionShape {
            n: self.shape.views(),
            side: self.shape.size,
            inputs: VIEW_CHANNELS,
            outputs: STEM_CHANNELS,
            kernel: STEM_KERNEL,
            stride: 2,
            numbers: self.numbers(),
        }
    }

    fn block(&mut self, branch: Branch, name: &str, shape: BlockShape, input: Map) -> Block {
        let downsample = shape.downsample().map(|conv| {
            let names = [format!("{name}.downsample.0"), format!("{name}.downsample.1")];
            self.layer(branch, names, conv, input)
        });
        let mut layers: Vec<Layer> = Vec::new();
        let mut map = input;
        let convolutions = shape.convolutions(self.shape.arch);
        for (index, conv) in convolutions.iter().enumerate() {
            let names = [format!("{name}.conv{}", index + 1), format!("{name}.bn{}", index + 1)];
            let layer = self.layer(branch, names, *conv, map);
            self.begin(branch, NORMALIZE);
            let output = self.new_map(layer.raw.shape);
            // The shortcut's own batch norm is applied as it is added.
            let residual = match (index + 1 == convolutions.len(), &downsample) {
                (false, _) => (Operand::Null, Operand::Null),
                (true, None) => (input.at, Operand::Null),
                (true, Some(shortcut)) => (shortcut.raw.at, shortcut.scale),
            };
            let rows = output.rows(self.numbers());
            self.recorder.batch_norm((layer.raw.at, layer.scale), residual, output.at, rows, true);
            layers.push(layer);
            map = output;
        }
        Block { layers, downsample, output: map }
    }

    /// A convolution and the statistics of its result.
    fn layer(&mut self, branch: Branch, names: [String; 2], conv: ConvShape, input: Map) -> Layer {
        self.begin(branch, CONVOLVE);
        let shape = self.convolution_shape(conv, input);
        let raw = self.new_map(MapShape { n: input.shape.n, side: shape.out_side(), channels: conv.outputs });
        let filter = self.layout.weight(branch, &names[0], Role::Filter);
        self.convolve(Pass::Forward, shape, [input.at, filter, raw.at], false);
        let scale = self.statistics(branch, &names[1], raw);
        Layer { names, conv, input, raw, scale }
    }

    fn statistics(&mut self, branch: Branch, name: &str, raw: Map) -> Operand {
        self.begin(branch, NORMALIZE);
        let norm = NormPlaces {
            affine: self.layout.master(branch, name, Role::Affine),
            running: self.layout.running(branch, name),
            bias: Operand::Null,
        };
        self.recorder.batch_statistics(raw.at, raw.rows(self.numbers()), norm)
    }

    fn new_map(&mut self, shape: MapShape) -> Map {
        Map { at: self.numbers_buffer(shape.count()), shape }
    }

    fn convolution_shape(&self, conv: ConvShape, input: Map) -> ConvolutionShape {
        let ConvShape { inputs, outputs, kernel, stride } = conv;
        let MapShape { n, side, .. } = input.shape;
        ConvolutionShape { n, side, inputs, outputs, kernel, stride, numbers: self.numbers() }
    }

    /// The operands are input, filter and output, or the gradient of the one that `pass` computes.
    fn convolve(
        &mut self,
        pass: Pass,
        shape: ConvolutionShape,
        [input, filter, output]: [Operand; 3],
        accumulate: bool,
    ) {
        let convolve = Convolve { pass, shape, input, filter, output, accumulate };
        self.recorder.add(match as_product(convolve) {
            Some(product) => Work::Multiply(product),
            None => Work::Convolve(convolve),
        });
    }

    /// The gradients of the backbone's parameters, from that of its map, which is overwritten.
    pub fn backbone_backward(&mut self, backbone: &Backbone, dmap: Operand) {
        let mut gradient = dmap;
        for block in backbone.blocks.iter().rev() {
            gradient = self.block_backward(block, gradient);
        }
        self.stem_backward(&backbone.stem, gradient);
    }

    /// `dy` is the gradient of the block's result and is overwritten; returned is that of its input.
    fn block_backward(&mut self, block: &Block, dy: Operand) -> Operand {
        let (last, before) = block.layers.split_last().expect("a block has layers");
        // ReLU lets the gradient of the sum through to both of its terms.
        let mask = Mask::Result(block.output.at);
        let draw = self.new_map(last.raw.shape).at;
        self.norm_backward(last, (dy, mask), dy, draw);
        let shortcut = match &block.downsample {
            Some(layer) => {
                self.norm_backward(layer, (dy, Mask::None), Operand::Null, dy);
                self.filter_gradient(layer, dy);
                let dinput = self.new_map(layer.input.shape).at;
                self.input_gradient(layer, dy, dinput, false);
                dinput
            }
            None => dy,
        };
        let mut draw = (last, draw);
        for layer in before.iter().rev() {
            let (above, gradient) = draw;
            self.filter_gradient(above, gradient);
            let dx = self.new_map(above.input.shape).at;
            self.input_gradient(above, gradient, dx, false);
            self.norm_backward(layer, (dx, Mask::Own), Operand::Null, dx);
            draw = (layer, dx);
        }
        let (first, gradient) = draw;
        self.filter_gradient(first, gradient);
        self.input_gradient(first, gradient, shortcut, true);
        shortcut
    }

    /// The gradient `draw` of a convolution's result from that of its batch norm's. The masked gradient goes to `masked`,
    /// if given, and is read from there.
    fn norm_backward(&mut self, layer: &Layer, (dy, mask): (Operand, Mask), masked: Operand, draw: Operand) {
        self.recorder.begin(NORMALIZE_BACK);
        let rows = layer.raw.rows(self.numbers());
        let affine = (self.layout.gradient(&layer.names[1], Role::Affine), self.accumulate);
        let normed = (layer.raw.at, layer.scale);
        let coefficients = self.recorder.batch_norm_sums(normed, dy, mask, masked, rows, affine);
        let mask = if masked == Operand::Null { mask } else { Mask::None };
        self.recorder.batch_norm_backward(normed, (dy, mask), coefficients, draw, rows);
    }

    fn input_gradient(&mut self, layer: &Layer, draw: Operand, dinput: Operand, accumulate: bool) {
        self.recorder.begin(CONVOLVE_BACK);
        let shape = self.convolution_shape(layer.conv, layer.input);
        let filter = self.layout.weight(Branch::Online, &layer.names[0], Role::Filter);
        self.convolve(Pass::Data, shape, [dinput, filter, draw], accumulate);
    }

    fn filter_gradient(&mut self, layer: &Layer, draw: Operand) {
        self.recorder.begin(CONVOLVE_BACK);
        let shape = self.convolution_shape(layer.conv, layer.input);
        let gradient = self.layout.gradient(&layer.names[0], Role::Filter);
        if self.numbers() == Numbers::F32 || is_product(&shape) {
            self.convolve(Pass::Filter, shape, [layer.input.at, gradient, draw], self.accumulate);
            return;
        }
        let count = shape.outputs * shape.kernel * shape.kernel * shape.inputs;
        let rounded = self.numbers_buffer(count);
        self.convolve(Pass::Filter, shape, [layer.input.at, rounded, draw], false);
        self.recorder.store_gradient(rounded, gradient, count, self.accumulate);
    }

    fn stem_backward(&mut self, stem: &Stem, dpooled: Operand) {
        self.recorder.begin(POOL);
        let draw = self.new_map(stem.raw.shape).at;
        let numbers = self.numbers();
        self.recorder.max_pool_backward(dpooled, stem.winners, draw, (stem.raw.shape, numbers));
        self.recorder.begin(NORMALIZE_BACK);
        let rows = stem.raw.rows(numbers);
        let affine = (self.layout.gradient("backbone.bn1", Role::Affine), self.accumulate);
        let normed = (stem.raw.at, stem.scale);
        let coefficients =
            self.recorder.batch_norm_sums(normed, draw, Mask::Own, Operand::Null, rows, affine);
        self.recorder.batch_norm_backward(normed, (draw, Mask::Own), coefficients, draw, rows);
        self.recorder.begin(CONVOLVE_BACK);
        let taps = STEM_CHANNELS * STEM_KERNEL * STEM_KERNEL;
        let padded = self.numbers_buffer(taps * VIEW_CHANNELS);
        let shape = self.stem_shape();
        self.convolve(Pass::Filter, shape, [stem.views.at, padded, draw], false);
        let gradient = self.layout.gradient("backbone.conv1", Role::Filter);
        self.recorder.unpad_gradient(padded, gradient, taps, self.accumulate);
    }
}

/// Whether a convolution is a matrix product as it lies in memory.
fn is_product(shape: &ConvolutionShape) -> bool {
    shape.kernel == 1 && shape.stride == 1
}

/// A 1×1 convolution as the matrix product that it is. The gradient of its filter is float32.
fn as_product(convolve: Convolve) -> Option<Multiply> {
    let Convolve { pass, shape, input, filter, output, accumulate } = convolve;
    if !is_product(&shape) {
        return None;
    }
    let ConvolutionShape { n, side, inputs, outputs, numbers, .. } = shape;
    let pixels = n * side * side;
    let product = |rows, columns, inner, left_transposed, right_transposed, result| ProductShape {
        rows,
        columns,
        inner,
        left_transposed,
        right_transposed,
        factors: numbers,
        result,
        accumulate,
    };
    Some(match pass {
        Pass::Forward => {
            let shape = product(pixels, outputs, inputs, false, true, numbers);
            Multiply { shape, left: input, right: filter, result: output }
        }
        Pass::Data => {
            let shape = product(pixels, inputs, outputs, false, false, numbers);
            Multiply { shape, left: output, right: filter, result: input }
        }
        Pass::Filter => {
            let shape = product(outputs, inputs, pixels, true, false, Numbers::F32);
            Multiply { shape, left: output, right: input, result: filter }
        }
    })
}
