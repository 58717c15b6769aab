//! `scrl-export`: a trained backbone for other programs.

mod cli;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Result;
use scrl_cli::{Ending, STOP};
use scrl_trainer::Error;
use scrl_trainer::weights::{Exported, export};

use cli::Arguments;

fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    match run(&scrl_cli::parse()) {
        // The file under way is a matter of seconds and is finished.
        Ok(()) if STOP.load(Ordering::Relaxed) => Ending::Interrupted.into(),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => scrl_cli::fail::<Error>("scrl-export", &error),
    }
}

fn run(Arguments { out, to, checkpoint, network, quiet, .. }: &Arguments) -> Result<()> {
    scrl_cli::watch_for_interruption()?;
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
