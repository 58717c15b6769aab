//! What the user sees: the plan, the progress, the result. All of it on standard error, as nothing here is output.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use scrl_preprocess::config::Share;
use scrl_preprocess::prepare::{Outline, Summary, Watch};
use scrl_schemas::Encoding;

/// Time between two plain lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Tells how a run is getting on: a bar on a terminal, plain lines elsewhere, nothing where quiet.
pub struct Report {
    quiet: bool,
    bar: Option<ProgressBar>,
    total: AtomicU64,
    done: AtomicU64,
    clock: Mutex<Clock>,
}

/// For the plain lines: when the making of pairs began, and when it was told of last.
struct Clock {
    start: Instant,
    last_line: Instant,
}

impl Clock {
    fn new() -> Self {
        let now = Instant::now();
        Self { start: now, last_line: now }
    }
}

impl Report {
    /// A report that has nothing to tell yet.
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::hidden();
            let style = "{wide_bar} {human_pos}/{human_len} pairs  {per_sec}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar
        });
        Self {
            quiet,
            bar,
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            clock: Mutex::new(Clock::new()),
        }
    }

    fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    /// Tells which share of the work is this process's.
    pub fn share(&self, share: Share, starter: Option<&str>) {
        let told = starter.map_or(String::new(), |starter| format!(" (told by {starter})"));
        if share != Share::WHOLE {
            self.say(format_args!("{share}{told}"));
        }
    }

    /// Tells what is about to be done.
    pub fn outline(&self, outline: &Outline, views: Encoding) {
        let images = counted(outline.images, "image");
        let classes = match outline.classes {
            0 => String::new(),
            1 => " in 1 class".to_owned(),
            count => format!(" in {} classes", HumanCount(count)),
        };
        let mut odd = Vec::new();
        if outline.unreadable > 0 {
            odd.push(format!("{} unreadable", HumanCount(outline.unreadable)));
        }
        if outline.ignored > 0 {
            odd.push(format!("{} ignored", counted(outline.ignored, "other file")));
        }
        let odd = if odd.is_empty() { String::new() } else { format!(" ({})", odd.join(", ")) };
        self.say(format_args!("{images}{classes}{odd}"));
        let finished = match outline.parts_finished {
            0 => String::new(),
            count => format!(", {count} of them finished"),
        };
        self.say(format_args!(
            "{} of {}{finished}; {} pairs to write as {views}, about {} in about {}",
            counted(outline.epochs, "epoch"),
            counted(outline.parts_per_epoch, "part"),
            HumanCount(outline.pairs_to_write),
            HumanBytes(outline.bytes_to_write),
            HumanDuration(outline.time)
        ));
    }

    /// Starts the bar and the clock.
    pub fn start(&self, pairs: u64) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Clock::new();
        self.total.store(pairs, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_length(pairs);
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            bar.reset();
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Tells what was done.
    pub fn summary(&self, summary: &Summary, shards: &Path) {
        let seconds = summary.time.as_secs_f64();
        let unreadable = match summary.unreadable {
            0 => String::new(),
            count => format!(", {count} images unreadable (see sources.parquet)"),
        };
        self.say(format_args!(
            "{} pairs in {seconds:.1} s, {:.0} pairs/s{unreadable}; {}",
            HumanCount(summary.pairs),
            summary.pairs as f64 / seconds,
            match summary.incomplete {
                0 => format!("{} is complete", shards.display()),
                count => format!(
                    "{} wait in {} for other ranks, the last of which completes them",
                    counted(count, "epoch"),
                    shards.display()
                ),
            }
        ));
    }
}

impl Watch for Report {
    fn rendered(&self, pairs: u64) {
        let done = self.done.fetch_add(pairs, Ordering::Relaxed) + pairs;
        if let Some(bar) = &self.bar {
            bar.inc(pairs);
            return;
        }
        // Whoever finds the lock taken leaves the line to the one who has it.
        let Ok(mut clock) = self.clock.try_lock() else { return };
        if clock.last_line.elapsed() >= LINE_INTERVAL {
            clock.last_line = Instant::now();
            let rate = done as f64 / clock.start.elapsed().as_secs_f64();
            let left = self.total.load(Ordering::Relaxed).saturating_sub(done) as f64 / rate;
            self.say(format_args!(
                "{} of {} pairs, {rate:.0} pairs/s, {} left",
                HumanCount(done),
                HumanCount(self.total.load(Ordering::Relaxed)),
                HumanDuration(Duration::from_secs_f64(left))
            ));
        }
    }

    fn note(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.println(message),
            None => self.say(message),
        }
    }
}

/// A number and what it counts, in the plural where it is not one.
fn counted(count: impl Into<u64>, of: &str) -> String {
    let count = count.into();
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {of}{plural}", HumanCount(count))
}

/// Refuses a run that the disk has no room for.
///
/// # Errors
/// One line with the sizes of all three encodings.
pub fn check_space(outline: &Outline, views: Encoding, shards: &Path) -> anyhow::Result<()> {
    let Some(free) = outline.free_bytes.filter(|&free| free < outline.bytes_needed) else { return Ok(()) };
    let epochs = u64::from(outline.epochs);
    let bytes = outline.estimate.bytes;
    let size = |encoding| HumanBytes(bytes.of(encoding).saturating_mul(epochs));
    let keep = match free / bytes.of(views).max(1) {
        0 => format!("not even one epoch fits as {views}"),
        fitting => format!("--keep {fitting} fits, with scrl-train --consume beside it"),
    };
    bail!(
        "{}: has {} free and {} take about {} as webp, {} as jpeg, {} as recipe; {keep}; or choose other --views, \
         fewer epochs with --only, or another disk",
        shards.display(),
        HumanBytes(free),
        counted(outline.epochs, "epoch"),
        size(Encoding::Webp),
        size(Encoding::Jpeg),
        size(Encoding::Recipe)
    );
}
