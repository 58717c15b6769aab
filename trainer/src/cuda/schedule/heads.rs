//! g and q: the projector and the predictor of `model/head.rs`, and the classifier of the online evaluation.

use super::super::kernels::{Mask, NormPlaces, Rows};
use super::super::layout::Branch;
use super::super::program::{Multiply, Numbers, Operand, ProductShape, Work};
use super::Schedule;
use super::backbone::Map;
use crate::model::Role;

/// The name of the heads' part of a step.
const HEADS: [&str; 2] = ["heads", "target's heads"];

/// What the backward pass needs of a head.
pub struct Head {
    name: &'static str,
    input: Operand,
    sizes: HeadShape,
    /// Before the batch norm.
    raw: Operand,
    scale: Operand,
    hidden: Operand,
}

/// Numbers into a head, inside and out.
#[derive(Clone, Copy)]
pub struct HeadShape {
    pub inputs: usize,
    pub hidden: usize,
    pub outputs: usize,
}

impl Schedule<'_> {
    /// Vectors, of which the batch says how many count.
    fn vectors(&self, channels: usize) -> Rows {
        let valid = self.layout.description();
        Rows { rows: self.shape.vectors(), valid, channels, numbers: self.numbers() }
    }

    /// `input[R, inputs]` → `output[R, outputs]`.
    pub fn head(
        &mut self,
        branch: Branch,
        name: &'static str,
        sizes: HeadShape,
        [input, output]: [Operand; 2],
    ) -> Head {
        self.begin(branch, HEADS);
        let hidden_rows = self.vectors(sizes.hidden);
        let raw = self.numbers_buffer(hidden_rows.count());
        let layer = |part: u32| format!("{name}.{part}");
        let first = self.layout.weight(branch, &layer(0), Role::Weight);
        self.linear(input, first, raw, [sizes.inputs, sizes.hidden]);
        // The batch norm would take the first layer's bias away again, so it only shows in the running mean.
        let norm = NormPlaces {
            affine: self.layout.master(branch, &layer(1), Role::Affine),
            running: self.layout.running(branch, &layer(1)),
            bias: self.layout.master(branch, &layer(0), Role::Bias),
        };
        let scale = self.recorder.batch_statistics(raw, hidden_rows, norm);
        let hidden = self.numbers_buffer(hidden_rows.count());
        let none = (Operand::Null, Operand::Null);
        self.recorder.batch_norm((raw, scale), none, hidden, hidden_rows, true);
        let last = self.layout.weight(branch, &layer(3), Role::Weight);
        self.linear(hidden, last, output, [sizes.hidden, sizes.outputs]);
        Head { name, input, sizes, raw, scale, hidden }
    }

    fn linear(&mut self, x: Operand, weight: Operand, y: Operand, [inputs, outputs]: [usize; 2]) {
        let shape = self.product([self.shape.vectors(), outputs, inputs], [false, true]);
        self.recorder.add(Work::Multiply(Multiply { shape, left: x, right: weight, result: y }));
    }

    fn product(
        &self,
        [rows, columns, inner]: [usize; 3],
        [left_transposed, right_transposed]: [bool; 2],
    ) -> ProductShape {
        let numbers = self.numbers();
        ProductShape {
            rows,
            columns,
            inner,
            left_transposed,
            right_transposed,
            factors: numbers,
            result: numbers,
            accumulate: false,
        }
    }

    /// The gradients of a head's parameters and, returned, of its input, from that of its output. The gradient of the
    /// first layer's bias is zero, since the batch norm takes the bias away; it stays as it is.
    pub fn head_backward(&mut self, head: &Head, doutput: Operand) -> Operand {
        self.begin(Branch::Online, HEADS);
        let HeadShape { inputs, hidden, outputs } = head.sizes;
        let layer = |part: u32| format!("{}.{part}", head.name);
        let dhidden = self.linear_backward(&layer(3), [head.hidden, doutput], [hidden, outputs]);
        let rows = self.vectors(hidden);
        let affine = (self.layout.gradient(&layer(1), Role::Affine), self.accumulate);
        let normed = (head.raw, head.scale);
        let coefficients =
            self.recorder.batch_norm_sums(normed, dhidden, Mask::Own, Operand::Null, rows, affine);
        self.recorder.batch_norm_backward(normed, (dhidden, Mask::Own), coefficients, dhidden, rows);
        self.linear_backward(&layer(0), [head.input, dhidden], [inputs, hidden])
    }

    /// The gradients of a linear layer's weight and, returned, of its input `x`.
    fn linear_backward(
        &mut self,
        layer: &str,
        [x, dy]: [Operand; 2],
        [inputs, outputs]: [usize; 2],
    ) -> Operand {
        let vectors = self.shape.vectors();
        let gradient = self.layout.gradient(layer, Role::Weight);
        let shape = ProductShape {
            result: Numbers::F32,
            accumulate: self.accumulate,
            ..self.product([outputs, inputs, vectors], [true, false])
        };
        self.recorder.add(Work::Multiply(Multiply { shape, left: dy, right: x, result: gradient }));
        let dx = self.numbers_buffer(vectors * inputs);
        let weight = self.layout.weight(Branch::Online, layer, Role::Weight);
        let shape = self.product([vectors, inputs, outputs], [false, false]);
        self.recorder.add(Work::Multiply(Multiply { shape, left: dy, right: weight, result: dx }));
        dx
    }

    /// The online evaluation on the last map: its loss, what is right, and its gradients; float32 throughout.
    pub fn classifier(&mut self, map: Map, classes: usize) {
        self.recorder.begin("online evaluation");
        let (views, channels) = (map.shape.n, map.shape.channels);
        let features = self.recorder.buffer(4 * views * channels);
        self.recorder.average_features(map.at, features, (map.shape, self.numbers()));
        let logits = self.recorder.buffer(4 * views * classes);
        let weight = self.layout.master(Branch::Online, "classifier", Role::Weight);
        let bias = self.layout.master(Branch::Online, "classifier", Role::Bias);
        let float = |shape| ProductShape { factors: Numbers::F32, result: Numbers::F32, ..shape };
        let shape = float(self.product([views, classes, channels], [false, true]));
        self.recorder.add(Work::Multiply(Multiply { shape, left: features, right: weight, result: logits }));
        self.recorder.add_bias(logits, bias, (views, classes));
        let given = [logits, self.shape.classes_at(self.layout), self.layout.description()];
        let told = [self.layout.outcome(1), self.layout.outcome(2)];
        self.recorder.cross_entropy(given, (told, self.accumulate), (views, classes));
        let shape = float(self.product([classes, channels, views], [true, false]));
        let shape = ProductShape { accumulate: self.accumulate, ..shape };
        let gradient = self.layout.gradient("classifier", Role::Weight);
        self.recorder.add(Work::Multiply(Multiply {
            shape,
            left: logits,
            right: features,
            result: gradient,
        }));
        let gradient = self.layout.gradient("classifier", Role::Bias);
        self.recorder.column_sums(logits, (views, classes), gradient, self.accumulate);
    }
}
