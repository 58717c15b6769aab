//! LARS (You, Gitman, Ginsburg, 2017) around SGD with momentum, as BYOL uses it: batch norm and biases are neither
//! decayed nor adapted.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::model::Parameter;
use crate::ops::{CHUNK, Gradients, f32s, f32s_mut};

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

/// The optimiser and its velocities.
pub struct Lars {
    config: LarsConfig,
    parameters: Vec<Parameter>,
    velocities: Vec<Parameter>,
}

impl Lars {
    /// For `parameters`, with zero velocities.
    pub fn new(config: LarsConfig, parameters: Vec<Parameter>) -> Result<Self> {
        let velocity = |parameter: &Parameter| -> Result<Parameter> {
            let layer = format!("momentum.{}", parameter.layer);
            Ok(Parameter { layer, role: parameter.role, tensor: parameter.tensor.zeros_like()? })
        };
        let velocities = parameters.iter().map(velocity).collect::<Result<_>>()?;
        Ok(Self { config, parameters, velocities })
    }

    /// The velocity of each parameter, named `momentum.<its name>`.
    pub fn velocities(&self) -> &[Parameter] {
        &self.velocities
    }

    /// `v ← momentum·v + d; p ← p − lr·v`. Without a gradient a parameter stays, and its velocity too.
    pub fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        for (parameter, velocity) in self.parameters.iter().zip(&self.velocities) {
            let Some(gradient) = gradients.get(&parameter.tensor) else { continue };
            self.advance(parameter, &velocity.tensor, gradient, lr)?;
        }
        Ok(())
    }

    fn advance(&self, parameter: &Parameter, velocity: &Tensor, gradient: &Tensor, lr: f64) -> Result<()> {
        let update = UpdateVelocity { config: self.config, adapt: parameter.role.is_adapted() };
        velocity.inplace_op3(gradient, &parameter.tensor, &update)?;
        parameter.tensor.inplace_op2(velocity, &Subtract { factor: lr as f32 })
    }
}

/// `v ← momentum·v + d`, where for an adapted tensor `d = (∇ + wd·p) · trust·‖p‖ / (‖∇‖ + wd·‖p‖ + ε)` if both norms are
/// positive, `∇ + wd·p` if not, and for any other `d = ∇`. Sources: gradient, parameter.
struct UpdateVelocity {
    config: LarsConfig,
    adapt: bool,
}

impl InplaceOp3 for UpdateVelocity {
    fn name(&self) -> &'static str {
        "lars-update-velocity"
    }

    fn cpu_fwd(
        &self,
        velocity: &mut CpuStorage,
        velocity_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        parameter: &CpuStorage,
        parameter_layout: &Layout,
    ) -> Result<()> {
        let velocity = f32s_mut(velocity, velocity_layout)?;
        let gradient = f32s(gradient, gradient_layout)?;
        let parameter = f32s(parameter, parameter_layout)?;
        let (decay, ratio) = if self.adapt {
            let decay = f64::from(self.config.weight_decay);
            let (length, slope) = (norm(parameter), norm(gradient));
            let adapted = TRUST * length / (slope + decay * length + EPSILON);
            (decay as f32, if length > 0.0 && slope > 0.0 { adapted as f32 } else { 1.0 })
        } else {
            (0.0, 1.0)
        };
        let momentum = self.config.momentum;
        velocity
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(parameter.par_chunks(CHUNK))
            .for_each(|((velocity, gradient), parameter)| {
                advance(velocity, gradient, parameter, momentum, decay, ratio);
            });
        Ok(())
    }
}

/// `v = momentum·v + (g + decay·p)·ratio`.
#[multiversion(targets = "simd")]
fn advance(v: &mut [f32], g: &[f32], p: &[f32], momentum: f32, decay: f32, ratio: f32) {
    for ((v, g), p) in v.iter_mut().zip(g).zip(p) {
        *v = momentum * *v + (g + decay * p) * ratio;
    }
}

/// ‖x‖₂, summed in float64 over pieces of fixed size.
fn norm(x: &[f32]) -> f64 {
    let squares: Vec<f64> = x.par_chunks(CHUNK).map(sum_of_squares).collect();
    squares.into_iter().sum::<f64>().sqrt()
}

/// Σx², in eight interleaved sums that a vector unit takes side by side.
#[multiversion(targets = "simd")]
fn sum_of_squares(x: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (whole, rest) = x.as_chunks::<8>();
    for x in whole {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>()
}

/// `p ← p − factor·v`.
#[multiversion(targets = "simd")]
fn subtract(p: &mut [f32], v: &[f32], factor: f32) {
    p.iter_mut().zip(v).for_each(|(p, v)| *p -= factor * v);
}

/// [`subtract`] as an op.
struct Subtract {
    factor: f32,
}

impl InplaceOp2 for Subtract {
    fn name(&self) -> &'static str {
        "lars-move"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        parameter_layout: &Layout,
        velocity: &CpuStorage,
        velocity_layout: &Layout,
    ) -> Result<()> {
        let parameter = f32s_mut(parameter, parameter_layout)?;
        let velocity = f32s(velocity, velocity_layout)?;
        parameter
            .par_chunks_mut(CHUNK)
            .zip(velocity.par_chunks(CHUNK))
            .for_each(|(p, v)| subtract(p, v, self.factor));
        Ok(())
    }
}
