//! The stop flag of a program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;

/// A flag on which work ends soon and cleanly. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// The run was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped; run the same command again to complete it")]
pub struct Stopped;

impl Stop {
    /// A flag that Ctrl-C sets from now on.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn on_ctrl_c() -> anyhow::Result<Self> {
        let stop = Self::default();
        stop.set_on_ctrl_c()?;
        Ok(stop)
    }

    /// Makes Ctrl-C set the flag from now on.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn set_on_ctrl_c(&self) -> anyhow::Result<()> {
        let flag = self.clone();
        ctrlc::set_handler(move || flag.set())
            .map_err(|error| anyhow!("cannot handle Ctrl-C: {error}"))
    }

    /// Sets the flag.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The flag as an atomic, for code that only checks it.
    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }

    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
