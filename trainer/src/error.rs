//! The one error type of this crate.

use std::path::{Path, PathBuf};

use scrl_cli::{Ending, Failure, Stopped};

/// Anything that stops a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Shards(#[from] scrl_schemas::Error),
    /// The shards folder cannot be used for this run.
    #[error("{}: {reason}", path.display())]
    Dataset {
        /// The file or folder concerned.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A computation failed.
    #[error("computing: {0}")]
    Compute(#[from] candle_core::Error),
    /// A checkpoint could not be used or written.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A checkpoint is damaged; an older one may be intact.
    #[error("{}: damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An option is wrong.
    #[error("--{option}: {reason}")]
    Option {
        /// The option's long name.
        option: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The loss is NaN or infinite.
    #[error(
        "the loss of step {step} is {loss}; images {images:?}; {checkpoint}; try a smaller --lr or \
         a longer warm-up"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f32,
        /// The `image_id`s of its batch.
        images: Vec<i64>,
        /// Where the last good weights are.
        checkpoint: String,
    },
    /// The work was asked to stop and did.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The GPU or its driver cannot be used or failed.
    #[error("GPU: {0}")]
    Device(String),
    /// The GPU's memory does not hold a step.
    #[error("--batch-size: {cause}: {advice}")]
    OutOfMemory {
        /// What needs how much, or what the GPU reported.
        cause: String,
        /// What to do.
        advice: String,
    },
    /// A drawing could not be made.
    #[error("{}: drawing: {reason}", path.display())]
    Drawing {
        /// The file.
        path: PathBuf,
        /// What failed.
        reason: String,
    },
    /// The images for an evaluation cannot be used.
    #[error(transparent)]
    Images(#[from] scrl_preprocess::Error),
    /// The processes of a run cannot train together.
    #[error("several processes: {0}")]
    Ranks(String),
    /// Threads could not be started.
    #[error("starting threads: {0}")]
    Threads(String),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Refuses the value of an option.
///
/// # Errors
/// Always: [`Error::Option`].
pub(crate) fn refuse<T>(option: &'static str, reason: impl Into<String>) -> Result<T> {
    Err(Error::Option { option, reason: reason.into() })
}

impl Error {
    /// Whether [`train`](crate::train::train) returns this error on all ranks if on any.
    pub fn is_of_all_ranks(&self) -> bool {
        matches!(self, Self::Stopped(_) | Self::NotFinite { .. } | Self::Ranks(_))
    }

    /// An error of the operating system with its `path`, for use in `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let named = scrl_schemas::Error::io(path);
        move |source| Self::Shards(named(source))
    }

    /// How the driver or one of NVIDIA's libraries said that the GPU's memory is full, if this is
    /// such an error.
    pub(crate) fn sign_of_full_memory(&self) -> Option<&'static str> {
        const SIGNS: [&str; 4] = [
            "CUDA_ERROR_OUT_OF_MEMORY",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "CURAND_STATUS_ALLOCATION_FAILED",
            "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        ];
        let cause = match self {
            Self::Compute(cause) => cause.to_string(),
            Self::Device(cause) => cause.clone(),
            _ => return None,
        };
        SIGNS.into_iter().find(|sign| cause.contains(sign))
    }

    pub(crate) fn dataset(path: &Path, reason: impl Into<String>) -> Self {
        Self::Dataset { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn drawing(path: &Path, reason: impl ToString) -> Self {
        Self::Drawing { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn checkpoint(path: &Path, reason: impl ToString) -> Self {
        Self::Checkpoint { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn damaged(path: &Path, reason: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.to_string() }
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
