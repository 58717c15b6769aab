//! One training step (Figure 2): two networks, the loss between them, and what each step changes.

use candle_core::{DType, Device, Result, Tensor};

use crate::collective::Ranks;
use crate::model::{
    Arch, Classifier, HeadSizes, Network, NetworkOutput, Parameter, Parameters, Regions,
};
use crate::ops::{
    CosineLoss, CrossEntropy, Gradients, Tape, count_correct, embedding_std, keep_freed_memory,
    normalize_pixels, profile,
};
use crate::optim::{Lars, LarsConfig, update_ema};

/// The configuration of a learner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnerConfig {
    /// The backbone.
    pub arch: Arch,
    /// The heads.
    pub sizes: HeadSizes,
    /// Seed of the initial weights.
    pub seed: u64,
    /// Whether the target starts as a copy of the online network; otherwise from its own random
    /// values.
    pub copy_online: bool,
    /// Type of the feature maps: float32, or on a GPU also bfloat16.
    pub dtype: DType,
    /// The optimizer's configuration.
    pub lars: LarsConfig,
    /// Number of classes of the online evaluation; `None` without it.
    pub classes: Option<usize>,
}

/// The online and the target network, and the optimizer of the former.
pub struct Learner {
    config: LearnerConfig,
    online: Network,
    target: Network,
    classifier: Option<Classifier>,
    online_parameters: Parameters,
    target_parameters: Parameters,
    classifier_parameters: Parameters,
    lars: Lars,
    device: Device,
    ranks: Ranks,
}

/// The labels of a micro-batch.
pub struct Labels {
    /// The class of each view `[2B]`, int64; [`crate::ops::UNKNOWN_CLASS`] where it is not known.
    pub classes: Tensor,
    /// Number of views of known class in all micro-batches of the step.
    pub labeled: usize,
}

/// A loss and its gradients, not applied yet.
pub struct Computed {
    /// The loss, a scalar.
    pub loss: Tensor,
    /// The result of the online evaluation, where there is one.
    pub online: Option<Evaluated>,
    /// The online network's projections and the targets, one pair of tensors a micro-batch.
    embeddings: Vec<[Tensor; 2]>,
    gradients: Gradients,
}

/// The result of the online evaluation's classifier.
pub struct Evaluated {
    /// Mean cross-entropy over the labeled views, a scalar.
    pub loss: Tensor,
    /// Number of correctly classified views, a scalar.
    pub correct: Tensor,
    /// Number of labeled views in all micro-batches of the step.
    pub labeled: usize,
}

impl Computed {
    /// The sum with another micro-batch of the same step.
    pub fn plus(mut self, other: Self) -> Result<Self> {
        self.gradients.accumulate(other.gradients)?;
        self.embeddings.extend(other.embeddings);
        let online = match (self.online, other.online) {
            (Some(a), Some(b)) => {
                Some(Evaluated { loss: (a.loss + b.loss)?, correct: (a.correct + b.correct)?, ..a })
            }
            (a, b) => a.or(b),
        };
        let loss = (self.loss + other.loss)?;
        Ok(Self { loss, online, embeddings: self.embeddings, gradients: self.gradients })
    }

    /// The gradient of one of the learner's parameters, where it has one.
    pub fn gradient(&self, parameter: &Parameter) -> Option<&Tensor> {
        self.gradients.get(parameter.tensor())
    }

    /// The embedding std of the projections and of the targets of all `ranks`: two scalars, see
    /// [`embedding_std`]. Then the number of embeddings of each network.
    pub fn embedding_std(&self, ranks: &Ranks) -> Result<([Tensor; 2], usize)> {
        let of = |network: usize| {
            let embeddings: Vec<&Tensor> =
                self.embeddings.iter().map(|both| &both[network]).collect();
            let embeddings = ranks.gather_rows(&Tensor::cat(&embeddings, 0)?)?;
            Ok::<_, candle_core::Error>((embedding_std(&embeddings)?, embeddings.dim(0)?))
        };
        let ((projections, count), (targets, _)) = (of(0)?, of(1)?);
        Ok(([projections, targets], count))
    }
}

impl Learner {
    /// A learner with initial weights.
    pub fn new(config: &LearnerConfig, device: &Device) -> Result<Self> {
        if device.is_cpu() {
            keep_freed_memory();
        }
        let (online, online_parameters) =
            Network::online(config.arch, config.sizes, config.seed, device)?;
        let (target, target_parameters) =
            Network::target(config.arch, config.sizes, config.seed, device)?;
        let classifier = config
            .classes
            .map(|classes| Classifier::new(config.arch.channels(), classes, config.seed, device))
            .transpose()?;
        let (classifier, classifier_parameters) = classifier.unzip();
        let classifier_parameters = classifier_parameters.unwrap_or_default();
        let optimized = online_parameters
            .optimized()
            .chain(classifier_parameters.optimized())
            .cloned()
            .collect();
        let lars = Lars::new(config.lars, optimized)?;
        let device = device.clone();
        let learner = Self {
            config: *config,
            online,
            target,
            classifier,
            online_parameters,
            target_parameters,
            classifier_parameters,
            lars,
            device,
            ranks: Ranks::default(),
        };
        if config.copy_online {
            learner.copy_online()?;
        }
        Ok(learner)
    }

    /// The same learner on one of several processes, which divide each micro-batch among them.
    pub fn among(self, ranks: &Ranks) -> Self {
        Self { ranks: ranks.clone(), ..self }
    }

    /// The processes that divide the micro-batches.
    pub(super) fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// Makes the target a copy of the online network, running statistics included.
    pub(super) fn copy_online(&self) -> Result<()> {
        // The online parameters begin with those that the target has as well.
        for (target, online) in self.target_parameters.0.iter().zip(&self.online_parameters.0) {
            target.set(online.tensor())?;
        }
        Ok(())
    }

    /// The configuration.
    pub(super) fn config(&self) -> &LearnerConfig {
        &self.config
    }

    /// Every tensor of the learner's state, in a fixed order: online and predictor, target,
    /// classifier, velocities.
    pub fn state(&self) -> impl Iterator<Item = &Parameter> {
        let networks = self.online_parameters.0.iter().chain(&self.target_parameters.0);
        networks.chain(&self.classifier_parameters.0).chain(self.lars.velocities())
    }

    /// The online network's and the predictor's tensors.
    pub(super) fn online_parameters(&self) -> &Parameters {
        &self.online_parameters
    }

    /// The target network's tensors.
    pub(super) fn target_parameters(&self) -> &Parameters {
        &self.target_parameters
    }

    /// The device on which it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The loss between the views of a micro-batch and its gradients; updates running statistics.
    ///
    /// `pixels` are the views' bytes `[2B, S, S, 3]`, first views, then second views. Regions are
    /// in the same order: region k of the first half matches region k of the second. `matches` is
    /// the number of matched regions in all micro-batches of the step: the loss is their mean.
    /// `labels` are for the online evaluation, which is left out without them.
    ///
    /// On one of several processes pixels and regions are its own, `matches` and
    /// [`Labels::labeled`] count those of all, and loss and gradients are its part of the sum that
    /// [`Learner::sum`] makes.
    pub fn compute(
        &self,
        pixels: &Tensor,
        regions: &Regions,
        matches: usize,
        labels: Option<&Labels>,
    ) -> Result<Computed> {
        let normalize = || normalize_pixels(pixels, self.config.dtype);
        let views = profile::of("normalize_pixels", &self.device, normalize)?;
        let mut tape = Tape::forward_only().among(&self.ranks);
        let targets = self.target.forward(&mut tape, &views, regions)?.predictions;
        let mut tape = Tape::recording().among(&self.ranks);
        let NetworkOutput { map, projections, predictions } =
            self.online.forward(&mut tape, &views, regions)?;
        let evaluated = self.evaluate(&map, labels)?;
        // The backward pass frees each map when it has passed it.
        drop(map);
        let loss = tape.apply(CosineLoss::new(matches), [&predictions, &targets])?;
        let mut gradients = tape.backward(&loss, self.one()?)?;
        let online = match evaluated {
            Some((evaluated, of_classifier)) => {
                gradients.accumulate(of_classifier)?;
                Some(evaluated)
            }
            None => None,
        };
        Ok(Computed { loss, online, embeddings: vec![[projections, targets]], gradients })
    }

    /// Classifies the views by the online map, and computes the classifier's gradients.
    fn evaluate(
        &self,
        map: &Tensor,
        labels: Option<&Labels>,
    ) -> Result<Option<(Evaluated, Gradients)>> {
        let (Some(classifier), Some(labels)) = (&self.classifier, labels) else { return Ok(None) };
        if labels.labeled == 0 {
            return Ok(None);
        }
        let features = Classifier::features(map)?;
        let mut tape = Tape::recording();
        let logits = classifier.forward(&mut tape, &features)?;
        let correct = count_correct(&logits, &labels.classes)?;
        let loss = tape.apply(CrossEntropy::new(labels.labeled), [&logits, &labels.classes])?;
        let mut gradients = tape.backward(&loss, self.one()?)?;
        gradients.forget(&features);
        Ok(Some((Evaluated { loss, correct, labeled: labels.labeled }, gradients)))
    }

    /// Replaces loss, gradients and online evaluation by their sums over all processes.
    pub fn sum(&self, computed: &Computed) -> Result<()> {
        self.lars.gradients(&computed.gradients).try_for_each(|sum| self.ranks.sum(sum))?;
        self.ranks.sum(&computed.loss)?;
        if let Some(Evaluated { loss, correct, .. }) = &computed.online {
            self.ranks.sum(loss)?;
            self.ranks.sum(correct)?;
        }
        Ok(())
    }

    fn one(&self) -> Result<Tensor> {
        Tensor::ones((), DType::F32, &self.device)
    }

    /// Updates the online network by the gradients and the target by its EMA; nothing while the
    /// loss is NaN or infinite.
    pub fn apply(&mut self, computed: &Computed, lr: f64, tau: f64) -> Result<()> {
        let Computed { gradients, loss, .. } = computed;
        profile::of("Lars", &self.device, || self.lars.step(gradients, loss, lr))?;
        profile::of("update_ema", &self.device, || {
            update_ema(&self.target_parameters, &self.online_parameters, tau, Some(loss))
        })
    }

    /// Updates the target alone, for a step without a matched box.
    pub fn update_target(&self, tau: f64) -> Result<()> {
        update_ema(&self.target_parameters, &self.online_parameters, tau, None)
    }
}
