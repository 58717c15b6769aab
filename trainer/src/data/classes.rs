//! Which labels there are, for whoever learns to tell them apart.

use std::path::PathBuf;

use super::{Batch, Dataset};
use crate::ops::UNKNOWN_CLASS;
use crate::{Error, Result};

/// The labels of a prepared folder, ascending. A label's place among them is its class: mostly the same number, but
/// labels that came with the images may have gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    sources: PathBuf,
    labels: Vec<i32>,
}

impl Classes {
    /// Those of a prepared folder. Where its list of sources was not copied with it, its classes are taken to be
    /// numbered without gaps.
    pub fn read(dataset: &Dataset) -> Result<Self> {
        let sources = dataset.layout().sources();
        let labels = if sources.exists() {
            scrl_schemas::read_labels(&sources)?
        } else {
            (0..dataset.manifest().counts.classes as i32).collect()
        };
        Ok(Self { sources, labels })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// The class of each view of a batch, `[2B]`; [`UNKNOWN_CLASS`] where there is no label.
    ///
    /// # Errors
    /// If a row has a label that is not among these.
    pub fn of_views(&self, batch: &Batch) -> Result<Vec<i64>> {
        let class = |label: &Option<i32>| match label {
            None => Ok(UNKNOWN_CLASS),
            Some(label) => {
                self.labels.binary_search(label).map(|class| class as i64).map_err(|_| {
                    let reason = format!(
                        "no image has label {label}, but a row of epoch {} does",
                        batch.epoch
                    );
                    Error::dataset(&self.sources, reason)
                })
            }
        };
        let classes: Vec<i64> = batch.labels.iter().map(class).collect::<Result<_>>()?;
        Ok([classes.as_slice(), &classes].concat())
    }
}
