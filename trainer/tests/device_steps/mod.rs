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

/// The most boxes of a pair in these tests.
const BOXES: usize = 3;

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
    pub accumulate: usize,
    pub classes: Option<usize>,
    pub steps: usize,
}

impl Case {
    /// ResNet-18 on boxes.
    pub fn small(dtype: DType) -> Self {
        Self {
            arch: Arch::Resnet18,
            method: Method::Scrl,
            dtype,
            pairs: 3,
            size: 64,
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
        Learner::new(&config, device).unwrap()
    }

    /// The micro-batches of a step. Views are patterns, and pairs have 0 to [`BOXES`] boxes, at
    /// least one in all.
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
            for _ in 0..(pair + number + 1) % (BOXES + 1) {
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

    /// Takes all steps there and on the CPU, and compares the outcomes and every tensor's movement.
    /// Each step starts from the CPU's state, as differences would grow from step to step. A movement
    /// may differ by more than the tolerance where a step on the CPU itself differs as much from one
    /// that starts a rounding error away: there a maximum or the sign before a ReLU is nearly undecided.
    pub fn compare(&self, place: &Place, loss_tolerance: f32, movement_tolerance: f64) {
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
            println!("step {step}: {found:?}, expected {expected:?}");
            let close = |found: f32, expected: f32, what: &str| {
                let error = (found - expected).abs() / expected.abs().max(1e-3);
                assert!(
                    error <= loss_tolerance,
                    "{what} of step {step}: {found} where {expected} is expected"
                );
            };
            close(found.loss, expected.loss, "loss");
            close(found.online_loss, expected.online_loss, "online loss");
            if self.dtype == DType::F32 {
                assert!((found.correct - expected.correct).abs() <= 1.0, "correct of step {step}");
                for (found, expected) in found.embedding_std.into_iter().zip(expected.embedding_std)
                {
                    close(found, expected, "embedding std");
                }
            }
            compare_movement(&there, &cpu, &nudged, &before, movement_tolerance);
        }
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
#[derive(Debug)]
struct Outcome {
    loss: f32,
    online_loss: f32,
    correct: f32,
    embedding_std: [f32; 2],
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
        // The bias in front of a batch norm has no gradient but rounding errors.
        if found.name.ends_with(".0.bias") && !found.name.contains("backbone") {
            continue;
        }
        // Of a velocity it is the gradient that a step adds: with what it had kept before, the two may
        // cancel.
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
