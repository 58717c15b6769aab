//! `sources.parquet`: every image that was found, and what became of it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use crate::atomic::AtomicFile;
use crate::shard_reader::check_format;
use crate::{Error, FORMAT, FORMAT_KEY, Result, columns};

/// Rows turned into Arrow arrays at a time.
const ROWS_PER_BATCH: usize = 65_536;

/// One image, as `sources.parquet` lists it. Its `image_id` is its position in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Below the images folder, with `/` between folders.
    pub path: String,
    /// Class number and name, where the images lie in class folders.
    pub class: Option<(i32, Arc<str>)>,
    /// Width in pixels, 0 where the header could not be read.
    pub width: i32,
    /// Height in pixels, 0 where the header could not be read.
    pub height: i32,
    /// Size of the file.
    pub bytes: i64,
    /// Why the image has no rows.
    pub error: Option<String>,
}

/// Writes `sources.parquet`, whole or not at all.
pub fn write_sources(path: &Path, sources: &[Source]) -> Result<()> {
    let properties = WriterProperties::builder()
        .set_created_by(format!("scrl {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata(Some(vec![KeyValue::new(FORMAT_KEY.to_owned(), FORMAT.to_string())]))
        .build();
    let file = AtomicFile::create(path)?;
    let mut writer = ArrowWriter::try_new(file, columns::sources_schema(), Some(properties))
        .map_err(Error::parquet(path))?;
    for (index, chunk) in sources.chunks(ROWS_PER_BATCH).enumerate() {
        let first = (index * ROWS_PER_BATCH) as i64;
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(first..first + chunk.len() as i64)),
            Arc::new(StringArray::from_iter_values(chunk.iter().map(|source| &source.path))),
            Arc::new(chunk.iter().map(|source| source.class.as_ref().map(|c| c.0)).collect::<Int32Array>()),
            Arc::new(
                chunk.iter().map(|source| source.class.as_ref().map(|c| &*c.1)).collect::<StringArray>(),
            ),
            Arc::new(Int32Array::from_iter_values(chunk.iter().map(|source| source.width))),
            Arc::new(Int32Array::from_iter_values(chunk.iter().map(|source| source.height))),
            Arc::new(Int64Array::from_iter_values(chunk.iter().map(|source| source.bytes))),
            Arc::new(chunk.iter().map(|source| source.error.as_deref()).collect::<StringArray>()),
        ];
        let batch = RecordBatch::try_new(columns::sources_schema(), arrays).map_err(Error::arrow(path))?;
        writer.write(&batch).map_err(Error::parquet(path))?;
    }
    writer.into_inner().map_err(Error::parquet(path))?.commit()
}

/// Reads `sources.parquet`.
pub fn read_sources(path: &Path) -> Result<Vec<Source>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(Error::parquet(path))?;
    check_format(path, builder.metadata().file_metadata().key_value_metadata())?;
    if builder.schema().fields() != columns::sources_schema().fields() {
        return Err(Error::invalid(path, "not a list of sources: its columns differ"));
    }
    let mut sources: Vec<Source> = Vec::new();
    for batch in builder.build().map_err(Error::parquet(path))? {
        let batch = batch.map_err(Error::arrow(path))?;
        let text = |column: usize| batch.column(column).as_string::<i32>();
        let int = |column: usize| batch.column(column).as_primitive::<Int32Type>();
        let bytes = batch.column(6).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let class = (int(2).is_valid(row) && text(3).is_valid(row)).then(|| {
                let name = text(3).value(row);
                // Neighbours mostly share their class: share its name too.
                let last = sources.last().and_then(|source| source.class.as_ref());
                let name = last.filter(|c| &*c.1 == name).map_or_else(|| name.into(), |c| c.1.clone());
                (int(2).value(row), name)
            });
            sources.push(Source {
                path: text(1).value(row).to_owned(),
                class,
                width: int(4).value(row),
                height: int(5).value(row),
                bytes: bytes.value(row),
                error: text(7).is_valid(row).then(|| text(7).value(row).to_owned()),
            });
        }
    }
    Ok(sources)
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
        let bad =
            Source { class: None, width: 0, height: 0, error: Some("empty file".into()), ..good.clone() };
        write_sources(&path, &[good.clone(), bad.clone()]).unwrap();
        assert_eq!(read_sources(&path).unwrap(), [good, bad]);
    }
}
