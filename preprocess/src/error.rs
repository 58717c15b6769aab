//! The one error type of this crate.

use std::path::{Path, PathBuf};

use scrl_cli::{Ending, Failure, Stopped};

/// Anything that stops a run. An unreadable image does not: see [`crate::images::Unreadable`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Shards(#[from] scrl_schemas::Error),
    /// The images cannot be used as they are.
    #[error("{}: {reason}", path.display())]
    Images {
        /// What was given as images.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An image is gone or has changed since the images were listed.
    #[error(
        "{}: {path}: {reason}; restore it as it was when the shards were begun and run the same \
         command again, or begin anew with --overwrite",
        images.display()
    )]
    Source {
        /// What was given as images.
        images: PathBuf,
        /// The image.
        path: String,
        /// What happened to it.
        reason: String,
    },
    /// The shards folder does not match what is requested.
    #[error("{}: {reason}", path.display())]
    Folder {
        /// The shards folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An option has an invalid value.
    #[error("--{option}: {reason}")]
    Option {
        /// The option's long name.
        option: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A view could not be encoded.
    #[error("encoding a view: {0}")]
    Encode(String),
    /// The run was stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// A thread could not be started.
    #[error("starting threads: {0}")]
    Threads(String),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Source`].
    pub(crate) fn source(images: &Path, path: &str, reason: String) -> Self {
        Self::Source { images: images.to_owned(), path: path.to_owned(), reason }
    }

    /// An error of the operating system about `path`, for use in `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let named = scrl_schemas::Error::io(path);
        move |source| Self::Shards(named(source))
    }
}

impl Failure for Error {
    fn ending(&self) -> Ending {
        match self {
            Self::Stopped(_) => Ending::Interrupted,
            Self::Option { .. } => Ending::BadUsage,
            _ => Ending::Failed,
        }
    }
}
