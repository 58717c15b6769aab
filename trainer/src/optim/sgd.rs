//! Stochastic gradient descent with Nesterov's momentum, as PyTorch's
//! `SGD(momentum=…, nesterov=True)`.

use candle_core::{Result, Tensor};

use crate::model::{Parameter, Parameters};
use crate::ops::Gradients;

/// The optimizer and its velocities.
pub struct Sgd {
    momentum: f64,
    parameters: Vec<Parameter>,
    velocities: Vec<Parameter>,
}

impl Sgd {
    /// For those of `parameters` that are optimized, with zero velocities.
    pub fn new(momentum: f64, parameters: &Parameters) -> Result<Self> {
        let parameters: Vec<Parameter> = parameters.optimized().cloned().collect();
        let velocities = parameters.iter().map(Parameter::velocity).collect::<Result<_>>()?;
        Ok(Self { momentum, parameters, velocities })
    }

    /// Parameters and velocities: all that a later run needs to resume.
    pub fn state(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().chain(&self.velocities)
    }

    /// `v ← μ·v + g; p ← p − lr·(g + μ·v)`. Without a gradient a parameter stays, and its velocity
    /// too.
    pub fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        for (parameter, velocity) in self.parameters.iter().zip(&self.velocities) {
            let Some(gradient) = gradients.get(parameter.tensor()) else { continue };
            let moved: Tensor = ((velocity.tensor() * self.momentum)? + gradient)?;
            velocity.set(&moved)?;
            let step = ((moved * self.momentum)? + gradient)?;
            parameter.set(&(parameter.tensor() - (step * lr)?)?)?;
        }
        Ok(())
    }
}
