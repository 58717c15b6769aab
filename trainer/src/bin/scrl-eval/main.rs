//! `scrl-eval`: how good is a backbone?

mod cli;
#[path = "../shared/out.rs"]
mod out;
mod report;
#[path = "../shared/mod.rs"]
mod shared;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::Parser;
use scrl_trainer::Error;
use scrl_trainer::evaluate::{Results, Subject, Watch, evaluate_boxes, evaluate_photos};

use cli::{Arguments, Common, Protocol};
use report::Report;

/// Set by Ctrl-C; the evaluation looks at it after each batch.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => shared::fail("scrl-eval", &error),
    }
}

fn run(arguments: Arguments) -> Result<()> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).context("watching for Ctrl-C")?;
    match arguments.protocol {
        Protocol::Roi(options) => {
            let options = options.completed()?;
            let config = options.resolve()?;
            judge(&options.common, &config.subject, |watch| evaluate_boxes(&config, watch))
        }
        Protocol::Linear(options) => {
            let options = options.completed()?;
            let config = options.resolve()?;
            judge(&options.common, &config.subject, |watch| evaluate_photos(&config, watch))
        }
    }
}

/// Runs a protocol, shows its table, and writes its files.
fn judge(
    common: &Common,
    subject: &Subject,
    protocol: impl FnOnce(&mut Watch) -> Result<Results, Error>,
) -> Result<()> {
    if let Some(threads) = common.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let mut report = Report::new(common.quiet, subject.probe.epochs);
    let results = protocol(&mut Watch::new(&STOP, &mut |progress| report.progress(progress)));
    report.finish();
    let results = results?;
    let [json, png] = results.write(&subject.out)?;
    if !common.quiet {
        println!("{}", results.table());
        println!("{} of {}: {}, {}", results.arch, results.checkpoint, json.display(), png.display());
    }
    Ok(())
}
