//! A prepared folder, checked before training begins.

use std::path::Path;

use scrl_schemas::{Epoch, Layout, Manifest, Success};

use crate::{Error, Result};

/// A prepared folder and its manifest.
#[derive(Clone, Debug)]
pub struct Dataset {
    layout: Layout,
    manifest: Manifest,
    rows_per_epoch: u64,
}

impl Dataset {
    /// Opens a folder whose first epoch is finished.
    pub fn open(shards: &Path) -> Result<Self> {
        let layout = Layout::new(shards);
        if !layout.manifest().is_file() {
            return Err(Error::dataset(shards, "no dataset.toml here; make the shards with scrl-prep first"));
        }
        let manifest = Manifest::read(&layout.manifest())?;
        let mut dataset = Self { layout, manifest, rows_per_epoch: 0 };
        dataset.rows_per_epoch = dataset.success(Epoch(0))?.rows();
        Ok(dataset)
    }

    /// What the folder was made from and how.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The paths inside the folder.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Rows of each epoch: the same for all, as the same images decode each time.
    pub fn rows_per_epoch(&self) -> u64 {
        self.rows_per_epoch
    }

    /// The parts of a finished epoch.
    ///
    /// # Errors
    /// If the epoch is not finished, or has other rows than the first.
    pub fn success(&self, epoch: Epoch) -> Result<Success> {
        let path = self.layout.success(epoch);
        if !path.is_file() {
            let folder = self.layout.epoch(epoch);
            let reason =
                "this epoch is not finished (no _SUCCESS); let scrl-prep finish it, or train fewer --epochs";
            return Err(Error::dataset(&folder, reason));
        }
        let success = Success::read(&path)?;
        if self.rows_per_epoch != 0 && success.rows() != self.rows_per_epoch {
            let reason = format!(
                "{} rows where the first epoch has {}; the images changed while they were prepared: prepare them again",
                success.rows(),
                self.rows_per_epoch
            );
            return Err(Error::dataset(&path, reason));
        }
        Ok(success)
    }
}
