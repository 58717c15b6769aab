//! The paths of the files in a shards folder.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The number of an epoch, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a shard within its epoch, from 0; shards are read in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub u32);

impl Shard {
    /// The shard's file name, `part-00000.parquet`.
    pub fn file_name(self) -> String {
        format!("part-{:05}.parquet", self.0)
    }
}

/// The paths inside a shards folder.
#[derive(Clone, Debug)]
pub struct ShardPaths {
    root: PathBuf,
}

impl ShardPaths {
    /// The paths below `root`; no file is accessed.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `dataset.toml`.
    pub fn manifest(&self) -> PathBuf {
        self.root.join("dataset.toml")
    }

    /// `sources.parquet`.
    pub fn sources(&self) -> PathBuf {
        self.root.join("sources.parquet")
    }

    /// `consumed.json`.
    pub fn consumed(&self) -> PathBuf {
        self.root.join("consumed.json")
    }

    /// `epoch=00000`.
    pub fn epoch(&self, epoch: Epoch) -> PathBuf {
        self.root.join(format!("epoch={:05}", epoch.0))
    }

    /// `epoch=00000/part-00000.parquet`.
    pub fn shard(&self, epoch: Epoch, shard: Shard) -> PathBuf {
        self.epoch(epoch).join(shard.file_name())
    }

    /// `epoch=00000/_SUCCESS`.
    pub fn success(&self, epoch: Epoch) -> PathBuf {
        self.epoch(epoch).join("_SUCCESS")
    }
}
