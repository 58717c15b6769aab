//! Waiting for what `scrl-prep` has not finished yet.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use scrl_schemas::Epoch;

use crate::Result;

/// Time between two looks into the folder: it may lie on a file server that others use as well.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time between two calls of what is to be done while waiting: one that presses Ctrl-C notices no delay.
pub(super) const IDLE_EVERY: Duration = Duration::from_millis(50);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// `dataset.toml`.
    Manifest,
    /// The `_SUCCESS` of this epoch.
    Epoch(Epoch),
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest => f.write_str("dataset.toml"),
            Self::Epoch(epoch) => write!(f, "epoch {epoch}"),
        }
    }
}

/// Lets the time between two looks pass; an error of `idle` ends it at once.
pub(super) fn pause(mut idle: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < LOOK_EVERY {
        idle()?;
        thread::sleep(IDLE_EVERY);
    }
    Ok(())
}
