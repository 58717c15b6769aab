//! The source images: which there are, and their bytes. An image's position is its `image_id`.
//!
//! ```text
//! passed_over ← format (the trait) ← folder, archive, zip, parquet, path_list ← open
//! columns, classes ← parquet_columns ← parquet; list_layout ← path_list
//! open ← catalog (and difference, levels, splits), reader
//! ```
//!
//! Every image is examined once, when the shards folder is begun; later runs over the same folder
//! take the results from its `sources.parquet` and compare names and sizes alone.

mod archive;
mod catalog;
mod classes;
mod columns;
mod compressed;
mod difference;
mod examine;
mod folder;
mod format;
mod index;
mod levels;
mod list_layout;
mod open;
mod parquet;
mod parquet_columns;
mod passed_over;
mod path_list;
mod read_ahead;
mod reader;
mod splits;
mod zip;

#[cfg(test)]
mod tests;

pub use catalog::Sources;
pub use examine::Examine;
pub(crate) use read_ahead::REQUESTS;
pub use reader::SourceReader;
