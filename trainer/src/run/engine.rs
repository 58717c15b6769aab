//! Where the steps of a run are computed: on the CPU, or on a GPU, which is given the next step while it is still at work on
//! the last.

use std::collections::VecDeque;

#[cfg(feature = "cuda")]
use candle_core::Device;
use scrl_schemas::PrepOptions;

use super::{Method, TrainConfig};
use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda::{CudaConfig, CudaLearner, Gpu, MicroBatch, StepScalars};
use crate::data::{Batch, Classes};
use crate::learner::{Computed, Labels, Learner, Spread};
use crate::model::Regions;

/// A step to take.
pub(super) struct Task<'a> {
    /// Its micro-batches.
    pub batches: &'a [Batch],
    /// Matched regions in them.
    pub matches: usize,
    /// Learning rate.
    pub lr: f64,
    /// τ of the moving average.
    pub tau: f64,
    /// Whether it is asked how much the vectors differ.
    pub spread: bool,
}

/// What a step gave.
pub(super) struct StepOutcome {
    /// The loss. Where it is no number, nothing was moved.
    pub loss: f32,
    /// Labelled views shown to the online evaluation, and those whose class it named.
    pub online: Option<(usize, f64)>,
    /// How much the vectors differ, if it was asked.
    pub spread: Option<Spread>,
}

/// A learner, and where it computes.
pub(super) struct Engine {
    method: Method,
    classes: Option<Classes>,
    device: Place,
}

enum Place {
    Cpu(Box<Cpu>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Cuda>),
}

impl Engine {
    /// Lets `learner` compute where `config` says, on views as `views` describes them.
    ///
    /// # Errors
    /// If the device cannot be used, or its memory does not hold a batch.
    pub fn new(
        learner: Learner,
        config: &TrainConfig,
        views: &PrepOptions,
        classes: Option<Classes>,
    ) -> Result<Self> {
        let device = place(learner, config, views)?;
        Ok(Self { method: config.method, classes, device })
    }

    /// Begins a step; its outcome comes with [`Engine::outcomes`]. Micro-batches with nothing to compare are left out; if none
    /// is left only the target moves, there is no outcome, and the answer is false.
    pub fn step(&mut self, task: &Task) -> Result<bool> {
        let compared: Vec<&Batch> =
            task.batches.iter().filter(|batch| self.method == Method::Byol || batch.matches() > 0).collect();
        let classes = self.classes.as_ref();
        match &mut self.device {
            Place::Cpu(cpu) => cpu.step(task, &compared, self.method, classes)?,
            #[cfg(feature = "cuda")]
            Place::Cuda(cuda) => cuda.step(task, &compared, classes)?,
        }
        Ok(!compared.is_empty())
    }

    /// What steps gave, in order: all of them, or those that are known without waiting for the newest.
    pub fn outcomes(&mut self, all: bool) -> Result<Vec<StepOutcome>> {
        match &mut self.device {
            Place::Cpu(cpu) => {
                // All steps are done already.
                let _ = all;
                Ok(cpu.outcomes.drain(..).collect())
            }
            #[cfg(feature = "cuda")]
            Place::Cuda(cuda) => cuda.outcomes(all),
        }
    }

    /// The learner with its tensors as they are after the last step.
    pub fn learner(&mut self) -> Result<&Learner> {
        match &mut self.device {
            Place::Cpu(cpu) => Ok(&cpu.learner),
            #[cfg(feature = "cuda")]
            Place::Cuda(cuda) => cuda.learner.settle(),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn place(learner: Learner, _config: &TrainConfig, _views: &PrepOptions) -> Result<Place> {
    Ok(Place::Cpu(Box::new(Cpu { learner, outcomes: VecDeque::new() })))
}

#[cfg(feature = "cuda")]
fn place(learner: Learner, config: &TrainConfig, views: &PrepOptions) -> Result<Place> {
    let Some(number) = config.gpu() else {
        return Ok(Place::Cpu(Box::new(Cpu { learner, outcomes: VecDeque::new() })));
    };
    let shape = CudaConfig {
        method: config.method,
        precision: config.precision,
        pairs: config.batch_size,
        size: views.size as usize,
        boxes: views.boxes as usize,
    };
    let gpu = Gpu::open(number, config.precision.into())?;
    let learner = CudaLearner::new(learner, shape, gpu)?;
    Ok(Place::Cuda(Box::new(Cuda { learner, under_way: VecDeque::new() })))
}

/// The CPU: a step is done when it returns.
struct Cpu {
    learner: Learner,
    outcomes: VecDeque<StepOutcome>,
}

impl Cpu {
    fn step(
        &mut self,
        task: &Task,
        compared: &[&Batch],
        method: Method,
        classes: Option<&Classes>,
    ) -> Result<()> {
        let Some(computed) = compute(&self.learner, method, compared, task.matches, classes)? else {
            return Ok(self.learner.advance_target(task.tau)?);
        };
        let loss = computed.loss.to_scalar::<f32>()?;
        if loss.is_finite() {
            self.learner.apply(&computed, task.lr, task.tau)?;
        }
        let online = match &computed.online {
            Some(online) => Some((online.labelled, f64::from(online.right.to_scalar::<f32>()?))),
            None => None,
        };
        let spread = task.spread.then(|| computed.spread()).transpose()?;
        self.outcomes.push_back(StepOutcome { loss, online, spread });
        Ok(())
    }
}

/// Loss and gradients of a step, summed over its micro-batches; `None` if there is nothing to compare.
fn compute(
    learner: &Learner,
    method: Method,
    compared: &[&Batch],
    matches: usize,
    classes: Option<&Classes>,
) -> Result<Option<Computed>> {
    let mut sum: Option<Computed> = None;
    let labelled = labelled_views(compared);
    for batch in compared {
        let regions = match method {
            Method::Scrl => Regions::Boxes(batch.roi_tensor(learner.device())?),
            Method::Byol => Regions::Whole,
        };
        let labels = |classes: &Classes| -> Result<Labels> {
            Ok(Labels { classes: classes.of_views(batch, learner.device())?, labelled })
        };
        let labels = classes.map(labels).transpose()?;
        let pixels = batch.pixel_tensor(learner.device())?;
        let computed = learner.compute(&pixels, &regions, matches, labels.as_ref())?;
        sum = Some(match sum {
            None => computed,
            Some(sum) => sum.plus(computed)?,
        });
    }
    Ok(sum)
}

fn labelled_views(batches: &[&Batch]) -> usize {
    2 * batches.iter().map(|batch| batch.labelled()).sum::<usize>()
}

/// What is known of a step on a GPU before its outcome.
#[cfg(feature = "cuda")]
struct UnderWay {
    /// Labelled views, where there is an online evaluation and any are.
    labelled: Option<usize>,
    /// Vectors, if it was asked how much they differ.
    vectors: Option<usize>,
}

/// A GPU: one step may be under way when [`Cuda::step`] returns.
#[cfg(feature = "cuda")]
struct Cuda {
    learner: CudaLearner<Gpu>,
    under_way: VecDeque<UnderWay>,
}

#[cfg(feature = "cuda")]
impl Cuda {
    fn step(&mut self, task: &Task, compared: &[&Batch], classes: Option<&Classes>) -> Result<()> {
        let of_views = |batch: &&Batch| -> Result<Option<Vec<i64>>> {
            let views = classes.map(|classes| classes.of_views(batch, &Device::Cpu)).transpose()?;
            Ok(views.map(|views| views.to_vec1()).transpose()?)
        };
        let classes_of_views: Vec<Option<Vec<i64>>> = compared.iter().map(of_views).collect::<Result<_>>()?;
        let micro: Vec<MicroBatch> = compared
            .iter()
            .zip(&classes_of_views)
            .map(|(batch, classes)| MicroBatch { batch, classes: classes.as_deref() })
            .collect();
        let labelled = if classes.is_some() { labelled_views(compared) } else { 0 };
        let Task { matches, lr, tau, spread, .. } = *task;
        self.learner.step(&micro, StepScalars { lr, tau, matches, labelled }, spread)?;
        if !compared.is_empty() {
            let labelled = (labelled > 0).then_some(labelled);
            self.under_way.push_back(UnderWay { labelled, vectors: spread.then_some(2 * matches) });
        }
        Ok(())
    }

    fn outcomes(&mut self, all: bool) -> Result<Vec<StepOutcome>> {
        let outcomes = self.learner.outcomes(all)?;
        let steps = self.under_way.drain(..outcomes.len());
        let outcome = |(step, outcome): (UnderWay, crate::cuda::Outcome)| StepOutcome {
            loss: outcome.loss,
            online: step.labelled.map(|labelled| (labelled, f64::from(outcome.right))),
            spread: step.vectors.map(|vectors| Spread {
                projections: outcome.projection_spread.into(),
                targets: outcome.target_spread.into(),
                vectors,
            }),
        };
        Ok(steps.zip(outcomes).map(outcome).collect())
    }
}
