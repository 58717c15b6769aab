//! One training step (Figure 2): two networks, the loss between them, and what each step changes.

use candle_core::{DType, Device, Result, Tensor};

use crate::model::{Arch, HeadSizes, Network, Parameter, Parameters, Regions};
use crate::ops::{CosineLoss, Gradients, NormalizePixels, Tape};
use crate::optim::{Lars, LarsConfig, follow};

/// What is learnt and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnerConfig {
    /// The backbone.
    pub arch: Arch,
    /// The heads.
    pub sizes: HeadSizes,
    /// Of the initial weights.
    pub seed: u64,
    /// Whether the target starts as a copy of the online network; otherwise from its own random values.
    pub copy_online: bool,
    /// Of the optimiser.
    pub lars: LarsConfig,
}

/// Online and target network, and the optimiser of the former.
pub struct Learner {
    config: LearnerConfig,
    online: Network,
    target: Network,
    online_parameters: Parameters,
    target_parameters: Parameters,
    lars: Lars,
    device: Device,
}

/// A loss and its gradients, not applied yet.
pub struct Computed {
    /// The loss, a scalar.
    pub loss: Tensor,
    gradients: Gradients,
}

impl Computed {
    /// The sum with what another micro-batch of the same step gave.
    pub fn plus(mut self, other: Self) -> Result<Self> {
        self.gradients.accumulate(other.gradients)?;
        Ok(Self { loss: (self.loss + other.loss)?, gradients: self.gradients })
    }
}

impl Learner {
    /// A learner with initial weights.
    pub fn new(config: &LearnerConfig, device: &Device) -> Result<Self> {
        let (online, online_parameters) = Network::online(config.arch, config.sizes, config.seed, device)?;
        let (target, target_parameters) = Network::target(config.arch, config.sizes, config.seed, device)?;
        let optimized = online_parameters.optimized().cloned().collect();
        let lars = Lars::new(config.lars, optimized)?;
        let device = device.clone();
        let learner =
            Self { config: *config, online, target, online_parameters, target_parameters, lars, device };
        if config.copy_online {
            learner.copy_online()?;
        }
        Ok(learner)
    }

    /// Makes the target a copy of the online network, running statistics included.
    pub fn copy_online(&self) -> Result<()> {
        // The online parameters begin with those that the target has as well.
        for (target, online) in self.target_parameters.0.iter().zip(&self.online_parameters.0) {
            target.set(&online.tensor)?;
        }
        Ok(())
    }

    /// What is learnt and how.
    pub fn config(&self) -> &LearnerConfig {
        &self.config
    }

    /// Every tensor of the learner's state, in a fixed order: online and predictor, target, velocities.
    pub fn state(&self) -> impl Iterator<Item = &Parameter> {
        self.online_parameters.0.iter().chain(&self.target_parameters.0).chain(self.lars.velocities())
    }

    /// The online network's and the predictor's tensors.
    pub fn online_parameters(&self) -> &Parameters {
        &self.online_parameters
    }

    /// The target network's tensors.
    pub fn target_parameters(&self) -> &Parameters {
        &self.target_parameters
    }

    /// The device on which it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The loss between the views of a micro-batch and its gradients; running statistics advance.
    ///
    /// `pixels` are the views' bytes `[2B, S, S, 3]`, first views, then second views. Regions are in the same order, so
    /// that region k of the first half matches region k of the second. `matches` is the number of matched regions of
    /// the whole global batch: the loss is their mean.
    pub fn compute(&self, pixels: &Tensor, regions: &Regions, matches: usize) -> Result<Computed> {
        let views = pixels.apply_op1_no_bwd(&NormalizePixels)?;
        let targets = self.target.forward(&mut Tape::forward_only(), &views, regions)?;
        let mut tape = Tape::recording();
        let predictions = self.online.forward(&mut tape, &views, regions)?;
        let loss = tape.two(CosineLoss { boxes: matches as f64 }, &predictions, &targets)?;
        let one = Tensor::ones((), DType::F32, &self.device)?;
        let gradients = tape.backward(&loss, one)?;
        Ok(Computed { loss, gradients })
    }

    /// Moves the online network down the gradients and the target towards it.
    pub fn apply(&mut self, computed: &Computed, lr: f64, tau: f64) -> Result<()> {
        self.lars.step(&computed.gradients, lr)?;
        self.advance_target(tau)
    }

    /// The target's part of a step alone, for a batch without a single matched box.
    pub fn advance_target(&self, tau: f64) -> Result<()> {
        follow(&self.target_parameters, &self.online_parameters, tau)
    }
}
