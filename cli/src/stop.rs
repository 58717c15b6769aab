//! The stop flag of a program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

/// The signals that end a run cleanly: Ctrl-C, a closed terminal, and what schedulers send before
/// the time of a job is over (Slurm's `--signal`, which PyTorch Lightning made SIGUSR1).
const STOP_SIGNALS: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGUSR1];

/// A flag on which work ends soon and cleanly. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// The run was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped; run the same command again to complete it")]
pub struct Stopped;

impl Stop {
    /// A flag that Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 set from now on.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn on_ctrl_c() -> anyhow::Result<Self> {
        let stop = Self::default();
        stop.set_on_ctrl_c()?;
        Ok(stop)
    }

    /// Makes these signals set the flag from now on.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn set_on_ctrl_c(&self) -> anyhow::Result<()> {
        for signal in STOP_SIGNALS {
            signal_hook::flag::register(signal, self.0.clone())
                .map_err(|error| anyhow!("cannot handle signal {signal}: {error}"))?;
        }
        Ok(())
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
