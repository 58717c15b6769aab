//! A shards folder, checked before training begins.

use std::fmt::Display;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use scrl_cli::Reporter;
use scrl_schemas::{Consumed, Epoch, Manifest, ShardPaths, Success, store};

use crate::{Error, Result};

/// Time between two looks into a folder that is being filled. It may lie on a file server that
/// others use as well.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two checks of the stop flag while waiting: Ctrl-C seems to act at once.
pub(super) const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Where training starts, from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first epoch needed.
    pub epoch: Epoch,
    /// Rows of each epoch, used where no finished epoch is left to count them.
    pub rows_per_epoch: Option<u64>,
}

impl Default for Start {
    /// The start of a new run.
    fn default() -> Self {
        Self { epoch: Epoch(0), rows_per_epoch: None }
    }
}

/// A shards folder and its manifest.
#[derive(Clone, Debug)]
pub struct Dataset {
    paths: ShardPaths,
    manifest: Manifest,
    rows_per_epoch: u64,
}

impl Dataset {
    /// Opens a folder for a new run.
    ///
    /// # Errors
    /// See [`Dataset::open_at`].
    pub fn open(shards: &Path) -> Result<Self> {
        Self::open_at(shards, Start::default())
    }

    /// Opens a folder for a run that starts at `start`; earlier epochs are not looked at.
    ///
    /// # Errors
    /// Without a manifest, or if neither a finished epoch nor `start` gives the rows of an epoch.
    pub fn open_at(shards: &Path, start: Start) -> Result<Self> {
        let missing =
            || Error::dataset(shards, "no dataset.toml here; make the shards with scrl-prep first");
        let dataset = Self::with_manifest(shards)?.ok_or_else(missing)?;
        let rows_per_epoch = match (dataset.first_finished(start.epoch)?, start.rows_per_epoch) {
            (Some(success), _) => success.rows(),
            (None, Some(rows)) => rows,
            (None, None) => dataset.success(start.epoch)?.rows(),
        };
        Ok(Self { rows_per_epoch, ..dataset })
    }

    /// Like [`Dataset::open_at`], but waits for a manifest or an epoch that is not there yet.
    ///
    /// # Errors
    /// [`Error::Stopped`] after a stop; [`Error::Dataset`] if the first epoch needed was consumed
    /// and removed.
    pub fn follow(shards: &Path, start: Start, reporter: &Reporter) -> Result<Self> {
        let look = || Self::with_manifest(shards);
        let dataset = wait_for("dataset.toml", shards, reporter, look)?;
        let rows_per_epoch =
            wait_for(format_args!("epoch {}", start.epoch), shards, reporter, || {
                // Where `start` has the number, the loader waits for the epoch itself.
                let finished = dataset.finished(start.epoch)?;
                Ok(finished.map(|success| success.rows()).or(start.rows_per_epoch))
            })?;
        Ok(Self { rows_per_epoch, ..dataset })
    }

    /// The folder without its rows counted; `None` without a manifest.
    fn with_manifest(shards: &Path) -> Result<Option<Self>> {
        let paths = ShardPaths::new(shards);
        if !store::has_file(&paths.manifest())? {
            // Of a bucket that does not exist, an object store only tells here.
            store::has_folder(shards)?;
            return Ok(None);
        }
        let manifest = Manifest::read(&paths.manifest())?;
        Ok(Some(Self { paths, manifest, rows_per_epoch: 0 }))
    }

    /// The options and counts with which the folder was made.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The paths inside the folder.
    pub fn paths(&self) -> &ShardPaths {
        &self.paths
    }

    /// Rows of each epoch: the same for all, as the same images decode each time.
    pub fn rows_per_epoch(&self) -> u64 {
        self.rows_per_epoch
    }

    /// The shards of a finished epoch.
    ///
    /// # Errors
    /// If the epoch is not finished, or its rows are not as many as the first epoch's.
    pub(crate) fn success(&self, epoch: Epoch) -> Result<Success> {
        self.finished(epoch)?.ok_or_else(|| {
            let reason = "this epoch is not finished (no _SUCCESS); let scrl-prep finish it, or \
                          train fewer --epochs";
            Error::dataset(&self.paths.epoch(epoch), reason)
        })
    }

    /// The shards of an epoch; `None` until it is finished.
    ///
    /// # Errors
    /// If the epoch is missing because it was consumed, or its rows are not as many as the first
    /// epoch's.
    pub(super) fn finished(&self, epoch: Epoch) -> Result<Option<Success>> {
        let Some(success) = Success::find(&self.paths.success(epoch))? else {
            return self.check_not_consumed(epoch).map(|()| None);
        };
        if self.rows_per_epoch != 0 && success.rows() != self.rows_per_epoch {
            let reason = format!(
                "{} rows, but the first epoch has {}; the images changed while scrl-prep ran: \
                 prepare them again",
                success.rows(),
                self.rows_per_epoch
            );
            return Err(Error::dataset(&self.paths.success(epoch), reason));
        }
        Ok(Some(success))
    }

    fn first_finished(&self, from: Epoch) -> Result<Option<Success>> {
        let mut epochs = (from.0..self.manifest.epochs).map(Epoch);
        let found = |epoch| Success::find(&self.paths.success(epoch)).transpose();
        Ok(epochs.find_map(found).transpose()?)
    }

    /// Refuses a missing epoch that counts as consumed: `scrl-prep --keep` does not make it again.
    fn check_not_consumed(&self, epoch: Epoch) -> Result<()> {
        let Consumed { epochs } = Consumed::read(&self.paths.consumed())?;
        if epoch.0 >= epochs {
            return Ok(());
        }
        let reason = format!(
            "this epoch was consumed and removed (consumed.json says {epochs}); make it again with \
             scrl-prep --only {epoch}..{epochs}, or resume the run that consumed it (its --out), \
             or delete consumed.json to let scrl-prep start again"
        );
        Err(Error::dataset(&self.paths.epoch(epoch), reason))
    }
}

/// The sentence about a wait, so that nobody waits for a program that is not running.
pub(super) fn waiting_for(what: impl Display, shards: &Path) -> String {
    format!("waiting for {what} of {} …; is scrl-prep running?", shards.display())
}

/// Looks until `look` finds something; reports the wait once, and ends it after a stop.
fn wait_for<T>(
    what: impl Display,
    shards: &Path,
    reporter: &Reporter,
    look: impl Fn() -> Result<Option<T>>,
) -> Result<T> {
    if let Some(found) = look()? {
        return Ok(found);
    }
    reporter.say(waiting_for(what, shards));
    loop {
        let start = Instant::now();
        while start.elapsed() < LOOK_INTERVAL {
            reporter.check_stop()?;
            thread::sleep(STOP_INTERVAL);
        }
        if let Some(found) = look()? {
            return Ok(found);
        }
    }
}
