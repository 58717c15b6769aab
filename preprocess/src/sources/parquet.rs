//! Parquet files with a column of images, as Hugging Face `datasets` writes them: a struct with the
//! field `bytes`, the bytes themselves, or a list of either, each element an image of its own.
//! [`Columns`] says which column it is, and which holds the class.
//!
//! Listing reads every image once, a few at a time. Reading one later decompresses only its own
//! page, of an object where the file has the index of pages. An image whose struct has a path but
//! no bytes is read from there.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, RowSelection, RowSelector};
use scrl_schemas::{ParquetFile, SourceOptions, Wanted, store};

use super::classes::Labels;
use super::format::{BatchSink, Batcher, Containers, FoundImage, Listing, SourceFormat, read_file};
use super::index::Location;
use super::parquet_columns::{Batch, Columns};
use crate::images::MAX_SOURCE_BYTES;
use crate::{Error, Result};

/// How a Parquet file begins.
pub(super) const MAGIC: &[u8] = b"PAR1";
/// Rows read at a time, at most.
const ROWS_PER_BATCH: u64 = 64;
/// Bytes of images read at a time, about.
const BYTES_PER_BATCH: u64 = 64 << 20;
/// Files whose footers are cached for reading single images.
const OPEN_FILES: usize = 256;
/// Bits of a [`Location::position`] with the row; those above have the image of the row's list.
const ROW_BITS: u32 = 40;

/// One or more Parquet files.
#[derive(Debug)]
pub(super) struct ParquetFiles {
    root: PathBuf,
    files: Containers,
    options: SourceOptions,
    footers: Mutex<HashMap<u32, Footer>>,
}

/// What is needed to read rows of a file.
#[derive(Clone, Debug)]
struct Footer {
    file: ParquetFile,
    columns: Columns,
}

/// What listing met.
#[derive(Default)]
struct Met {
    images: u64,
    /// Images that no row holds and no path leads to, and why the first of them.
    missing: u64,
    reason: Option<String>,
    /// Rows whose list of images is empty.
    empty_rows: u64,
    /// Images read from their paths.
    by_path: u64,
    labels: Labels,
    /// What was said of the columns, of which file first, and of how many.
    columns: Vec<(Vec<String>, String, usize)>,
}

impl ParquetFiles {
    /// The Parquet files `files`, which lie below `root` or are `root` itself.
    pub fn new(root: &Path, files: Vec<PathBuf>, options: &SourceOptions) -> Self {
        let files = Containers::new(root, files);
        Self { root: root.to_owned(), files, options: options.clone(), footers: Mutex::default() }
    }

    fn open(&self, container: u32) -> Result<Footer> {
        let path = self.files.path(container);
        let fail = |reason: String| Error::Images { path: path.to_owned(), reason };
        let file = ParquetFile::open(path).map_err(|error| match error {
            scrl_schemas::Error::Parquet { source, .. } => {
                fail(format!("not a Parquet file that can be read: {source}"))
            }
            error => error.into(),
        })?;
        let columns = Columns::find(file.metadata().schema(), &self.options).map_err(fail)?;
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

    fn list_file(
        &self,
        container: u32,
        contents: bool,
        met: &mut Met,
        batcher: &mut Batcher,
    ) -> Result<()> {
        let path = self.files.path(container);
        let Footer { file, columns } = self.open(container)?;
        met.note_columns(&columns, path);
        let metadata = file.metadata();
        let leaves = metadata.parquet_schema();
        let mask = columns.listed(leaves, contents);
        let images = columns.content(leaves, false);
        let rows = file.rows();
        let damaged = |error: String| damaged(path, error);
        let unreadable = |error| unreadable(path, error);
        let wanted = Wanted::all_rows(mask, rows_per_batch(metadata, &images));
        let prefix = self.files.prefix(container);
        let mut row_number = 0;
        for batch in file.read(wanted).map_err(unreadable)? {
            let batch = Batch::new(&batch.map_err(unreadable)?, &columns).map_err(damaged)?;
            for row in 0..batch.rows {
                let images = batch.images(row);
                met.empty_rows += u64::from(images.is_empty());
                for (element, image) in (0..).zip(images) {
                    let position = position(row_number, element)
                        .ok_or_else(|| damaged(format!("row {row_number} has too many images")))?;
                    let name = match (batch.path(image), columns.kind.is_list) {
                        (Some(path), _) => path.to_owned(),
                        (None, true) => format!("{row_number}/{element}"),
                        (None, false) => row_number.to_string(),
                    };
                    let mut found = FoundImage {
                        path: format!("{prefix}{name}"),
                        class: met.labels.class(batch.label(row, &columns.class_names)),
                        location: Location { container, position },
                        ..FoundImage::default()
                    };
                    if contents {
                        self.fill(&mut found, batch.content(image), batch.path(image), met)?;
                    }
                    met.images += 1;
                    batcher.push(found)?;
                }
                row_number += 1;
            }
            if contents {
                batcher.flush()?;
            }
        }
        if row_number != rows {
            return Err(damaged(format!("{row_number} rows, the footer says {rows}")));
        }
        Ok(())
    }

    /// Adds an image's bytes, or why there are none.
    ///
    /// # Errors
    /// Where an object store fails: what cannot be read now may be there.
    fn fill(
        &self,
        found: &mut FoundImage,
        bytes: Option<Vec<u8>>,
        path: Option<&str>,
        met: &mut Met,
    ) -> Result<()> {
        if bytes.is_some() {
            found.content = bytes;
            return Ok(());
        }
        let mut reason = "no image in this row".to_owned();
        if let Some(path) = path {
            match self.read_by_path(found.location.container, path, MAX_SOURCE_BYTES + 1) {
                Ok(content) => {
                    met.by_path += 1;
                    found.content = Some(content);
                    return Ok(());
                }
                Err(error) if store::is_url(&self.root) && error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(Path::new(path))(error));
                }
                Err(error) => reason = format!("{reason}, only its path: {error}"),
            }
        }
        found.bytes = Some(0);
        met.missing += 1;
        met.reason.get_or_insert_with(|| format!("{}: {reason}", found.path));
        found.refused = Some(reason);
        Ok(())
    }

    /// The first bytes of an image whose path, from the folder of its Parquet file, a row holds.
    fn read_by_path(&self, container: u32, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        let folder = self.files.path(container).parent().unwrap_or(Path::new(""));
        read_file(&folder.join(path), limit)
    }

    /// Reads the bytes, or the path, of one image.
    fn read_row<T>(
        &self,
        location: Location,
        of_paths: bool,
        value: impl Fn(&Batch, usize) -> Option<T>,
    ) -> Result<Option<T>> {
        let path = self.files.path(location.container);
        let damaged = |error: String| damaged(path, error);
        let Footer { file, columns } = self.footer(location.container)?;
        let metadata = file.metadata();
        let mut row = (location.position & ((1 << ROW_BITS) - 1)) as usize;
        let element = (location.position >> ROW_BITS) as usize;
        let mut group = 0;
        let groups = metadata.metadata().row_groups();
        while row
            >= groups.get(group).ok_or_else(|| damaged("too few rows".to_owned()))?.num_rows()
                as usize
        {
            row -= groups[group].num_rows() as usize;
            group += 1;
        }
        let mask = columns.content(metadata.parquet_schema(), of_paths);
        let one = RowSelection::from(vec![RowSelector::skip(row), RowSelector::select(1)]);
        let wanted =
            Wanted { row_groups: Some(vec![group]), rows: Some(one), ..Wanted::all_rows(mask, 1) };
        let unreadable = |error| unreadable(path, error);
        let batch =
            file.read(wanted).map_err(unreadable)?.next().transpose().map_err(unreadable)?;
        let Some(batch) = batch else { return Ok(None) };
        let batch = Batch::new(&batch, &columns).map_err(damaged)?;
        Ok(batch.images(0).nth(element).and_then(|image| value(&batch, image)))
    }
}

impl Met {
    fn note_columns(&mut self, columns: &Columns, file: &Path) {
        let mut notices = columns.notices();
        // Files of other columns are told apart by these.
        notices.push(match &columns.label {
            Ok(label) => {
                format!("images from {:?}, classes from {:?}", columns.image.name, label.name)
            }
            Err(_) => format!("images from {:?}, no classes", columns.image.name),
        });
        match self.columns.iter_mut().find(|(known, ..)| *known == notices) {
            Some((_, _, count)) => *count += 1,
            None => self.columns.push((notices, file.display().to_string(), 1)),
        }
    }

    /// What the user should know.
    fn notices(self) -> Vec<String> {
        let several = self.columns.len() > 1;
        let mut notices = Vec::new();
        for (mut said, file, count) in self.columns {
            if several {
                let others =
                    if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
                notices.extend(said.iter().map(|line| format!("{file}{others}: {line}")));
            } else {
                said.pop();
                notices.extend(said);
            }
        }
        if self.by_path > 0 {
            notices.push(format!("images read from the paths in their rows: {}", self.by_path));
        }
        if self.empty_rows > 0 {
            notices.push(format!("rows without images: {}", self.empty_rows));
        }
        notices.extend(self.labels.notices());
        notices
    }
}

/// The position of the `element`-th image of a row; `None` where there is no room for the numbers.
fn position(row: u64, element: u64) -> Option<u64> {
    let fits = row >> ROW_BITS == 0 && element << ROW_BITS >> ROW_BITS == element;
    fits.then_some(row | element << ROW_BITS)
}

/// How many rows to read at a time, by their mean size.
fn rows_per_batch(metadata: &ArrowReaderMetadata, images: &ProjectionMask) -> usize {
    let (mut bytes, mut rows) = (0, 0);
    for group in metadata.metadata().row_groups() {
        rows += group.num_rows().max(0) as u64;
        let leaves = (0..group.num_columns()).filter(|&leaf| images.leaf_included(leaf));
        bytes +=
            leaves.map(|leaf| group.column(leaf).uncompressed_size().max(0) as u64).sum::<u64>();
    }
    (BYTES_PER_BATCH / (bytes / rows.max(1)).max(1)).clamp(1, ROWS_PER_BATCH) as usize
}

impl SourceFormat for ParquetFiles {
    fn list(&self, contents: bool, sink: BatchSink) -> Result<Listing> {
        let mut batcher = Batcher::new(sink);
        let mut met = Met::default();
        for container in self.files.numbers() {
            self.list_file(container, contents, &mut met, &mut batcher)?;
        }
        batcher.flush()?;
        if met.missing == met.images {
            let reason = met.reason.map_or(String::new(), |reason| format!(": {reason}"));
            let reason = format!("no row holds an image{reason}; give a file that has some");
            return Err(Error::Images { path: self.root.clone(), reason });
        }
        Ok(Listing { notices: met.notices(), ..Listing::default() })
    }

    fn files(&self) -> &[PathBuf] {
        &self.files.files
    }

    fn read(
        &self,
        _path: &str,
        location: Location,
        _bytes: u64,
        limit: u64,
    ) -> io::Result<Vec<u8>> {
        let bytes = self.read_row(location, false, Batch::content).map_err(io::Error::other)?;
        if let Some(mut bytes) = bytes {
            bytes.truncate(limit as usize);
            return Ok(bytes);
        }
        let path = |batch: &Batch, image| batch.path(image).map(str::to_owned);
        match self.read_row(location, true, path).map_err(io::Error::other)? {
            Some(path) => self.read_by_path(location.container, &path, limit),
            None => Err(io::Error::other("no image in this row")),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_holds_a_row_and_an_image_of_it() {
        assert_eq!(position(7, 0), Some(7));
        assert_eq!(position((1 << 40) - 1, (1 << 24) - 1), Some(u64::MAX));
        assert_eq!((position(1 << 40, 0), position(0, 1 << 24)), (None, None));
    }
}
