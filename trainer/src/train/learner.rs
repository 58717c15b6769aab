//! One training step (Figure 2): two networks, the loss between them, and what each step changes.

use std::collections::HashSet;

use candle_core::{DType, Device, Result, Tensor, TensorId};

use crate::collective::{PendingSums, Ranks};
use crate::model::{
    Arch, Classifier, HeadSizes, Network, NetworkOutput, Parameter, Parameters, Regions,
};
use crate::ops::{
    CosineLoss, CrossEntropy, Gradients, Normalization, Tape, count_correct, embedding_std,
    keep_freed_memory, normalize_pixels, profile,
};
use crate::optim::{Sgd, SgdConfig, update_ema};

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
    pub optimizer: SgdConfig,
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
    optimizer: Sgd,
    /// The parameters that the optimizer moves.
    optimized: HashSet<TensorId>,
    device: Device,
    ranks: Ranks,
}

/// A micro-batch on the learner's device, of one of several processes its part.
pub struct MicroBatch {
    /// The views' bytes `[2B, S, S, 3]`: first views, then second views.
    pub pixels: Tensor,
    /// The regions to compare, in the same order: region k of the first half matches region k of the
    /// second.
    pub regions: Regions,
    /// The labels for the online evaluation, which is left out without them.
    pub labels: Option<Labels>,
}

/// The labels of a micro-batch.
pub struct Labels {
    /// The class of each view `[2B]`, int64; [`crate::ops::UNKNOWN_CLASS`] where it is not known.
    pub classes: Tensor,
    /// Number of views of known class in all micro-batches of the step, of all processes.
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

/// What was computed of earlier micro-batches, or nothing.
#[derive(Default)]
struct Parts {
    loss: Option<Tensor>,
    online: Option<Evaluated>,
    embeddings: Vec<[Tensor; 2]>,
    gradients: Gradients,
}

impl Parts {
    fn of(Computed { loss, online, embeddings, gradients }: Computed) -> Self {
        Self { loss: Some(loss), online, embeddings, gradients }
    }
}

fn plus(sum: Option<Tensor>, number: Tensor) -> Result<Tensor> {
    sum.map_or(Ok(number.clone()), |sum| sum + number)
}

impl Computed {
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
        let optimized: Vec<Parameter> = online_parameters
            .optimized()
            .chain(classifier_parameters.optimized())
            .cloned()
            .collect();
        let ids = optimized.iter().map(|parameter| parameter.tensor().id()).collect();
        let optimizer = Sgd::new(config.optimizer, optimized)?;
        let device = device.clone();
        let learner = Self {
            config: *config,
            online,
            target,
            classifier,
            online_parameters,
            target_parameters,
            classifier_parameters,
            optimizer,
            optimized: ids,
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
        networks.chain(&self.classifier_parameters.0).chain(self.optimizer.velocities())
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
    /// `matches` is the number of matched regions in all micro-batches of the step, of all processes:
    /// the loss is their mean. What was computed of the micro-batches `before` is added. With the
    /// last one of the step, several processes add up what each has computed, while the gradients
    /// of further layers are computed.
    pub fn compute(
        &self,
        batch: &MicroBatch,
        matches: usize,
        before: Option<Computed>,
        is_last: bool,
    ) -> Result<Computed> {
        let normalize = || normalize_pixels(&batch.pixels, self.config.dtype);
        let views = profile::of("normalize_pixels", &self.device, normalize)?;
        let mut tape = Tape::forward_only().among(&self.ranks);
        let targets = self.target.forward(&mut tape, &views, &batch.regions)?.predictions;
        let mut tape = Tape::recording().among(&self.ranks);
        let NetworkOutput { map, projections, predictions } =
            self.online.forward(&mut tape, &views, &batch.regions)?;

        let mut done = before.map_or_else(Parts::default, Parts::of);
        let mut sums = is_last.then(|| PendingSums::new(&self.ranks));
        let mut complete = |leaf: TensorId, gradient: &Tensor| match &mut sums {
            Some(sums) if self.optimized.contains(&leaf) => sums.add(gradient),
            _ => Ok(()),
        };
        let evaluated = match (&self.classifier, &batch.labels) {
            (Some(classifier), Some(labels)) if labels.labeled > 0 => {
                let features = Classifier::features(&map)?;
                let mut tape = Tape::recording();
                let logits = classifier.forward(&mut tape, &features)?;
                let correct = count_correct(&logits, &labels.classes)?;
                let loss = CrossEntropy::new(labels.labeled);
                let loss = tape.apply(loss, [&logits, &labels.classes])?;
                done.gradients =
                    tape.backward_onto(done.gradients, &loss, self.one()?, &mut complete)?;
                done.gradients.forget(&features);
                Some(Evaluated { loss, correct, labeled: labels.labeled })
            }
            _ => None,
        };
        // The backward pass frees each map when it has passed it.
        drop(map);
        let loss = tape.apply(CosineLoss::new(matches), [&predictions, &targets])?;
        let gradients = tape.backward_onto(done.gradients, &loss, self.one()?, &mut complete)?;
        done.embeddings.push([projections, targets]);
        let computed = Computed {
            loss: plus(done.loss, loss)?,
            online: match (done.online, evaluated) {
                (Some(a), Some(b)) => Some(Evaluated {
                    loss: (a.loss + b.loss)?,
                    correct: (a.correct + b.correct)?,
                    ..b
                }),
                (a, b) => a.or(b),
            },
            embeddings: done.embeddings,
            gradients,
        };
        if let Some(mut sums) = sums {
            sums.add(&computed.loss)?;
            if let Some(Evaluated { loss, correct, .. }) = &computed.online {
                sums.add(loss)?;
                sums.add(correct)?;
            }
            sums.finish()?;
        }
        Ok(computed)
    }

    /// The online backbone's features of boxes, `[R, C]`, in the views `[N, S, S, 3]` of bytes, as
    /// the heads get them in training: batch norms normalize with the statistics of these views,
    /// all on this process. No tensor of the state changes.
    pub fn box_features(&self, pixels: &Tensor, rois: &Tensor) -> Result<Tensor> {
        let views = normalize_pixels(pixels, self.config.dtype)?;
        let mut tape = Tape::normalizing(Normalization::Batch { momentum: 0.0 });
        self.online.box_features(&mut tape, &views, rois)
    }

    fn one(&self) -> Result<Tensor> {
        Tensor::ones((), DType::F32, &self.device)
    }

    /// Updates the online network by the gradients and the target by its EMA; nothing while the
    /// loss is NaN or infinite.
    pub fn apply(&mut self, computed: &Computed, lr: f64, tau: f64) -> Result<()> {
        let Computed { gradients, loss, .. } = computed;
        profile::of("Sgd", &self.device, || self.optimizer.step(gradients, loss, lr))?;
        profile::of("update_ema", &self.device, || {
            update_ema(&self.target_parameters, &self.online_parameters, tau, Some(loss))
        })
    }

    /// Updates the target alone, for a step without a matched box.
    pub fn update_target(&self, tau: f64) -> Result<()> {
        update_ema(&self.target_parameters, &self.online_parameters, tau, None)
    }
}
