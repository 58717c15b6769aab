//! The loop: batch after batch through the learner, and what it leaves on the way.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::DType;
use scrl_schemas::{Consumed, Epoch, ViewEncoding};

use super::Initialized;
use super::engine::{EmbeddingStd, Engine, Step, StepOutcome};
use super::guard::{explain_full_disk, is_collapsed};
use super::metrics::{Interval, MetricsLog};
use super::tensorboard::EventFile;
use super::{
    Checkpoint, CheckpointInfo, Method, Metrics, OnlineEval, Output, Precision, Resume, TargetInit,
    TrainConfig,
};
use crate::data::{Batch, Classes, Dataset, Loader, LoaderConfig, SourceImages};
use crate::model::HeadSizes;
use crate::optim::{LarsConfig, Schedule, ScheduleConfig};
use crate::train::{Learner, LearnerConfig};
use crate::weights::Weights;
use crate::{Error, Result};

/// SGD's momentum.
const MOMENTUM: f32 = 0.9;

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Steps an epoch; the rows left over are dropped.
    pub steps_per_epoch: u64,
    /// Steps of the schedule.
    pub scheduled_steps: u64,
    /// Steps to take: fewer than the schedule's with `--max-steps`.
    pub steps: u64,
    /// Steps already taken by the run that this one continues.
    pub done: u64,
}

impl Plan {
    /// Whole epochs in the first `step` steps.
    fn epochs_done(&self, step: u64) -> u32 {
        (step / self.steps_per_epoch) as u32
    }

    fn is_epoch_end(&self, step: u64) -> bool {
        step.is_multiple_of(self.steps_per_epoch)
    }
}

/// What a run reports while it lasts.
pub enum Progress<'a> {
    /// The first thing known.
    Start(Plan),
    /// A step is done; its loss.
    Step {
        /// The step, from 1.
        step: u64,
        /// Its loss.
        loss: f32,
    },
    /// A step's numbers were logged.
    Logged(&'a Metrics),
    /// A damaged checkpoint was passed over for an older one.
    Damaged(&'a Error),
    /// The initial weights came from the file of `--init`.
    Initialized(&'a Initialized),
    /// The file of `--init` was not read, as the run goes on from a checkpoint.
    InitNotRead(&'a Path),
    /// The next step needs an epoch that is not finished yet; said once for each.
    Waiting(Epoch),
    /// A step had no matched box at all, and changed only the target network.
    NoBoxes {
        /// The step, from 1.
        step: u64,
    },
    /// The embeddings of a logged step are nearly the same; said once.
    Collapsed {
        /// The step, from 1.
        step: u64,
        /// How much they differ.
        std: EmbeddingStd,
    },
}

/// Trains as `config` says and tells `report` how it goes. Sets the size of rayon's global pool if nothing has yet.
///
/// When `stop` becomes true the step under way is finished, or the waiting for an epoch given up, a checkpoint written,
/// and [`Error::Interrupted`] returned.
pub fn train(
    config: &TrainConfig,
    dataset: &Dataset,
    resume: &Resume,
    stop: &AtomicBool,
    report: &mut dyn FnMut(Progress),
) -> Result<()> {
    let checkpoints = Output::new(&config.out).checkpoints();
    let done = train_on_any_disk(config, dataset, resume, stop, report);
    done.map_err(|error| explain_full_disk(error, &checkpoints))
}

fn train_on_any_disk(
    config: &TrainConfig,
    dataset: &Dataset,
    resume: &Resume,
    stop: &AtomicBool,
    report: &mut dyn FnMut(Progress),
) -> Result<()> {
    // An error means that the pool exists already, in a process that trains more than once.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build_global();
    let output = Output::new(&config.out);
    let resumed =
        output.checkpoint_to_resume(resume, &mut |error| report(Progress::Damaged(error)))?;
    let mut plan = plan(config, dataset);
    plan.done = resumed.as_ref().map_or(0, |(_, info)| info.step);
    if !config.follow && plan.done < plan.steps {
        // Known before anything is written.
        dataset.success(Epoch(plan.epochs_done(plan.done)))?;
    }
    let sources = Arc::new(SourceImages::new(config.images.clone()));
    let list = dataset.layout().sources();
    if dataset.manifest().options.views == ViewEncoding::Recipe
        && plan.done < plan.steps
        && list.exists()
    {
        sources.check(&list)?;
    }
    let classes =
        (config.online_eval == OnlineEval::On).then(|| Classes::read(dataset)).transpose()?;
    let learner = Learner::new(&learner_config(config, classes.as_ref()), &config.open_device()?)?;
    match (&resumed, &config.init) {
        (Some((checkpoint, _)), init) => {
            checkpoint.load(&learner, config)?;
            if let Some(init) = init {
                report(Progress::InitNotRead(init));
            }
        }
        (None, Some(init)) => {
            report(Progress::Initialized(&learner.initialize(&Weights::read(init)?)?))
        }
        (None, None) => {}
    }
    let mut engine = Engine::new(learner, config.method, classes)?;
    output.create()?;
    output.write_config(config)?;
    let mut run = Run {
        config,
        dataset,
        sources,
        plan,
        schedule: schedule(config, plan),
        log: MetricsLog::open(&output.metrics(), plan.done)?,
        events: EventFile::open(output.root(), plan.done)?,
        output,
        since_log: Interval::new(),
        under_way: VecDeque::new(),
        collapsed: false,
    };
    // A checkpoint from elsewhere is copied before its epochs are given away: a restart looks in this folder.
    if resumed.is_none() || (config.consume && matches!(resume, Resume::From(_))) {
        run.checkpoint(engine.learner(), plan.done)?;
    }
    // The last run may have ended between its checkpoint and this note.
    run.note_consumed(plan.done)?;
    report(Progress::Start(plan));
    run.steps(&mut engine, stop, report)?;
    run.output.write_backbone(engine.learner(), config)
}

fn learner_config(config: &TrainConfig, classes: Option<&Classes>) -> LearnerConfig {
    LearnerConfig {
        arch: config.arch,
        sizes: HeadSizes { hidden: config.hidden, projection: config.projection },
        seed: config.seed,
        copy_online: config.target_init == TargetInit::Online,
        dtype: match config.precision {
            Precision::Bf16 => DType::BF16,
            Precision::F32 => DType::F32,
        },
        lars: LarsConfig { momentum: MOMENTUM, weight_decay: config.weight_decay as f32 },
        classes: classes.map(Classes::count),
    }
}

fn plan(config: &TrainConfig, dataset: &Dataset) -> Plan {
    let steps_per_epoch = dataset.rows_per_epoch() / (config.batch_size * config.accumulate) as u64;
    let scheduled_steps = steps_per_epoch * u64::from(config.epochs);
    let steps = config.max_steps.map_or(scheduled_steps, |most| most.min(scheduled_steps));
    Plan { steps_per_epoch, scheduled_steps, steps, done: 0 }
}

fn schedule(config: &TrainConfig, plan: Plan) -> Schedule {
    Schedule(ScheduleConfig {
        peak_lr: config.peak_lr(),
        tau: config.ema,
        total_steps: plan.scheduled_steps,
        warmup_steps: plan.steps_per_epoch * u64::from(config.warmup_epochs),
    })
}

/// A run under way.
struct Run<'a> {
    config: &'a TrainConfig,
    dataset: &'a Dataset,
    sources: Arc<SourceImages>,
    plan: Plan,
    schedule: Schedule,
    output: Output,
    log: MetricsLog,
    events: EventFile,
    since_log: Interval,
    /// Steps whose outcome is not known yet.
    under_way: VecDeque<UnderWay>,
    /// Whether a collapse was told of.
    collapsed: bool,
}

/// A step whose outcome is not known yet.
struct UnderWay {
    step: u64,
    /// The `image_id`s of its batch.
    images: Vec<i64>,
}

impl Run<'_> {
    fn steps(
        &mut self,
        engine: &mut Engine,
        stop: &AtomicBool,
        report: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let config = self.config;
        let loader = LoaderConfig {
            batch_size: config.batch_size,
            batches_per_epoch: self.plan.steps_per_epoch * config.accumulate as u64,
            epochs: config.epochs,
            skip: self.plan.done * config.accumulate as u64,
            sources: self.sources.clone(),
            threads: config.threads,
            follow: config.follow,
        };
        if self.plan.done >= self.plan.steps {
            return Ok(());
        }
        let loader = Loader::start(self.dataset, loader)?;
        self.since_log = Interval::new();
        let mut told = None;
        for step in self.plan.done + 1..=self.plan.steps {
            let mut idle = |epoch| {
                if told.replace(epoch) != Some(epoch) {
                    report(Progress::Waiting(epoch));
                }
                if stop.load(Ordering::Relaxed) {
                    Err(Error::Interrupted { step: step - 1 })
                } else {
                    Ok(())
                }
            };
            let batches = match self.next_batches(&loader, &mut idle) {
                Err(error @ Error::Interrupted { .. }) => {
                    self.conclude(engine, true, report)?;
                    self.save(engine.learner(), step - 1)?;
                    return Err(error);
                }
                batches => batches?,
            };
            let (lr, ema) = (self.schedule.lr(step), self.schedule.tau(step));
            let matches = batches.iter().map(|batch| self.matches(batch)).sum();
            let last = step == self.plan.steps;
            let logged = step % config.log_every == 0 || last;
            let compared = engine.step(&Step {
                batches: &batches,
                matches,
                lr,
                tau: ema,
                embedding_std: logged,
            })?;
            let stopped = stop.load(Ordering::Relaxed);
            let consumed = config.consume && self.plan.is_epoch_end(step);
            let saved = step % config.checkpoint_every == 0 || last || stopped || consumed;
            if compared {
                let images = batches.iter().flat_map(|batch| batch.image_ids.clone()).collect();
                self.under_way.push_back(UnderWay { step, images });
            }
            let known = self.conclude(engine, logged || saved || !compared, report)?;
            let (loss, std) = match known.filter(|_| compared) {
                Some(outcome) => (outcome.loss, outcome.embedding_std),
                None => (0.0, None),
            };
            if !compared {
                report(Progress::NoBoxes { step });
                report(Progress::Step { step, loss });
            }
            if logged {
                let epoch = batches[0].epoch.0;
                let metrics = self.log(Metrics {
                    step,
                    epoch,
                    loss,
                    lr,
                    ema,
                    boxes: matches,
                    pairs_per_s: 0.0,
                    data_wait: 0.0,
                    online_acc: None,
                    projection_std: std.map(|std| std.projections),
                    target_std: std.map(|std| std.targets),
                })?;
                report(Progress::Logged(&metrics));
                if let Some(std) = std.filter(|std| is_collapsed(std, config.projection))
                    && !self.collapsed
                {
                    self.collapsed = true;
                    report(Progress::Collapsed { step, std });
                }
            }
            batches.into_iter().for_each(|batch| loader.recycle(batch));
            if saved {
                self.save(engine.learner(), step)?;
            }
            if stopped && !last {
                return Err(Error::Interrupted { step });
            }
        }
        Ok(())
    }

    /// Takes in what steps gave, of all of them or of those that are known already, and returns the last.
    fn conclude(
        &mut self,
        engine: &mut Engine,
        all: bool,
        report: &mut dyn FnMut(Progress),
    ) -> Result<Option<StepOutcome>> {
        let mut last = None;
        for outcome in engine.outcomes(all)? {
            let UnderWay { step, images } =
                self.under_way.pop_front().expect("a step for each outcome");
            if !outcome.loss.is_finite() {
                return Err(self.not_finite(step, outcome.loss, images)?);
            }
            if let Some((labelled, right)) = outcome.online {
                self.since_log.add(labelled, right);
            }
            report(Progress::Step { step, loss: outcome.loss });
            last = Some(outcome);
        }
        Ok(last)
    }

    /// The micro-batches of one step; `idle` as in [`Loader::next_batch_or`].
    fn next_batches(
        &mut self,
        loader: &Loader,
        idle: &mut dyn FnMut(Epoch) -> Result<()>,
    ) -> Result<Vec<Batch>> {
        let start = Instant::now();
        let batches: Vec<Batch> = (0..self.config.accumulate)
            .map(|_| {
                let ended =
                    || Error::dataset(&self.config.shards, "the shards ended before the schedule");
                loader.next_batch_or(idle)?.ok_or_else(ended)
            })
            .collect::<Result<_>>()?;
        self.since_log.waited += start.elapsed();
        self.since_log.pairs += batches.iter().map(Batch::pairs).sum::<usize>();
        Ok(batches)
    }

    /// The matched regions of a batch.
    fn matches(&self, batch: &Batch) -> usize {
        match self.config.method {
            Method::Scrl => batch.matches(),
            Method::Byol => batch.pairs(),
        }
    }

    /// Completes the metrics with what happened since the last ones and writes them.
    fn log(&mut self, metrics: Metrics) -> Result<Metrics> {
        let metrics = self.since_log.complete(metrics);
        self.log.write(&metrics)?;
        self.events.write(&metrics)?;
        self.since_log = Interval::new();
        Ok(metrics)
    }

    /// Writes a checkpoint, and only then gives away the epochs that lie behind it.
    fn save(&self, learner: &Learner, step: u64) -> Result<()> {
        self.checkpoint(learner, step)?;
        self.note_consumed(step)
    }

    /// With `--consume`, notes in `consumed.json` the epochs that no training from `step` on needs, unless more are
    /// noted already. A note of none shows at the start whether the folder can be written to.
    fn note_consumed(&self, step: u64) -> Result<()> {
        if !self.config.consume {
            return Ok(());
        }
        let path = self.dataset.layout().consumed();
        let consumed = Consumed { epochs: self.plan.epochs_done(step) };
        if !path.exists() || Consumed::read(&path)?.epochs < consumed.epochs {
            consumed.write(&path)?;
        }
        Ok(())
    }

    fn checkpoint(&self, learner: &Learner, step: u64) -> Result<()> {
        let pairs = (self.config.batch_size * self.config.accumulate) as u64;
        let info = CheckpointInfo {
            step,
            epoch: self.plan.epochs_done(step),
            position: step % self.plan.steps_per_epoch * pairs,
            rows_per_epoch: Some(self.dataset.rows_per_epoch()),
        };
        Checkpoint::write(&self.output.checkpoints(), learner, self.config, info)?;
        Ok(())
    }

    fn not_finite(&self, step: u64, loss: f32, images: Vec<i64>) -> Result<Error> {
        let checkpoint = match Checkpoint::list(&self.output.checkpoints())?.pop() {
            Some(checkpoint) => format!("the last checkpoint is {}", checkpoint.path.display()),
            None => "there is no checkpoint".to_owned(),
        };
        Ok(Error::NotFinite { step, loss, images, checkpoint })
    }
}
