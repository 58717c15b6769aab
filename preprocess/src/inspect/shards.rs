//! A prepared folder as it lies there.

use std::path::Path;

use scrl_schemas::{
    Epoch, Manifest, ShardPaths, ShardRecord, Source, SourcesReader, Success, ViewEncoding,
};

use crate::prepare::resume;
use crate::prepare::shuffle::Shuffle;
use crate::{Error, Result};

/// An epoch that is there whole, as its `_SUCCESS` says.
#[derive(Clone, Debug)]
pub(crate) struct FinishedEpoch {
    /// Its number.
    pub epoch: Epoch,
    /// Its parts in reading order.
    pub parts: Vec<ShardRecord>,
}

/// A prepared folder: what it was made from, and which of its epochs are there.
#[derive(Debug)]
pub struct Shards {
    /// Where each file lies.
    pub paths: ShardPaths,
    /// What was asked for.
    pub manifest: Manifest,
    /// The images; each one's `image_id` is its position.
    pub sources: Vec<Source>,
    /// The epochs that are whole, in order.
    pub(crate) epochs: Vec<FinishedEpoch>,
    /// Epochs that have a folder but no `_SUCCESS`: they are being made, or wait for other ranks.
    pub unfinished: Vec<Epoch>,
    /// Epochs whose `_SUCCESS` cannot be read, with the reason.
    pub(crate) damaged: Vec<(Epoch, String)>,
}

impl Shards {
    /// Opens a folder, or with `only` a single epoch of it. Reads the manifest, the list of sources (about 100 bytes of
    /// memory each) and every `_SUCCESS`; no part is opened.
    ///
    /// # Errors
    /// [`Error::Folder`] where there is no manifest or no such epoch, [`Error::Shards`] where a file cannot be read.
    pub fn open(shards: &Path, only: Option<Epoch>) -> Result<Self> {
        let paths = ShardPaths::new(shards);
        let refuse = |reason: &str| {
            Err(Error::Folder { path: shards.to_owned(), reason: reason.to_owned() })
        };
        if !shards.is_dir() {
            return refuse("is no folder; give the one that scrl-prep wrote");
        }
        if !paths.manifest().exists() {
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
                found.take_in(epoch);
            }
        }
        match only {
            Some(only) if found.epochs.is_empty() && found.damaged.is_empty() => refuse(&format!(
                "holds no finished epoch {only}; leave --epoch out to see which there are"
            )),
            None if found.epochs.is_empty() && found.damaged.is_empty() => {
                refuse("holds no finished epoch yet; let scrl-prep finish one")
            }
            _ => Ok(found),
        }
    }

    fn take_in(&mut self, epoch: Epoch) {
        let success = self.paths.success(epoch);
        if !success.exists() {
            return self.unfinished.push(epoch);
        }
        match Success::read(&success) {
            Ok(Success { parts, .. }) => self.epochs.push(FinishedEpoch { epoch, parts }),
            Err(error) => self.damaged.push((epoch, error.to_string())),
        }
    }

    /// Refuses a folder in which a `_SUCCESS` cannot be read, for who needs every row.
    ///
    /// # Errors
    /// [`Error::Folder`] with the first of them.
    pub fn require_whole(&self) -> Result<()> {
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

    /// Every part of every finished epoch.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Epoch, &ShardRecord)> {
        self.epochs
            .iter()
            .flat_map(|finished| finished.parts.iter().map(|part| (finished.epoch, part)))
    }

    /// Rows of all finished epochs.
    pub fn rows(&self) -> u64 {
        self.parts().map(|(_, part)| part.rows).sum()
    }

    /// Bytes of all parts of finished epochs.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts().map(|(_, part)| part.bytes).sum()
    }

    /// Images that could not be read.
    pub(crate) fn unreadable(&self) -> u64 {
        self.sources.iter().filter(|source| source.error.is_some()).count() as u64
    }

    /// Whether the shards hold no pictures.
    pub fn are_recipes(&self) -> bool {
        self.manifest.options.views == ViewEncoding::Recipe
    }

    /// Which image lies in which part.
    pub(crate) fn shuffle(&self) -> Shuffle {
        let Manifest { seed, ref options, .. } = self.manifest;
        Shuffle::new(
            seed,
            self.sources.len() as u32,
            options.rows_per_shard,
            options.epochs_per_pass,
        )
    }

    /// A part's name below the folder, `epoch=00000/part-00000.parquet`.
    pub(crate) fn name(&self, epoch: Epoch, file: &str) -> String {
        format!("{}/{file}", self.paths.epoch(epoch).file_name().unwrap_or_default().display())
    }
}
