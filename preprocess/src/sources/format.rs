//! What every kind of source has in common: listing its images, and reading one of them.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use scrl_schemas::store;

use super::index::Location;
use super::passed_over::PassedOver;
use crate::Result;

/// File names with one of these endings, in any case, are taken for images.
pub(super) const IMAGE_ENDINGS: [&str; 12] =
    ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "pbm", "pnm"];
/// Images examined together, on all threads.
const BATCH: usize = 4096;

/// An image as its source lists it, before it is examined.
#[derive(Debug, Default)]
pub(super) struct FoundImage {
    /// Its path below the images folder, or its name within the archive or table.
    pub path: String,
    /// Its class, where it has one.
    pub class: Option<Class>,
    /// Where its bytes lie.
    pub location: Location,
    /// Its size in bytes; `None` where listing does not give it.
    pub bytes: Option<u64>,
    /// The undecoded image, where listing reads it anyway.
    pub content: Option<Vec<u8>>,
    /// Why it cannot be an image, where listing shows that.
    pub refused: Option<String>,
}

/// An image's class.
#[derive(Debug)]
pub(super) enum Class {
    /// A name; the sorted names are numbered later.
    Name(String),
    /// A number that came with the data, and its name.
    Number(i32, String),
}

/// What listing met besides images.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files that are not listed, by their name or kind.
    pub passed_over: PassedOver,
    /// What the user should know, a line each.
    pub notices: Vec<String>,
}

/// Receives the listed images, batch by batch.
pub(super) type BatchSink<'a> = &'a mut dyn FnMut(Vec<FoundImage>) -> Result<()>;

/// A kind of source: a folder tree, tar or zip archives, Parquet files or a list of paths.
pub(super) trait SourceFormat: Debug + Send + Sync {
    /// Lists all images in their order, in batches of at most [`BATCH`]; with their content, if
    /// `contents` is set and reading it costs nothing extra. Returns what else it met.
    fn list(&self, contents: bool, sink: BatchSink) -> Result<Listing>;

    /// The archives or tables that hold the images; none where each is a file of its own, which its
    /// path alone locates.
    fn files(&self) -> &[PathBuf] {
        &[]
    }

    /// The file or object of an image, where each is one of its own.
    fn file(&self, _path: &str) -> Option<PathBuf> {
        None
    }

    /// The size of an image in bytes, where [`FoundImage::bytes`] has none; `None` if only reading
    /// the image shows it.
    fn size(&self, _path: &str) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// The first `limit` bytes of an image, or all of them where it has fewer. An error of the kind
    /// [`io::ErrorKind::InvalidData`] is a damage of this image alone.
    fn read(&self, path: &str, location: Location, bytes: u64, limit: u64) -> io::Result<Vec<u8>>;
}

/// Groups listed images into batches.
pub(super) struct Batcher<'a> {
    sink: BatchSink<'a>,
    batch: Vec<FoundImage>,
}

impl<'a> Batcher<'a> {
    /// Passes full batches on to `sink`.
    pub fn new(sink: BatchSink<'a>) -> Self {
        Self { sink, batch: Vec::new() }
    }

    /// Adds an image.
    pub fn push(&mut self, image: FoundImage) -> Result<()> {
        self.batch.push(image);
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Passes on the images that wait for a full batch; to be called after the last one.
    pub fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { (self.sink)(batch) }
    }
}

/// Whether a file name ends as an image's does.
pub(super) fn is_image_name(path: &Path) -> bool {
    path.extension()
        .and_then(|ending| ending.to_str())
        .is_some_and(|ending| IMAGE_ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// The first folder of a path that has several components, `/` between them, as a class.
pub(super) fn first_folder(path: &str) -> Option<Class> {
    let mut components = path.split('/').filter(|name| !name.is_empty() && *name != ".");
    let first = components.next()?;
    components.next().map(|_| Class::Name(first.to_owned()))
}

/// The archives or tables of a source, by the number of a [`Location::container`].
#[derive(Debug)]
pub(super) struct Containers {
    pub files: Vec<PathBuf>,
    /// What the names in each begin with: its path below the root and a slash, or nothing if it is
    /// the root itself.
    prefixes: Vec<String>,
}

impl Containers {
    /// The files `files`, which lie below `root` or are `root` itself.
    pub fn new(root: &Path, files: Vec<PathBuf>) -> Self {
        let prefix = |file: &PathBuf| {
            let below = file.strip_prefix(root).unwrap_or(file).to_string_lossy();
            match below.is_empty() {
                true => String::new(),
                false => below.replace(std::path::MAIN_SEPARATOR, "/") + "/",
            }
        };
        Self { prefixes: files.iter().map(prefix).collect(), files }
    }

    /// The numbers of all.
    pub fn numbers(&self) -> std::ops::Range<u32> {
        0..self.files.len() as u32
    }

    /// The path of one.
    pub fn path(&self, container: u32) -> &Path {
        &self.files[container as usize]
    }

    /// What the names in one begin with.
    pub fn prefix(&self, container: u32) -> &str {
        &self.prefixes[container as usize]
    }
}

/// The first `limit` bytes of a regular file.
pub(super) fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if !store::is_url(path) {
        store::size(path)?;
    }
    store::read_first(path, limit)
}
