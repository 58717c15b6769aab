//! Reading some columns and rows of a Parquet file, local or in an object store.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderBuilder, ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;

use crate::store::StoredFile;
use crate::{Error, Result};

/// Batches that may wait while more of an object is fetched: about a row group of views.
const BATCHES_AHEAD: usize = 8;
/// Bytes between two ranges that are read with them rather than by two requests.
const MOST_BETWEEN: u64 = 64 << 10;
/// Larger ranges are divided, so that several requests share them.
const MOST_OF_A_REQUEST: u64 = 8 << 20;

/// A Parquet file and its footer.
#[derive(Clone, Debug)]
pub struct ParquetFile {
    file: StoredFile,
    metadata: ArrowReaderMetadata,
    path: PathBuf,
}

/// What to read of a file.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The columns.
    pub columns: ProjectionMask,
    /// Rows decoded at a time.
    pub rows_per_batch: usize,
    /// The row groups; `None` for all.
    pub row_groups: Option<Vec<usize>>,
    /// The rows of these; `None` for all.
    pub rows: Option<RowSelection>,
}

impl Wanted {
    /// All rows of these columns.
    pub fn all_rows(columns: ProjectionMask, rows_per_batch: usize) -> Self {
        Self { columns, rows_per_batch, row_groups: None, rows: None }
    }

    fn apply<T>(self, builder: ArrowReaderBuilder<T>) -> ArrowReaderBuilder<T> {
        let builder = builder.with_projection(self.columns).with_batch_size(self.rows_per_batch);
        let builder = match self.row_groups {
            Some(groups) => builder.with_row_groups(groups),
            None => builder,
        };
        match self.rows {
            Some(rows) => builder.with_row_selection(rows),
            None => builder,
        }
    }
}

impl ParquetFile {
    /// Opens a file and reads its footer.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Parquet`] where the footer cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = StoredFile::open(path).map_err(Error::io(path))?;
        // With the pages' places, reading some rows of an object need not fetch the others.
        let policy =
            if file.is_remote() { PageIndexPolicy::Optional } else { PageIndexPolicy::Skip };
        let options = ArrowReaderOptions::default().with_offset_index_policy(policy);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(Error::parquet(path))?;
        Ok(Self { file, metadata, path: path.to_owned() })
    }

    /// The footer.
    pub fn metadata(&self) -> &ArrowReaderMetadata {
        &self.metadata
    }

    /// The rows in the file.
    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// Reads what is wanted. Of an object, a thread fetches and decodes ahead, about a row group.
    ///
    /// # Errors
    /// [`Error::Parquet`] for columns or rows that the file has not.
    pub fn read(&self, wanted: Wanted) -> Result<Batches> {
        let Self { file, metadata, path } = self.clone();
        let source = if file.is_remote() {
            let builder = ParquetPushDecoderBuilder::new_with_metadata(metadata);
            let decoder = wanted.apply(builder).build().map_err(Error::parquet(&path))?;
            let (sender, batches) = sync_channel(BATCHES_AHEAD);
            let fetch = move || fetch(&file, decoder, &sender);
            let spawned = thread::Builder::new().name("fetch-shard".to_owned()).spawn(fetch);
            spawned.map_err(Error::io(&path))?;
            Source::Remote(batches)
        } else {
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
            Source::Local(wanted.apply(builder).build().map_err(Error::parquet(&path))?)
        };
        Ok(Batches { source, path })
    }
}

/// Batches of rows, in the order of the file.
pub struct Batches {
    source: Source,
    path: PathBuf,
}

enum Source {
    Local(ParquetRecordBatchReader),
    Remote(Receiver<std::result::Result<RecordBatch, ParquetError>>),
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        match &mut self.source {
            Source::Local(reader) => {
                reader.next().map(|batch| batch.map_err(Error::arrow(&self.path)))
            }
            Source::Remote(batches) => {
                batches.recv().ok().map(|batch| batch.map_err(Error::parquet(&self.path)))
            }
        }
    }
}

/// Decodes all that the decoder was made for, until nobody receives it any more.
fn fetch(
    file: &StoredFile,
    mut decoder: ParquetPushDecoder,
    sender: &SyncSender<std::result::Result<RecordBatch, ParquetError>>,
) {
    loop {
        let batch = match decoder.try_decode() {
            Ok(DecodeResult::NeedsData(ranges)) => {
                let read = read_ranges(file, &ranges);
                let read = read.map_err(|error| ParquetError::External(Box::new(error)));
                match read.and_then(|bytes| decoder.push_ranges(ranges, bytes)) {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                }
            }
            Ok(DecodeResult::Data(batch)) => Ok(batch),
            Ok(DecodeResult::Finished) => return,
            Err(error) => Err(error),
        };
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

/// Reads ranges, which may be long, or many and side by side.
fn read_ranges(file: &StoredFile, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
    let requests = requests(ranges);
    let bytes = file.read_ranges(&requests)?;
    ranges
        .iter()
        .map(|range| {
            let parts = requests.iter().zip(&bytes).filter_map(|(request, bytes)| {
                let begin = range.start.max(request.start);
                let end = range.end.min(request.end);
                let part = |at: u64| (at - request.start) as usize;
                (begin < end).then(|| bytes.slice(part(begin)..part(end)))
            });
            let parts: Vec<Bytes> = parts.collect();
            Ok(match &parts[..] {
                [part] => part.clone(),
                parts => parts.concat().into(),
            })
        })
        .collect()
}

/// The requests for some ranges: neighbors together, and none too long.
fn requests(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end + MOST_BETWEEN => {
                last.end = last.end.max(range.end)
            }
            _ => joined.push(range),
        }
    }
    let parts = |range: Range<u64>| {
        let end = range.end;
        range
            .step_by(MOST_OF_A_REQUEST as usize)
            .map(move |start| start..end.min(start + MOST_OF_A_REQUEST))
    };
    joined.into_iter().flat_map(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbors_share_a_request_and_long_ranges_take_several() {
        let (most, far) = (MOST_OF_A_REQUEST, 7 + MOST_BETWEEN);
        assert_eq!(requests(&[4..6, 0..2, far..far + 1]), [0..6, far..far + 1]);
        let long = 0..most + 1;
        assert_eq!(requests(std::slice::from_ref(&long)), [0..most, most..most + 1]);
        assert_eq!(requests(&[]), []);
    }
}
