//! `scrl-train`: from shards to a backbone.

mod cli;
mod report;

use std::process::ExitCode;

use scrl_cli::{Reporter, Stop};
use scrl_trainer::Error;
use scrl_trainer::data::{Dataset, Start};
use scrl_trainer::train::{CheckpointInfo, Output, Resume, TrainConfig, train};

use cli::Arguments;

fn main() -> ExitCode {
    match run(scrl_cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-train", &error),
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { shards, options, quiet, .. } = arguments;
    let reporter = Reporter::new(quiet, Stop::on_ctrl_c()?);
    let resume = options.resume.clone().unwrap_or(Resume::Auto);
    let out = options.out.clone().unwrap_or_else(scrl_cli::default_out);
    // `train` reports damaged checkpoints.
    let resumed = Output::new(&out).checkpoint_to_resume(&resume, &Reporter::silent())?;
    let start = resumed.map_or_else(Start::default, |(_, info): (_, CheckpointInfo)| info.start());
    let dataset = if options.follow {
        Dataset::follow(&shards, start, &reporter)?
    } else {
        Dataset::open_at(&shards, start)?
    };
    let config = TrainConfig::resolve(options, &dataset, out)?;
    report::outline(&reporter, &config, &dataset);
    let summary = train(&config, &dataset, &resume, &reporter)?;
    report::summary(&reporter, &summary, &config);
    Ok(())
}
