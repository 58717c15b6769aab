//! What the programs of this crate have in common: how they end, and options from a file.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};
use scrl_preprocess::Error;

/// Exit code after Ctrl-C, as a shell reports a process that the signal ended.
const INTERRUPTED: u8 = 130;

/// Set by Ctrl-C; whatever takes long looks at it now and then.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C sets [`STOP`].
pub fn watch_for_interruption() -> anyhow::Result<()> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))
        .map_err(|error| anyhow!("watching for Ctrl-C: {error}"))
}

/// Tells why `program` failed, in a line, and with which code it ends.
pub fn fail(program: &str, error: &anyhow::Error) -> ExitCode {
    // Not the chain of causes: each message tells its cause itself.
    eprintln!("{program}: {error}");
    match error.downcast_ref::<Error>() {
        Some(Error::Interrupted | Error::Stopped) => ExitCode::from(INTERRUPTED),
        _ => ExitCode::FAILURE,
    }
}

/// The options of a command line and of the file that it names with `--config`; the command line wins.
pub fn matches(command: &clap::Command, mut line: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
    let matches = command.clone().try_get_matches_from(&line)?;
    let Some(file) = matches.get_one::<PathBuf>("config").cloned() else { return Ok(matches) };
    line.extend(options_of_file(command, &file, &matches)?);
    command.clone().try_get_matches_from(&line)
}

/// The file's options as command-line arguments, those left out that the command line gives itself.
fn options_of_file(
    command: &clap::Command,
    file: &Path,
    given: &ArgMatches,
) -> Result<Vec<OsString>, clap::Error> {
    let fail = |reason: String| {
        let message = format!("--config {}: {reason}", file.display());
        command.clone().error(ErrorKind::ValueValidation, message)
    };
    let text = fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
    let table: toml::Table =
        toml::from_str(&text).map_err(|error| fail(error.message().replace('\n', " ")))?;
    let mut line = Vec::new();
    for (name, value) in table {
        let id = name.replace('-', "_");
        let option = command
            .get_arguments()
            .find(|argument| argument.get_long() == Some(name.as_str()) && name != "config")
            .ok_or_else(|| fail(format!("{name} is no option; --help lists them")))?;
        if given.value_source(&id) == Some(ValueSource::CommandLine) {
            continue;
        }
        let is_switch = matches!(option.get_action(), ArgAction::SetTrue);
        match value {
            toml::Value::Boolean(true) if is_switch => line.push(format!("--{name}").into()),
            toml::Value::Boolean(false) if is_switch => {}
            value if is_switch => return Err(fail(format!("{name}: {value} is neither true nor false"))),
            toml::Value::Array(values) => {
                let texts: Vec<String> = values.into_iter().map(text_of).collect();
                line.push(format!("--{name}={}", texts.join(",")).into());
            }
            value => line.push(format!("--{name}={}", text_of(value)).into()),
        }
    }
    Ok(line)
}

fn text_of(value: toml::Value) -> String {
    match value {
        toml::Value::String(text) => text,
        other => other.to_string(),
    }
}
