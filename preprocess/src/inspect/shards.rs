//! A shards folder and its finished epochs.

use std::path::Path;

use scrl_schemas::{
    Epoch, Manifest, ShardPaths, ShardRecord, Source, SourcesReader, Success, ViewEncoding, store,
};

use crate::prepare::resume;
use crate::prepare::shuffle::Shuffle;
use crate::{Error, Result};

/// A complete epoch, as listed in its `_SUCCESS`.
#[derive(Clone, Debug)]
pub(crate) struct FinishedEpoch {
    /// Its number.
    pub epoch: Epoch,
    /// Its shards in reading order.
    pub shards: Vec<ShardRecord>,
}

/// A shards folder: its manifest, its sources, and its epochs.
#[derive(Debug)]
pub struct Shards {
    /// The paths of its files.
    pub paths: ShardPaths,
    /// The options that it was made with.
    pub manifest: Manifest,
    /// The images by their `image_id`.
    pub sources: Vec<Source>,
    /// The complete epochs, in order.
    pub(crate) epochs: Vec<FinishedEpoch>,
    /// Epochs that have a folder but no `_SUCCESS`: they are being made, or wait for other ranks.
    pub unfinished: Vec<Epoch>,
    /// Epochs whose `_SUCCESS` cannot be read, with the reason.
    pub(crate) damaged: Vec<(Epoch, String)>,
}

impl Shards {
    /// Opens a folder, or with `only` a single epoch of it. Reads the manifest, the list of sources
    /// (about 150 bytes of memory for each) and every `_SUCCESS`; no shard is opened.
    ///
    /// # Errors
    /// [`Error::Folder`] where there is no manifest or no such epoch, [`Error::Shards`] where a
    /// file cannot be read.
    pub fn open(shards: &Path, only: Option<Epoch>) -> Result<Self> {
        let paths = ShardPaths::new(shards);
        let refuse = |reason: &str| {
            Err(Error::Folder { path: shards.to_owned(), reason: reason.to_owned() })
        };
        if !store::has_folder(shards)? {
            return refuse("is not a folder; give the one that scrl-prep wrote");
        }
        if !store::has_file(&paths.manifest())? {
            return refuse("holds no dataset.toml; give the folder that scrl-prep wrote");
        }
        let manifest = Manifest::read(&paths.manifest())?;
        let sources =
            SourcesReader::open(&paths.sources())?.collect::<scrl_schemas::Result<Vec<_>>>()?;
        let mut found = Self {
            paths,
            manifest,
            sources,
            epochs: Vec::new(),
            unfinished: Vec::new(),
            damaged: Vec::new(),
        };
        for epoch in resume::epochs(&found.paths)? {
            if only.is_none_or(|only| only == epoch) {
                found.add(epoch)?;
            }
        }
        match only {
            Some(only) if found.epochs.is_empty() && found.damaged.is_empty() => refuse(&format!(
                "holds no finished epoch {only}; without --epoch all finished ones are shown"
            )),
            None if found.epochs.is_empty() && found.damaged.is_empty() => {
                refuse("holds no finished epoch yet; wait until scrl-prep has finished one")
            }
            _ => Ok(found),
        }
    }

    fn add(&mut self, epoch: Epoch) -> Result<()> {
        match Success::find(&self.paths.success(epoch)) {
            Ok(Some(Success { parts: shards, .. })) => {
                self.epochs.push(FinishedEpoch { epoch, shards });
            }
            Ok(None) => self.unfinished.push(epoch),
            Err(error @ scrl_schemas::Error::Io { .. }) => return Err(error.into()),
            Err(error) => self.damaged.push((epoch, error.to_string())),
        }
        Ok(())
    }

    /// Refuses a folder in which a `_SUCCESS` cannot be read, as then not every row can be.
    ///
    /// # Errors
    /// [`Error::Folder`] with the first of them.
    pub fn require_intact(&self) -> Result<()> {
        match self.damaged.first() {
            None => Ok(()),
            Some((epoch, reason)) => {
                let reason = format!(
                    "{reason}; remove that folder and run the same scrl-prep command again"
                );
                Err(Error::Folder { path: self.paths.epoch(*epoch), reason })
            }
        }
    }

    /// Every shard of every finished epoch.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Epoch, &ShardRecord)> {
        self.epochs
            .iter()
            .flat_map(|finished| finished.shards.iter().map(|shard| (finished.epoch, shard)))
    }

    /// Rows of all finished epochs.
    pub fn rows(&self) -> u64 {
        self.iter().map(|(_, shard)| shard.rows).sum()
    }

    /// Bytes of all shards of finished epochs.
    pub(crate) fn bytes(&self) -> u64 {
        self.iter().map(|(_, shard)| shard.bytes).sum()
    }

    /// The number of unreadable images.
    pub(crate) fn unreadable(&self) -> u64 {
        self.sources.iter().filter(|source| source.error.is_some()).count() as u64
    }

    /// Whether the shards hold no pixels.
    pub fn are_recipes(&self) -> bool {
        self.manifest.options.views == ViewEncoding::Recipe
    }

    /// The permutation of each epoch.
    pub(crate) fn shuffle(&self) -> Shuffle {
        let Manifest { seed, ref options, .. } = self.manifest;
        Shuffle::new(
            seed,
            self.sources.len() as u32,
            options.rows_per_shard,
            options.epochs_per_pass,
        )
    }

    /// The path of a file below the folder, such as `epoch=00000/part-00000.parquet`.
    pub(crate) fn name(&self, epoch: Epoch, file: &str) -> String {
        format!("{}/{file}", self.paths.epoch(epoch).file_name().unwrap_or_default().display())
    }
}
