//! What the programs of this crate have in common: how they end, and options from a file.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use scrl_trainer::Error;
use serde::de::DeserializeOwned;

/// Exit code after Ctrl-C, as a shell reports a process that the signal ended.
pub const INTERRUPTED: u8 = 130;

/// Exit code for options that make no sense, as for those that clap refuses.
const BAD_USAGE: u8 = 2;

/// Tells why `program` failed, in a line, and with which code it ends.
pub fn fail(program: &str, error: &anyhow::Error) -> ExitCode {
    let ours = error.downcast_ref::<Error>();
    match ours {
        // Its message tells the cause itself.
        Some(error) => eprintln!("{program}: {error}"),
        None => eprintln!("{program}: {error:#}"),
    }
    match ours {
        Some(Error::Interrupted { .. } | Error::Stopped) => ExitCode::from(INTERRUPTED),
        Some(Error::Option { .. }) => ExitCode::from(BAD_USAGE),
        _ => ExitCode::FAILURE,
    }
}

/// The options in a TOML file, none without one.
pub fn options_in<Options: DeserializeOwned + Default>(file: Option<&Path>) -> Result<Options> {
    let Some(path) = file else { return Ok(Options::default()) };
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}
