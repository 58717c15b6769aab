//! Options from a TOML file.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

/// The options in the file of `--config` as command-line arguments, except those on the command
/// line; `None` without a file.
pub(crate) fn options(
    command: &Command,
    given: &ArgMatches,
) -> Result<Option<Vec<OsString>>, clap::Error> {
    given.get_one::<PathBuf>("config").map(|file| options_of(command, given, file)).transpose()
}

fn options_of(
    command: &Command,
    given: &ArgMatches,
    file: &Path,
) -> Result<Vec<OsString>, clap::Error> {
    let fail = |reason: String| {
        let message = format!("--config {}: {reason}", file.display());
        command.clone().error(ErrorKind::ValueValidation, message)
    };
    let text = fs::read_to_string(file).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => fail("is not UTF-8; save it as UTF-8".to_owned()),
        _ => fail(error.to_string()),
    })?;
    let table: toml::Table =
        toml::from_str(&text).map_err(|error| fail(error.message().replace('\n', " ")))?;
    let mut line = Vec::new();
    for (name, value) in table {
        let option = command
            .get_arguments()
            .find(|option| option.get_long() == Some(name.as_str()) && name != "config")
            .ok_or_else(|| fail(format!("{name} is no option; --help lists them")))?;
        if given.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        let is_switch = matches!(option.get_action(), ArgAction::SetTrue);
        match value {
            toml::Value::Boolean(true) if is_switch => line.push(format!("--{name}").into()),
            toml::Value::Boolean(false) if is_switch => {}
            value if is_switch => {
                return Err(fail(format!("{name}: {value} is neither true nor false")));
            }
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
