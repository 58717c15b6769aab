//! The one error type of this crate: each variant names the file and what is wrong with it.

use std::path::{Path, PathBuf};

/// Anything that can go wrong while reading or writing a shards folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the operating system.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A Parquet file is damaged or could not be written.
    #[error("{}: {source}", path.display())]
    Parquet {
        /// The file concerned.
        path: PathBuf,
        /// The error of the Parquet library.
        source: parquet::errors::ParquetError,
    },
    /// A batch of rows could not be built or decoded.
    #[error("{}: {source}", path.display())]
    Arrow {
        /// The file concerned.
        path: PathBuf,
        /// The error of the Arrow library.
        source: arrow::error::ArrowError,
    },
    /// The file was written by another version of the format.
    #[error(
        "{}: format {found}, but this version reads format {expected}; prepare the shards again or \
         use the matching version",
        path.display()
    )]
    Format {
        /// The file concerned.
        path: PathBuf,
        /// What the file says, as text.
        found: String,
        /// What this version reads.
        expected: u32,
    },
    /// The file's content does not match its name.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file concerned.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] for `path`, for use in `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn parquet(path: &Path) -> impl FnOnce(parquet::errors::ParquetError) -> Self {
        let path = path.to_owned();
        move |source| match source {
            // Parquet wraps errors of the system, such as a full disk.
            parquet::errors::ParquetError::External(inner) => match inner.downcast() {
                Ok(io) => Self::Io { path, source: *io },
                Err(inner) => {
                    Self::Parquet { path, source: parquet::errors::ParquetError::External(inner) }
                }
            },
            source => Self::Parquet { path, source },
        }
    }

    pub(crate) fn arrow(path: &Path) -> impl FnOnce(arrow::error::ArrowError) -> Self {
        let path = path.to_owned();
        move |source| Self::Arrow { path, source }
    }

    /// An [`Error::Invalid`] for `path`.
    pub fn invalid(path: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.into() }
    }
}
