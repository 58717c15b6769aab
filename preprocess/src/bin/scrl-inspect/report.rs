//! What the user sees besides the numbers: progress, files written, the verdict.

use std::io::IsTerminal;
use std::path::Path;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use scrl_preprocess::inspect::verify::Verdict;
use scrl_preprocess::inspect::{Progress, Shards};

use scrl_cli::STOP;

/// Tells how a look is getting on: a bar on a terminal, nothing elsewhere, as results follow soon.
pub struct Report {
    quiet: bool,
    shows_bar: bool,
}

impl Report {
    /// A report that has nothing to tell yet.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, shows_bar: !quiet && std::io::stderr().is_terminal() }
    }

    /// Follows some work through `total` of what it counts.
    pub fn follow<T>(&self, total: u64, unit: &str, work: impl FnOnce(&Progress) -> T) -> T {
        let target = if self.shows_bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = format!("{{wide_bar}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&style) {
            bar.set_style(style);
        }
        let done = work(&Progress { advance: &|count| bar.inc(count), stop: &STOP });
        bar.finish_and_clear();
        done
    }

    /// Tells of a file that has been written.
    pub fn written(&self, file: &Path, bytes: u64) {
        if !self.quiet {
            eprintln!("{}: {}", file.display(), HumanBytes(bytes));
        }
    }

    /// Tells what a check found: each fault on a line of its own on standard error, what is right on standard output.
    pub fn verdict(&self, shards: &Shards, verdict: &Verdict) {
        for fault in &verdict.faults {
            eprintln!("{}: {}", fault.file, fault.what);
        }
        let more = verdict.fault_count - verdict.faults.len() as u64;
        if more > 0 {
            eprintln!("… and {} more faults", HumanCount(more));
        }
        for note in &verdict.notes {
            eprintln!("{note}");
        }
        if !shards.unfinished.is_empty() && !self.quiet {
            eprintln!("not looked at: {} unfinished epochs", shards.unfinished.len());
        }
        if verdict.fault_count == 0 && !self.quiet {
            let pixels = match (verdict.pixels, shards.are_recipes()) {
                (0, _) => String::new(),
                (count, true) => format!(", {} sources decode to their sizes", HumanCount(count)),
                (count, false) => {
                    format!(", the pictures of {} rows are those of their sources", HumanCount(count))
                }
            };
            println!(
                "{} parts, {}: every checksum is right, {} rows are those of seed {}{pixels}",
                HumanCount(verdict.parts),
                HumanBytes(verdict.bytes),
                HumanCount(verdict.rows),
                shards.manifest.seed
            );
        }
    }
}
