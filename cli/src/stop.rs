//! The one stop flag of a program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;

/// A flag that asks work to end soon and cleanly. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// The work was asked to stop and did.
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

    /// From now on Ctrl-C sets the flag.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn set_on_ctrl_c(&self) -> anyhow::Result<()> {
        let flag = self.clone();
        ctrlc::set_handler(move || flag.set())
            .map_err(|error| anyhow!("watching for Ctrl-C: {error}"))
    }

    /// Asks to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The flag itself.
    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }

    /// Whether anyone asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
