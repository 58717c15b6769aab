//! `scrl-train`: from shards to a backbone.

mod cli;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use scrl_cli::{Reporter, Stop, World, usage_error};
use scrl_trainer::collective::{self, Ranks};
use scrl_trainer::data::{Dataset, Start};
use scrl_trainer::train::{CheckpointInfo, Output, Resume, TrainConfig, train};

use cli::Arguments;

fn main() -> ExitCode {
    let arguments: Arguments = scrl_cli::parse();
    let world = World::detect(&arguments.world)
        .unwrap_or_else(|error| usage_error::<Arguments>(error).exit());
    collective::run("scrl-train", world, |ranks| run(arguments, ranks))
}

fn run(arguments: Arguments, ranks: &Ranks) -> anyhow::Result<()> {
    let Arguments { shards, options, quiet, .. } = arguments;
    let reporter = Reporter::new(quiet || !ranks.is_first(), Stop::on_ctrl_c()?);
    let resume = options.resume.clone().unwrap_or(Resume::Auto);
    // The time in the default name is the first rank's.
    let out = options.out.clone().unwrap_or_else(scrl_cli::default_out);
    let out = PathBuf::from(ranks.gather_texts(&out.to_string_lossy()).swap_remove(0));
    // `train` reports damaged checkpoints.
    let resumed = Output::new(&out).checkpoint_to_resume(&resume, &Reporter::silent())?;
    let resumed = resumed.map(|(_, info)| info);
    let start = resumed.as_ref().map_or_else(Start::default, CheckpointInfo::start);
    let dataset = if options.follow {
        Dataset::follow(&shards, start, &reporter)?
    } else {
        Dataset::open_at(&shards, start)?
    };
    let recorded = resumed.map(|info| info.recorded);
    let config = TrainConfig::resolve(options, &dataset, out, ranks, recorded)?;
    report::outline(&reporter, &config, &dataset, ranks);
    let summary = train(&config, &dataset, &resume, ranks, &reporter)?;
    report::summary(&reporter, &summary, &config);
    Ok(())
}
