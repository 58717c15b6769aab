//! The file format that `scrl-prep` writes and `scrl-train` reads.
//!
//! A shards folder has these files; every name and column is fixed by [`FORMAT`]:
//!
//! ```text
//! shards/
//!   dataset.toml                       [`Manifest`]: format, seed, epochs, options, counts, writer
//!   sources.parquet                    [`Source`]: one row per image, with the error if unreadable
//!   epoch=00000/part-00000.parquet …   [`Row`]: one row per image that decoded, already shuffled
//!   epoch=00000/_SUCCESS               [`Success`]: rows, bytes, CRC-32C of each shard; last
//!   consumed.json                      [`Consumed`]: the epochs that training has consumed
//! ```
//!
//! [`ShardWriter`] and [`ShardReader`] convert rows to files and back, [`ShardPaths`] has the
//! paths, and [`store`] reads and writes the files, in a local folder or an object store.

#![deny(missing_docs)]

mod batches;
mod columns;
mod consumed;
mod error;
mod huggingface;
mod levels;
mod manifest;
mod named_choice;
mod paths;
mod row;
mod shard_reader;
mod shard_writer;
mod sources;
mod steps;
pub mod store;
mod success;

pub use batches::{Batches, ParquetFile, Wanted};
pub use consumed::Consumed;
pub use error::{Error, Result};
pub use levels::Levels;
pub use manifest::{
    BlurKind, BoxSampler, ClassSource, Counts, Exif, IouFallback, Manifest, PrepOptions, Preset,
    SourceOptions, ViewEncoding,
};
pub use paths::{Epoch, Shard, ShardPaths};
pub use row::{
    Box2, ColorJitter, ColorStep, Crop, EncodedImage, MatchedBox, Orientation, Row, View,
    ViewParams,
};
pub use shard_reader::ShardReader;
pub use shard_writer::{FinishedShard, ShardWriter, Skipped};
pub use sources::{Source, SourcesReader, SourcesWriter, read_labels};
pub use steps::StepOptions;
pub use success::{ShardRecord, Success};

/// The version of the folder's files and columns. A reader refuses any other.
pub const FORMAT: u32 = 1;

/// The key of [`FORMAT`] in the Parquet metadata of every file.
pub(crate) const FORMAT_KEY: &str = "scrl.format";
