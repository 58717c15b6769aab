//! `sources.parquet`: every image that was found, and the errors of the unreadable ones.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use crate::batches::{Batches, ParquetFile, Wanted};
use crate::shard_reader::check_format;
use crate::store::AtomicFile;
use crate::{Error, FORMAT, FORMAT_KEY, Result, columns};

/// Images turned into Arrow arrays at a time.
const ROWS_PER_BATCH: usize = 65_536;

/// Rows decoded at a time.
const ROWS_READ: usize = 1024;

/// One image, as `sources.parquet` lists it. Its `image_id` is its position in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Below the images folder, with `/` between folders.
    pub path: String,
    /// Label and name of the class; `None` without classes.
    pub class: Option<(i32, Arc<str>)>,
    /// Width in pixels, 0 where the header could not be read.
    pub width: i32,
    /// Height in pixels, 0 where the header could not be read.
    pub height: i32,
    /// Size of the file in bytes.
    pub bytes: i64,
    /// Why the image has no rows.
    pub error: Option<String>,
}

/// Writes `sources.parquet` image by image; the file appears when [`SourcesWriter::finish`]
/// returns.
pub struct SourcesWriter {
    writer: ArrowWriter<AtomicFile>,
    pending: Vec<Source>,
    written: i64,
    path: PathBuf,
}

impl SourcesWriter {
    /// Starts the file whose final path is `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_created_by(format!("scrl {}", env!("CARGO_PKG_VERSION")))
            .set_compression(Compression::SNAPPY)
            .set_key_value_metadata(Some(vec![KeyValue::new(
                FORMAT_KEY.to_owned(),
                FORMAT.to_string(),
            )]))
            .build();
        let file = AtomicFile::create(path)?;
        let writer = ArrowWriter::try_new(file, columns::sources_schema(), Some(properties))
            .map_err(Error::parquet(path))?;
        Ok(Self { writer, pending: Vec::new(), written: 0, path: path.to_owned() })
    }

    /// Appends the next image.
    pub fn write(&mut self, source: Source) -> Result<()> {
        self.pending.push(source);
        if self.pending.len() == ROWS_PER_BATCH { self.write_batch() } else { Ok(()) }
    }

    fn write_batch(&mut self) -> Result<()> {
        let rows = &self.pending;
        let ids = self.written..self.written + rows.len() as i64;
        self.written = ids.end;
        let class = |source: &Source| source.class.clone();
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(ids)),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|source| &source.path))),
            Arc::new(rows.iter().map(|source| class(source).map(|c| c.0)).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|source| class(source).map(|c| c.1)).collect::<StringArray>()),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|source| source.width))),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|source| source.height))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|source| source.bytes))),
            Arc::new(rows.iter().map(|source| source.error.as_deref()).collect::<StringArray>()),
        ];
        self.pending.clear();
        let batch = RecordBatch::try_new(columns::sources_schema(), arrays)
            .map_err(Error::arrow(&self.path))?;
        self.writer.write(&batch).map_err(Error::parquet(&self.path))
    }

    /// Completes the file and gives it its final name.
    pub fn finish(mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.write_batch()?;
        }
        self.writer.into_inner().map_err(Error::parquet(&self.path))?.commit()
    }
}

/// Streams `sources.parquet`, in the order of `image_id`.
pub struct SourcesReader {
    batches: Batches,
    rows: VecDeque<Source>,
    total: u64,
}

impl SourcesReader {
    /// Opens the file and checks that its format and columns are those of this version.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let batches = file.read(Wanted::all_rows(ProjectionMask::all(), ROWS_READ))?;
        Ok(Self { batches, rows: VecDeque::new(), total: file.rows() })
    }

    /// All images in the file.
    pub fn total(&self) -> u64 {
        self.total
    }
}

impl Iterator for SourcesReader {
    type Item = Result<Source>;

    fn next(&mut self) -> Option<Result<Source>> {
        while self.rows.is_empty() {
            match self.batches.next()? {
                Ok(batch) => self.rows = from_record_batch(&batch),
                Err(error) => return Some(Err(error)),
            }
        }
        self.rows.pop_front().map(Ok)
    }
}

fn open(path: &Path) -> Result<ParquetFile> {
    let file = ParquetFile::open(path)?;
    let metadata = file.metadata();
    check_format(path, metadata.metadata().file_metadata().key_value_metadata())?;
    if metadata.schema().fields() != columns::sources_schema().fields() {
        return Err(Error::invalid(path, "not a list of sources: its columns differ"));
    }
    Ok(file)
}

/// The labels in `sources.parquet`, each once, ascending. Reads no other column.
pub fn read_labels(path: &Path) -> Result<Vec<i32>> {
    let file = open(path)?;
    let column = ProjectionMask::columns(file.metadata().parquet_schema(), ["label"]);
    let mut labels = BTreeSet::new();
    for batch in file.read(Wanted::all_rows(column, ROWS_READ))? {
        labels.extend(batch?.column(0).as_primitive::<Int32Type>().iter().flatten());
    }
    Ok(labels.into_iter().collect())
}

// The schema was compared on opening, so the downcasts below cannot fail.
fn from_record_batch(batch: &RecordBatch) -> VecDeque<Source> {
    let text = |column: usize| batch.column(column).as_string::<i32>();
    let int = |column: usize| batch.column(column).as_primitive::<Int32Type>();
    let bytes = batch.column(6).as_primitive::<Int64Type>();
    let mut sources: VecDeque<Source> = VecDeque::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let class = (int(2).is_valid(row) && text(3).is_valid(row)).then(|| {
            let name = text(3).value(row);
            // Consecutive images mostly have the same class: they share its name.
            let last = sources.back().and_then(|source| source.class.as_ref());
            let name = last.filter(|c| &*c.1 == name).map_or_else(|| name.into(), |c| c.1.clone());
            (int(2).value(row), name)
        });
        sources.push_back(Source {
            path: text(1).value(row).to_owned(),
            class,
            width: int(4).value(row),
            height: int(5).value(row),
            bytes: bytes.value(row),
            error: text(7).is_valid(row).then(|| text(7).value(row).to_owned()),
        });
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sources.parquet");
        let good = Source {
            path: "a b/ü.jpg".into(),
            class: Some((3, "a b".into())),
            width: 40,
            height: 30,
            bytes: 1 << 40,
            error: None,
        };
        let bad = Source {
            class: None,
            width: 0,
            height: 0,
            error: Some("empty file".into()),
            ..good.clone()
        };
        let mut writer = SourcesWriter::create(&path).unwrap();
        for source in [&good, &bad, &good] {
            writer.write(source.clone()).unwrap();
        }
        writer.finish().unwrap();
        let reader = SourcesReader::open(&path).unwrap();
        assert_eq!(reader.total(), 3);
        assert_eq!(reader.collect::<Result<Vec<_>>>().unwrap(), [good.clone(), bad, good]);
        assert_eq!(read_labels(&path).unwrap(), [3]);
    }
}
