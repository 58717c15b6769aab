//! Whole steps of a device's learner against the CPU's, for any [`Backend`].

// Each test program includes this file and uses a part of it.
#![allow(dead_code)]

use candle_core::{Device, Tensor};
use scrl_preprocess::rng::{Purpose, Stream};
use scrl_schemas::Epoch;
use scrl_trainer::cuda::{Backend, CudaConfig, CudaLearner, MicroBatch, Outcome, StepScalars};
use scrl_trainer::data::Batch;
use scrl_trainer::learner::{Labels, Learner, LearnerConfig, Spread};
use scrl_trainer::model::{Arch, HeadSizes, Regions, Role};
use scrl_trainer::optim::LarsConfig;
use scrl_trainer::run::{Method, Precision};

/// The most boxes of a pair in these tests.
const BOXES: usize = 3;

/// A run to compare.
#[derive(Clone, Copy)]
pub struct Case {
    pub arch: Arch,
    pub method: Method,
    pub precision: Precision,
    pub pairs: usize,
    pub size: usize,
    pub accumulate: usize,
    pub classes: Option<usize>,
    pub steps: usize,
}

impl Case {
    /// ResNet-18 on boxes.
    pub fn small(precision: Precision) -> Self {
        Self {
            arch: Arch::Resnet18,
            method: Method::Scrl,
            precision,
            pairs: 3,
            size: 64,
            accumulate: 1,
            classes: Some(5),
            steps: 5,
        }
    }

    fn learner(&self) -> Learner {
        let config = LearnerConfig {
            arch: self.arch,
            sizes: HeadSizes { hidden: 24, projection: 16 },
            seed: 7,
            copy_online: false,
            lars: LarsConfig { momentum: 0.9, weight_decay: 1e-3 },
            classes: self.classes,
        };
        Learner::new(&config, &Device::Cpu).unwrap()
    }

    /// The device's learner.
    pub fn on<B: Backend>(&self, backend: B) -> CudaLearner<B> {
        self.try_on(backend).unwrap()
    }

    /// The device's learner, if there can be one.
    pub fn try_on<B: Backend>(&self, backend: B) -> scrl_trainer::Result<CudaLearner<B>> {
        let config = CudaConfig {
            method: self.method,
            precision: self.precision,
            pairs: self.pairs,
            size: self.size,
            boxes: BOXES,
        };
        CudaLearner::new(self.learner(), config, backend)
    }

    /// The micro-batches of a step. Views are patterns, and pairs have 0 to [`BOXES`] boxes, at least one in all.
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
                        let angle =
                            a * x as f64 + b * y as f64 + phase + c * (x * y) as f64 / self.size as f64;
                        (127.0 + 100.0 * angle.sin()) as u8
                    };
                    pixels.extend([wave(0.0), wave(1.5), wave(4.0 * c)]);
                }
            }
        }
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for pair in 0..self.pairs {
            for _ in 0..(pair + number + 1) % (BOXES + 1) {
                for (rois, view) in [(&mut first, pair), (&mut second, self.pairs + pair)] {
                    let [x0, y0] = [(); 2].map(|()| random.uniform(0.0, self.size as f64 * 0.5) as f32);
                    let [w, h] = [(); 2].map(|()| random.uniform(10.0, self.size as f64 * 0.5) as f32);
                    rois.extend([view as f32, x0, y0, x0 + w, y0 + h]);
                }
            }
        }
        let classes: Vec<i64> = (0..self.pairs).map(|pair| [2, -1, 4, 0, 1][(pair + number) % 5]).collect();
        let batch = Batch {
            epoch: Epoch(0),
            pixels,
            size: self.size,
            image_ids: (0..self.pairs as i64).collect(),
            labels: classes.iter().map(|class| (*class >= 0).then_some(*class as i32)).collect(),
            rois: [first, second].concat(),
        };
        (batch, [classes.as_slice(), &classes].concat())
    }

    fn matches(&self, batches: &[(Batch, Vec<i64>)]) -> usize {
        let of = |batch: &Batch| if self.method == Method::Scrl { batch.matches() } else { batch.pairs() };
        batches.iter().map(|(batch, _)| of(batch)).sum()
    }

    /// Learning rate and τ of a step.
    fn rates(step: usize) -> (f64, f64) {
        (0.002 + 0.001 * step as f64, 0.97 + 0.002 * step as f64)
    }

    /// Takes a step on the device.
    pub fn step_on<B: Backend>(&self, learner: &mut CudaLearner<B>, step: usize) {
        let batches = self.batches(step);
        let micro: Vec<MicroBatch> = batches
            .iter()
            .map(|(batch, classes)| MicroBatch { batch, classes: self.classes.map(|_| classes.as_slice()) })
            .collect();
        let (lr, tau) = Self::rates(step);
        let labelled = if self.classes.is_some() { Self::labelled(&batches) } else { 0 };
        let scalars = StepScalars { lr, tau, matches: self.matches(&batches), labelled };
        learner.step(&micro, scalars, true).unwrap();
    }

    fn labelled(batches: &[(Batch, Vec<i64>)]) -> usize {
        2 * batches.iter().map(|(batch, _)| batch.labelled()).sum::<usize>()
    }

    /// Takes a step on the CPU: the loss, and what the online evaluation and the vectors give.
    fn step_on_cpu(&self, learner: &mut Learner, step: usize) -> (Outcome, Spread) {
        let batches = self.batches(step);
        let (matches, labelled) = (self.matches(&batches), Self::labelled(&batches));
        let mut sum = None;
        for (batch, classes) in &batches {
            let regions = match self.method {
                Method::Scrl => Regions::Boxes(batch.roi_tensor(&Device::Cpu).unwrap()),
                Method::Byol => Regions::Whole,
            };
            let classes = Tensor::new(classes.as_slice(), &Device::Cpu).unwrap();
            let labels = self.classes.map(|_| Labels { classes, labelled });
            let pixels = batch.pixel_tensor(&Device::Cpu).unwrap();
            let computed = learner.compute(&pixels, &regions, matches, labels.as_ref()).unwrap();
            sum = Some(match sum {
                None => computed,
                Some(sum) => computed.plus(sum).unwrap(),
            });
        }
        let computed = sum.unwrap();
        let (lr, tau) = Self::rates(step);
        learner.apply(&computed, lr, tau).unwrap();
        let scalar = |tensor: &Tensor| tensor.to_scalar::<f32>().unwrap();
        let online = computed.online.as_ref();
        let outcome = Outcome {
            loss: scalar(&computed.loss),
            online_loss: online.map_or(0.0, |online| scalar(&online.loss)),
            right: online.map_or(0.0, |online| scalar(&online.right)),
            ..Outcome::default()
        };
        (outcome, computed.spread().unwrap())
    }

    /// Takes all steps on a device: the outcomes, and the bits of every tensor.
    pub fn run<B: Backend>(&self, backend: B) -> (Vec<Outcome>, Vec<Vec<u32>>) {
        let mut device = self.on(backend);
        let mut outcomes = Vec::new();
        for step in 0..self.steps {
            self.step_on(&mut device, step);
            outcomes.extend(device.outcomes(false).unwrap());
        }
        outcomes.extend(device.outcomes(true).unwrap());
        let bits = |tensor: &Tensor| numbers(tensor).into_iter().map(f32::to_bits).collect();
        let state = device.settle().unwrap().state().map(|parameter| bits(&parameter.tensor)).collect();
        (outcomes, state)
    }

    /// Takes all steps on both, and compares the outcomes and in the end every tensor's movement.
    pub fn compare<B: Backend>(&self, backend: B, loss_tolerance: f32, movement_tolerance: f64) {
        let mut cpu = self.learner();
        let before: Vec<Vec<f32>> = cpu.state().map(|parameter| numbers(&parameter.tensor)).collect();
        let mut device = self.on(backend);
        for step in 0..self.steps {
            self.step_on(&mut device, step);
            let (expected, spread) = self.step_on_cpu(&mut cpu, step);
            let found = device.outcomes(true).unwrap()[0];
            println!("step {step}: {found:?}, expected {expected:?} {spread:?}");
            let close = |found: f32, expected: f32, what: &str| {
                let error = (found - expected).abs() / expected.abs().max(1e-3);
                assert!(
                    error <= loss_tolerance,
                    "{what} of step {step}: {found} where {expected} is expected"
                );
            };
            close(found.loss, expected.loss, "loss");
            if self.classes.is_some() {
                close(found.online_loss, expected.online_loss, "online loss");
            }
            if self.precision == Precision::F32 {
                assert!((found.right - expected.right).abs() <= 1.0, "right of step {step}");
                close(found.projection_spread, spread.projections as f32, "projections' spread");
                close(found.target_spread, spread.targets as f32, "targets' spread");
            }
            compare_movement(device.settle().unwrap(), &cpu, &before, movement_tolerance);
        }
    }
}

/// Every tensor must have moved as far and in the direction that is expected.
fn compare_movement(found: &Learner, expected: &Learner, before: &[Vec<f32>], tolerance: f64) {
    let mut worst = (0.0, String::new());
    for ((found, expected), before) in found.state().zip(expected.state()).zip(before) {
        // The bias in front of a batch norm has no gradient but rounding errors, here none.
        if found.layer.ends_with(".0") && found.role == Role::Bias {
            continue;
        }
        let error = movement_error(&numbers(&found.tensor), &numbers(&expected.tensor), before);
        if error > worst.0 {
            worst = (error, format!("{} {:?}", found.layer, found.role));
        }
    }
    println!("worst movement: {worst:?}");
    assert!(worst.0 <= tolerance, "the movement of {} differs by {:.1e}", worst.1, worst.0);
}

/// All values of a tensor, in order.
pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// ‖found − expected‖ / ‖expected − before‖.
fn movement_error(found: &[f32], expected: &[f32], before: &[f32]) -> f64 {
    let length =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let differences =
        |a: &[f32], b: &[f32]| length(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let (difference, moved) = (differences(found, expected), differences(expected, before));
    if difference == 0.0 { 0.0 } else { difference / moved }
}
