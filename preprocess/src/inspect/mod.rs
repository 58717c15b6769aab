//! Looking into a prepared folder: what it holds, whether it is right, and pictures of it.
//!
//! ```text
//! Shards ─┬─ distributions → summary (text, JSON), page
//!         ├─ verify                → faults
//!         └─ pairs (a sample)      → sheet (PNG), page (HTML)
//! ```
//!
//! [`Shards`] is the folder as it lies there; nothing here writes into it.

pub mod asked;
mod compare;
pub mod distributions;
mod histogram;
mod ink;
pub mod page;
pub mod pairs;
mod shards;
pub mod sheet;
pub mod summary;
pub mod verify;

pub use histogram::Histogram;
pub use shards::{FinishedEpoch, Shards};

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// How a long look is followed, and ended before its time.
pub struct Progress<'a> {
    /// Hears of so many more rows, or sources, that have been looked at.
    pub advance: &'a (dyn Fn(u64) + Sync),
    /// True once the look is to end.
    pub stop: &'a AtomicBool,
}

impl Progress<'_> {
    /// Notes that so many more have been looked at.
    ///
    /// # Errors
    /// [`Error::Stopped`] after a stop.
    fn step(&self, count: u64) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        (self.advance)(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_a_look() {
        let stop = AtomicBool::new(false);
        let progress = Progress { advance: &|_| (), stop: &stop };
        assert!(progress.step(1).is_ok());
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(progress.step(1), Err(Error::Stopped)));
    }
}
