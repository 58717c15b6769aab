//! `scrl-export`: a trained backbone for other programs.

mod cli;

use std::process::ExitCode;

use anyhow::Result;
use scrl_cli::{Ending, Reporter, Stop};
use scrl_trainer::Error;
use scrl_trainer::weights::{ExportOptions, Exported, export};

use cli::Arguments;

fn main() -> ExitCode {
    let stop = Stop::default();
    match run(scrl_cli::parse(), &stop) {
        // The file takes seconds to write, so it is completed first.
        Ok(()) if stop.is_set() => Ending::Interrupted.into(),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-export", &error),
    }
}

fn run(Arguments { options, quiet, .. }: Arguments, stop: &Stop) -> Result<()> {
    stop.set_on_ctrl_c()?;
    let Exported { arch, tensors, report } = export(&options)?;
    let reporter = Reporter::new(quiet, stop.clone());
    reporter.say(format_args!("weights: {report}"));
    let ExportOptions { out, to, .. } = options;
    reporter.say(format_args!("{}: {arch}, {tensors} tensors for {to}", out.display()));
    Ok(())
}
