//! The classes that the online evaluation learns, from the labels of the shards.

use std::path::PathBuf;

use scrl_schemas::store;

use super::batch::Batch;
use super::dataset::Dataset;
use crate::ops::UNKNOWN_CLASS;
use crate::{Error, Result};

/// The labels of a shards folder, ascending. A label's index among them is its class: mostly the
/// same number, but labels that came with the images may have gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    sources: PathBuf,
    labels: Vec<i32>,
}

impl Classes {
    /// Reads the labels from `sources.parquet`. Where that file was not copied with the shards,
    /// the classes are assumed to be numbered without gaps.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(dataset: &Dataset) -> Result<Self> {
        let sources = dataset.paths().sources();
        let labels = if store::has_file(&sources)? {
            scrl_schemas::read_labels(&sources)?
        } else {
            (0..dataset.manifest().counts.classes as i32).collect()
        };
        Ok(Self { sources, labels })
    }

    /// The number of classes.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// The class of each view of this process, `[2P]`; [`UNKNOWN_CLASS`] for a view without a label.
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
