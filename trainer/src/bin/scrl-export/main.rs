//! `scrl-export`: a trained backbone for other programs.

mod cli;

use std::process::ExitCode;

use anyhow::Result;
use scrl_cli::{Ending, Stop};
use scrl_trainer::Error;
use scrl_trainer::weights::{Exported, export};

use cli::Arguments;

fn main() -> ExitCode {
    let stop = Stop::default();
    match run(&scrl_cli::parse(), &stop) {
        // Writing the file is a matter of seconds and is finished.
        Ok(()) if stop.is_set() => Ending::Interrupted.into(),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-export", &error),
    }
}

fn run(
    Arguments { out, to, checkpoint, network, quiet, .. }: &Arguments,
    stop: &Stop,
) -> Result<()> {
    stop.set_on_ctrl_c()?;
    let Exported { arch, tensors } = export(checkpoint, *network, *to, out)?;
    if !quiet {
        eprintln!(
            "{arch}, {tensors} tensors of the {network} network of {} for {to}: {}",
            checkpoint.display(),
            out.display()
        );
    }
    Ok(())
}
