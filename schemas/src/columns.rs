//! The Arrow schemas of a shard and of `sources.parquet`.
//!
//! A shard has one row per image that decoded:
//!
//! | column | type | |
//! |---|---|---|
//! | `image_id` | int64 | row of `sources.parquet` |
//! | `path` | string | below the images folder |
//! | `label` | int32, nullable | class, null without class folders |
//! | `source_width`, `source_height` | int32 | pixels |
//! | `view1`, `view2` | struct | below |
//! | `boxes` | list of struct{`source`, `view1`, `view2`: 4 × float32} | x0 y0 x1 y1 |
//!
//! and a view is
//!
//! | field | type | |
//! |---|---|---|
//! | `image` | struct{`bytes` binary, `path` string}, nullable | null in recipe shards |
//! | `crop` | struct{`x`, `y`, `width`, `height`: int32} | pixels of the source |
//! | `flip`, `vertical_flip` | bool | |
//! | `turns` | int8 | quarter turns after the flips, 0 to 3 |
//! | `jitter` | struct{`brightness` … `hue`: float32, `order`: string}, nullable | |
//! | `grayscale` | bool | |
//! | `blur` | float32, nullable | σ in pixels of the view, or the resize factor |
//! | `solarize` | bool | |
//!
//! `sources.parquet` has one row per image found:
//!
//! | column | type | |
//! |---|---|---|
//! | `image_id` | int64 | the row's own number |
//! | `path` | string | below the images folder |
//! | `label`, `class` | int32, string, nullable | null without class folders |
//! | `width`, `height` | int32 | pixels; 0 where the header could not be read |
//! | `bytes` | int64 | size of the file |
//! | `error` | string, nullable | why the image has no rows |

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use crate::huggingface;

fn required(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

fn nullable(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

// Hugging Face `datasets` uses its own description of a column only if the column's type equals, to
// the last flag, the one it would write itself, and it writes every field nullable. So are the
// fields of a view, though only those called nullable in the table above are ever null.

pub(crate) fn image_fields() -> Fields {
    vec![nullable("bytes", DataType::Binary), nullable("path", DataType::Utf8)].into()
}

pub(crate) fn crop_fields() -> Fields {
    ["x", "y", "width", "height"].map(|name| nullable(name, DataType::Int32)).to_vec().into()
}

pub(crate) fn jitter_fields() -> Fields {
    let mut fields = ["brightness", "contrast", "saturation", "hue"]
        .map(|n| nullable(n, DataType::Float32))
        .to_vec();
    fields.push(nullable("order", DataType::Utf8));
    fields.into()
}

/// The fields of a view in which earlier builds wrote shards without: nothing was flipped vertically
/// or turned.
pub(crate) const ADDED_FIELDS: [&str; 2] = ["vertical_flip", "turns"];

pub(crate) fn view_fields() -> Fields {
    vec![
        nullable("image", DataType::Struct(image_fields())),
        nullable("crop", DataType::Struct(crop_fields())),
        nullable("flip", DataType::Boolean),
        nullable("vertical_flip", DataType::Boolean),
        nullable("turns", DataType::Int8),
        nullable("jitter", DataType::Struct(jitter_fields())),
        nullable("grayscale", DataType::Boolean),
        nullable("blur", DataType::Float32),
        nullable("solarize", DataType::Boolean),
    ]
    .into()
}

pub(crate) fn coordinate_field() -> FieldRef {
    Arc::new(required("element", DataType::Float32))
}

pub(crate) fn box_fields() -> Fields {
    ["source", "view1", "view2"]
        .map(|name| required(name, DataType::FixedSizeList(coordinate_field(), 4)))
        .to_vec()
        .into()
}

pub(crate) fn box_field() -> FieldRef {
    Arc::new(required("element", DataType::Struct(box_fields())))
}

/// The schema of every shard. Its metadata describes the columns to Hugging Face `datasets`.
pub(crate) fn shard_schema() -> SchemaRef {
    // pyarrow, and with it `datasets`, reads the metadata of the Arrow schema, not of the file.
    let metadata = HashMap::from([(huggingface::KEY.to_owned(), huggingface::features())]);
    Arc::new(Schema::new_with_metadata(shard_fields(&view_fields()), metadata))
}

/// The columns of shards of earlier builds, without [`ADDED_FIELDS`].
pub(crate) fn earlier_shard_fields() -> Vec<Field> {
    let is_earlier = |field: &&FieldRef| !ADDED_FIELDS.contains(&field.name().as_str());
    shard_fields(&view_fields().iter().filter(is_earlier).cloned().collect())
}

fn shard_fields(view: &Fields) -> Vec<Field> {
    vec![
        required("image_id", DataType::Int64),
        required("path", DataType::Utf8),
        nullable("label", DataType::Int32),
        required("source_width", DataType::Int32),
        required("source_height", DataType::Int32),
        nullable("view1", DataType::Struct(view.clone())),
        nullable("view2", DataType::Struct(view.clone())),
        required("boxes", DataType::List(box_field())),
    ]
}

/// The schema of `sources.parquet`.
pub(crate) fn sources_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        required("image_id", DataType::Int64),
        required("path", DataType::Utf8),
        nullable("label", DataType::Int32),
        nullable("class", DataType::Utf8),
        required("width", DataType::Int32),
        required("height", DataType::Int32),
        required("bytes", DataType::Int64),
        nullable("error", DataType::Utf8),
    ]))
}
