//! What the user sees while an evaluation runs, on standard error: a bar on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use scrl_trainer::evaluate::Progress;

/// Time between plain lines.
const PAUSE: Duration = Duration::from_secs(10);

/// Tells how an evaluation is getting on.
pub struct Report {
    quiet: bool,
    bar: Option<ProgressBar>,
    what: &'static str,
    done: usize,
    steps: usize,
    start: Instant,
    told: Instant,
    epochs: u32,
}

impl Report {
    /// For a linear layer of so many epochs; where quiet, it says nothing.
    pub fn new(quiet: bool, epochs: u32) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {per_sec}, {eta} left");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let now = Instant::now();
        Self { quiet, bar, what: "", done: 0, steps: 0, start: now, told: now, epochs }
    }

    fn say(&self, line: String) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Takes note of news.
    pub fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Begin { what, steps } => self.begin(what, steps),
            Progress::Advance(steps) => self.advance(steps),
            Progress::Note(text) => self.say(text),
            Progress::Epoch { epoch, loss, accuracy } => {
                let percent = 100.0 * accuracy;
                if let Some(bar) = &self.bar {
                    bar.set_length(self.epochs.into());
                    bar.set_position(u64::from(epoch) + 1);
                    bar.set_message(format!("linear layer: loss {loss:.3}, {percent:.1} % right"));
                } else if epoch + 1 == self.epochs || self.told.elapsed() > PAUSE {
                    self.told = Instant::now();
                    let (epoch, epochs) = (epoch + 1, self.epochs);
                    self.say(format!(
                        "linear layer: epoch {epoch}/{epochs}  loss {loss:.3}  {percent:.1} % right"
                    ));
                }
            }
        }
    }

    fn begin(&mut self, what: &'static str, steps: usize) {
        (self.what, self.done, self.steps, self.start) = (what, 0, steps, Instant::now());
        self.told = self.start;
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(steps as u64);
            bar.set_message(what);
        }
    }

    fn advance(&mut self, steps: usize) {
        self.done += steps;
        if let Some(bar) = &self.bar {
            bar.inc(steps as u64);
            return;
        }
        let ended = self.done == self.steps;
        if !ended && self.told.elapsed() < PAUSE {
            return;
        }
        self.told = Instant::now();
        let Self { what, done, steps, .. } = *self;
        let elapsed = self.start.elapsed();
        let left = elapsed.mul_f64(steps.saturating_sub(done) as f64 / done.max(1) as f64);
        let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
        let end = if ended { String::new() } else { format!(", {} left", HumanDuration(left)) };
        self.say(format!("{what}: {done}/{steps}, {rate:.1}/s{end}"));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
