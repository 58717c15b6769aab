//! `scrl-prep`: from a folder of images to epochs of shards.

mod cli;
mod report;

use std::process::ExitCode;

use anyhow::bail;
use scrl_cli::{Reporter, Stop, World, usage_error};
use scrl_preprocess::Error;
use scrl_preprocess::prepare::Job;

use cli::Arguments;

fn main() -> ExitCode {
    match prepare(scrl_cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-prep", &error),
    }
}

fn prepare(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { images, shards, options, dry_run, quiet, .. } = arguments;
    let (world, launcher) = World::detect(&options.world)
        .unwrap_or_else(|error| usage_error::<Arguments>(error).exit());
    let config = options.resolve(images, shards.clone(), world)?;
    let (max_bad, views) = (config.max_bad, config.options.views);
    let reporter = Reporter::new(quiet, Stop::on_ctrl_c()?);
    if world != World::ALONE {
        let launcher =
            launcher.map_or(String::new(), |launcher| format!(", started by {launcher}"));
        reporter.say(format_args!("{world}{launcher}"));
    }
    let job = Job::plan(config)?;
    let outline = job.outline();
    report::outline(&reporter, &outline, views);
    report::check_space(&outline, views, &shards)?;
    if dry_run {
        return Ok(());
    }
    let summary = job.run(&reporter)?;
    report::summary(&reporter, &summary, &shards);
    if summary.unreadable_fraction() > max_bad {
        bail!(
            "{} of {} images could not be read, more than --max-bad {max_bad}; {} has the reasons",
            summary.unreadable,
            summary.images,
            shards.join("sources.parquet").display()
        );
    }
    Ok(())
}
