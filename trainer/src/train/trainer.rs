//! The training loop, and the files that it writes on the way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use scrl_cli::{Reporter, Stopped};
use scrl_schemas::{Consumed, Epoch, ViewEncoding, store};

use super::agreement;
use super::checkpoint::{Checkpoint, CheckpointInfo};
use super::config::{Hyperparameters, TrainConfig};
use super::device::open_device;
use super::drawing;
use super::guard::{explain_full_disk, healthy_embedding_std, is_collapsed, is_collapsed_rank};
use super::health::Health;
use super::held_out::{self, HeldOut, batches_held_out, is_early, pairs_to_hold_out};
use super::learner::{Learner, LearnerConfig};
use super::memory::{StepMemory, explain_out_of_memory};
use super::metrics::{Interval, Metrics, MetricsLog};
use super::options::{HealthCheck, Method, OnlineEval, Resume, TargetInit};
use super::output::Output;
use super::pipeline::{EmbeddingStd, Pipeline, Step, StepResult};
use super::tensorboard::EventFile;
use crate::collective::Ranks;
use crate::data::{Batch, Classes, Dataset, Loader, LoaderConfig, SourceImages};
use crate::model::HeadSizes;
use crate::ops::gpu::{self, PeakMemory, plans};
use crate::optim::{Schedule, ScheduleConfig, SgdConfig};
use crate::weights::Weights;
use crate::{Error, Result};

/// SGD's momentum.
const MOMENTUM: f32 = 0.9;

/// The environment variable that has the plans of convolutions on a GPU reported.
const LOG_PLANS: &str = "SCRL_LOG_PLANS";

/// The work that a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Steps taken, without those before the run resumed.
    pub steps: u64,
    /// Time for them.
    pub time: Duration,
    /// The most memory of the GPU that they took, where it is known.
    pub memory: Option<PeakMemory>,
}

/// The steps of a run.
#[derive(Clone, Copy)]
struct Steps {
    /// Steps of an epoch; the rows left over are dropped.
    per_epoch: u64,
    /// Steps of the schedule.
    scheduled: u64,
    /// The last step to take: before the schedule's end with `--max-steps`.
    last: u64,
    /// Steps taken before the run resumed.
    done: u64,
    /// Pairs at the end of epoch 0 that are held out.
    held_out: u64,
}

impl Steps {
    fn new(config: &TrainConfig, dataset: &Dataset, resumed: Option<&CheckpointInfo>) -> Self {
        let Hyperparameters { epochs, .. } = config.hyperparameters;
        let pairs = config.hyperparameters.pairs_per_step() as u64;
        let per_epoch = dataset.rows_per_epoch() / pairs;
        let scheduled = per_epoch * u64::from(epochs);
        let last = config.max_steps.map_or(scheduled, |most| most.min(scheduled));
        let done = resumed.map_or(0, |info| info.step);
        // A run that resumes trains on the rows on which it would have trained without the stop.
        let held_out = match (resumed, config.health) {
            (Some(info), _) => info.held_out,
            (None, HealthCheck::Auto) => {
                let Hyperparameters { batch_size, accumulate, .. } = config.hyperparameters;
                let rows = dataset.rows_per_epoch();
                pairs_to_hold_out(rows, batch_size as u64, accumulate as u64)
            }
            (None, HealthCheck::Off) => 0,
        };
        Self { per_epoch, scheduled, last, done, held_out }
    }

    fn are_left(&self) -> bool {
        self.done < self.last
    }

    /// Complete epochs in the first `step` steps.
    fn epochs_done(&self, step: u64) -> u32 {
        (step / self.per_epoch) as u32
    }

    fn is_epoch_end(&self, step: u64) -> bool {
        step.is_multiple_of(self.per_epoch)
    }
}

/// Trains as `config` says, together with the other `ranks`, and reports its progress. Sets the
/// size of rayon's global pool if nothing has yet. The first rank writes all files.
///
/// After a stop of any rank the step being taken is finished, or the wait for an epoch ended, and a
/// checkpoint written.
///
/// # Errors
/// [`Error::Stopped`] after a stop and [`Error::NotFinite`] for a NaN or infinite loss, on all ranks
/// after the same step; [`Error::Ranks`] if they would not train the same model; otherwise, on this
/// rank, the error of a file, an option or the device: it must then abort the others, which wait
/// for it.
pub fn train(
    config: &TrainConfig,
    dataset: &Dataset,
    resume: &Resume,
    ranks: &Ranks,
    reporter: &Reporter,
) -> Result<Summary> {
    let output = Output::new(&config.out);
    let checkpoints = output.checkpoints();
    let done = train_into(output, config, dataset, resume, ranks, reporter);
    reporter.end();
    if done.as_ref().err().is_none_or(Error::is_of_all_ranks) {
        // No rank ends before the first has written its files.
        ranks.wait_for_all();
    }
    done.map_err(|error| explain_full_disk(error, &checkpoints))
        .map_err(|error| explain_out_of_memory(error, config, ranks.size()))
}

fn train_into(
    output: Output,
    config: &TrainConfig,
    dataset: &Dataset,
    resume: &Resume,
    ranks: &Ranks,
    reporter: &Reporter,
) -> Result<Summary> {
    // An error means that the pool exists already, in a process that trains more than once.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build_global();
    let resumed = output.checkpoint_to_resume(resume, reporter)?;
    let steps = Steps::new(config, dataset, resumed.as_ref().map(|(_, info)| info));
    if !config.follow && steps.are_left() {
        // Before anything is written.
        dataset.success(Epoch(steps.epochs_done(steps.done)))?;
    }
    let sources = Arc::new(SourceImages::new(
        config.images.clone(),
        dataset.manifest().options.sources.clone(),
    ));
    let list = dataset.paths().sources();
    let is_recipe = dataset.manifest().options.views == ViewEncoding::Recipe;
    if is_recipe && steps.are_left() && store::has_file(&list)? {
        sources.check(&list)?;
    }
    let Hyperparameters { method, online_eval, .. } = config.hyperparameters;
    let classes = (online_eval == OnlineEval::On).then(|| Classes::read(dataset)).transpose()?;
    let learner_config = learner_config(&config.hyperparameters, classes.as_ref());
    let device = open_device(&config.device, reporter)?;
    let ranks = &ranks.on(&device)?;
    let learner = Learner::new(&learner_config, &device)?.among(ranks);
    match (&resumed, &config.init) {
        (Some((checkpoint, _)), init) => {
            checkpoint.load(&learner, &config.hyperparameters)?;
            if let Some(init) = init {
                let init = init.display();
                reporter.say(format_args!("init: {init} is not read, as the run resumes"));
            }
        }
        (None, Some(init)) => {
            let initialized = learner.initialize(Weights::read(init)?)?;
            reporter.say(format_args!("init: {initialized}"));
        }
        (None, None) => {}
    }
    // No rank is past this point before all have read what they start from.
    agreement::check(ranks, config, dataset, steps.done, &learner)?;
    if let Some(free) = gpu::free_memory(&device)?.filter(|_| steps.are_left()) {
        StepMemory::new(config, dataset).check(free, config, ranks.size())?;
    }
    let mut pipeline = Pipeline::new(learner, method, classes)?;
    let logs = match ranks.is_first() {
        true => {
            output.create()?;
            output.write_config(config)?;
            let log = MetricsLog::open(&output.metrics(), steps.done)?;
            Some((log, EventFile::open(output.root(), steps.done)?))
        }
        false => None,
    };
    let mut trainer = Trainer {
        config,
        dataset,
        reporter,
        sources,
        steps,
        schedule: schedule(&config.hyperparameters, steps),
        logs,
        ranks,
        output,
        held_out: None,
        interval: Interval::new(),
        logged: String::new(),
        has_collapsed: false,
    };
    trainer.hold_out()?;
    // A checkpoint from elsewhere is copied before its epochs count as consumed: a restart looks in
    // this folder.
    if resumed.is_none() || (config.consume && matches!(resume, Resume::From(_))) {
        trainer.write_checkpoint(pipeline.learner(), steps.done)?;
    }
    if resumed.is_none() {
        trainer.log_initial_health(&mut pipeline)?;
    }
    // The last run may have ended between its checkpoint and this record.
    trainer.record_consumed(steps.done)?;
    if resumed.is_some() {
        reporter.say(format_args!("resuming after step {}", steps.done));
    }
    let start = Instant::now();
    let done = trainer.take_steps(&mut pipeline);
    if let Some((log, _)) = &trainer.logs
        && matches!(done, Ok(()) | Err(Error::Stopped(_) | Error::NotFinite { .. }))
    {
        drawing::write(&trainer.output.drawing(), &log.read()?)?;
    }
    done?;
    if ranks.is_first() {
        trainer.output.write_backbone(pipeline.learner())?;
    }
    Ok(Summary {
        steps: steps.last.saturating_sub(steps.done),
        time: start.elapsed(),
        memory: gpu::peak_memory(&device)?,
    })
}

fn learner_config(options: &Hyperparameters, classes: Option<&Classes>) -> LearnerConfig {
    LearnerConfig {
        arch: options.arch,
        sizes: HeadSizes { hidden: options.hidden, projection: options.projection },
        seed: options.seed,
        copy_online: options.target_init == TargetInit::Online,
        dtype: options.precision.dtype(),
        optimizer: SgdConfig {
            momentum: MOMENTUM,
            nesterov: false,
            weight_decay: options.weight_decay as f32,
            trust: options.trust,
        },
        classes: classes.map(Classes::count),
    }
}

fn schedule(options: &Hyperparameters, steps: Steps) -> Schedule {
    Schedule(ScheduleConfig {
        peak_lr: options.peak_lr(),
        tau: options.ema,
        total_steps: steps.scheduled,
        warmup_steps: steps.per_epoch * u64::from(options.warmup_epochs),
    })
}

/// The state of the loop, apart from the learner.
struct Trainer<'a> {
    config: &'a TrainConfig,
    dataset: &'a Dataset,
    reporter: &'a Reporter,
    sources: Arc<SourceImages>,
    steps: Steps,
    schedule: Schedule,
    ranks: &'a Ranks,
    output: Output,
    /// The files of the metrics, which the first rank writes.
    logs: Option<(MetricsLog, EventFile)>,
    /// The pairs to measure health on, on the first rank.
    held_out: Option<HeldOut>,
    interval: Interval,
    /// The numbers of the last logged step, for the status between two of them.
    logged: String,
    /// Whether a collapse was reported.
    has_collapsed: bool,
}

impl Trainer<'_> {
    fn take_steps(&mut self, pipeline: &mut Pipeline) -> Result<()> {
        self.reporter.begin("steps", self.steps.last, self.steps.done);
        if !self.steps.are_left() {
            return Ok(());
        }
        let loader = self.start_loader()?;
        self.interval = Interval::new();
        for number in self.steps.done + 1..=self.steps.last {
            let batches = match self.next_batches(&loader) {
                Err(Error::Stopped(_)) => None,
                batches => Some(batches?),
            };
            let any_stopped = self.ranks.any(batches.is_none());
            let Some(batches) = batches.filter(|_| !any_stopped) else {
                self.collect(pipeline, true)?;
                return self.stop(pipeline.learner(), number - 1);
            };
            self.take_step(pipeline, number, &batches)?;
            batches.into_iter().for_each(|batch| loader.recycle(batch));
        }
        Ok(())
    }

    fn start_loader(&self) -> Result<Loader> {
        let Hyperparameters { batch_size, accumulate, epochs, .. } = self.config.hyperparameters;
        let loader = LoaderConfig {
            batch_size,
            own: self.ranks.part(batch_size),
            batches_per_epoch: self.steps.per_epoch * accumulate as u64,
            epochs,
            held_out: batches_held_out(
                self.steps.held_out,
                self.dataset.rows_per_epoch(),
                batch_size as u64,
                accumulate as u64,
            ),
            skip: self.steps.done * accumulate as u64,
            sources: self.sources.clone(),
            threads: self.config.threads,
            follow: self.config.follow,
        };
        Loader::start(self.dataset, loader)
    }

    /// The micro-batches of one step.
    fn next_batches(&mut self, loader: &Loader) -> Result<Vec<Batch>> {
        let start = Instant::now();
        let ended = || Error::dataset(&self.config.shards, "the shards ended before the schedule");
        let batches: Vec<Batch> = (0..self.config.hyperparameters.accumulate)
            .map(|_| loader.next_batch(self.reporter)?.ok_or_else(ended))
            .collect::<Result<_>>()?;
        self.interval.waited += start.elapsed();
        self.interval.pairs += batches.iter().map(Batch::pairs).sum::<usize>();
        Ok(batches)
    }

    /// Takes a step; logs it and writes a checkpoint where it is time to.
    fn take_step(&mut self, pipeline: &mut Pipeline, number: u64, batches: &[Batch]) -> Result<()> {
        let (lr, ema) = (self.schedule.lr(number), self.schedule.tau(number));
        let matches = batches.iter().map(|batch| self.matches(batch)).sum();
        let is_last = number == self.steps.last;
        let is_saved = number.is_multiple_of(self.config.checkpoint_every)
            || is_last
            || (self.config.consume && self.steps.is_epoch_end(number));
        // All ranks take the same steps for logged ones, as they compute the embedding std together.
        let is_measured = self.config.health == HealthCheck::Auto
            && self.steps.held_out > 0
            && (is_saved || is_early(number));
        let is_logged = number.is_multiple_of(self.config.log_every) || is_last || is_measured;
        let step = Step { number, batches, matches, lr, ema, embedding_std: is_logged };
        let has_result = pipeline.start(&step)?;
        let is_stopped = self.ranks.any(self.reporter.check_stop().is_err());
        let is_waited_for = is_logged || is_saved || is_stopped || !has_result;
        let newest = self.collect(pipeline, is_waited_for)?.filter(|_| has_result);
        if !has_result {
            let only = "has no matched box; only the target network was updated";
            self.reporter.say(format_args!("note: step {number} {only}"));
            self.reporter.advance(1);
        }
        let (loss, std) = newest.map_or((0.0, None), |newest| (newest.loss, newest.embedding_std));
        let health = if is_measured { self.measure_health(pipeline)? } else { None };
        if is_logged {
            let metrics = self.interval.complete(Metrics {
                step: number,
                epoch: batches[0].epoch.0,
                loss,
                lr,
                ema,
                boxes: matches,
                pairs_per_s: 0.0,
                data_wait: 0.0,
                online_acc: None,
                projection_std: std.map(|std| std.projections),
                target_std: std.map(|std| std.targets),
                effective_rank: health.map(|health| health.effective_rank),
                box_retrieval: health.map(|health| health.box_retrieval),
                memory: gpu::peak_memory(pipeline.learner().device())?,
            });
            self.log(&metrics)?;
            if let Some(health) = health {
                self.report_health(number, health);
            }
            self.check_collapse(number, std);
        }
        match (is_stopped, is_saved) {
            (true, _) if !is_last => self.stop(pipeline.learner(), number),
            (_, true) => self.save(pipeline.learner(), number),
            (_, false) => Ok(()),
        }
    }

    /// Reads the held-out pairs on the first rank, where there are any; else says why not.
    fn hold_out(&mut self) -> Result<()> {
        if !self.steps.are_left()
            || !self.ranks.is_first()
            || self.config.health == HealthCheck::Off
        {
            return Ok(());
        }
        let Steps { held_out: count, scheduled, per_epoch, done, .. } = self.steps;
        if count == 0 {
            let reason = match done {
                0 => "an epoch has too few pairs to hold some out",
                _ => "the run began without held-out pairs",
            };
            self.reporter.say(format_args!("health: off, as {reason}"));
            return Ok(());
        }
        let (options, every) = (&self.config.hyperparameters, self.config.checkpoint_every);
        // With `--consume` there are checkpoints at the ends of epochs as well.
        let rate = 1.0 / every as f64 + f64::from(self.config.consume) / per_epoch as f64;
        let pairs = options.pairs_per_step() as u64;
        let when = held_out::Schedule { steps: scheduled, pairs, checkpoint_every: 1.0 / rate };
        match HeldOut::read(count, when, options, self.dataset, &self.sources) {
            Ok(pairs) => {
                let (count, boxes) = pairs.counts();
                self.reporter.say(format_args!(
                    "health: measured on {boxes} matched boxes of {count} held-out pairs"
                ));
                self.held_out = Some(pairs);
            }
            Err(error) => self
                .reporter
                .say(format_args!("health: off, as the held-out pairs cannot be read: {error}")),
        }
        Ok(())
    }

    /// Reports the health of the initial weights. `metrics.jsonl` begins with the first step.
    fn log_initial_health(&mut self, pipeline: &mut Pipeline) -> Result<()> {
        let Some(health) = self.measure_health(pipeline)? else { return Ok(()) };
        if let Some((_, events)) = &mut self.logs {
            events.write(&Metrics {
                effective_rank: Some(health.effective_rank),
                box_retrieval: Some(health.box_retrieval),
                ..Metrics::initial()
            })?;
        }
        self.report_health(0, health);
        Ok(())
    }

    /// The health after the last step, which must have ended.
    fn measure_health(&self, pipeline: &mut Pipeline) -> Result<Option<Health>> {
        self.held_out.as_ref().map_or(Ok(None), |pairs| pairs.measure(pipeline))
    }

    /// Reports the health after a step, and a collapse that it shows, once.
    fn report_health(&mut self, step: u64, health: Health) {
        self.reporter.say(format_args!("health: {health} (step {step})"));
        let Health { boxes, effective_rank, .. } = health;
        if !self.has_collapsed && step > 0 && is_collapsed_rank(effective_rank, boxes) {
            self.has_collapsed = true;
            self.reporter.say(format_args!(
                "warning: after step {step} the features of all held-out boxes lie nearly on a line \
                 (effective rank {effective_rank:.1}): close to a collapse; try a smaller --lr, \
                 --preset small or an --ema nearer to 1"
            ));
        }
    }

    /// Collects the results of pending steps, of all or of those that need no waiting, and returns
    /// the last one.
    fn collect(&mut self, pipeline: &mut Pipeline, all: bool) -> Result<Option<StepResult>> {
        let mut last = None;
        for result in pipeline.results(all)? {
            if !result.loss.is_finite() {
                return Err(self.not_finite(result)?);
            }
            if let Some((labeled, correct)) = result.online {
                self.interval.add(labeled, correct);
            }
            self.show(result.number, result.loss);
            self.reporter.advance(1);
            last = Some(result);
        }
        Ok(last)
    }

    /// The number of matched regions of a batch.
    fn matches(&self, batch: &Batch) -> usize {
        match self.config.hyperparameters.method {
            Method::Scrl => batch.matches,
            Method::Byol => batch.pairs(),
        }
    }

    /// Sets the status: the loss of a step, and the other numbers of the last logged one.
    fn show(&self, step: u64, loss: f32) {
        let epoch = self.steps.epochs_done(step - 1);
        self.reporter.set_status(format_args!("epoch {epoch}  loss {loss:.4}{}", self.logged));
    }

    /// Writes the metrics that end an interval, and reports them.
    fn log(&mut self, metrics: &Metrics) -> Result<()> {
        if let Some((log, events)) = &mut self.logs {
            log.write(metrics)?;
            events.write(metrics)?;
        }
        self.interval = Interval::new();
        let Metrics { step, loss, lr, pairs_per_s, data_wait, online_acc, .. } = metrics;
        let accuracy = online_acc.map(|accuracy| format!("  accuracy {:.1} %", 100.0 * accuracy));
        let is_first = self.logged.is_empty();
        self.logged = format!(
            "  lr {lr:.3e}  {pairs_per_s:.1} pairs/s  data wait {:.0} %{}",
            100.0 * data_wait,
            accuracy.unwrap_or_default()
        );
        self.show(*step, *loss);
        self.reporter.log();
        if is_first && std::env::var_os(LOG_PLANS).is_some() {
            plans().iter().for_each(|plan| self.reporter.say(format_args!("plan: {plan}")));
        }
        Ok(())
    }

    /// Reports a collapse, once.
    fn check_collapse(&mut self, step: u64, std: Option<EmbeddingStd>) {
        let dimensions = self.config.hyperparameters.projection;
        let Some(std) = std.filter(|std| !self.has_collapsed && is_collapsed(std, dimensions))
        else {
            return;
        };
        self.has_collapsed = true;
        self.reporter.say(format_args!(
            "warning: after step {step} the embeddings of all views are nearly the same (embedding \
             std {:.1e}, targets {:.1e}; {:.1e} is healthy): a collapse, from which a run rarely \
             recovers; try a smaller --lr, a larger batch or an --ema nearer to 1",
            std.projections,
            std.targets,
            healthy_embedding_std(dimensions)
        ));
    }

    /// Saves the run after a stop, and says where.
    fn stop(&self, learner: &Learner, step: u64) -> Result<()> {
        self.save(learner, step)?;
        let checkpoint = self.output.checkpoints().join(Checkpoint::file_name(step));
        self.reporter.say(format_args!("stopped after step {step}: {}", checkpoint.display()));
        Err(Stopped.into())
    }

    /// Compares the ranks and writes a checkpoint; only then records the epochs before it as
    /// consumed.
    fn save(&self, learner: &Learner, step: u64) -> Result<()> {
        agreement::check_state(self.ranks, step, learner.state())?;
        self.write_checkpoint(learner, step)?;
        self.record_consumed(step)
    }

    /// With `--consume`, records in `consumed.json` the epochs that no run from `step` on needs,
    /// unless more are recorded already. A record of none at the start shows whether the folder
    /// can be written to.
    fn record_consumed(&self, step: u64) -> Result<()> {
        if !self.config.consume || !self.ranks.is_first() {
            return Ok(());
        }
        let path = self.dataset.paths().consumed();
        let consumed = Consumed { epochs: self.steps.epochs_done(step) };
        let is_there = store::has_file(&path)?;
        if !is_there || Consumed::read(&path)?.epochs < consumed.epochs {
            consumed.write(&path)?;
        }
        Ok(())
    }

    fn write_checkpoint(&self, learner: &Learner, step: u64) -> Result<()> {
        if !self.ranks.is_first() {
            return Ok(());
        }
        let pairs = self.config.hyperparameters.pairs_per_step() as u64;
        let info = CheckpointInfo {
            step,
            epoch: self.steps.epochs_done(step),
            position: step % self.steps.per_epoch * pairs,
            rows_per_epoch: self.dataset.rows_per_epoch(),
            held_out: self.steps.held_out,
            recorded: self.config.hyperparameters.recorded(),
        };
        Checkpoint::write(&self.output.checkpoints(), learner, self.config, info)
    }

    fn not_finite(&self, result: StepResult) -> Result<Error> {
        let StepResult { number: step, loss, images, .. } = result;
        let checkpoint = match Checkpoint::list(&self.output.checkpoints())?.pop() {
            Some(checkpoint) => format!("the last checkpoint is {}", checkpoint.path.display()),
            None => "there is no checkpoint".to_owned(),
        };
        Ok(Error::NotFinite { step, loss, images, checkpoint })
    }
}
