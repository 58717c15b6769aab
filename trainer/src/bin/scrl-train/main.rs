//! `scrl-train`: from shards to a backbone.

mod cli;
mod report;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use scrl_cli::Stop;
use scrl_trainer::Error;
use scrl_trainer::data::{Begin, Dataset};
use scrl_trainer::train::{CheckpointInfo, Options, Output, Resume, TrainConfig, train};

use cli::Arguments;
use report::Report;

fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    match run(scrl_cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-train", &error),
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let stop = Stop::on_ctrl_c()?;
    let shards = arguments.shards;
    let mut report = Report::new(arguments.quiet);
    let options = arguments.options;
    let resume = options.resume.clone().unwrap_or(Resume::Auto);
    let out = options.out.clone().unwrap_or_else(scrl_cli::default_out);
    let dataset = open(&shards, &options, &out, &resume, &report, &stop)?;
    let config = TrainConfig::resolve(options, &dataset, out)?;
    report.outline(&config, dataset.rows_per_epoch());
    let done = train(&config, &dataset, &resume, stop.flag(), &mut |progress| {
        report.progress(&progress, &shards)
    });
    report.finish();
    done?;
    report.summary(&config.out);
    Ok(())
}

/// Opens the prepared folder where the training begins, or goes on.
fn open(
    shards: &Path,
    options: &Options,
    out: &Path,
    resume: &Resume,
    report: &Report,
    stop: &Stop,
) -> Result<Dataset> {
    // The training says which checkpoints are damaged.
    let resumed = Output::new(out).checkpoint_to_resume(resume, &mut |_| ())?.map(|(_, info)| info);
    let begin = resumed.as_ref().map_or_else(Begin::default, CheckpointInfo::begin);
    if !options.follow {
        return Ok(Dataset::open_at(shards, begin)?);
    }
    let mut told = None;
    let dataset = Dataset::follow(shards, begin, &mut |awaited| {
        if told.replace(awaited) != Some(awaited) {
            report.waiting(awaited, shards);
        }
        let step = resumed.map_or(0, |info| info.step);
        if stop.is_set() { Err(Error::Interrupted { step }) } else { Ok(()) }
    });
    Ok(dataset?)
}
