//! The loop: batch after batch through the learner, and what it leaves on the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;

use super::metrics::MetricsLog;
use super::tensorboard::EventFile;
use super::{Checkpoint, CheckpointInfo, Method, Metrics, Output, Resume, TargetInit, TrainConfig};
use crate::data::{Batch, Dataset, Loader, LoaderConfig};
use crate::learner::{Computed, Learner, LearnerConfig};
use crate::model::{HeadSizes, Regions};
use crate::optim::{LarsConfig, Schedule, ScheduleConfig};
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
    /// A step had no matched box at all, and changed only the target network.
    NoBoxes {
        /// The step, from 1.
        step: u64,
    },
}

/// Trains as `config` says and tells `report` how it goes. Sets the size of rayon's global pool if nothing has yet.
///
/// When `stop` becomes true the step under way is finished, a checkpoint written, and [`Error::Interrupted`] returned.
pub fn train(
    config: &TrainConfig,
    dataset: &Dataset,
    resume: &Resume,
    stop: &AtomicBool,
    report: &mut dyn FnMut(Progress),
) -> Result<()> {
    // An error means that the pool exists already, in a process that trains more than once.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build_global();
    let output = Output::create(&config.out)?;
    let mut learner = Learner::new(&learner_config(config), &Device::Cpu)?;
    let mut plan = plan(config, dataset);
    let resumed = output.checkpoint_to_resume(resume)?;
    if let Some(checkpoint) = &resumed {
        plan.done = checkpoint.load(&learner, config)?.step;
    }
    output.write_config(config)?;
    let mut run = Run {
        config,
        plan,
        schedule: schedule(config, plan),
        log: MetricsLog::open(&output.metrics(), plan.done)?,
        events: EventFile::create(output.root())?,
        output,
        since_log: Interval::new(),
    };
    if resumed.is_none() {
        run.checkpoint(&learner, 0)?;
    }
    report(Progress::Start(plan));
    run.steps(&mut learner, dataset, stop, report)?;
    run.output.write_backbone(&learner, config)
}

fn learner_config(config: &TrainConfig) -> LearnerConfig {
    LearnerConfig {
        arch: config.arch,
        sizes: HeadSizes { hidden: config.hidden, projection: config.projection },
        seed: config.seed,
        copy_online: config.target_init == TargetInit::Online,
        lars: LarsConfig { momentum: MOMENTUM, weight_decay: config.weight_decay as f32 },
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
        base_lr: config.lr,
        global_batch: (config.batch_size * config.accumulate) as u64,
        tau: config.ema,
        total_steps: plan.scheduled_steps,
        warmup_steps: plan.steps_per_epoch * u64::from(config.warmup_epochs),
    })
}

/// A run under way.
struct Run<'a> {
    config: &'a TrainConfig,
    plan: Plan,
    schedule: Schedule,
    output: Output,
    log: MetricsLog,
    events: EventFile,
    since_log: Interval,
}

/// What happened since the last logged step.
struct Interval {
    start: Instant,
    waited: Duration,
    pairs: usize,
}

impl Interval {
    fn new() -> Self {
        Self { start: Instant::now(), waited: Duration::ZERO, pairs: 0 }
    }
}

impl Run<'_> {
    fn steps(
        &mut self,
        learner: &mut Learner,
        dataset: &Dataset,
        stop: &AtomicBool,
        report: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let config = self.config;
        let loader = LoaderConfig {
            batch_size: config.batch_size,
            batches_per_epoch: self.plan.steps_per_epoch * config.accumulate as u64,
            epochs: config.epochs,
            skip: self.plan.done * config.accumulate as u64,
            images: config.images.clone(),
            threads: config.threads,
        };
        if self.plan.done >= self.plan.steps {
            return Ok(());
        }
        let loader = Loader::start(dataset, loader)?;
        self.since_log = Interval::new();
        for step in self.plan.done + 1..=self.plan.steps {
            let batches = self.next_batches(&loader)?;
            let (lr, ema) = (self.schedule.lr(step), self.schedule.tau(step));
            let matches = batches.iter().map(|batch| self.matches(batch)).sum();
            let loss = match compute(learner, config.method, &batches, matches)? {
                Some(computed) => {
                    let loss = computed.loss.to_scalar::<f32>()?;
                    if !loss.is_finite() {
                        return Err(self.not_finite(step, loss, &batches)?);
                    }
                    learner.apply(&computed, lr, ema)?;
                    loss
                }
                None => {
                    learner.advance_target(ema)?;
                    report(Progress::NoBoxes { step });
                    0.0
                }
            };
            report(Progress::Step { step, loss });
            let last = step == self.plan.steps;
            if step % config.log_every == 0 || last {
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
                })?;
                report(Progress::Logged(&metrics));
            }
            let stopped = stop.load(Ordering::Relaxed);
            if step % config.checkpoint_every == 0 || last || stopped {
                self.checkpoint(learner, step)?;
            }
            if stopped && !last {
                return Err(Error::Interrupted { step });
            }
        }
        Ok(())
    }

    /// The micro-batches of one step.
    fn next_batches(&mut self, loader: &Loader) -> Result<Vec<Batch>> {
        let start = Instant::now();
        let batches: Vec<Batch> = (0..self.config.accumulate)
            .map(|_| {
                let ended = || Error::dataset(&self.config.shards, "the shards ended before the schedule");
                loader.next_batch()?.ok_or_else(ended)
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

    /// Completes the metrics with the speed since the last ones and writes them.
    fn log(&mut self, metrics: Metrics) -> Result<Metrics> {
        let seconds = self.since_log.start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        let metrics = Metrics {
            pairs_per_s: self.since_log.pairs as f64 / seconds,
            data_wait: self.since_log.waited.as_secs_f64() / seconds,
            ..metrics
        };
        self.log.write(&metrics)?;
        self.events.write(&metrics)?;
        self.since_log = Interval::new();
        Ok(metrics)
    }

    fn checkpoint(&self, learner: &Learner, step: u64) -> Result<()> {
        let pairs = (self.config.batch_size * self.config.accumulate) as u64;
        let info = CheckpointInfo {
            step,
            epoch: (step / self.plan.steps_per_epoch) as u32,
            position: step % self.plan.steps_per_epoch * pairs,
        };
        Checkpoint::write(&self.output.checkpoints(), learner, self.config, info)?;
        Ok(())
    }

    fn not_finite(&self, step: u64, loss: f32, batches: &[Batch]) -> Result<Error> {
        let images = batches.iter().flat_map(|batch| batch.image_ids.clone()).collect();
        let checkpoint = match Checkpoint::list(&self.output.checkpoints())?.pop() {
            Some(checkpoint) => format!("the last checkpoint is {}", checkpoint.path.display()),
            None => "there is no checkpoint".to_owned(),
        };
        Ok(Error::NotFinite { step, loss, images, checkpoint })
    }
}

/// Loss and gradients of a step, summed over its micro-batches; `None` if there is nothing to compare.
fn compute(
    learner: &Learner,
    method: Method,
    batches: &[Batch],
    matches: usize,
) -> candle_core::Result<Option<Computed>> {
    let mut sum: Option<Computed> = None;
    for batch in batches {
        let regions = match method {
            Method::Scrl if batch.matches() == 0 => continue,
            Method::Scrl => Regions::Boxes(batch.roi_tensor(learner.device())?),
            Method::Byol => Regions::Whole,
        };
        let computed = learner.compute(&batch.pixel_tensor(learner.device())?, &regions, matches)?;
        sum = Some(match sum {
            None => computed,
            Some(sum) => sum.plus(computed)?,
        });
    }
    Ok(sum)
}
