//! From a prepared folder to batches in memory: [`Dataset`] knows what is there, [`Loader`] reads and decodes ahead of
//! the training on threads of its own and hands over [`Batch`] after [`Batch`]. Either can wait for epochs that
//! `scrl-prep` is still making.

mod awaited;
mod batch;
mod classes;
mod dataset;
mod loader;
mod pixels;
mod source_images;

pub use awaited::Awaited;
pub use batch::Batch;
pub use classes::Classes;
pub use dataset::{Begin, Dataset};
pub use loader::{Loader, LoaderConfig};
pub use source_images::SourceImages;
