//! Writing rows to a shard.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array, Int8Array, Int32Array,
    Int64Array, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

use crate::row::{Box2, Crop, MatchedBox, Row, View};
use crate::store::AtomicFile;
use crate::{Error, FORMAT, FORMAT_KEY, Result, ShardRecord, columns, huggingface};

/// The Parquet metadata key of the unreadable images that would have had a row in the shard.
pub(crate) const SKIPPED_KEY: &str = "scrl.skipped";

/// Rows turned into Arrow arrays at a time.
const ROWS_PER_BATCH: usize = 64;

/// A row group is closed once it has this many bytes, so that readers need little memory.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// A page of encoded images is closed once it has this many bytes, a few rows: a rank reads the pages
/// of its own rows.
const IMAGE_PAGE_BYTES: usize = 256 << 10;

/// An unreadable image that has no row in its shard, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its row in `sources.parquet`.
    pub image_id: i64,
    /// Why it could not be read.
    pub error: String,
}

/// A shard under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedShard {
    /// Its entry in `_SUCCESS`.
    pub record: ShardRecord,
    /// The unreadable images without a row.
    pub skipped: Vec<Skipped>,
}

/// Writes one shard; the file appears when [`ShardWriter::finish`] returns. Its bytes depend on the
/// rows alone.
pub struct ShardWriter {
    writer: ArrowWriter<Checksummed<AtomicFile>>,
    pending: Vec<Row>,
    rows: u64,
    path: PathBuf,
}

/// Counts and checksums the bytes written through it.
struct Checksummed<W> {
    inner: W,
    bytes: u64,
    crc32c: u32,
}

impl<W: Write> Write for Checksummed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Compression level of zstd, from 1 to 22.
const ZSTD_LEVEL: i32 = 3;

/// The path of a leaf column.
fn column(path: &str) -> ColumnPath {
    ColumnPath::from(path.split('.').map(str::to_owned).collect::<Vec<_>>())
}

/// The encodings of the columns, for small recipes. The bytes of floats that do not repeat are split
/// into streams of first bytes, second bytes and so on, some of which are nearly constant and
/// compress well. Integers are written as differences in as few bits as each 32 of them need: a
/// dictionary is nearly as long as its column in a shard of a few hundred rows.
fn properties() -> WriterProperties {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).expect("a level that zstd has");
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("scrl {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(None)
        .set_key_value_metadata(Some(vec![
            KeyValue::new(FORMAT_KEY.to_owned(), FORMAT.to_string()),
            KeyValue::new(huggingface::KEY.to_owned(), huggingface::features()),
        ]));
    let unique = |builder: WriterPropertiesBuilder, path: &str| {
        builder.set_column_dictionary_enabled(column(path), false)
    };
    let integer = |builder: WriterPropertiesBuilder, path: &str| {
        unique(builder, path).set_column_encoding(column(path), Encoding::DELTA_BINARY_PACKED)
    };
    // Encoded images do not compress further.
    for view in ["view1", "view2"] {
        let bytes = format!("{view}.image.bytes");
        builder = unique(builder, &bytes)
            .set_column_compression(column(&bytes), Compression::UNCOMPRESSED)
            .set_column_data_page_size_limit(column(&bytes), IMAGE_PAGE_BYTES);
        builder = unique(builder, &format!("{view}.image.path"));
        for side in ["x", "y", "width", "height"] {
            builder = integer(builder, &format!("{view}.crop.{side}"));
        }
        builder = integer(builder, &format!("{view}.turns"));
        for number in
            ["jitter.brightness", "jitter.contrast", "jitter.saturation", "jitter.hue", "blur"]
        {
            let path = format!("{view}.{number}");
            builder = unique(builder, &path)
                .set_column_encoding(column(&path), Encoding::BYTE_STREAM_SPLIT);
        }
    }
    for side in ["source", "view1", "view2"] {
        let path = format!("boxes.list.element.{side}.list.element");
        builder =
            unique(builder, &path).set_column_encoding(column(&path), Encoding::BYTE_STREAM_SPLIT);
    }
    for name in ["image_id", "label", "source_width", "source_height"] {
        builder = integer(builder, name);
    }
    unique(builder, "path").build()
}

impl ShardWriter {
    /// Starts the shard whose final path is `path`, in a folder that exists (in an object
    /// store every folder does).
    pub fn create(path: &Path) -> Result<Self> {
        let file = Checksummed { inner: AtomicFile::create(path)?, bytes: 0, crc32c: 0 };
        let writer = ArrowWriter::try_new(file, columns::shard_schema(), Some(properties()))
            .map_err(Error::parquet(path))?;
        Ok(Self {
            writer,
            pending: Vec::with_capacity(ROWS_PER_BATCH),
            rows: 0,
            path: path.to_owned(),
        })
    }

    /// Appends a row.
    pub fn write(&mut self, row: Row) -> Result<()> {
        self.pending.push(row);
        if self.pending.len() == ROWS_PER_BATCH { self.write_batch() } else { Ok(()) }
    }

    fn write_batch(&mut self) -> Result<()> {
        let batch = to_record_batch(&self.pending).map_err(Error::arrow(&self.path))?;
        self.rows += self.pending.len() as u64;
        self.pending.clear();
        self.writer.write(&batch).map_err(Error::parquet(&self.path))?;
        if self.writer.in_progress_size() >= ROW_GROUP_BYTES {
            self.writer.flush().map_err(Error::parquet(&self.path))?;
        }
        Ok(())
    }

    /// Records the unreadable images, completes the file and gives it its final name.
    pub fn finish(mut self, skipped: Vec<Skipped>) -> Result<FinishedShard> {
        if !self.pending.is_empty() {
            self.write_batch()?;
        }
        let list = serde_json::to_string(&skipped).expect("plain values");
        self.writer.append_key_value_metadata(KeyValue::new(SKIPPED_KEY.to_owned(), list));
        let file = self.writer.into_inner().map_err(Error::parquet(&self.path))?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let record = ShardRecord { name, rows: self.rows, bytes: file.bytes, crc32c: file.crc32c };
        file.inner.commit()?;
        Ok(FinishedShard { record, skipped })
    }
}

fn to_record_batch(rows: &[Row]) -> std::result::Result<RecordBatch, ArrowError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.image_id).collect::<Int64Array>()),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.path))),
        Arc::new(rows.iter().map(|row| row.label).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.source_width).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.source_height).collect::<Int32Array>()),
        Arc::new(view_array(rows.iter().map(|row| &row.view1))),
        Arc::new(view_array(rows.iter().map(|row| &row.view2))),
        Arc::new(boxes_array(rows)),
    ];
    RecordBatch::try_new(columns::shard_schema(), columns)
}

fn view_array<'a>(views: impl Iterator<Item = &'a View> + Clone) -> StructArray {
    let params = views.clone().map(|view| &view.params);
    let crops = params.clone().map(|p| p.crop);
    let jitters = params.clone().map(|p| p.jitter.as_ref());
    let crop = |side: fn(Crop) -> i32| -> ArrayRef {
        Arc::new(crops.clone().map(side).collect::<Int32Array>())
    };
    let strength = |field: fn(&crate::ColorJitter) -> f32| -> ArrayRef {
        Arc::new(Float32Array::from_iter_values(
            jitters.clone().map(|jitter| jitter.map_or(0.0, field)),
        ))
    };
    let image = StructArray::new(
        columns::image_fields(),
        vec![
            Arc::new(BinaryArray::from_iter_values(
                views.clone().map(|v| v.image.as_ref().map_or(&[][..], |image| &image.bytes)),
            )),
            Arc::new(StringArray::from_iter_values(
                views.clone().map(|v| v.image.as_ref().map_or("", |image| &image.path)),
            )),
        ],
        Some(views.clone().map(|view| view.image.is_some()).collect::<NullBuffer>()),
    );
    let jitter = StructArray::new(
        columns::jitter_fields(),
        vec![
            strength(|jitter| jitter.brightness),
            strength(|jitter| jitter.contrast),
            strength(|jitter| jitter.saturation),
            strength(|jitter| jitter.hue),
            Arc::new(StringArray::from_iter_values(
                jitters.clone().map(|jitter| jitter.map_or(String::new(), |j| j.order_string())),
            )),
        ],
        Some(jitters.clone().map(|jitter| jitter.is_some()).collect::<NullBuffer>()),
    );
    StructArray::new(
        columns::view_fields(),
        vec![
            Arc::new(image),
            Arc::new(StructArray::new(
                columns::crop_fields(),
                vec![crop(|c| c.x), crop(|c| c.y), crop(|c| c.width), crop(|c| c.height)],
                None,
            )),
            Arc::new(params.clone().map(|p| Some(p.flip)).collect::<BooleanArray>()),
            Arc::new(params.clone().map(|p| Some(p.vertical_flip)).collect::<BooleanArray>()),
            Arc::new(params.clone().map(|p| p.turns).collect::<Int8Array>()),
            Arc::new(jitter),
            Arc::new(params.clone().map(|p| Some(p.grayscale)).collect::<BooleanArray>()),
            Arc::new(params.clone().map(|p| p.blur).collect::<Float32Array>()),
            Arc::new(params.map(|p| Some(p.solarize)).collect::<BooleanArray>()),
        ],
        None,
    )
}

fn boxes_array(rows: &[Row]) -> ListArray {
    let all = || rows.iter().flat_map(|row| &row.boxes);
    let corners = |side: fn(&MatchedBox) -> Box2| -> ArrayRef {
        let values = Float32Array::from_iter_values(all().flat_map(|b| side(b).to_array()));
        Arc::new(FixedSizeListArray::new(columns::coordinate_field(), 4, Arc::new(values), None))
    };
    let boxes = StructArray::new(
        columns::box_fields(),
        vec![corners(|b| b.source), corners(|b| b.view1), corners(|b| b.view2)],
        None,
    );
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.boxes.len()));
    ListArray::new(columns::box_field(), offsets, Arc::new(boxes), None)
}
