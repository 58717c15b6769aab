//! The steps of a run: batches go to the learner's device, losses come back. A GPU is given the next step while it is still at
//! work on the last.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::Method;
use crate::data::{Batch, Classes};
use crate::model::Regions;
use crate::ops::gpu::{Array, Fetch, Transfers};
use crate::train::{Computed, Labels, Learner};
use crate::{Error, Result};

/// A step to take.
pub(super) struct Step<'a> {
    /// Its micro-batches.
    pub batches: &'a [Batch],
    /// Matched regions in them.
    pub matches: usize,
    /// Learning rate.
    pub lr: f64,
    /// τ of the EMA.
    pub tau: f64,
    /// Whether the embedding std is requested.
    pub embedding_std: bool,
}

/// What a step gave.
pub(super) struct StepOutcome {
    /// The loss. Where it is NaN or infinite, nothing was moved.
    pub loss: f32,
    /// Labelled views shown to the online evaluation, and those whose class it named.
    pub online: Option<(usize, f64)>,
    /// The embedding std, if it was requested.
    pub embedding_std: Option<EmbeddingStd>,
}

/// How much the embeddings of a step differ among each other: near 0 after a collapse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbeddingStd {
    /// Of the online network's projections.
    pub projections: f64,
    /// Of the target network's.
    pub targets: f64,
    /// Over how many embeddings.
    pub embeddings: usize,
}

/// A step whose outcome is on its way.
struct UnderWay {
    /// The loss; the correct answers, if there is an online evaluation; the embedding stds, if they were requested.
    numbers: Fetch,
    labelled: Option<usize>,
    embeddings: Option<usize>,
}

/// A learner, and the ways to and from its device.
pub(super) struct Engine {
    learner: Learner,
    method: Method,
    classes: Option<Classes>,
    transfers: Transfers,
    under_way: VecDeque<UnderWay>,
}

impl Engine {
    /// Lets `learner` learn by `method`, and from `classes` where there is an online evaluation.
    pub fn new(learner: Learner, method: Method, classes: Option<Classes>) -> Result<Self> {
        let transfers = Transfers::new(learner.device())?;
        Ok(Self { learner, method, classes, transfers, under_way: VecDeque::new() })
    }

    /// Begins a step; its outcome comes with [`Engine::outcomes`]. Micro-batches with nothing to compare are left out; if none
    /// is left only the target moves, there is no outcome, and the answer is false.
    pub fn step(&mut self, step: &Step) -> Result<bool> {
        let compared: Vec<&Batch> = step
            .batches
            .iter()
            .filter(|batch| self.method == Method::Byol || batch.matches() > 0)
            .collect();
        let pairs = compared.first().map_or(0, |batch| batch.pairs());
        self.begin(step, &compared).map_err(|error| explain_out_of_memory(error, pairs))
    }

    fn begin(&mut self, step: &Step, compared: &[&Batch]) -> Result<bool> {
        let Some(computed) = self.compute(compared, step.matches)? else {
            self.learner.update_target(step.tau)?;
            return Ok(false);
        };
        self.learner.apply(&computed, step.lr, step.tau)?;
        let mut numbers = vec![computed.loss.clone()];
        let labelled = computed.online.as_ref().map(|online| {
            numbers.push(online.correct.clone());
            online.labelled
        });
        if step.embedding_std {
            numbers.extend(computed.embedding_std()?);
        }
        let embeddings = step.embedding_std.then(|| computed.embeddings());
        let numbers = self.transfers.fetch(&Tensor::stack(&numbers, 0)?)?;
        self.under_way.push_back(UnderWay { numbers, labelled, embeddings });
        Ok(true)
    }

    /// Loss and gradients of a step, summed over its micro-batches; `None` if there is nothing to compare.
    fn compute(&mut self, compared: &[&Batch], matches: usize) -> Result<Option<Computed>> {
        let mut sum: Option<Computed> = None;
        let labelled = 2 * compared.iter().map(|batch| batch.labelled()).sum::<usize>();
        for batch in compared {
            let views = 2 * batch.pairs();
            let classes =
                self.classes.as_ref().map(|classes| classes.of_views(batch)).transpose()?;
            let mut arrays = vec![
                (Array::U8(&batch.pixels), (views, batch.size, batch.size, 3).into()),
                (Array::F32(&batch.rois), (batch.rois.len() / 5, 5).into()),
            ];
            arrays.extend(classes.as_ref().map(|classes| (Array::I64(classes), views.into())));
            let tensors = self.transfers.upload(&arrays)?;
            let (pixels, rois) = (&tensors[0], tensors[1].clone());
            let labels =
                tensors.get(2).map(|classes| Labels { classes: classes.clone(), labelled });
            let regions = match self.method {
                Method::Scrl => Regions::Boxes(rois),
                Method::Byol => Regions::Whole,
            };
            let computed = self.learner.compute(pixels, &regions, matches, labels.as_ref())?;
            sum = Some(match sum {
                None => computed,
                Some(sum) => sum.plus(computed)?,
            });
        }
        Ok(sum)
    }

    /// What steps gave, in order: all of them, or those that are known without waiting for the newest.
    pub fn outcomes(&mut self, all: bool) -> Result<Vec<StepOutcome>> {
        let newest = if all || !self.transfers.is_asynchronous() { 0 } else { 1 };
        let known = self.under_way.len().saturating_sub(newest);
        self.under_way.drain(..known).map(UnderWay::outcome).collect()
    }

    /// The learner, whose tensors are those after the last step that was begun.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }
}

impl UnderWay {
    fn outcome(self) -> Result<StepOutcome> {
        let mut numbers = self.numbers.wait()?.into_iter();
        let mut next = || numbers.next().unwrap_or(f32::NAN);
        Ok(StepOutcome {
            loss: next(),
            online: self.labelled.map(|labelled| (labelled, f64::from(next()))),
            embedding_std: self.embeddings.map(|embeddings| EmbeddingStd {
                projections: next().into(),
                targets: next().into(),
                embeddings,
            }),
        })
    }
}

/// Where `error` says that a GPU's memory is full: what to do.
fn explain_out_of_memory(error: Error, pairs: usize) -> Error {
    match error {
        Error::Compute(cause) if cause.to_string().contains("OUT_OF_MEMORY") => {
            Error::OutOfMemory { pairs }
        }
        other => other,
    }
}
