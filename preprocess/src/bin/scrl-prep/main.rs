//! `scrl-prep`: from a folder of images to epochs of shards.

mod cli;
mod ranks;
mod report;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{anyhow, bail};
use scrl_preprocess::Error;
use scrl_preprocess::prepare::Job;

use cli::Command;
use report::Report;

/// Exit code after Ctrl-C, as a shell reports a process that the signal ended.
const INTERRUPTED: u8 = 130;

/// Set by Ctrl-C; the run looks at it between images and parts.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    let command = cli::parse();
    match prepare(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not the chain of causes: each message tells its cause itself.
            eprintln!("scrl-prep: {error}");
            match error.downcast_ref::<Error>() {
                Some(Error::Interrupted) => ExitCode::from(INTERRUPTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn prepare(Command { config, starter, dry_run, quiet }: Command) -> anyhow::Result<()> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))
        .map_err(|error| anyhow!("watching for Ctrl-C: {error}"))?;
    let (shards, max_bad, views) = (config.shards.clone(), config.max_bad, config.options.views);
    let report = Report::new(quiet);
    report.share(config.share, starter);
    let job = Job::plan(config)?;
    let outline = job.outline();
    report.outline(&outline, views);
    report::check_space(&outline, views, &shards)?;
    if dry_run {
        return Ok(());
    }
    report.start(outline.pairs_to_write);
    let done = job.run(&report, &STOP);
    report.finish();
    let summary = done?;
    report.summary(&summary, &shards);
    if summary.unreadable_share() > max_bad {
        bail!(
            "{} of {} images could not be read, more than --max-bad {max_bad}; {} has the reasons",
            summary.unreadable,
            summary.images,
            shards.join("sources.parquet").display()
        );
    }
    Ok(())
}
