//! Parquet files with a column of images, as Hugging Face `datasets` writes them: a struct with the
//! field `bytes`, or the bytes themselves. A column `label` (or `labels`, `class`, `cls`), of
//! numbers or names, holds the class.
//!
//! Listing reads every image once, a few at a time. Reading one later decompresses only its own
//! page, of an object where the file has the index of pages.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use arrow::array::AsArray;
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::Int64Type;
use arrow::datatypes::{DataType, Field, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use scrl_schemas::{ParquetFile, Wanted};

use super::format::{BatchSink, Batcher, Class, FoundImage, Listing, SourceFormat, name_prefix};
use super::index::Location;
use crate::{Error, Result};

/// How a Parquet file begins.
pub(super) const MAGIC: &[u8] = b"PAR1";
/// Images read at a time.
const ROWS_PER_BATCH: usize = 64;
/// Files whose footers are cached for reading single images.
const OPEN_FILES: usize = 256;
/// Names of a column with the class.
const LABEL_COLUMNS: [&str; 4] = ["label", "labels", "class", "cls"];

/// One or more Parquet files.
#[derive(Debug)]
pub(super) struct ParquetFiles {
    files: Vec<PathBuf>,
    /// The prefix of the rows' names, by file.
    prefixes: Vec<String>,
    footers: Mutex<HashMap<u32, Footer>>,
}

/// What is needed to read rows of a file.
#[derive(Clone, Debug)]
struct Footer {
    file: ParquetFile,
    columns: Columns,
}

/// Which columns hold what.
#[derive(Clone, Debug)]
struct Columns {
    /// The column of images.
    image: usize,
    /// Whether the image column is a struct with the field `bytes`, and not the bytes themselves.
    is_struct: bool,
    /// Whether that struct has a field `path`.
    has_path: bool,
    /// The column with the class.
    label: Option<usize>,
}

fn is_bytes(field: &Field) -> bool {
    matches!(field.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

impl Columns {
    /// Finds the column of images: the first struct with `bytes`, else the only column of bytes,
    /// else the one of several that is called `image`.
    fn find(schema: &SchemaRef) -> Option<Self> {
        let fields = schema.fields();
        let label = LABEL_COLUMNS.iter().find_map(|name| schema.index_of(name).ok());
        for (image, field) in fields.iter().enumerate() {
            let DataType::Struct(inner) = field.data_type() else { continue };
            if inner.find("bytes").is_some_and(|(_, bytes)| is_bytes(bytes)) {
                let has_path = inner.find("path").is_some();
                return Some(Self { image, is_struct: true, has_path, label });
            }
        }
        let plain: Vec<usize> =
            (0..fields.len()).filter(|&index| is_bytes(&fields[index])).collect();
        let image = match plain[..] {
            [only] => only,
            _ => plain.into_iter().find(|&index| fields[index].name() == "image")?,
        };
        Some(Self { image, is_struct: false, has_path: false, label })
    }
}

impl ParquetFiles {
    /// The Parquet files `files`, which lie below `root` or are `root` itself.
    pub fn new(root: &Path, files: Vec<PathBuf>) -> Self {
        let prefixes = files.iter().map(|file| name_prefix(root, file)).collect();
        Self { files, prefixes, footers: Mutex::default() }
    }

    fn open(&self, container: u32) -> Result<Footer> {
        let path = &self.files[container as usize];
        let fail = |reason: String| Error::Images { path: path.clone(), reason };
        let file = ParquetFile::open(path).map_err(|error| match error {
            scrl_schemas::Error::Parquet { source, .. } => {
                fail(format!("not a Parquet file that can be read: {source}"))
            }
            error => error.into(),
        })?;
        let schema = file.metadata().schema();
        let columns = Columns::find(schema).ok_or_else(|| {
            let names: Vec<&str> =
                schema.fields().iter().map(|field| field.name().as_str()).collect();
            fail(format!(
                "has no column of images (bytes, or a struct with bytes) among {}; give a file \
                 that has one",
                names.join(", ")
            ))
        })?;
        Ok(Footer { file, columns })
    }

    /// The footer of a file, from the cache if it is there.
    fn footer(&self, container: u32) -> Result<Footer> {
        let mut footers = self.footers.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(footer) = footers.get(&container) {
            return Ok(footer.clone());
        }
        let footer = self.open(container)?;
        if footers.len() >= OPEN_FILES {
            footers.clear();
        }
        footers.insert(container, footer.clone());
        Ok(footer)
    }

    fn list_file(&self, container: u32, contents: bool, batcher: &mut Batcher) -> Result<()> {
        let path = &self.files[container as usize];
        let Footer { file, columns } = self.open(container)?;
        let metadata = file.metadata();
        let names = class_names(metadata.schema(), columns.label);
        let parquet = metadata.parquet_schema();
        let schema = metadata.schema().clone();
        let wanted = parquet.columns().iter().enumerate().filter(|(_, leaf)| {
            let names = leaf.path().parts();
            let is = |column: usize| names[0] == *schema.field(column).name();
            // Without contents, the images' bytes stay unread.
            columns.label.is_some_and(is)
                || (is(columns.image) && (contents || (names.len() == 2 && names[1] == "path")))
        });
        let mask = ProjectionMask::leaves(parquet, wanted.map(|(leaf, _)| leaf));
        let rows = file.rows();
        let damaged = |error: String| damaged(path, error);
        let unreadable = |error| unreadable(path, error);
        let batches = file.read(Wanted::all_rows(mask, ROWS_PER_BATCH)).map_err(unreadable)?;
        let prefix = &self.prefixes[container as usize];
        let mut position = 0;
        for batch in batches {
            let batch = batch.map_err(unreadable)?;
            let batch = Batch::new(&batch, &schema, &columns, contents).map_err(damaged)?;
            for row in 0..batch.rows {
                let name = batch.path(row).unwrap_or_else(|| position.to_string());
                let content = batch.content(row);
                let empty = contents && content.is_none();
                batcher.push(FoundImage {
                    path: format!("{prefix}{name}"),
                    class: batch.class(row, &names),
                    location: Location { container, position },
                    bytes: empty.then_some(0),
                    content,
                    refused: empty.then(|| "no image in this row".to_owned()),
                })?;
                position += 1;
            }
            if contents {
                batcher.flush()?;
            }
        }
        if position != rows {
            return Err(damaged(format!("{position} rows, the footer says {rows}")));
        }
        Ok(())
    }

    fn read_row(&self, location: Location) -> Result<Option<Vec<u8>>> {
        let path = &self.files[location.container as usize];
        let damaged = |error: String| damaged(path, error);
        let Footer { file, columns } = self.footer(location.container)?;
        let metadata = file.metadata();
        let mut row = location.position as usize;
        let mut group = 0;
        let groups = metadata.metadata().row_groups();
        while row
            >= groups.get(group).ok_or_else(|| damaged("too few rows".to_owned()))?.num_rows()
                as usize
        {
            row -= groups[group].num_rows() as usize;
            group += 1;
        }
        let parquet = metadata.parquet_schema();
        let name = metadata.schema().field(columns.image).name().clone();
        let wanted = parquet.columns().iter().enumerate().filter(|(_, leaf)| {
            let names = leaf.path().parts();
            names[0] == name && (names.len() == 1 || names[1] == "bytes")
        });
        let mask = ProjectionMask::leaves(parquet, wanted.map(|(leaf, _)| leaf));
        let schema = metadata.schema().clone();
        let one = RowSelection::from(vec![RowSelector::skip(row), RowSelector::select(1)]);
        let wanted = Wanted {
            row_groups: Some(vec![group]),
            rows: Some(one),
            ..Wanted::all_rows(mask, ROWS_PER_BATCH)
        };
        let unreadable = |error| unreadable(path, error);
        let batch =
            file.read(wanted).map_err(unreadable)?.next().transpose().map_err(unreadable)?;
        let Some(batch) = batch else { return Ok(None) };
        Ok(Batch::new(&batch, &schema, &columns, true).map_err(damaged)?.content(0))
    }
}

impl SourceFormat for ParquetFiles {
    fn list(&self, contents: bool, sink: BatchSink) -> Result<Listing> {
        let mut batcher = Batcher::new(sink);
        for container in 0..self.files.len() as u32 {
            self.list_file(container, contents, &mut batcher)?;
        }
        batcher.flush()?;
        Ok(Listing::default())
    }

    fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn reads_by_path(&self) -> bool {
        false
    }

    fn size(&self, _path: &str) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn read(
        &self,
        _path: &str,
        location: Location,
        _bytes: u64,
        limit: u64,
    ) -> io::Result<Vec<u8>> {
        let content = self.read_row(location).map_err(io::Error::other)?;
        let mut content = content.ok_or_else(|| io::Error::other("no image in this row"))?;
        content.truncate(limit as usize);
        Ok(content)
    }
}

fn damaged(path: &Path, error: String) -> Error {
    let reason = format!("damaged: {error}; make or fetch the file again");
    Error::Images { path: path.to_owned(), reason }
}

/// The error of a file that cannot be read, or whose content cannot.
fn unreadable(path: &Path, error: scrl_schemas::Error) -> Error {
    match error {
        scrl_schemas::Error::Parquet { source, .. } => damaged(path, source.to_string()),
        scrl_schemas::Error::Arrow { source, .. } => damaged(path, source.to_string()),
        error => error.into(),
    }
}

/// The columns that were read of some rows.
struct Batch {
    rows: usize,
    bytes: Option<ArrayRef>,
    paths: Option<ArrayRef>,
    labels: Option<ArrayRef>,
}

impl Batch {
    fn new(
        batch: &RecordBatch,
        schema: &SchemaRef,
        columns: &Columns,
        contents: bool,
    ) -> std::result::Result<Self, String> {
        let image = batch.column_by_name(schema.field(columns.image).name());
        let field = |name: &str| {
            image.and_then(|image| image.as_struct_opt()?.column_by_name(name).cloned())
        };
        let bytes = match columns.is_struct {
            _ if !contents => None,
            true => field("bytes"),
            false => image.cloned(),
        };
        let text =
            |array: ArrayRef| cast(&array, &DataType::Utf8).map_err(|error| error.to_string());
        let paths =
            Some("path").filter(|_| columns.has_path).and_then(field).map(text).transpose()?;
        let labels = columns
            .label
            .and_then(|label| batch.column_by_name(schema.field(label).name()).cloned());
        let labels = labels
            .map(|array| {
                let kind =
                    if array.data_type().is_integer() { DataType::Int64 } else { DataType::Utf8 };
                cast(&array, &kind).map_err(|error| error.to_string())
            })
            .transpose()?;
        Ok(Self { rows: batch.num_rows(), bytes, paths, labels })
    }

    fn content(&self, row: usize) -> Option<Vec<u8>> {
        let bytes = self.bytes.as_ref().filter(|bytes| bytes.is_valid(row))?;
        let content = match bytes.data_type() {
            DataType::Binary => bytes.as_binary::<i32>().value(row),
            DataType::LargeBinary => bytes.as_binary::<i64>().value(row),
            _ => bytes.as_binary_view().value(row),
        };
        Some(content.to_vec())
    }

    fn path(&self, row: usize) -> Option<String> {
        let paths = self.paths.as_ref().filter(|paths| paths.is_valid(row))?;
        Some(paths.as_string::<i32>().value(row).to_owned())
    }

    fn class(&self, row: usize, names: &[String]) -> Option<Class> {
        let labels = self.labels.as_ref().filter(|labels| labels.is_valid(row))?;
        Some(match labels.as_primitive_opt::<Int64Type>() {
            Some(numbers) => {
                // Hugging Face writes −1 for an unknown class.
                let number =
                    i32::try_from(numbers.value(row)).ok().filter(|&number| number >= 0)?;
                let name =
                    names.get(number as usize).cloned().unwrap_or_else(|| number.to_string());
                Class::Number(number, name)
            }
            None => Class::Name(labels.as_string::<i32>().value(row).to_owned()),
        })
    }
}

/// The names of the classes in the metadata that Hugging Face `datasets` writes.
fn class_names(schema: &SchemaRef, label: Option<usize>) -> Vec<String> {
    let names = || {
        let text = schema.metadata().get("huggingface")?;
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        let names =
            value["info"]["features"][schema.field(label?).name()]["names"].as_array()?.clone();
        names.into_iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    };
    names().unwrap_or_default()
}
