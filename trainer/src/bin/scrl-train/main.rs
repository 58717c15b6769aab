//! `scrl-train`: from shards to a backbone.

mod cli;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use scrl_cli::{Reporter, Stop, World, usage_error};
use scrl_trainer::Error;
use scrl_trainer::collective::{self, AbortOnPanic, Ranks};
use scrl_trainer::data::{Dataset, Start};
use scrl_trainer::train::{CheckpointInfo, Output, Resume, TrainConfig, train};

use cli::Arguments;

/// The time that a rank leaves the first one to report an error that all have, and to end them.
const FIRST_RANKS_TURN: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let arguments: Arguments = scrl_cli::parse();
    let (world, launcher) = World::detect(&arguments.world)
        .unwrap_or_else(|error| usage_error::<Arguments>(error).exit());
    let ranks = match collective::start(world, launcher) {
        Ok(ranks) => ranks,
        Err(error) => {
            if world.rank > 0 {
                thread::sleep(FIRST_RANKS_TURN);
            }
            return scrl_cli::fail::<Error>("scrl-train", &error.into());
        }
    };
    let _abort = AbortOnPanic(&ranks);
    match run(arguments, &ranks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if ranks.is_alone() => scrl_cli::fail::<Error>("scrl-train", &error),
        Err(error) => fail_all(&ranks, &error),
    }
}

/// Reports an error in one line and ends all ranks, which may be waiting for this one.
fn fail_all(ranks: &Ranks, error: &anyhow::Error) -> ! {
    if ranks.is_first() {
        scrl_cli::fail::<Error>("scrl-train", error);
    } else {
        thread::sleep(FIRST_RANKS_TURN);
        if !error.downcast_ref().is_some_and(Error::is_of_all_ranks) {
            scrl_cli::fail::<Error>(&format!("scrl-train, {ranks}"), error);
        }
    }
    ranks.abort(scrl_cli::ending::<Error>(error) as u8)
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
    let start = resumed.map_or_else(Start::default, |(_, info): (_, CheckpointInfo)| info.start());
    let dataset = if options.follow {
        Dataset::follow(&shards, start, &reporter)?
    } else {
        Dataset::open_at(&shards, start)?
    };
    let config = TrainConfig::resolve(options, &dataset, out, ranks)?;
    report::outline(&reporter, &config, &dataset, ranks);
    let summary = train(&config, &dataset, &resume, ranks, &reporter)?;
    report::summary(&reporter, &summary, &config);
    Ok(())
}
