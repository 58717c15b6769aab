//! Stochastic gradient descent with momentum, as PyTorch's `SGD`; with a trust coefficient LARS
//! (You, Gitman, Ginsburg, 2017), as BYOL uses it. Batch norm and biases are neither decayed nor
//! adapted.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use scrl_preprocess::vectorized;

use super::multi_tensor::{self, Update};
use crate::model::Parameter;
use crate::ops::Gradients;
use crate::ops::cpu::{CHUNK, change, f32s};
use crate::ops::gpu::Gpu;
use crate::ops::weight_copies::forget;

/// Keeps the adaptation finite.
const EPSILON: f64 = 1e-8;

/// What stays the same over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SgdConfig {
    /// Of the velocity kept from step to step.
    pub momentum: f32,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Of tensors of rank above 1.
    pub weight_decay: f32,
    /// LARS's factor between a tensor's norm and the length of its step; `None` for plain SGD,
    /// which does not adapt steps to norms.
    pub trust: Option<f64>,
}

/// The optimizer and its velocities.
pub struct Sgd {
    config: SgdConfig,
    parameters: Vec<Parameter>,
    velocities: Vec<Parameter>,
}

impl Sgd {
    /// For `parameters`, with zero velocities.
    pub fn new(config: SgdConfig, parameters: Vec<Parameter>) -> Result<Self> {
        let velocities = parameters.iter().map(Parameter::velocity).collect::<Result<_>>()?;
        Ok(Self { config, parameters, velocities })
    }

    /// The velocity of each parameter, named `momentum.<its name>`.
    pub fn velocities(&self) -> &[Parameter] {
        &self.velocities
    }

    /// Parameters and velocities: all that a later run needs to resume.
    pub fn state(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().chain(&self.velocities)
    }

    /// `v ← momentum·v + d; p ← p − lr·v`, or with Nesterov's momentum `p ← p − lr·(d +
    /// momentum·v)`. For tensors of rank above 1 `d = (∇ + wd·p)·ratio`, for any other `d = ∇`. The
    /// ratio is LARS's `trust·‖p‖ / (‖∇‖ + wd·‖p‖ + ε)` if there is a trust coefficient and both
    /// norms are positive, and 1 if not. Without a gradient a parameter stays, and its velocity
    /// too; while `loss` is NaN or infinite, all do.
    pub fn step(&mut self, gradients: &Gradients, loss: &Tensor, lr: f64) -> Result<()> {
        let updates =
            self.parameters.iter().zip(&self.velocities).filter_map(|(parameter, velocity)| {
                let gradient = gradients.get(parameter.tensor())?;
                let (parameter, decayed) = (parameter.tensor(), parameter.is_decayed());
                Some(Update { parameter, gradient, velocity: Some(velocity.tensor()), decayed })
            });
        if let Some(gpu) = Gpu::of(loss) {
            let updates: Vec<Update> = updates.collect();
            return multi_tensor::sgd(&gpu, &updates, loss, lr as f32, self.config);
        }
        if !loss.to_scalar::<f32>()?.is_finite() {
            return Ok(());
        }
        for Update { parameter, gradient, velocity, decayed } in updates {
            let Some(velocity) = velocity else { continue };
            let (before, gradient) = (f32s(parameter)?, f32s(gradient)?);
            let factors = Factors::new(self.config, lr, &before, &gradient, decayed);
            change(velocity, |velocity| {
                let chunks = velocity.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
                chunks
                    .zip(before.par_chunks(CHUNK))
                    .for_each(|((v, g), p)| vectorized!(accelerate(v, g, p, factors)));
            })?;
            drop(before);
            forget(parameter);
            let velocity = f32s(velocity)?;
            change(parameter, |parameter| {
                let chunks = parameter.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
                chunks
                    .zip(velocity.par_chunks(CHUNK))
                    .for_each(|((p, g), v)| vectorized!(advance(p, g, v, factors)));
            })?;
        }
        Ok(())
    }
}

/// The factors of one tensor's step.
#[derive(Clone, Copy)]
struct Factors {
    momentum: f32,
    nesterov: bool,
    decay: f32,
    ratio: f32,
    lr: f32,
}

impl Factors {
    fn new(config: SgdConfig, lr: f64, parameter: &[f32], gradient: &[f32], decayed: bool) -> Self {
        let SgdConfig { momentum, nesterov, weight_decay, trust } = config;
        let ratio = trust.filter(|_| decayed).and_then(|trust| {
            let (length, slope) = (norm(parameter), norm(gradient));
            let ratio = trust * length / (slope + f64::from(weight_decay) * length + EPSILON);
            (length > 0.0 && slope > 0.0).then_some(ratio as f32)
        });
        Self {
            momentum,
            nesterov,
            decay: if decayed { weight_decay } else { 0.0 },
            ratio: ratio.unwrap_or(1.0),
            lr: lr as f32,
        }
    }

    /// A number of `d`.
    #[inline(always)]
    fn direction(self, g: f32, p: f32) -> f32 {
        (g + self.decay * p) * self.ratio
    }
}

/// `v ← momentum·v + d`.
#[inline(always)]
fn accelerate(v: &mut [f32], g: &[f32], p: &[f32], factors: Factors) {
    for ((v, g), p) in v.iter_mut().zip(g).zip(p) {
        *v = factors.momentum * *v + factors.direction(*g, *p);
    }
}

/// `p ← p − lr·v`, or `p ← p − lr·(d + momentum·v)`.
#[inline(always)]
fn advance(p: &mut [f32], g: &[f32], v: &[f32], factors: Factors) {
    let Factors { momentum, nesterov, lr, .. } = factors;
    if nesterov {
        for ((p, g), v) in p.iter_mut().zip(g).zip(v) {
            *p -= lr * (factors.direction(*g, *p) + momentum * v);
        }
    } else {
        p.iter_mut().zip(v).for_each(|(p, v)| *p -= lr * v);
    }
}

/// ‖x‖₂, summed in float64 over pieces of fixed size.
fn norm(x: &[f32]) -> f64 {
    let squares: Vec<f64> = x.par_chunks(CHUNK).map(|x| vectorized!(sum_of_squares(x))).collect();
    squares.into_iter().sum::<f64>().sqrt()
}

/// Σx², in eight interleaved sums that a vector unit adds side by side.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (groups, rest) = x.as_chunks::<8>();
    for x in groups {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>()
}
