//! LARS (You, Gitman, Ginsburg, 2017) around SGD with momentum, as BYOL uses it: batch norm and
//! biases are neither decayed nor adapted.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use scrl_preprocess::vectorized;

use super::multi_tensor::{self, Update};
use crate::model::Parameter;
use crate::ops::Gradients;
use crate::ops::cpu::{CHUNK, change, f32s};
use crate::ops::gpu::Gpu;

/// The factor between a tensor's norm and the length of its step.
const TRUST: f64 = 0.001;

/// Keeps the adaptation finite.
const EPSILON: f64 = 1e-8;

/// What stays the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LarsConfig {
    /// Of the velocity kept from step to step.
    pub momentum: f32,
    /// Of adapted tensors.
    pub weight_decay: f32,
}

/// The optimizer and its velocities.
pub struct Lars {
    config: LarsConfig,
    parameters: Vec<Parameter>,
    velocities: Vec<Parameter>,
}

impl Lars {
    /// For `parameters`, with zero velocities.
    pub fn new(config: LarsConfig, parameters: Vec<Parameter>) -> Result<Self> {
        let velocities = parameters.iter().map(Parameter::velocity).collect::<Result<_>>()?;
        Ok(Self { config, parameters, velocities })
    }

    /// The velocity of each parameter, named `momentum.<its name>`.
    pub fn velocities(&self) -> &[Parameter] {
        &self.velocities
    }

    /// The gradients that a step would use, in the order of the parameters.
    pub fn gradients<'a>(&self, gradients: &'a Gradients) -> impl Iterator<Item = &'a Tensor> {
        self.parameters.iter().filter_map(|parameter| gradients.get(parameter.tensor()))
    }

    /// `v ← momentum·v + d; p ← p − lr·v`, where for tensors of rank above 1
    /// `d = (∇ + wd·p) · trust·‖p‖ / (‖∇‖ + wd·‖p‖ + ε)` if both norms are positive, `∇ + wd·p` if
    /// not, and for any other `d = ∇`. Without a gradient a parameter stays, and its velocity too;
    /// while `loss` is NaN or infinite, all do.
    pub fn step(&mut self, gradients: &Gradients, loss: &Tensor, lr: f64) -> Result<()> {
        let updates =
            self.parameters.iter().zip(&self.velocities).filter_map(|(parameter, velocity)| {
                let gradient = gradients.get(parameter.tensor())?;
                let (parameter, adapted) = (parameter.tensor(), parameter.is_adapted());
                Some(Update { parameter, gradient, velocity: Some(velocity.tensor()), adapted })
            });
        let LarsConfig { momentum, weight_decay } = self.config;
        if let Some(gpu) = Gpu::of(loss) {
            let updates: Vec<Update> = updates.collect();
            return multi_tensor::lars(
                &gpu,
                &updates,
                loss,
                lr as f32,
                momentum,
                weight_decay.into(),
            );
        }
        if !loss.to_scalar::<f32>()?.is_finite() {
            return Ok(());
        }
        for Update { parameter, gradient, velocity, adapted } in updates {
            let Some(velocity) = velocity else { continue };
            update_velocity(velocity, &f32s(gradient)?, &f32s(parameter)?, self.config, adapted)?;
            let velocity = f32s(velocity)?;
            change(parameter, |parameter| {
                let chunks = parameter.par_chunks_mut(CHUNK).zip(velocity.par_chunks(CHUNK));
                chunks.for_each(|(p, v)| vectorized!(subtract(p, v, lr as f32)));
            })?;
        }
        Ok(())
    }
}

/// `v ← momentum·v + d`.
fn update_velocity(
    velocity: &Tensor,
    gradient: &[f32],
    parameter: &[f32],
    config: LarsConfig,
    adapted: bool,
) -> Result<()> {
    let (decay, ratio) = if adapted {
        let decay = f64::from(config.weight_decay);
        let (length, slope) = (norm(parameter), norm(gradient));
        let ratio = TRUST * length / (slope + decay * length + EPSILON);
        (decay as f32, if length > 0.0 && slope > 0.0 { ratio as f32 } else { 1.0 })
    } else {
        (0.0, 1.0)
    };
    change(velocity, |velocity| {
        velocity
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(parameter.par_chunks(CHUNK))
            .for_each(|((v, g), p)| {
                vectorized!(accelerate(v, g, p, config.momentum, decay, ratio))
            });
    })
}

/// `v = momentum·v + (g + decay·p)·ratio`.
#[inline(always)]
fn accelerate(v: &mut [f32], g: &[f32], p: &[f32], momentum: f32, decay: f32, ratio: f32) {
    for ((v, g), p) in v.iter_mut().zip(g).zip(p) {
        *v = momentum * *v + (g + decay * p) * ratio;
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

/// `p ← p − factor·v`.
#[inline(always)]
fn subtract(p: &mut [f32], v: &[f32], factor: f32) {
    p.iter_mut().zip(v).for_each(|(p, v)| *p -= factor * v);
}
