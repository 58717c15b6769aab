//! Every op on a device against the CPU, at odd sizes, forward and backward.

// Each test program includes this file and uses some of it.
#![allow(dead_code)]

use std::rc::Rc;

use candle_core::{DType, Device, Tensor, Var};
use scrl_preprocess::views::rng::{Purpose, Stream};
use scrl_trainer::collective::Ranks;
use scrl_trainer::model::{Parameter, Parameters};
use scrl_trainer::ops::gpu::{Emulator, emulate};
use scrl_trainer::ops::{
    BatchNorm, Conv2d, CosineLoss, CrossEntropy, GlobalAveragePool, Linear, MaxPool, Op, RoiAlign,
    Tape, batch_statistics, count_correct, embedding_std, normalize_pixels, update_running,
};
use scrl_trainer::optim::{Sgd, SgdConfig, update_ema};

/// Where the ops under test compute.
#[derive(Clone)]
pub enum Place {
    /// On the CPU, as a device would.
    Emulated(Rc<dyn Emulator>),
    /// On a GPU.
    Gpu(Device),
}

impl Place {
    /// Where tensors lie.
    pub fn device(&self) -> &Device {
        match self {
            Self::Emulated(_) => &Device::Cpu,
            Self::Gpu(device) => device,
        }
    }

    /// Does `work` there.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        match self {
            Self::Emulated(emulator) => emulate(emulator.clone(), work),
            Self::Gpu(_) => work(),
        }
    }
}

/// A place, and the type of its maps.
struct Bench {
    place: Place,
    dtype: DType,
    random: Stream,
}

/// An input of an op.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A map or vectors, in the type of the maps.
    Map,
    /// Parameters and the like, as they are.
    Plain,
}
use Kind::{Map, Plain};

impl Bench {
    /// Numbers in ±1 that the maps can hold exactly.
    fn map(&mut self, shape: &[usize]) -> Tensor {
        let numbers = self.plain(shape);
        numbers.to_dtype(self.dtype).unwrap().to_dtype(DType::F32).unwrap()
    }

    /// Numbers in ±1.
    fn plain(&mut self, shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| self.random.uniform(-1.0, 1.0) as f32).collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
    }

    /// A tensor as the place takes it.
    fn there(&self, tensor: &Tensor, kind: Kind) -> Tensor {
        let tensor = tensor.to_device(self.place.device()).unwrap();
        if kind == Map { tensor.to_dtype(self.dtype).unwrap() } else { tensor }
    }

    #[track_caller]
    fn close(&self, found: &Tensor, expected: &Tensor, what: &str) {
        self.close_within(
            found,
            expected,
            if self.dtype == DType::BF16 { 1e-2 } else { 2e-5 },
            what,
        );
    }

    #[track_caller]
    fn close_within(&self, found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
        assert_eq!(found.dims(), expected.dims(), "{what}");
        let (found, expected) = (values(found), values(expected));
        let square =
            |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let difference =
            square(&mut found.iter().zip(&expected).map(|(f, e)| f64::from(*f) - f64::from(*e)));
        let length = square(&mut expected.iter().map(|e| f64::from(*e)));
        // Written so that NaN fails.
        let near = difference <= tolerance * length.max(1e-6);
        assert!(near, "{what} in {:?}: differs by {difference:.2e} of {length:.2e}", self.dtype);
    }

    /// Compares an op, forward and backward, on the CPU and there. Gradients are wanted where the
    /// CPU gives them.
    #[track_caller]
    fn compare<const N: usize, O: Op<N>>(
        &mut self,
        what: &str,
        on_cpu: O,
        there: O,
        inputs: [(&Tensor, Kind); N],
    ) {
        let mut tape = Tape::recording();
        let expected = tape.apply(on_cpu, inputs.map(|(input, _)| input)).unwrap();
        let is_loss = expected.rank() == 0;
        let grad = if is_loss {
            Tensor::new(1f32, &Device::Cpu).unwrap()
        } else {
            self.map(expected.dims())
        };
        let expected_gradients = tape.backward(&expected, grad.clone()).unwrap();

        let given = inputs.map(|(input, kind)| self.there(input, kind));
        let (result, gradients) = self.place.run(|| {
            let mut tape = Tape::recording();
            let result = tape.apply(there, given.each_ref()).unwrap();
            let grad = self.there(&grad, if is_loss { Plain } else { Map });
            let gradients = tape.backward(&result, grad).unwrap();
            (result, gradients)
        });
        self.close(&result, &expected, what);
        for (index, (input, given)) in inputs.iter().zip(&given).enumerate() {
            let what = format!("{what}: gradient {index}");
            match (gradients.get(given), expected_gradients.get(input.0)) {
                (Some(found), Some(expected)) => self.close(found, expected, &what),
                (found, expected) => assert_eq!(found.is_some(), expected.is_some(), "{what}"),
            }
        }
    }
}

/// All values of a tensor, in order.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bench(place: Place, dtype: DType) -> Bench {
    Bench { place, dtype, random: Stream::new(5, 0, 0, Purpose::View1) }
}

/// The input of a network: pixels, and the stem's convolution on them, whose channels a device
/// pads.
pub fn input(place: Place, dtype: DType) {
    let mut bench = bench(place, dtype);
    let bytes: Vec<u8> = (0..2 * 13 * 13 * 3).map(|_| bench.random.next_u32() as u8).collect();
    let pixels = Tensor::from_vec(bytes, (2, 13, 13, 3), &Device::Cpu).unwrap();
    let expected = normalize_pixels(&pixels, DType::F32).unwrap();
    let there = bench.there(&pixels, Plain);
    let found = bench.place.run(|| normalize_pixels(&there, dtype)).unwrap();
    bench.close(&found.narrow(3, 0, 3).unwrap().contiguous().unwrap(), &expected, "pixels");
    let padding = found.narrow(3, 3, found.dim(3).unwrap() - 3).unwrap().contiguous().unwrap();
    assert!(values(&padding).iter().all(|value| *value == 0.0));

    let filter = bench.plain(&[8, 7, 7, 3]);
    let conv = Conv2d { stride: 2, padding: 3, input_gradient: false };
    let mut tape = Tape::recording();
    let y = tape.apply(conv, [&expected, &filter]).unwrap();
    let grad = bench.map(y.dims());
    let gradients = tape.backward(&y, grad.clone()).unwrap();
    let (filter_there, grad) = (bench.there(&filter, Plain), bench.there(&grad, Map));
    let (y_there, gradients_there) = bench.place.run(|| {
        let mut tape = Tape::recording();
        let y = tape.apply(conv, [&found, &filter_there]).unwrap();
        let gradients = tape.backward(&y, grad).unwrap();
        (y, gradients)
    });
    bench.close(&y_there, &y, "stem");
    let (found, expected) = (gradients_there.get(&filter_there), gradients.get(&filter));
    bench.close(found.unwrap(), expected.unwrap(), "stem: gradient");
}

/// Convolutions: matrix products and others.
pub fn convolutions(place: Place, dtype: DType) {
    let mut bench = bench(place, dtype);
    for ([n, h, w], [i, o], kernel, stride) in [
        ([2, 9, 9], [8, 16], 3, 1),
        ([2, 7, 5], [16, 8], 3, 2),
        ([2, 8, 8], [8, 24], 1, 2),
        ([3, 5, 6], [24, 8], 1, 1),
        ([2, 1, 1], [8, 8], 3, 1),
        ([1, 33, 31], [40, 64], 3, 1),
    ] {
        let (x, filter) = (bench.map(&[n, h, w, i]), bench.map(&[o, kernel, kernel, i]));
        for input_gradient in [true, false] {
            let conv = Conv2d { stride, padding: kernel / 2, input_gradient };
            let what = format!("{conv:?} of {:?} by {:?}", x.dims(), filter.dims());
            bench.compare(&what, conv, conv, [(&x, Map), (&filter, Plain)]);
        }
    }
}

/// Batch norm with what surrounds it, and its statistics.
pub fn batch_norms(place: Place, dtype: DType) {
    let mut bench = bench(place, dtype);
    no_rows(&bench);
    // With several rows a thread and with few, full rounds of them and not.
    for (rows, channels) in
        [(7, 8), (1, 16), (5, 8), (4099, 8), (300, 64), (1111, 264), (64, 2048), (1026, 512)]
    {
        let x = ((bench.map(&[rows, channels]) * 2.0).unwrap() + 3.0).unwrap();
        let x = x.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
        let residual = bench.map(&[rows, channels]);
        let weight = (bench.plain(&[channels]) + 1.5).unwrap();
        let bias = bench.plain(&[channels]);
        let ranks = Ranks::default();
        let statistics = batch_statistics(&x, &ranks).unwrap();
        let there = bench.there(&x, Map);
        let found = bench.place.run(|| batch_statistics(&there, &ranks)).unwrap();
        let what = format!("statistics of {rows} by {channels}");
        bench.close_within(&found, &statistics, 2e-5, &what);

        let running = [bench.plain(&[channels]), bench.plain(&[channels])];
        let running_there = running.each_ref().map(|tensor| {
            Var::from_tensor(&bench.there(tensor, Plain)).unwrap().as_tensor().clone()
        });
        update_running(running.each_ref(), &statistics, 0.1).unwrap();
        bench.place.run(|| update_running(running_there.each_ref(), &found, 0.1)).unwrap();
        for (found, expected) in running_there.iter().zip(&running) {
            bench.close_within(found, expected, 2e-5, "running statistics");
        }

        // A batch of one row has no variance, and its gradient is nothing but rounding.
        if rows == 1 {
            continue;
        }
        for relu in [true, false] {
            let op = |statistics: &Tensor| BatchNorm::new(statistics.clone(), ranks.clone(), relu);
            let given = [(&x, Map), (&weight, Plain), (&bias, Plain)];
            let what = format!("batch norm of {rows} by {channels}, relu {relu}");
            bench.compare::<3, _>(&what, op(&statistics), op(&found), given);
            let given = [(&x, Map), (&weight, Plain), (&bias, Plain), (&residual, Map)];
            bench.compare::<4, _>(&format!("{what}, residual"), op(&statistics), op(&found), given);
        }
    }
}

/// Batch norm of a map without rows, as of a rank that has no boxes.
fn no_rows(bench: &Bench) {
    let ones = |shape: &[usize], kind| {
        bench.there(&Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap(), kind)
    };
    // CUDA allocates no memory of no size.
    let map = || ones(&[1, 24], Map).narrow(0, 0, 0).unwrap();
    let (x, residual, grad, weight) = (map(), map(), map(), ones(&[24], Plain));
    let (statistics, y, gradients) = bench.place.run(|| {
        let statistics = batch_statistics(&x, &Ranks::default()).unwrap();
        let op = BatchNorm::new(statistics.clone(), Ranks::default(), true);
        let mut tape = Tape::recording();
        let y = tape.apply(op, [&x, &weight, &weight, &residual]).unwrap();
        let gradients = tape.backward(&y, grad).unwrap();
        (statistics, y, gradients)
    });
    assert_eq!(values(&statistics), [0.0; 3 * 24]);
    assert_eq!(y.dims(), [0, 24]);
    assert_eq!(values(gradients.get(&weight).unwrap()), [0.0; 24]);
}

/// The ways from a large map to a small one.
pub fn pooling(place: Place, dtype: DType) {
    let mut bench = bench(place, dtype);
    for shape in [[2, 9, 9, 8], [1, 6, 7, 64], [3, 1, 1, 8]] {
        let x = bench.map(&shape);
        bench.compare("max-pool", MaxPool::new(3, 2, 1), MaxPool::new(3, 2, 1), [(&x, Map)]);
        // As after ReLU, where many values are equal.
        let x = x.relu().unwrap();
        bench.compare(
            "max-pool of zeros",
            MaxPool::new(3, 2, 1),
            MaxPool::new(3, 2, 1),
            [(&x, Map)],
        );
        bench.compare("average pool", GlobalAveragePool, GlobalAveragePool, [(&x, Map)]);
    }
    // Views without boxes, with many, and boxes that reach outside or are smaller than a cell.
    let mut rois = Vec::new();
    for (view, count) in [(0, 1), (2, 64), (3, 5)] {
        for _ in 0..count {
            let [x0, y0] = [(); 2].map(|()| bench.random.uniform(-20.0, 200.0) as f32);
            let [w, h] = [(); 2].map(|()| bench.random.uniform(3.0, 120.0) as f32);
            // Every fourth is a point.
            let [w, h] = if rois.len() % 20 == 0 { [0.0; 2] } else { [w, h] };
            rois.extend([view as f32, x0, y0, x0 + w, y0 + h]);
        }
    }
    let rois = Tensor::from_vec(rois, (70, 5), &Device::Cpu).unwrap();
    let map = bench.map(&[5, 7, 6, 72]);
    bench.compare("RoIAlign", RoiAlign, RoiAlign, [(&map, Map), (&rois, Plain)]);
}

/// Fully connected layers, the losses, and what is logged of them.
pub fn heads(place: Place, dtype: DType) {
    let mut bench = bench(place, dtype);
    let (x, weight, bias) = (bench.map(&[37, 24]), bench.map(&[40, 24]), bench.plain(&[40]));
    bench.compare::<2, _>("linear", Linear, Linear, [(&x, Map), (&weight, Plain)]);
    let given = [(&x, Map), (&weight, Plain), (&bias, Plain)];
    bench.compare::<3, _>("linear with bias", Linear, Linear, given);

    let (q, z) = (bench.map(&[22, 264]), bench.map(&[22, 264]));
    let given = [(&q, Map), (&z, Map)];
    bench.compare("cosine loss", CosineLoss::new(13), CosineLoss::new(13), given);
    let there = bench.there(&q, Map);
    let found = bench.place.run(|| embedding_std(&there)).unwrap();
    bench.close_within(&found, &embedding_std(&q).unwrap(), 1e-6, "embedding std");

    let (logits, classes) = (bench.plain(&[7, 300]), [5i64, 290, -1, 0, 299, 17, -1]);
    let logits = (logits * 20.0).unwrap();
    let classes = Tensor::new(&classes, &Device::Cpu).unwrap();
    let given = [(&logits, Plain), (&classes, Plain)];
    bench.compare("cross-entropy", CrossEntropy::new(5), CrossEntropy::new(5), given);
    // Rows that are correct, and the first of equal logits.
    let logits = [[3f32, 1.0, 2.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 9.0]];
    let logits = bench.there(&Tensor::new(&logits, &Device::Cpu).unwrap(), Plain);
    let classes = bench.there(&Tensor::new(&[0i64, 0, 1, -1], &Device::Cpu).unwrap(), Plain);
    let correct = bench.place.run(|| count_correct(&logits, &classes)).unwrap();
    assert_eq!(values(&correct), [2.0]);
}

/// Tensors of many sizes, more than fit one launch.
fn parameters(bench: &mut Bench) -> Vec<Tensor> {
    let mut shapes = vec![vec![3, 5, 5, 7], vec![70_001], vec![130, 1000], vec![1]];
    shapes
        .extend((0..70).map(|index| if index % 2 == 0 { vec![index + 1] } else { vec![index, 3] }));
    let mut tensors: Vec<Tensor> = shapes.iter().map(|shape| bench.plain(shape)).collect();
    // A tensor whose norm is zero is not adapted.
    tensors.push(Tensor::zeros((4, 4), DType::F32, &Device::Cpu).unwrap());
    tensors
}

fn as_parameters(tensors: &[Tensor], device: &Device) -> Parameters {
    let parameter = |(index, tensor): (usize, &Tensor)| {
        let var = Var::from_tensor(&tensor.to_device(device).unwrap()).unwrap();
        Parameter::new(format!("p{index}"), var)
    };
    Parameters(tensors.iter().enumerate().map(parameter).collect())
}

/// LARS and SGD, each with the EMA of the target, also while the loss is NaN.
pub fn optimizer(place: Place) {
    for (trust, nesterov) in [(Some(1e-3), false), (None, false), (None, true)] {
        let config = SgdConfig { momentum: 0.9, nesterov, weight_decay: 1e-2, trust };
        compare_optimizer(place.clone(), config);
    }
}

fn compare_optimizer(place: Place, config: SgdConfig) {
    let mut bench = bench(place.clone(), DType::F32);
    let (start, target_start) = (parameters(&mut bench), parameters(&mut bench));
    let on =
        |device: &Device| [as_parameters(&start, device), as_parameters(&target_start, device)];
    let ([online, target], [online_there, target_there]) = (on(&Device::Cpu), on(place.device()));
    let mut sgd = Sgd::new(config, online.0.clone()).unwrap();
    let mut sgd_there = Sgd::new(config, online_there.0.clone()).unwrap();
    for (step, loss) in [1.0, 2.0, f32::NAN].into_iter().enumerate() {
        let gradients = parameters(&mut bench);
        let advance = |sgd: &mut Sgd, online: &Parameters, target: &Parameters, device: &Device| {
            let loss = Tensor::new(loss, device).unwrap();
            // The last but one has no gradient, and stays.
            let gradients = online.0.iter().zip(&gradients).filter(|(p, _)| p.name != "p73");
            let gradients =
                gradients.map(|(p, g)| (p.tensor().clone(), g.to_device(device).unwrap()));
            sgd.step(&gradients.collect(), &loss, 0.3).unwrap();
            update_ema(target, online, 0.97, Some(&loss)).unwrap();
        };
        advance(&mut sgd, &online, &target, &Device::Cpu);
        place.run(|| advance(&mut sgd_there, &online_there, &target_there, place.device()));
        let found = online_there.0.iter().chain(&target_there.0).chain(sgd_there.velocities());
        let expected = online.0.iter().chain(&target.0).chain(sgd.velocities());
        for (found, expected) in found.zip(expected) {
            let what = format!("{} after step {step}, {config:?}", expected.name);
            bench.close_within(found.tensor(), expected.tensor(), 1e-6, &what);
        }
    }
    assert_eq!(values(online_there.0[73].tensor()), values(&start[73]));
}

/// Weights in bfloat16 follow whatever changes the weights.
pub fn weight_copies(place: Place) {
    let mut bench = bench(place.clone(), DType::BF16);
    let start = [[5, 7], [2, 7], [129, 7], [7, 7]].map(|shape| bench.plain(&shape));
    let [online, target] = [(); 2].map(|()| as_parameters(&start, place.device()));
    let one = Tensor::eye(7, DType::F32, &Device::Cpu).unwrap();
    let one = bench.there(&one, Map);
    // What a linear layer makes of the unit matrix is the weight that it multiplied with.
    let check = |what: &str| {
        for parameter in online.0.iter().chain(&target.0) {
            let weight = parameter.tensor();
            let used = place.run(|| Tape::forward_only().apply(Linear, [&one, weight])).unwrap();
            let value = weight.detach().to_dtype(DType::BF16).unwrap();
            assert_eq!(values(&used.t().unwrap()), values(&value), "{} {what}", parameter.name);
        }
    };
    let config = SgdConfig { momentum: 0.9, trust: Some(1e-3), ..SgdConfig::default() };
    let mut sgd = Sgd::new(config, online.0.clone()).unwrap();
    let mut step = |loss: f32| {
        let loss = Tensor::new(loss, place.device()).unwrap();
        let gradients = online.0.iter().map(|p| (p.tensor().clone(), p.tensor().copy().unwrap()));
        sgd.step(&gradients.collect(), &loss, 30.0).unwrap();
        update_ema(&target, &online, 0.5, Some(&loss)).unwrap();
    };
    let before: Vec<Vec<f32>> = target.0.iter().map(|p| values(p.tensor())).collect();
    check("at first");
    place.run(|| step(1.0));
    check("after a step");
    for (parameter, before) in target.0.iter().zip(before) {
        assert_ne!(values(parameter.tensor()), before, "{} did not move", parameter.name);
    }
    place.run(|| step(f32::NAN));
    check("after a step that moves nothing");
    for (online, target) in online.0.iter().zip(&target.0) {
        online.set(&online.tensor().affine(0.5, 1.0).unwrap()).unwrap();
        target.set(online.tensor()).unwrap();
    }
    check("with another value");
    place.run(|| step(1.0));
    check("after another step");
    step(1.0);
    check("after a step on the CPU, where the place is one");
}

/// Everything.
pub fn all(place: &Place, dtype: DType) {
    for check in [input, convolutions, batch_norms, pooling, heads] {
        check(place.clone(), dtype);
    }
}
