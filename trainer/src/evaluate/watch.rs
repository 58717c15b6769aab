//! What an evaluation tells while it runs, and how it is asked to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// News from an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// So many steps of a kind begin.
    Begin {
        /// Such as `features of the training images`.
        what: &'static str,
        /// How many there are.
        steps: usize,
    },
    /// So many of them are done.
    Advance(usize),
    /// An epoch of the linear layer is done.
    Epoch {
        /// From 0.
        epoch: u32,
        /// Mean cross-entropy over the epoch's examples.
        loss: f64,
        /// The share of them that was told right before each step.
        accuracy: f64,
    },
    /// Something worth knowing.
    Note(String),
}

/// Whoever watches an evaluation.
pub struct Watch<'a> {
    stop: &'a AtomicBool,
    report: &'a mut dyn FnMut(Progress),
}

impl<'a> Watch<'a> {
    /// Reports to `report`; the evaluation ends soon after `stop` is set.
    pub fn new(stop: &'a AtomicBool, report: &'a mut dyn FnMut(Progress)) -> Self {
        Self { stop, report }
    }

    pub(super) fn begin(&mut self, what: &'static str, steps: usize) {
        (self.report)(Progress::Begin { what, steps });
    }

    /// Says that steps are done.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the evaluation is to end.
    pub(super) fn advance(&mut self, steps: usize) -> Result<()> {
        (self.report)(Progress::Advance(steps));
        self.go_on()
    }

    pub(super) fn epoch(&mut self, epoch: u32, loss: f64, accuracy: f64) {
        (self.report)(Progress::Epoch { epoch, loss, accuracy });
    }

    pub(super) fn note(&mut self, text: String) {
        (self.report)(Progress::Note(text));
    }

    /// Fails with [`Error::Stopped`] if the evaluation is to end.
    pub(super) fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            Err(Error::Stopped(scrl_cli::Stopped))
        } else {
            Ok(())
        }
    }
}
