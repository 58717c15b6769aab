//! From a shards folder to batches in memory.
//!
//! [`Dataset`] checks what is in the folder; [`Loader`] reads and decodes ahead of the training on
//! its own threads and returns one [`Batch`] after another. Either can wait for epochs that
//! `scrl-prep` is still writing.

mod batch;
mod classes;
mod dataset;
mod held_out;
mod loader;
mod pixels;
mod source_images;

pub use batch::Batch;
pub use classes::Classes;
pub use dataset::{Dataset, Start};
pub use held_out::read_last_pairs;
pub use loader::{Loader, LoaderConfig};
pub use source_images::SourceImages;
