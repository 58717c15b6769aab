//! The columns of a Parquet file with the images and their classes, and their values.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use parquet::arrow::ProjectionMask;
use parquet::schema::types::SchemaDescriptor;
use scrl_schemas::SourceOptions;
use serde_json::Value;

use super::classes::Label;
use super::columns::{Choice, LABEL_COLUMNS, quoted};
use super::format::IMAGE_ENDINGS;

/// The features of Hugging Face `datasets` that are structs with bytes but no images.
const OTHER_MEDIA: [&str; 4] = ["Audio", "Video", "Pdf", "Nifti"];

/// Which columns hold what.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    /// The column of images.
    pub image: Choice,
    /// How it holds them.
    pub kind: ImageKind,
    /// The column with the class, or the names of columns that might have been meant.
    pub label: Result<Choice, Vec<String>>,
    /// The names of the classes, where the file has them.
    pub class_names: Vec<String>,
}

/// How a column holds images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageKind {
    /// Whether a row holds a list of images and not one.
    pub is_list: bool,
    /// Whether an image is a struct with the field `bytes`, and not the bytes themselves.
    is_struct: bool,
    /// Whether that struct has a field `path`.
    pub has_path: bool,
}

impl ImageKind {
    /// `None` for a column of anything else.
    fn of(field: &Field) -> Option<Self> {
        let (is_list, kind) = match field.data_type() {
            DataType::List(inner) | DataType::LargeList(inner) => (true, inner.data_type()),
            DataType::FixedSizeList(inner, _) => (true, inner.data_type()),
            kind => (false, kind),
        };
        match kind {
            DataType::Struct(inner) => {
                let has_path = inner.find("path").is_some();
                // Where all images are paths, pyarrow takes the type of the bytes for null.
                let holds = |kind: &DataType| is_bytes(kind) || (has_path && kind.is_null());
                inner.find("bytes").filter(|(_, bytes)| holds(bytes.data_type()))?;
                Some(Self { is_list, is_struct: true, has_path })
            }
            kind => is_bytes(kind).then_some(Self { is_list, is_struct: false, has_path: false }),
        }
    }
}

fn is_bytes(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

impl Columns {
    /// Finds the columns. That of images is the first of structs with `bytes` (or lists of them),
    /// else the first of bytes whose name is one for images, else the first of bytes.
    ///
    /// # Errors
    /// The reason, if there is none of images or none of the name that an option gives.
    pub fn find(schema: &Schema, options: &SourceOptions) -> Result<Self, String> {
        let fields = schema.fields();
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        let features = features(schema);
        let kinds: Vec<Option<ImageKind>> =
            fields.iter().map(|field| ImageKind::of(field)).collect();
        let image = match &options.image_column {
            Some(name) => Choice::named("image-column", name, &names)?,
            None => {
                let is_image = |&column: &usize| {
                    let feature = &features[names[column]];
                    let types = [&feature["_type"], &feature["feature"]["_type"]];
                    kinds[column].is_some()
                        && types.iter().all(|kind| OTHER_MEDIA.iter().all(|other| *kind != other))
                };
                let candidates: Vec<usize> = (0..names.len()).filter(is_image).collect();
                let is_struct =
                    |&&column: &&usize| kinds[column].is_some_and(|kind| kind.is_struct);
                let is_named = |&&column: &&usize| is_image_column(names[column]);
                let chosen = candidates.iter().find(is_struct);
                let chosen = chosen.or_else(|| candidates.iter().find(is_named));
                let &column = chosen.or(candidates.first()).ok_or_else(|| {
                    format!(
                        "has no column of images (bytes, a struct with bytes, or lists of them) \
                         among {}; give a file that has one",
                        names.join(", ")
                    )
                })?;
                Choice::found(column, &candidates, &names)
            }
        };
        let kind = kinds[image.column].ok_or_else(|| {
            format!(
                "the column {:?} holds no images (bytes, a struct with bytes, or lists of them) \
                 but {}; choose another --image-column",
                image.name,
                fields[image.column].data_type()
            )
        })?;
        let is_label = |column: usize| holds_labels(fields[column].data_type());
        let is_candidate = |column: usize| {
            let name = names[column].to_lowercase();
            is_label(column)
                && (name.ends_with("label") || class_names(&features[names[column]]).is_some())
        };
        let mut label = Choice::of_classes(options, &names, &LABEL_COLUMNS, is_candidate)?;
        if let Ok(choice) = &label
            && !is_label(choice.column)
        {
            if options.label_column.is_some() {
                return Err(format!(
                    "the column {:?} holds no classes (numbers, text, or lists of them) but {}; \
                     choose another --label-column, or none",
                    choice.name,
                    fields[choice.column].data_type()
                ));
            }
            label = Err(choice.also.clone());
        }
        let class_names =
            label.as_ref().ok().and_then(|choice| class_names(&features[&choice.name]));
        Ok(Self { image, kind, label, class_names: class_names.unwrap_or_default() })
    }

    /// Which columns were taken, where there was a choice.
    pub fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        if !self.image.also.is_empty() {
            notices.push(format!("images from the column {}; --image-column chooses", self.image));
        }
        match &self.label {
            Ok(label) if !label.also.is_empty() => {
                notices.push(format!("classes from {label}; --label-column chooses"));
            }
            Err(others) if !others.is_empty() => notices.push(format!(
                "no classes: no column {}; --label-column chooses, such as {}",
                LABEL_COLUMNS.join(", "),
                quoted(others)
            )),
            _ => {}
        }
        notices
    }

    /// The leaves to read for a listing: with the images' bytes, or with as little as shows how
    /// many there are.
    pub fn listed(&self, leaves: &SchemaDescriptor, contents: bool) -> ProjectionMask {
        let ImageKind { is_list, has_path, .. } = self.kind;
        let bytes = contents || (is_list && !has_path);
        let label = self.label.as_ref().ok();
        mask(leaves, |name, leaf| {
            label.is_some_and(|label| label.name == name)
                || (self.image.name == name
                    && (self.is_path(leaf) || (bytes && self.is_bytes(leaf))))
        })
    }

    /// The leaves with the bytes of images, or with their paths.
    pub fn content(&self, leaves: &SchemaDescriptor, of_paths: bool) -> ProjectionMask {
        mask(leaves, |name, leaf| {
            self.image.name == name
                && if of_paths { self.is_path(leaf) } else { self.is_bytes(leaf) }
        })
    }

    fn is_path(&self, leaf: &str) -> bool {
        self.kind.has_path && leaf == "path"
    }

    fn is_bytes(&self, leaf: &str) -> bool {
        !self.kind.is_struct || leaf == "bytes"
    }
}

/// The leaves of which `is_read` says so, given their column's and their own name.
fn mask(leaves: &SchemaDescriptor, is_read: impl Fn(&str, &str) -> bool) -> ProjectionMask {
    let wanted = leaves.columns().iter().enumerate().filter(|(_, leaf)| {
        let parts = leaf.path().parts();
        parts.last().is_some_and(|leaf| is_read(&parts[0], leaf))
    });
    ProjectionMask::leaves(leaves, wanted.map(|(leaf, _)| leaf))
}

/// Whether a word of the name says that the column holds images.
fn is_image_column(name: &str) -> bool {
    name.to_lowercase().split(|c: char| !c.is_alphabetic()).any(|word| {
        ["image", "images", "img", "imgs"].contains(&word) || IMAGE_ENDINGS.contains(&word)
    })
}

/// Whether values of this type can be labels.
fn holds_labels(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, value) => holds_labels(value),
        DataType::List(inner) | DataType::LargeList(inner) | DataType::FixedSizeList(inner, _) => {
            holds_labels(inner.data_type())
        }
        kind => !kind.is_nested(),
    }
}

/// What Hugging Face `datasets` writes of each column; null without it.
fn features(schema: &Schema) -> Value {
    let text = schema.metadata().get("huggingface");
    let value = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    value.map_or(Value::Null, |mut value| value["info"]["features"].take())
}

/// The names of the classes of a feature: a list, or a name by number; also of a sequence of
/// classes.
fn class_names(feature: &Value) -> Option<Vec<String>> {
    let text = |name: &Value| name.as_str().map_or_else(|| name.to_string(), str::to_owned);
    match &feature["names"] {
        Value::Array(names) => Some(names.iter().map(text).collect()),
        Value::Object(names) => {
            (0..names.len()).map(|number| names.get(&number.to_string()).map(text)).collect()
        }
        _ => {
            let inner = feature.get("feature").or_else(|| feature.get(0))?;
            class_names(inner)
        }
    }
}

/// The columns that were read of some rows.
pub(super) struct Batch {
    /// How many rows.
    pub rows: usize,
    /// Which images are those of each row, if a row holds a list of them.
    images: Option<Vec<Range<usize>>>,
    bytes: Option<ArrayRef>,
    paths: Option<ArrayRef>,
    labels: Option<LabelColumn>,
}

impl Batch {
    /// # Errors
    /// The reason, if the values are not of the columns' types.
    pub fn new(batch: &RecordBatch, columns: &Columns) -> Result<Self, String> {
        let mut image = batch.column_by_name(&columns.image.name).cloned();
        let mut images = None;
        if columns.kind.is_list {
            let lists = as_lists(image.as_ref().ok_or("the lists of images are missing")?)?;
            let lists = lists.as_list::<i64>();
            // A null list may have a length.
            let offsets = lists.offsets().windows(2).enumerate();
            let range = |(row, ends): (usize, &[i64])| match lists.is_valid(row) {
                true => ends[0] as usize..ends[1] as usize,
                false => 0..0,
            };
            images = Some(offsets.map(range).collect());
            image = Some(lists.values().clone());
        }
        let field = |name: &str| {
            image.as_ref().and_then(|image| image.as_struct_opt()?.column_by_name(name).cloned())
        };
        let bytes = if columns.kind.is_struct { field("bytes") } else { image.clone() };
        let paths = field("path").map(|paths| cast_to(&paths, &DataType::Utf8)).transpose()?;
        let label = columns.label.as_ref().ok();
        let labels = label.and_then(|label| batch.column_by_name(&label.name));
        let labels = labels.map(LabelColumn::new).transpose()?;
        Ok(Self { rows: batch.num_rows(), images, bytes, paths, labels })
    }

    /// The numbers of a row's images.
    pub fn images(&self, row: usize) -> Range<usize> {
        self.images.as_ref().map_or(row..row + 1, |images| images[row].clone())
    }

    /// An image's bytes, where they were read and there are any.
    pub fn content(&self, image: usize) -> Option<Vec<u8>> {
        let bytes = self.bytes.as_ref().filter(|bytes| bytes.is_valid(image))?;
        let content = match bytes.data_type() {
            DataType::Binary => bytes.as_binary::<i32>().value(image),
            DataType::LargeBinary => bytes.as_binary::<i64>().value(image),
            DataType::BinaryView => bytes.as_binary_view().value(image),
            _ => return None,
        };
        Some(content.to_vec())
    }

    /// The path in an image's struct.
    pub fn path(&self, image: usize) -> Option<&str> {
        let paths = self.paths.as_ref().filter(|paths| paths.is_valid(image))?;
        Some(paths.as_string::<i32>().value(image))
    }

    /// The label of a row.
    pub fn label(&self, row: usize, class_names: &[String]) -> Label {
        self.labels.as_ref().map_or(Label::Missing, |labels| labels.get(row, class_names))
    }
}

/// A column of labels.
enum LabelColumn {
    Integers(ArrayRef),
    Floats(ArrayRef),
    Texts(ArrayRef),
    Lists(ArrayRef, Box<Self>),
}

impl LabelColumn {
    fn new(array: &ArrayRef) -> Result<Self, String> {
        Ok(match array.data_type() {
            DataType::Dictionary(_, value) => Self::new(&cast_to(array, value)?)?,
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                let lists = as_lists(array)?;
                let values = Self::new(lists.as_list::<i64>().values())?;
                Self::Lists(lists, Box::new(values))
            }
            kind if kind.is_integer() => Self::Integers(cast_to(array, &DataType::Int64)?),
            kind if kind.is_numeric() => Self::Floats(cast_to(array, &DataType::Float64)?),
            _ => Self::Texts(cast_to(array, &DataType::Utf8)?),
        })
    }

    fn get(&self, row: usize, class_names: &[String]) -> Label {
        let (Self::Integers(array)
        | Self::Floats(array)
        | Self::Texts(array)
        | Self::Lists(array, _)) = self;
        if array.is_null(row) {
            return Label::Missing;
        }
        match self {
            Self::Integers(array) => {
                Label::of_integer(array.as_primitive::<Int64Type>().value(row), class_names)
            }
            Self::Floats(array) => {
                Label::of_float(array.as_primitive::<Float64Type>().value(row), class_names)
            }
            Self::Texts(array) => Label::of_name(array.as_string::<i32>().value(row)),
            Self::Lists(lists, values) => {
                let offsets = lists.as_list::<i64>().offsets();
                match offsets[row + 1] - offsets[row] {
                    0 => Label::Missing,
                    1 => values.get(offsets[row] as usize, class_names),
                    _ => Label::Several,
                }
            }
        }
    }
}

fn cast_to(array: &ArrayRef, kind: &DataType) -> Result<ArrayRef, String> {
    cast(array, kind).map_err(|error| error.to_string())
}

/// Any kind of list as one with 64-bit offsets.
fn as_lists(array: &ArrayRef) -> Result<ArrayRef, String> {
    let (DataType::List(inner) | DataType::LargeList(inner) | DataType::FixedSizeList(inner, _)) =
        array.data_type()
    else {
        return Err(format!("{} instead of lists", array.data_type()));
    };
    cast_to(array, &DataType::LargeList(inner.clone()))
}
