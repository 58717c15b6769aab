//! How the programs of this crate end.

use scrl_cli::Ending;
use scrl_preprocess::Error;

/// The exit code of an error.
pub fn ending(error: &Error) -> Ending {
    match error {
        Error::Interrupted | Error::Stopped => Ending::Interrupted,
        _ => Ending::Failed,
    }
}
