//! From a prepared folder to batches in memory: [`Dataset`] knows what is there, [`Loader`] reads and decodes ahead of
//! the training on threads of its own and hands over [`Batch`] after [`Batch`].

mod batch;
mod dataset;
mod loader;
mod pixels;

pub use batch::Batch;
pub use dataset::Dataset;
pub use loader::{Loader, LoaderConfig};
