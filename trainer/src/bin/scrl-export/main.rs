//! `scrl-export`: a trained backbone for other programs.

mod cli;
#[path = "../shared/mod.rs"]
mod shared;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::Parser;
use scrl_trainer::Error;
use scrl_trainer::weights::{Branch, Exported, export};

use cli::Arguments;

/// Set by Ctrl-C. The file under way is a matter of seconds and is finished.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) if STOP.load(Ordering::Relaxed) => ExitCode::from(shared::INTERRUPTED),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => shared::fail("scrl-export", &error),
    }
}

fn run(arguments: Arguments) -> Result<()> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).context("watching for Ctrl-C")?;
    let out = arguments.out.clone();
    let options = arguments.options()?;
    let missing = |option, reason: &str| Error::Option { option, reason: reason.to_owned() };
    let to = options.to.ok_or_else(|| missing("to", "missing; torchvision or detectron2"))?;
    let checkpoint =
        options.checkpoint.ok_or_else(|| missing("checkpoint", "missing; the file to export"))?;
    let network = options.network.unwrap_or(Branch::Online);
    let Exported { arch, tensors } = export(&checkpoint, network, to, &out)?;
    if !options.quiet.unwrap_or(false) {
        eprintln!(
            "{arch}, {tensors} tensors of the {network} network of {} for {to}: {}",
            checkpoint.display(),
            out.display()
        );
    }
    Ok(())
}
