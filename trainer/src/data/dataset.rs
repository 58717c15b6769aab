//! A prepared folder, checked before training begins.

use std::path::Path;

use scrl_schemas::{Consumed, Epoch, Manifest, ShardPaths, Success};

use super::Awaited;
use super::awaited::pause;
use crate::{Error, Result};

/// Where training begins, as far as that is known before the folder is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The first epoch needed.
    pub epoch: Epoch,
    /// Rows of each epoch as a checkpoint remembers them, used where no epoch is there to tell.
    pub rows_per_epoch: Option<u64>,
}

impl Default for Begin {
    /// A training that goes on from nothing.
    fn default() -> Self {
        Self { epoch: Epoch(0), rows_per_epoch: None }
    }
}

/// A prepared folder and its manifest.
#[derive(Clone, Debug)]
pub struct Dataset {
    layout: ShardPaths,
    manifest: Manifest,
    rows_per_epoch: u64,
}

impl Dataset {
    /// Opens a folder for a training from its first epoch on.
    pub fn open(shards: &Path) -> Result<Self> {
        Self::open_at(shards, Begin::default())
    }

    /// Opens a folder for a training that begins at `begin`; epochs before that are not looked at.
    ///
    /// # Errors
    /// Without a manifest, or if no finished epoch and no checkpoint tells how many rows an epoch has.
    pub fn open_at(shards: &Path, begin: Begin) -> Result<Self> {
        let missing =
            || Error::dataset(shards, "no dataset.toml here; make the shards with scrl-prep first");
        let dataset = Self::with_manifest(shards)?.ok_or_else(missing)?;
        let rows_per_epoch = match (dataset.first_finished(begin.epoch)?, begin.rows_per_epoch) {
            (Some(success), _) => success.rows(),
            (None, Some(rows)) => rows,
            (None, None) => dataset.success(begin.epoch)?.rows(),
        };
        Ok(Self { rows_per_epoch, ..dataset })
    }

    /// Like [`Dataset::open_at`], but waits for what is not there yet. `idle` is called several times a second with
    /// what is waited for; an error of it ends the waiting.
    ///
    /// # Errors
    /// Those of `idle`, or if the first epoch needed was removed after an earlier training had used it up.
    pub fn follow(
        shards: &Path,
        begin: Begin,
        idle: &mut dyn FnMut(Awaited) -> Result<()>,
    ) -> Result<Self> {
        let dataset = loop {
            match Self::with_manifest(shards)? {
                Some(dataset) => break dataset,
                None => pause(|| idle(Awaited::Manifest))?,
            }
        };
        let rows_per_epoch = loop {
            match (dataset.finished(begin.epoch)?, begin.rows_per_epoch) {
                (Some(success), _) => break success.rows(),
                // The loader waits for the epoch itself.
                (None, Some(rows)) => break rows,
                (None, None) => pause(|| idle(Awaited::Epoch(begin.epoch)))?,
            }
        };
        Ok(Self { rows_per_epoch, ..dataset })
    }

    /// The folder without its rows counted; `None` without a manifest.
    fn with_manifest(shards: &Path) -> Result<Option<Self>> {
        let layout = ShardPaths::new(shards);
        if !layout.manifest().is_file() {
            return Ok(None);
        }
        let manifest = Manifest::read(&layout.manifest())?;
        Ok(Some(Self { layout, manifest, rows_per_epoch: 0 }))
    }

    /// What the folder was made from and how.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The paths inside the folder.
    pub fn layout(&self) -> &ShardPaths {
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
        self.finished(epoch)?.ok_or_else(|| {
            let folder = self.layout.epoch(epoch);
            let reason =
                "this epoch is not finished (no _SUCCESS); let scrl-prep finish it, or train fewer --epochs";
            Error::dataset(&folder, reason)
        })
    }

    /// The parts of an epoch; `None` as long as it is not finished.
    ///
    /// # Errors
    /// If the epoch is missing because a training has used it up, or has other rows than the first.
    pub fn finished(&self, epoch: Epoch) -> Result<Option<Success>> {
        let Some(success) = self.read_success(epoch)? else {
            return self.check_not_consumed(epoch).map(|()| None);
        };
        if self.rows_per_epoch != 0 && success.rows() != self.rows_per_epoch {
            let reason = format!(
                "{} rows where the first epoch has {}; the images changed while they were prepared: prepare them again",
                success.rows(),
                self.rows_per_epoch
            );
            return Err(Error::dataset(&self.layout.success(epoch), reason));
        }
        Ok(Some(success))
    }

    fn first_finished(&self, from: Epoch) -> Result<Option<Success>> {
        let epochs = from.0..self.manifest.epochs;
        epochs.map(Epoch).find_map(|epoch| self.read_success(epoch).transpose()).transpose()
    }

    /// `_SUCCESS`, which may come and go at any time.
    fn read_success(&self, epoch: Epoch) -> Result<Option<Success>> {
        match Success::read(&self.layout.success(epoch)) {
            Ok(success) => Ok(Some(success)),
            Err(scrl_schemas::Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A missing epoch that counts as consumed will not come by itself: `scrl-prep --keep` takes it for done with.
    fn check_not_consumed(&self, epoch: Epoch) -> Result<()> {
        let Consumed { epochs } = Consumed::read(&self.layout.consumed())?;
        if epoch.0 >= epochs {
            return Ok(());
        }
        let reason = format!(
            "this epoch was used up and removed (consumed.json says {epochs}); make it again with scrl-prep --only \
             {epoch}..{epochs}, or go on with the run that used it up (its --out), or delete consumed.json to let \
             scrl-prep begin again"
        );
        Err(Error::dataset(&self.layout.epoch(epoch), reason))
    }
}
