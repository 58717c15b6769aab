//! The last pairs of epoch 0, on which no step trains.

use scrl_schemas::{Epoch, Row, ViewEncoding};

use super::batch::Batch;
use super::dataset::Dataset;
use super::loader::{rows, too_few_rows};
use super::pixels::fill_views;
use super::source_images::SourceImages;
use crate::{Error, Result};

/// Reads and decodes the last pairs of epoch 0: `batches` batches of `pairs` pairs each.
///
/// # Errors
/// If the epoch is not there (any more), or the error of a shard or row.
pub fn read_last_pairs(
    dataset: &Dataset,
    sources: &SourceImages,
    batches: usize,
    pairs: usize,
) -> Result<Vec<Batch>> {
    let epoch = Epoch(0);
    let gone = || Error::dataset(&dataset.paths().epoch(epoch), "this epoch is not there any more");
    let shards = dataset.finished(epoch)?.ok_or_else(gone)?.parts;
    let options = &dataset.manifest().options;
    let size = options.size as usize;
    let first = dataset.rows_per_epoch().saturating_sub((batches * pairs) as u64);
    let mut rows = rows(dataset, epoch, shards, first, |_| true);
    (0..batches)
        .map(|_| {
            let rows: Vec<Row> = rows.by_ref().take(pairs).collect::<Result<_>>()?;
            if rows.len() < pairs {
                return Err(too_few_rows(dataset, epoch));
            }
            if options.views == ViewEncoding::Recipe {
                sources.read_ahead(&rows)?;
            }
            let mut pixels = vec![0; 2 * pairs * size * size * 3];
            fill_views(sources, options, &rows, &mut pixels)?;
            Ok(Batch::new(epoch, &rows, 0..pairs, size, pixels))
        })
        .collect()
}
