//! Complete steps on a device against the CPU's.

// Each test program includes this file and uses some of it.
#![allow(dead_code)]

use candle_core::{DType, Device, Tensor};
use scrl_preprocess::views::rng::{Purpose, Stream};
use scrl_schemas::Epoch;
use scrl_trainer::collective::Ranks;
use scrl_trainer::data::Batch;
use scrl_trainer::model::{Arch, HeadSizes, Regions};
use scrl_trainer::optim::SgdConfig;
use scrl_trainer::train::{Labels, Learner, LearnerConfig, Method, MicroBatch};

use super::device_ops::{Place, values};

/// Of the velocity that a step keeps.
const MOMENTUM: f32 = 0.9;

/// A run to compare.
#[derive(Clone, Copy)]
pub struct Case {
    pub arch: Arch,
    pub method: Method,
    pub dtype: DType,
    pub pairs: usize,
    pub size: usize,
    /// The most boxes of a pair, a multiple of 3.
    pub boxes: usize,
    /// The scale of each block's last batch norm; initial weights have 1.
    pub residual: f32,
    pub accumulate: usize,
    pub classes: Option<usize>,
    pub steps: usize,
}

impl Case {
    /// A step in bfloat16: 48 matched boxes, and blocks that begin near the identity, as where
    /// their last batch norms are initialized with zeros: otherwise 50 untrained layers make noise
    /// of roundings (see [`Deviation`]).
    pub fn bf16(arch: Arch) -> Self {
        Self { arch, pairs: 8, boxes: 12, residual: 0.1, steps: 1, ..Self::small(DType::BF16) }
    }

    /// ResNet-18 on boxes.
    pub fn small(dtype: DType) -> Self {
        Self {
            arch: Arch::Resnet18,
            method: Method::Scrl,
            dtype,
            pairs: 3,
            size: 64,
            boxes: 3,
            residual: 1.0,
            accumulate: 1,
            classes: Some(5),
            steps: 5,
        }
    }

    /// A learner on `device` whose maps are of `dtype`.
    pub fn learner(&self, device: &Device, dtype: DType) -> Learner {
        let config = LearnerConfig {
            arch: self.arch,
            sizes: HeadSizes { hidden: 24, projection: 16 },
            seed: 7,
            copy_online: false,
            dtype,
            optimizer: SgdConfig {
                momentum: MOMENTUM,
                weight_decay: 1e-3,
                trust: Some(1e-3),
                ..SgdConfig::default()
            },
            classes: self.classes,
        };
        let learner = Learner::new(&config, device).unwrap();
        let last = if self.arch == Arch::Resnet18 { "bn2.weight" } else { "bn3.weight" };
        for parameter in learner.state() {
            if parameter.name.ends_with(last) && !parameter.name.starts_with("momentum.") {
                let scale = Tensor::full(self.residual, parameter.tensor().shape(), &Device::Cpu);
                parameter.set(&scale.unwrap()).unwrap();
            }
        }
        learner
    }

    /// The micro-batches of a step. Views are patterns, and pairs have none, a third, two thirds or
    /// all of the boxes.
    fn batches(&self, step: usize) -> Vec<(Batch, Vec<i64>)> {
        (0..self.accumulate).map(|micro| self.batch(step * self.accumulate + micro)).collect()
    }

    fn batch(&self, number: usize) -> (Batch, Vec<i64>) {
        let mut random = Stream::new(11, number as u32, 0, Purpose::View1);
        let views = 2 * self.pairs;
        let mut pixels = Vec::with_capacity(views * self.size * self.size * 3);
        for _ in 0..views {
            let [a, b, c] = [(); 3].map(|()| random.uniform(0.02, 0.4));
            for y in 0..self.size {
                for x in 0..self.size {
                    let wave = |phase: f64| {
                        let angle = a * x as f64
                            + b * y as f64
                            + phase
                            + c * (x * y) as f64 / self.size as f64;
                        (127.0 + 100.0 * angle.sin()) as u8
                    };
                    pixels.extend([wave(0.0), wave(1.5), wave(4.0 * c)]);
                }
            }
        }
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for pair in 0..self.pairs {
            for _ in 0..self.boxes * ((pair + number + 1) % 4) / 3 {
                for (rois, view) in [(&mut first, pair), (&mut second, self.pairs + pair)] {
                    let [x0, y0] =
                        [(); 2].map(|()| random.uniform(0.0, self.size as f64 * 0.5) as f32);
                    let [w, h] =
                        [(); 2].map(|()| random.uniform(10.0, self.size as f64 * 0.5) as f32);
                    rois.extend([view as f32, x0, y0, x0 + w, y0 + h]);
                }
            }
        }
        let classes: Vec<i64> =
            (0..self.pairs).map(|pair| [2, -1, 4, 0, 1][(pair + number) % 5]).collect();
        let batch = Batch {
            epoch: Epoch(0),
            pixels,
            size: self.size,
            image_ids: (0..self.pairs as i64).collect(),
            labels: classes.iter().map(|class| (*class >= 0).then_some(*class as i32)).collect(),
            labeled: classes.iter().filter(|class| **class >= 0).count(),
            matches: first.len() / 5,
            rois: [first, second].concat(),
        };
        (batch, [classes.as_slice(), &classes].concat())
    }

    fn matches(&self, batches: &[(Batch, Vec<i64>)]) -> usize {
        let of = |batch: &Batch| {
            if self.method == Method::Scrl { batch.matches } else { batch.pairs() }
        };
        batches.iter().map(|(batch, _)| of(batch)).sum()
    }

    /// Learning rate and τ of a step.
    fn rates(step: usize) -> (f64, f64) {
        (0.002 + 0.001 * step as f64, 0.97 + 0.002 * step as f64)
    }

    fn labeled(batches: &[(Batch, Vec<i64>)]) -> usize {
        2 * batches.iter().map(|(batch, _)| batch.labeled).sum::<usize>()
    }

    /// Takes a step where the learner is.
    fn step(&self, learner: &mut Learner, step: usize) -> Outcome {
        let batches = self.batches(step);
        let (matches, labeled) = (self.matches(&batches), Self::labeled(&batches));
        let device = learner.device().clone();
        let mut sum = None;
        for (index, (batch, classes)) in batches.iter().enumerate() {
            let regions = match self.method {
                Method::Scrl => {
                    let shape = (batch.rois.len() / 5, 5);
                    Regions::Boxes(Tensor::from_slice(&batch.rois, shape, &device).unwrap())
                }
                Method::Byol => Regions::Whole,
            };
            let classes = Tensor::new(classes.as_slice(), &device).unwrap();
            let labels = self.classes.map(|_| Labels { classes, labeled });
            let shape = (2 * batch.pairs(), batch.size, batch.size, 3);
            let pixels = Tensor::from_slice(&batch.pixels, shape, &device).unwrap();
            let is_last = index + 1 == batches.len();
            let batch = MicroBatch { pixels, regions, labels };
            sum = Some(learner.compute(&batch, matches, sum, is_last).unwrap());
        }
        let computed = sum.unwrap();
        let (lr, tau) = Self::rates(step);
        learner.apply(&computed, lr, tau).unwrap();
        let scalar = |tensor: &Tensor| values(tensor)[0];
        let online = computed.online.as_ref();
        Outcome {
            loss: scalar(&computed.loss),
            online_loss: online.map_or(0.0, |online| scalar(&online.loss)),
            gradients: learner
                .state()
                .filter_map(|parameter| {
                    Some((parameter.name.clone(), values(computed.gradient(parameter)?)))
                })
                .collect(),
            correct: online.map_or(0.0, |online| scalar(&online.correct)),
            embedding_std: computed
                .embedding_std(&Ranks::default())
                .unwrap()
                .0
                .each_ref()
                .map(scalar),
        }
    }

    /// Takes all steps at a place: the losses, and the bits of every tensor.
    pub fn run(&self, place: &Place) -> (Vec<f32>, Vec<Vec<u32>>) {
        self.run_among(place, &Ranks::default())
    }

    /// [`Case::run`] of one of `ranks`, each of which has all pairs.
    pub fn run_among(&self, place: &Place, ranks: &Ranks) -> (Vec<f32>, Vec<Vec<u32>>) {
        place.run(|| {
            let mut learner = self.learner(place.device(), self.dtype).among(ranks);
            let losses = (0..self.steps).map(|step| self.step(&mut learner, step).loss).collect();
            let bits = |tensor: &Tensor| values(tensor).into_iter().map(f32::to_bits).collect();
            (losses, learner.state().map(|parameter| bits(parameter.tensor())).collect())
        })
    }

    /// Takes all steps there and on the CPU in float32, and compares the outcomes and every
    /// tensor's movement. Each step starts from the CPU's state, as differences would grow from
    /// step to step. A movement may differ by more than the tolerance where a step on the CPU
    /// itself differs as much from one that starts a rounding error away: there a maximum or the
    /// sign before a ReLU is nearly undecided.
    pub fn compare_f32(&self, place: &Place, movement_tolerance: f64) {
        let mut cpu = self.learner(&Device::Cpu, DType::F32);
        let mut there = self.learner(place.device(), self.dtype);
        let mut nudged = self.learner(&Device::Cpu, DType::F32);
        for step in 0..self.steps {
            let before: Vec<Vec<f32>> =
                cpu.state().map(|parameter| values(parameter.tensor())).collect();
            for (there, cpu) in there.state().zip(cpu.state()) {
                there.set(cpu.tensor()).unwrap();
            }
            for (nudged, before) in nudged.state().zip(&before) {
                let values = before.iter().map(|value| value * (1.0 + f32::EPSILON)).collect();
                let shape = nudged.tensor().shape().clone();
                nudged.set(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap();
            }
            self.step(&mut nudged, step);
            let expected = self.step(&mut cpu, step);
            let found = place.run(|| self.step(&mut there, step));
            println!("step {step}: loss {}, expected {}", found.loss, expected.loss);
            let close = |found: f32, expected: f32, what: &str| {
                let error = (found - expected).abs() / expected.abs().max(1e-3);
                assert!(
                    error <= 1e-3,
                    "{what} of step {step}: {found} where {expected} is expected"
                );
            };
            close(found.loss, expected.loss, "loss");
            close(found.online_loss, expected.online_loss, "online loss");
            assert!((found.correct - expected.correct).abs() <= 1.0, "correct of step {step}");
            for (found, expected) in found.embedding_std.into_iter().zip(expected.embedding_std) {
                close(found, expected, "embedding std");
            }
            compare_movement(&there, &cpu, &nudged, &before, movement_tolerance);
        }
    }

    /// Takes all steps there in bfloat16, each from the state of the CPU's, and compares losses and
    /// gradients.
    pub fn compare_bf16(&self, place: &Place) {
        let mut cpu = self.learner(&Device::Cpu, DType::F32);
        let mut there = self.learner(place.device(), DType::BF16);
        for step in 0..self.steps {
            for (there, cpu) in there.state().zip(cpu.state()) {
                there.set(cpu.tensor()).unwrap();
            }
            let expected = self.step(&mut cpu, step);
            let found = place.run(|| self.step(&mut there, step));
            let deviation = Deviation::of(&found, &expected);
            println!("step {step}: {deviation:.4?}");
            deviation.check();
        }
    }

    /// Prints how far a first step there is from the CPU's, after each of `count` calls of
    /// `perturb`.
    pub fn scatter(&self, place: &Place, count: u32, perturb: impl Fn(u32)) {
        let expected = self.step(&mut self.learner(&Device::Cpu, DType::F32), 0);
        for number in 0..count {
            perturb(number);
            let mut there = self.learner(place.device(), DType::BF16);
            let found = place.run(|| self.step(&mut there, 0));
            let deviation = Deviation::of(&found, &expected);
            println!("{} {}: {deviation:.4?}", self.arch, self.method);
        }
    }

    /// The features of the boxes of a batch there and on the CPU, which leave both states as they
    /// are to the bit.
    pub fn compare_box_features(&self, place: &Place) {
        let (batch, _) = self.batch(0);
        let features = |device: &Device| {
            let learner = self.learner(device, self.dtype);
            let bits = || -> Vec<Vec<f32>> {
                learner.state().map(|parameter| values(parameter.tensor())).collect()
            };
            let before = bits();
            let shape = (2 * batch.pairs(), batch.size, batch.size, 3);
            let pixels = Tensor::from_slice(&batch.pixels, shape, device).unwrap();
            let rois = Tensor::from_slice(&batch.rois, (batch.rois.len() / 5, 5), device).unwrap();
            let features = values(&learner.box_features(&pixels, &rois).unwrap());
            assert!(before == bits());
            features
        };
        let (expected, found) = (features(&Device::Cpu), place.run(|| features(place.device())));
        assert_eq!(found.len(), 2 * batch.matches * self.arch.channels());
        let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
            values.map(|value| f64::from(value).powi(2)).sum()
        };
        let difference = square(&mut found.iter().zip(&expected).map(|(a, b)| a - b)).sqrt();
        let error = difference / square(&mut expected.iter().copied()).sqrt();
        assert!(error < 1e-4, "{error}");
    }

    /// A step for a batch without boxes, which moves the target alone.
    pub fn update_target(&self, place: &Place) {
        let learner = self.learner(place.device(), self.dtype);
        let bits = || -> Vec<Vec<f32>> {
            learner.state().map(|parameter| values(parameter.tensor())).collect()
        };
        let before = bits();
        place.run(|| learner.update_target(0.5)).unwrap();
        for ((parameter, before), after) in learner.state().zip(before).zip(bits()) {
            // Batch norms start the same in both networks, with ones and zeros.
            let is_norm = before.iter().all(|value| *value == 0.0 || *value == 1.0);
            let moves = parameter.name.starts_with("target.") && !is_norm;
            assert_eq!(before != after, moves, "{}", parameter.name);
        }
    }
}

/// What a step gives.
struct Outcome {
    loss: f32,
    online_loss: f32,
    correct: f32,
    embedding_std: [f32; 2],
    /// By the names of the tensors.
    gradients: Vec<(String, Vec<f32>)>,
}

/// How far a step in bfloat16 is from the same in float32.
///
/// Correct arithmetic scatters: whatever adds in another order rounds some numbers otherwise, and
/// each layer makes more of them. Measured by the tests `scatter_…` of `cuda_emulated.rs`, with
/// ±2.4e-7 of noise on what kernels round to bfloat16, 13 seeds for each of their three cases:
///
/// | | loss | online loss | cosine | length |
/// |---|---|---|---|---|
/// | ResNet-18 | 0.16 to 0.41 % | −0.01 to 0.07 % | 0.961 to 0.981 | 0.986 to 1.028 |
/// | ResNet-18, BYOL | −0.11 to 0.07 % | ±0.02 % | 0.944 to 0.967 | 0.965 to 0.999 |
/// | ResNet-50 | −0.40 to −0.06 % | 0.06 to 0.18 % | 0.957 to 0.968 | 1.008 to 1.047 |
///
/// The bounds are five standard deviations or more from each mean. A wrong factor in one kernel is
/// outside: with half of Σ dy·(x − mean) in batch norm the cosine of ResNet-18 is 0.907 and the
/// length 0.890, without the first box of each view in RoIAlign's backward pass the length is
/// 0.899, with half the gradient of the loss 0.52. Sums cut to the bits of TF32 or bfloat16 are
/// within: those fail in the tests of single ops.
///
/// With blocks as they are initialized, at most 3 boxes a pair and 128 px, the first three seeds of
/// ResNet-50 gave losses from −2.6 to 1.5 %, and cosines from 0.0 to 0.1.
#[derive(Clone, Copy, Debug)]
pub struct Deviation {
    /// Relative differences of the losses.
    pub loss: f64,
    pub online_loss: f64,
    /// Of the gradients found to those expected, where each tensor's are divided by their expected
    /// length: the cosine of the angle between them, and their length.
    pub cosine: f64,
    pub length: f64,
}

impl Deviation {
    /// The largest difference of a loss.
    const LOSS: f64 = 0.012;
    /// The smallest cosine.
    const COSINE: f64 = 0.92;
    /// The largest difference of the length from 1.
    const LENGTH: f64 = 0.09;

    fn of(found: &Outcome, expected: &Outcome) -> Self {
        let relative = |found: f32, expected: f32| f64::from(found) / f64::from(expected) - 1.0;
        let product = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let (mut both, mut squares, mut tensors) = (0.0, 0.0, 0.0);
        for ((name, found), (_, expected)) in found.gradients.iter().zip(&expected.gradients) {
            if !is_in_front_of_batch_norm(name) {
                let square = product(expected, expected);
                both += product(found, expected) / square;
                squares += product(found, found) / square;
                tensors += 1.0;
            }
        }
        Self {
            loss: relative(found.loss, expected.loss),
            online_loss: relative(found.online_loss, expected.online_loss),
            cosine: both / f64::sqrt(squares * tensors),
            length: f64::sqrt(squares / tensors),
        }
    }

    fn check(&self) {
        assert!(self.loss.abs() <= Self::LOSS, "loss: {self:.4?}");
        assert!(self.online_loss.abs() <= Self::LOSS, "online loss: {self:.4?}");
        assert!(self.cosine >= Self::COSINE, "directions of the gradients: {self:.4?}");
        assert!((self.length - 1.0).abs() <= Self::LENGTH, "lengths of the gradients: {self:.4?}");
    }
}

/// Whether a tensor is a bias in front of a batch norm, which has no gradient but rounding errors.
fn is_in_front_of_batch_norm(name: &str) -> bool {
    name.ends_with(".0.bias") && !name.contains("backbone")
}

/// Every tensor must have moved as far and in the direction that is expected.
fn compare_movement(
    found: &Learner,
    expected: &Learner,
    nudged: &Learner,
    before: &[Vec<f32>],
    tolerance: f64,
) {
    for (((found, expected), nudged), before) in
        found.state().zip(expected.state()).zip(nudged.state()).zip(before)
    {
        if is_in_front_of_batch_norm(&found.name) {
            continue;
        }
        // Of a velocity it is the gradient that a step adds: with what it had kept before, the two
        // may cancel.
        let kept = if found.name.starts_with("momentum.") { MOMENTUM } else { 1.0 };
        let before: Vec<f32> = before.iter().map(|value| kept * value).collect();
        let expected = values(expected.tensor());
        let error = movement_error(&values(found.tensor()), &expected, &before);
        let usual = movement_error(&values(nudged.tensor()), &expected, &before);
        if error > tolerance {
            println!("{}: {error:.1e}, where a rounding error gives {usual:.1e}", found.name);
        }
        assert!(
            error <= tolerance.max(4.0 * usual),
            "the movement of {} differs by {error:.1e}, where a rounding error gives {usual:.1e}",
            found.name
        );
    }
}

/// ‖found − expected‖ / ‖expected − before‖.
fn movement_error(found: &[f32], expected: &[f32], before: &[f32]) -> f64 {
    let length = |values: &mut dyn Iterator<Item = f64>| {
        values.map(|value| value * value).sum::<f64>().sqrt()
    };
    let differences = |a: &[f32], b: &[f32]| {
        length(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)))
    };
    let (difference, moved) = (differences(found, expected), differences(expected, before));
    if difference == 0.0 { 0.0 } else { difference / moved }
}
