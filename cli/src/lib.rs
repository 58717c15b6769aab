//! The common part of all command lines: options from a file, completion scripts, progress, Ctrl-C,
//! ranks, exit codes.
//!
//! A program flattens [`CommonOptions`] into its arguments, gets them from [`parse`], passes a
//! [`Reporter`] to its library, and ends with [`fail`] on an error.

#![deny(missing_docs)]

mod file;
mod reporter;
mod stop;
pub mod text;
mod world;

pub use reporter::{Event, Reporter};
pub use stop::{Stop, Stopped};
pub use world::{LocalWorld, World, WorldOptions};

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches};
use clap_complete::Shell;

/// The exit code of a program that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// The run failed.
    Failed = 1,
    /// Invalid options; clap's own exit code.
    BadUsage = 2,
    /// Ctrl-C; the code that a shell reports after SIGINT.
    Interrupted = 130,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(ending as u8)
    }
}

/// Options of every program without subcommands.
#[derive(Args)]
#[allow(missing_docs)]
pub struct CommonOptions {
    #[command(flatten)]
    pub file: OptionsFile,
    #[command(flatten)]
    pub script: CompletionScript,
}

/// An option of every program, or of each of its subcommands.
#[derive(Args)]
pub struct OptionsFile {
    /// Read options from a TOML file, named as here, such as `quiet = true`; the command line wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// An option of every program.
#[derive(Args)]
pub struct CompletionScript {
    /// Print a completion script for a shell, and stop
    #[arg(long, value_name = "SHELL", exclusive = true)]
    pub completions: Option<Shell>,
}

/// Parses the program's command line and the file of `--config`. Ends the program with exit code 2
/// if they are invalid, and with 0 after `--help`, `--version` and `--completions`.
pub fn parse<A: CommandFactory + FromArgMatches>() -> A {
    let line: Vec<OsString> = std::env::args_os().collect();
    if let Some(script) = completion_script(A::command(), &line) {
        print(script.trim_end());
        std::process::exit(0);
    }
    read(line).unwrap_or_else(|error| error.exit())
}

/// The script requested by `--completions`.
fn completion_script(mut command: clap::Command, line: &[OsString]) -> Option<String> {
    // Required arguments may be missing here.
    let given = command.clone().ignore_errors(true).try_get_matches_from(line).ok()?;
    let shell = *given.get_one::<Shell>("completions")?;
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    Some(String::from_utf8_lossy(&script).into_owned())
}

/// Parses a command line, which starts with the program's name, and the file of `--config`.
///
/// # Errors
/// The errors of clap, which include the texts of `--help` and `--version`.
pub fn read<A: CommandFactory + FromArgMatches>(mut line: Vec<OsString>) -> Result<A, clap::Error> {
    let command = A::command();
    // Arguments that are missing here may be in the file.
    let given = command.clone().ignore_errors(true).try_get_matches_from(&line)?;
    let (requested, subcommand) = match given.subcommand() {
        Some((name, requested)) => (requested, command.find_subcommand(name)),
        None => (&given, None),
    };
    if let Some(options) = file::options(subcommand.unwrap_or(&command), requested)? {
        // After the program's name and that of a subcommand.
        let position = 1 + usize::from(subcommand.is_some());
        line.splice(position..position, options);
    }
    A::from_arg_matches(&command.try_get_matches_from(&line)?)
}

/// A clap parser for a choice declared by `named_choice!`; the names are shown in `--help`.
#[macro_export]
macro_rules! choices {
    ($choice:ty) => {
        ::clap::builder::TypedValueParser::try_map(
            ::clap::builder::PossibleValuesParser::new(
                <$choice>::ALL.iter().map(|choice| choice.name()),
            ),
            |name| name.parse::<$choice>(),
        )
    };
}

/// A usage error of the program.
pub fn usage_error<A: CommandFactory>(message: impl std::fmt::Display) -> clap::Error {
    A::command().error(ErrorKind::ValueValidation, message)
}

/// The number of threads: the one given, or one for each core.
pub fn threads(given: Option<u16>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    given.map_or_else(cores, usize::from)
}

/// An error that determines the exit code.
pub trait Failure: std::error::Error + Send + Sync + 'static {
    /// The exit code after this error.
    fn ending(&self) -> Ending;
}

/// The exit code after an error: that of an error `E`, or [`Ending::Failed`] for all others.
pub fn ending<E: Failure>(error: &anyhow::Error) -> Ending {
    error.downcast_ref::<E>().map_or(Ending::Failed, E::ending)
}

/// Prints in one line why `program` failed and returns its exit code. An error `E` includes its
/// causes in its message.
pub fn fail<E: Failure>(program: &str, error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<E>() {
        Some(error) => print_error(format_args!("{program}: {error}")),
        None => print_error(format_args!("{program}: {error:#}")),
    }
    ending::<E>(error).into()
}

/// Prints results on standard output. If that was closed, as by `| head`, the program ends quietly.
pub fn print(line: impl std::fmt::Display) {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            print_error(format_args!("standard output: {error}"));
            std::process::exit(Ending::Failed as i32)
        }
    }
}

/// Prints a line on standard error; errors of writing are ignored.
pub fn print_error(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The default output folder: `runs/<time>`, the time in UTC.
pub fn default_out() -> PathBuf {
    // Not every file system allows colons in names.
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(':', "-");
    PathBuf::from("runs").join(time)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::{Parser, Subcommand};

    use super::*;

    #[derive(Parser)]
    #[command(name = "plain")]
    struct Plain {
        folder: PathBuf,
        #[arg(long)]
        epochs: u32,
        #[arg(long, value_delimiter = ',')]
        scale: Vec<f32>,
        #[arg(long)]
        quiet: bool,
        #[command(flatten)]
        common: CommonOptions,
    }

    #[derive(Parser)]
    #[command(name = "nested")]
    struct Nested {
        #[command(subcommand)]
        protocol: Protocol,
        #[command(flatten)]
        script: CompletionScript,
    }

    #[derive(Subcommand)]
    enum Protocol {
        One {
            #[arg(long)]
            size: Option<u32>,
            #[command(flatten)]
            file: OptionsFile,
        },
    }

    fn read_words<A: CommandFactory + FromArgMatches>(line: &str) -> Result<A, String> {
        read(line.split(' ').map(OsString::from).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "epochs = 5\nscale = [0.3, 1.0]\nquiet = true\n").unwrap();
        let config = file.display();
        let read: Plain =
            read_words(&format!("plain --epochs 6 --config {config} -- images")).unwrap();
        assert_eq!((read.epochs, read.scale, read.quiet), (6, vec![0.3, 1.0], true));
        let read: Plain = read_words(&format!("plain --config {config} images")).unwrap();
        assert_eq!(read.epochs, 5);
        assert_eq!(read.folder, PathBuf::from("images"));
        // As Windows' Notepad writes it.
        fs::write(&file, "\u{feff}size = 7\r\n").unwrap();
        let nested: Nested = read_words(&format!("nested one --config {config}")).unwrap();
        let Protocol::One { size, .. } = nested.protocol;
        assert_eq!(size, Some(7));
    }

    #[test]
    fn invalid_options_in_the_file_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        for (text, expected) in [
            ("quiet = true", "--epochs"),
            ("epoch = 5", "epoch is no option"),
            ("quiet = 1", "neither true nor false"),
            ("epochs = ", "--config"),
            ("config = \"b.toml\"", "config is no option"),
            ("epochs = \"many\"", "--epochs"),
        ] {
            fs::write(&file, text).unwrap();
            let message =
                read_words::<Plain>(&format!("plain --config {} s", file.display())).err().unwrap();
            assert!(message.contains(expected), "{text}: {message}");
        }
        fs::write(&file, b"\xff\xfeq\0").unwrap();
        let message =
            read_words::<Plain>(&format!("plain --config {} s", file.display())).err().unwrap();
        assert!(message.contains("is not UTF-8; save it as UTF-8"), "{message}");
        assert!(
            read_words::<Plain>("plain --config /none.toml s")
                .err()
                .unwrap()
                .contains("/none.toml")
        );
    }

    #[test]
    fn scripts_complete_the_options() {
        for (shell, begin) in [("bash", "_"), ("zsh", "#compdef"), ("fish", "")] {
            for (command, option) in [(Plain::command(), "quiet"), (Nested::command(), "size")] {
                let line = [command.get_name(), "--completions", shell].map(OsString::from);
                let script = completion_script(command, &line).unwrap();
                assert!(script.starts_with(begin) && script.contains(option), "{shell}: {script}");
            }
        }
        assert_eq!(
            completion_script(Plain::command(), &["plain", "images"].map(OsString::from)),
            None
        );
    }
}
