//! The steps of a run: batches go to the learner's device, losses come back. A GPU receives the
//! next step while it still works on the last one.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::learner::{Computed, Labels, Learner, MicroBatch};
use super::options::Method;
use crate::Result;
use crate::data::{Batch, Classes};
use crate::model::Regions;
use crate::ops::gpu::{Array, Fetch, Transfers};

/// The input of a step.
pub(super) struct Step<'a> {
    /// Its number, from 1.
    pub number: u64,
    /// Its micro-batches.
    pub batches: &'a [Batch],
    /// Number of matched regions in them.
    pub matches: usize,
    /// Learning rate.
    pub lr: f64,
    /// τ of the EMA.
    pub ema: f64,
    /// Whether the embedding std is requested.
    pub embedding_std: bool,
}

/// The numbers of a finished step.
pub(super) struct StepResult {
    /// Its number, from 1.
    pub number: u64,
    /// The `image_id`s of its batches.
    pub images: Vec<i64>,
    /// The loss. Where it is NaN or infinite, nothing was updated.
    pub loss: f32,
    /// Number of labeled views, and of correctly classified ones, in the online evaluation.
    pub online: Option<(usize, f64)>,
    /// The embedding std, if it was requested.
    pub embedding_std: Option<EmbeddingStd>,
}

/// The embedding std of a step: standard deviation over its embeddings, mean over dimensions; near
/// 0 after a collapse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct EmbeddingStd {
    /// That of the online network's projections.
    pub projections: f64,
    /// That of the target network's projections.
    pub targets: f64,
    /// Number of embeddings.
    pub embeddings: usize,
}

/// A step that the device may still be working on.
struct PendingStep {
    number: u64,
    images: Vec<i64>,
    /// The loss; the correctly classified views, if there is an online evaluation; the embedding
    /// stds, if they were requested.
    numbers: Fetch,
    labeled: Option<usize>,
    embeddings: Option<usize>,
}

/// A learner, the transfers to and from its device, and its pending steps.
pub(super) struct Pipeline {
    learner: Learner,
    method: Method,
    classes: Option<Classes>,
    transfers: Transfers,
    pending: VecDeque<PendingStep>,
    /// Number of steps that were started.
    started: u64,
}

impl Pipeline {
    /// A pipeline that trains `learner` by `method`, with `classes` for its online evaluation.
    pub fn new(learner: Learner, method: Method, classes: Option<Classes>) -> Result<Self> {
        let transfers = Transfers::new(learner.device())?;
        Ok(Self { learner, method, classes, transfers, pending: VecDeque::new(), started: 0 })
    }

    /// Starts a step, whose numbers [`Pipeline::results`] returns. Micro-batches without matched
    /// regions are left out. If none is left, only the target is updated, and there is no result:
    /// returns false.
    pub fn start(&mut self, step: &Step) -> Result<bool> {
        let compared: Vec<&Batch> = step
            .batches
            .iter()
            .filter(|batch| self.method == Method::Byol || batch.matches > 0)
            .collect();
        if self.started == 1 {
            // The first step's memory is all back in the pool when the second asks for its own.
            self.learner.device().synchronize()?;
        }
        self.started += 1;
        let Some(computed) = self.compute(&compared, step.matches)? else {
            self.learner.update_target(step.ema)?;
            return Ok(false);
        };
        self.learner.apply(&computed, step.lr, step.ema)?;
        let mut numbers = vec![computed.loss.clone()];
        let labeled = computed.online.as_ref().map(|online| {
            numbers.push(online.correct.clone());
            online.labeled
        });
        let mut embeddings = None;
        if step.embedding_std {
            let (stds, count) = computed.embedding_std(self.learner.ranks())?;
            numbers.extend(stds);
            embeddings = Some(count);
        }
        let numbers = self.transfers.fetch(&Tensor::stack(&numbers, 0)?)?;
        let images = step.batches.iter().flat_map(|batch| batch.image_ids.clone()).collect();
        let number = step.number;
        self.pending.push_back(PendingStep { number, images, numbers, labeled, embeddings });
        Ok(true)
    }

    /// Loss and gradients of a step, summed over its micro-batches and all processes; `None` without
    /// any.
    fn compute(&mut self, compared: &[&Batch], matches: usize) -> Result<Option<Computed>> {
        let mut sum: Option<Computed> = None;
        let labeled = 2 * compared.iter().map(|batch| batch.labeled).sum::<usize>();
        for (index, batch) in compared.iter().enumerate() {
            let views = 2 * batch.own_pairs();
            let classes =
                self.classes.as_ref().map(|classes| classes.of_views(batch)).transpose()?;
            let mut arrays = vec![
                (Array::U8(&batch.pixels), (views, batch.size, batch.size, 3).into()),
                (Array::F32(&batch.rois), (batch.rois.len() / 5, 5).into()),
            ];
            arrays.extend(classes.as_ref().map(|classes| (Array::I64(classes), views.into())));
            let tensors = self.transfers.upload(&arrays)?;
            let mut tensors = tensors.into_iter();
            let (Some(pixels), Some(rois)) = (tensors.next(), tensors.next()) else { break };
            let labels = tensors.next().map(|classes| Labels { classes, labeled });
            let regions = match self.method {
                Method::Scrl => Regions::Boxes(rois),
                Method::Byol => Regions::Whole,
            };
            let batch = MicroBatch { pixels, regions, labels };
            let is_last = index + 1 == compared.len();
            sum = Some(self.learner.compute(&batch, matches, sum, is_last)?);
        }
        Ok(sum)
    }

    /// The online backbone's features of the boxes of a batch, row after row, on the host. All steps
    /// that were started must have ended.
    pub fn box_features(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let (views, size) = (2 * batch.own_pairs(), batch.size);
        let tensors = self.transfers.upload(&[
            (Array::U8(&batch.pixels), (views, size, size, 3).into()),
            (Array::F32(&batch.rois), (batch.rois.len() / 5, 5).into()),
        ])?;
        let features = self.learner.box_features(&tensors[0], &tensors[1])?;
        Ok(self.transfers.fetch(&features)?.wait()?)
    }

    /// The numbers of steps in order: of all, or of those before the newest, for which a GPU need
    /// not be waited for.
    pub fn results(&mut self, all: bool) -> Result<Vec<StepResult>> {
        let newest = if all || !self.transfers.is_asynchronous() { 0 } else { 1 };
        let finished = self.pending.len().saturating_sub(newest);
        self.pending.drain(..finished).map(PendingStep::result).collect()
    }

    /// The learner, whose tensors are those after the last step that was started.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }
}

impl PendingStep {
    fn result(self) -> Result<StepResult> {
        let mut numbers = self.numbers.wait()?.into_iter();
        let mut next = || numbers.next().unwrap_or(f32::NAN);
        Ok(StepResult {
            number: self.number,
            images: self.images,
            loss: next(),
            online: self.labeled.map(|labeled| (labeled, f64::from(next()))),
            embedding_std: self.embeddings.map(|embeddings| EmbeddingStd {
                projections: next().into(),
                targets: next().into(),
                embeddings,
            }),
        })
    }
}
