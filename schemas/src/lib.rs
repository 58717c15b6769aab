//! The format where `scrl-prep` and `scrl-train` meet.
//!
//! A prepared folder looks like this; every name and column is fixed by [`FORMAT`]:
//!
//! ```text
//! shards/
//!   dataset.toml                  [`Manifest`]: format, seed, planned epochs, resolved options, counts, writer
//!   sources.parquet               [`Source`]: one row per image found, with the reason where one could not be read
//!   epoch=00000/part-00000.parquet …   [`Row`]: one row per image that decoded, already shuffled
//!   epoch=00000/_SUCCESS          [`Success`]: JSON, each part's rows, bytes and CRC-32C; written last
//!   consumed.json                 [`Consumed`]: how far training has come, where it said so (`scrl-train --consume`)
//! ```
//!
//! [`columns`] holds the Arrow schemas, [`ShardWriter`] and [`ShardReader`] turn rows into files and back, [`ShardPaths`]
//! knows the paths, and [`atomic`] makes every file appear whole or not at all.

#![deny(missing_docs)]

pub mod atomic;
mod columns;
mod consumed;
mod error;
mod huggingface;
mod manifest;
mod named_choice;
mod paths;
mod row;
mod shard_reader;
mod shard_writer;
mod sources;
mod success;

pub use consumed::Consumed;
pub use error::{Error, Result};
pub use manifest::{
    BlurKind, BoxSampler, Counts, Exif, IouFallback, Manifest, PrepOptions, Preset, ViewEncoding,
};
pub use paths::{Epoch, Shard, ShardPaths, file_names};
pub use row::{
    Box2, ColorJitter, ColorStep, Crop, EncodedImage, MatchedBox, Row, View, ViewParams,
};
pub use shard_reader::ShardReader;
pub use shard_writer::{FinishedShard, ShardWriter, Skipped};
pub use sources::{Source, SourcesReader, SourcesWriter, read_labels};
pub use success::{ShardRecord, Success};

/// The version of the folder's layout and columns. A reader refuses any other.
pub const FORMAT: u32 = 1;

/// The key under which [`FORMAT`] stands in the Parquet metadata of every file.
pub(crate) const FORMAT_KEY: &str = "scrl.format";
