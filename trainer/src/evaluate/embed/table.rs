//! The table of embeddings: a Parquet file.
//!
//! | column | type |
//! |---|---|
//! | `path` | string: below the images' folder |
//! | `box` | struct of `x`, `y`, `width`, `height`, float32, in pixels of the image; null for images |
//! | `class` | string; null without classes |
//! | `embedding` | `fixed_size_list<float32>[C]` |
//! | `pca` | `fixed_size_list<float32>[3]`: the leading principal components of the embeddings |

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use scrl_schemas::store::AtomicFile;

use super::{COMPONENTS, EmbeddedRow};
use crate::{Error, Result};

/// Rows of a row group.
const ROWS: usize = 16_384;

/// Writes the table, completely or not at all. `embeddings` are `[rows, C]`, `pca` is `[rows, 3]`;
/// the `metadata` say how they were made. The same content gives the same bytes.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(
    path: &Path,
    rows: &[EmbeddedRow],
    (embeddings, channels): (&[f32], usize),
    pca: &[f32],
    metadata: &[(&str, String)],
) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::dataset(path, error.to_string());
    let schema = schema(channels);
    let metadata = metadata
        .iter()
        .map(|(key, value)| KeyValue::new(format!("scrl.{key}"), value.clone()))
        .collect();
    let properties = WriterProperties::builder()
        .set_created_by(format!("scrl {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROWS))
        // Dictionaries of floats would only cost time.
        .set_column_dictionary_enabled("embedding.list.element".into(), false)
        .set_column_dictionary_enabled("pca.list.element".into(), false)
        .set_key_value_metadata(Some(metadata))
        .build();
    let file = AtomicFile::create(path)?;
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))
        .map_err(|error| failed(&error))?;
    let of_rows = rows
        .chunks(ROWS)
        .zip(embeddings.chunks(ROWS * channels))
        .zip(pca.chunks(ROWS * COMPONENTS));
    for ((rows, embeddings), pca) in of_rows {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.path))),
            Arc::new(boxes(rows)),
            Arc::new(rows.iter().map(|row| row.class.as_deref()).collect::<StringArray>()),
            Arc::new(lists(embeddings, channels)),
            Arc::new(lists(pca, COMPONENTS)),
        ];
        let batch =
            RecordBatch::try_new(schema.clone(), columns).map_err(|error| failed(&error))?;
        writer.write(&batch).map_err(|error| failed(&error))?;
    }
    Ok(writer.into_inner().map_err(|error| failed(&error))?.commit()?)
}

fn schema(channels: usize) -> Arc<Schema> {
    let list = |name: &str, length: usize| {
        Field::new(name, DataType::FixedSizeList(element(), length as i32), false)
    };
    Arc::new(Schema::new(vec![
        Field::new("path", DataType::Utf8, false),
        Field::new("box", DataType::Struct(sides()), true),
        Field::new("class", DataType::Utf8, true),
        list("embedding", channels),
        list("pca", COMPONENTS),
    ]))
}

fn element() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::Float32, false))
}

fn sides() -> Fields {
    let side = |name: &str| Field::new(name, DataType::Float32, false);
    ["x", "y", "width", "height"].map(side).to_vec().into()
}

fn boxes(rows: &[EmbeddedRow]) -> StructArray {
    let side = |of: fn([f32; 4]) -> f32| {
        let values = rows.iter().map(|row| row.corners.map_or(0.0, of));
        Arc::new(Float32Array::from_iter_values(values)) as ArrayRef
    };
    let columns = vec![
        side(|[x0, ..]| x0),
        side(|[_, y0, ..]| y0),
        side(|[x0, _, x1, _]| x1 - x0),
        side(|[_, y0, _, y1]| y1 - y0),
    ];
    let is_box = NullBuffer::from_iter(rows.iter().map(|row| row.corners.is_some()));
    StructArray::new(sides(), columns, Some(is_box))
}

fn lists(values: &[f32], length: usize) -> FixedSizeListArray {
    let values = Arc::new(Float32Array::from_iter_values(values.iter().copied()));
    FixedSizeListArray::new(element(), length as i32, values, None)
}
