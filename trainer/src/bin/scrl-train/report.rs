//! What the user sees: a bar on a terminal, plain lines otherwise; all on standard error.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, HumanDuration, ProgressBar, ProgressStyle};
use scrl_trainer::data::Awaited;
use scrl_trainer::train::{Metrics, Plan, Progress, TrainConfig, healthy_embedding_std};

/// Tells how a run is getting on.
pub struct Report {
    quiet: bool,
    bar: Option<ProgressBar>,
    start: Instant,
    plan: Option<Plan>,
    /// How the last logged line ended, for the bar to show until the next.
    details: String,
    /// What the embedding std should be about.
    healthy_std: f64,
}

impl Report {
    /// A report; where quiet, it says nothing.
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            // In 80 columns the numbers leave room for a short bar.
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}");
            ProgressBar::hidden().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self {
            quiet,
            bar,
            start: Instant::now(),
            plan: None,
            details: String::new(),
            healthy_std: 0.0,
        }
    }

    fn say(&self, line: String) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Tells what will be trained.
    pub fn outline(&mut self, config: &TrainConfig, rows: u64) {
        self.healthy_std = healthy_embedding_std(config.projection);
        self.say(format!(
            "{} with {} on {}: {rows} pairs an epoch, {} a step; writing to {}",
            match config.method {
                scrl_trainer::train::Method::Scrl => "SCRL",
                scrl_trainer::train::Method::Byol => "BYOL",
            },
            config.arch,
            config.device,
            config.batch_size * config.accumulate,
            config.out.display()
        ));
        if let Some(reason) = &config.why_cpu {
            self.say(format!("note: on the CPU, as {reason}"));
        }
        if config.warmup_epochs >= config.epochs {
            self.say(format!(
                "note: the learning rate rises for all {} epochs, as --warmup-epochs is {}",
                config.epochs, config.warmup_epochs
            ));
        }
    }

    /// Takes note of what the run says.
    pub fn progress(&mut self, progress: &Progress, shards: &Path) {
        match progress {
            Progress::Start(plan) => self.begin(*plan),
            Progress::Step { step, loss } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(*step);
                    let left = self.left(*step).map(|left| format!(" left {}", FormattedDuration(left)));
                    let left = left.unwrap_or_default();
                    bar.set_message(format!("loss {loss:.4}{}{left}", self.details));
                }
            }
            Progress::Logged(metrics) => self.logged(metrics),
            Progress::Damaged(error) => self.say(format!("warning: {error}; going on from an older one")),
            Progress::Initialized(initialized) => self.say(format!("init: {initialized}")),
            Progress::InitNotRead(file) => self
                .say(format!("init: {} is not read, as the run goes on from a checkpoint", file.display())),
            Progress::Waiting(epoch) => self.waiting(Awaited::Epoch(*epoch), shards),
            Progress::NoBoxes { step } => {
                self.say(format!("note: step {step} has no matched box; only the target network moved"));
            }
            Progress::Collapsed { step, std } => self.say(format!(
                "warning: after step {step} the networks answer nearly the same to every view (standard deviation \
                 {:.1e} a dimension, targets {:.1e}; {:.1e} would be healthy): a collapse, from which a run rarely \
                 recovers; try a smaller --lr, a larger batch or an --ema nearer to 1",
                std.projections, std.targets, self.healthy_std
            )),
        }
    }

    /// Tells what the run waits for.
    pub fn waiting(&self, awaited: Awaited, shards: &Path) {
        self.say(format!("waiting for {awaited} of {} …; is scrl-prep running?", shards.display()));
    }

    fn begin(&mut self, plan: Plan) {
        self.start = Instant::now();
        self.plan = Some(plan);
        if plan.done > 0 {
            self.say(format!("going on after step {}", plan.done));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(plan.steps);
            bar.set_position(plan.done);
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(500));
        }
    }

    fn logged(&mut self, metrics: &Metrics) {
        let Metrics { step, epoch, loss, lr, pairs_per_s, data_wait, online_acc, .. } = metrics;
        let wait = data_wait * 100.0;
        let accuracy = online_acc.map(|share| share * 100.0);
        if self.bar.is_some() {
            let accuracy =
                accuracy.map_or_else(String::new, |percent| format!(" acc {percent:.0}%"));
            self.details =
                format!(" lr {lr:.1e} {pairs_per_s:.1} pairs/s wait {wait:.0}%{accuracy}");
            return;
        }
        let (Some(plan), Some(left)) = (self.plan, self.left(*step)) else { return };
        let accuracy =
            accuracy.map_or_else(String::new, |percent| format!("  accuracy {percent:.1} %"));
        self.say(format!(
            "step {step}/{}  epoch {epoch}  loss {loss:.4}  lr {lr:.3e}  {pairs_per_s:.1} pairs/s  \
             data wait {wait:.0} %{accuracy}  {} left",
            plan.steps,
            HumanDuration(left)
        ));
    }

    /// The time left after a step, at the speed since this start of the run.
    fn left(&self, step: u64) -> Option<Duration> {
        let plan = self.plan?;
        let done = step.checked_sub(plan.done).filter(|done| *done > 0)?;
        Some(self.start.elapsed().mul_f64((plan.steps - step) as f64 / done as f64))
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Tells where the results lie.
    pub fn summary(&self, out: &Path) {
        let steps = self.plan.map_or(0, |plan| plan.steps - plan.done.min(plan.steps));
        self.say(format!(
            "{steps} steps done in {}; the backbone is {}, the losses are in {}",
            HumanDuration(self.start.elapsed()),
            out.join("backbone.safetensors").display(),
            out.join("metrics.jsonl").display()
        ));
    }
}
