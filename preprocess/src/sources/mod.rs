//! Which images there are: their order gives each its `image_id`.
//!
//! An `SourceFormat` lists the images and gives their bytes: a folder tree (`tree`), a text file of paths (`list`), tar
//! archives (`archive`) or Parquet files (`parquet`). What is found out about each image goes into an `index` that
//! takes little memory. Every image is looked into once, when the folder of shards is begun; later runs over the same
//! folder take the findings from its `sources.parquet` and look at names and sizes alone.

mod archive;
mod folder;
mod index;
mod list;
mod parquet;
mod reader;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rayon::prelude::*;
use scrl_schemas::{Exif, Source, SourcesReader, SourcesWriter};

use crate::images::MAX_SOURCE_BYTES;
use crate::images::{Unreadable, decode, read_size};
use crate::{Error, Result};

use index::{Index, Location, Record};
pub use reader::SourceReader;

/// File names with one of these endings, in any case, are taken for images.
const IMAGE_ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"];
/// Bytes read to find an image's size; the whole file follows where they do not suffice.
const HEADER_BYTES: u64 = 64 << 10;
/// Images looked into together, on all threads.
const BLOCK: usize = 4096;

/// An image as its origin lists it, before anyone has looked into it.
#[derive(Debug, Default)]
struct Found {
    path: String,
    class: Option<Class>,
    place: Location,
    /// `None` where the listing does not tell.
    bytes: Option<u64>,
    /// The image itself, where listing reads it anyway.
    content: Option<Vec<u8>>,
    /// Why it cannot be an image, where the listing tells.
    refused: Option<String>,
}

/// An image's class.
#[derive(Debug)]
enum Class {
    /// Numbered later, in the order of the names.
    Name(String),
    /// Numbered by whoever made the data.
    Number(i32, String),
}

/// Whom to hand the images to, block by block.
type Receive<'a> = &'a mut dyn FnMut(Vec<Found>) -> Result<()>;

/// Where images come from.
trait SourceFormat: Debug + Send + Sync {
    /// Hands over all images in their order, in blocks of at most [`BLOCK`]; with their content, if `contents` asks for
    /// it and it costs nothing more. Returns how many things it met that are no images.
    fn list(&self, contents: bool, receive: Receive) -> Result<u64>;

    /// Whether an image's path alone tells where it lies.
    fn reads_by_path(&self) -> bool;

    /// The size of an image in bytes, where [`Found::bytes`] did not tell; `None` if only reading the image tells.
    fn size(&self, path: &str) -> io::Result<Option<u64>>;

    /// The first `limit` bytes of an image, or all of them where it has fewer.
    fn read(&self, path: &str, place: Location, bytes: u64, limit: u64) -> io::Result<Vec<u8>>;
}

/// Takes images in and hands them over in blocks.
struct Blocks<'a> {
    receive: Receive<'a>,
    block: Vec<Found>,
    limit: usize,
}

impl<'a> Blocks<'a> {
    fn new(receive: Receive<'a>) -> Self {
        Self { receive, block: Vec::new(), limit: BLOCK }
    }

    fn push(&mut self, found: Found) -> Result<()> {
        self.block.push(found);
        if self.block.len() >= self.limit { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        if block.is_empty() { Ok(()) } else { (self.receive)(block) }
    }
}

/// How closely images are looked at before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// At the header: whether the pixels are whole shows when they are needed.
    Header,
    /// At everything: for rows that hold no pixels, where damage would not show before training.
    Whole,
}

/// The images of a run and where their bytes come from.
#[derive(Debug)]
pub struct Sources {
    images: PathBuf,
    origin: Box<dyn SourceFormat>,
    index: Index,
    classes: Classes,
    ignored: u64,
    unreadable: AtomicU64,
    /// Those found to be unreadable since the images were listed.
    news: Mutex<BTreeMap<u32, String>>,
}

impl Sources {
    /// Finds the images and looks into each, on all threads of the current rayon pool.
    ///
    /// # Errors
    /// [`Error::Images`] where `images` is nothing that holds images, or holds none.
    pub fn find(images: &Path, exif: Exif, look: Look) -> Result<Self> {
        let mut sources = Self::open(images)?;
        sources.take_in(true, |origin, block| {
            Ok(block.into_par_iter().map(|found| examine(origin, found, exif, look)).collect())
        })?;
        Ok(sources)
    }

    /// Finds the images that the shards in the folder `shards` were made from, and takes what is known of each from
    /// the folder's list, `known`.
    ///
    /// # Errors
    /// As [`Sources::find`], and [`Error::Folder`] where names or sizes have changed.
    pub fn find_again(images: &Path, shards: &Path, mut known: SourcesReader) -> Result<Self> {
        let mut sources = Self::open(images)?;
        let changed = |reason: String| {
            let reason = format!(
                "was made from other images: {reason}; give those images or another folder, or --overwrite to remove \
                 these shards"
            );
            Error::Folder { path: shards.to_owned(), reason }
        };
        let total = known.total();
        sources.take_in(false, |origin, block| {
            let sizes: Vec<Option<u64>> = block
                .par_iter()
                .map(|found| found.bytes.or_else(|| origin.size(&found.path).unwrap_or(Some(0))))
                .collect();
            block
                .into_iter()
                .zip(sizes)
                .map(|(found, size)| {
                    let before = known.next().transpose()?;
                    let Some(before) = before else {
                        return Err(changed(format!(
                            "{} is new ({total} images were known)",
                            found.path
                        )));
                    };
                    let size = size.unwrap_or(before.bytes as u64);
                    if (&before.path, before.bytes as u64) != (&found.path, size) {
                        return Err(changed(format!(
                            "{} ({} bytes) is now {} ({size} bytes)",
                            before.path, before.bytes, found.path
                        )));
                    }
                    let record = Record {
                        path: found.path,
                        class: None,
                        width: before.width,
                        height: before.height,
                        bytes: size,
                        place: found.place,
                        error: before.error,
                    };
                    Ok((record, found.class))
                })
                .collect()
        })?;
        match known.next().transpose()? {
            Some(lost) => Err(changed(format!("{} is no longer there", lost.path))),
            None => Ok(sources),
        }
    }

    fn open(images: &Path) -> Result<Self> {
        Ok(Self {
            images: images.to_owned(),
            origin: open_origin(images)?,
            index: Index::default(),
            classes: Classes::default(),
            ignored: 0,
            unreadable: AtomicU64::new(0),
            news: Mutex::default(),
        })
    }

    /// Lists the images and puts into the index what `judge` makes of each block.
    fn take_in(
        &mut self,
        contents: bool,
        mut judge: impl FnMut(&dyn SourceFormat, Vec<Found>) -> Result<Vec<(Record, Option<Class>)>>,
    ) -> Result<()> {
        let Self { images, origin, index, classes, unreadable, .. } = self;
        let temporary = std::env::temp_dir();
        let ignored = origin.list(contents, &mut |block| {
            for (mut record, class) in judge(&**origin, block)? {
                record.class = class.map(|class| classes.add(class));
                *unreadable.get_mut() += u64::from(record.error.is_some());
                index.push(record).map_err(Error::io(&temporary))?;
            }
            if index.len() > u64::from(u32::MAX) {
                let reason = "holds more than 4294967295 images; split it".to_owned();
                return Err(Error::Images { path: images.clone(), reason });
            }
            Ok(())
        })?;
        index.seal().map_err(Error::io(&temporary))?;
        classes.number();
        self.ignored = ignored;
        if self.index.len() == 0 {
            let endings = IMAGE_ENDINGS.join(" ");
            let reason =
                format!("holds no images (files ending in {endings}); give another folder or file");
            return Err(Error::Images { path: self.images.clone(), reason });
        }
        Ok(())
    }

    /// How many images there are, readable or not.
    #[allow(clippy::len_without_is_empty)] // There is at least one.
    pub fn len(&self) -> u32 {
        self.index.len() as u32
    }

    /// How many classes there are.
    pub fn classes(&self) -> u64 {
        self.classes.names.len() as u64
    }

    /// Files that are no images by their name.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Images that cannot be read, as far as is known.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// What is known of an image.
    ///
    /// # Errors
    /// Where the temporary file of a large index cannot be read.
    pub fn source(&self, image_id: u32) -> Result<Source> {
        Ok(self.describe(image_id, self.record(image_id)?))
    }

    fn record(&self, image_id: u32) -> Result<Record> {
        self.index.get(u64::from(image_id)).map_err(Error::io(&std::env::temp_dir()))
    }

    fn describe(&self, image_id: u32, record: Record) -> Source {
        Source {
            path: record.path,
            class: record.class.map(|class| self.classes.get(class)),
            width: record.width,
            height: record.height,
            bytes: record.bytes as i64,
            error: record.error.or_else(|| self.news().get(&image_id).cloned()),
        }
    }

    /// What is known of an image, and its undecoded bytes; no bytes where it is known to be unreadable.
    ///
    /// # Errors
    /// [`Error::Source`] where the bytes cannot be had any more, or are others than when the images were listed: that
    /// concerns the run and not the image alone.
    pub fn read(&self, image_id: u32) -> Result<(Source, Vec<u8>)> {
        let record = self.record(image_id)?;
        let place = record.place;
        let source = self.describe(image_id, record);
        if source.error.is_some() {
            return Ok((source, Vec::new()));
        }
        let fail = |reason: String| Error::source(&self.images, &source.path, reason);
        let size = source.bytes as u64;
        // One byte more than there should be: a file that has grown is another file.
        let bytes = self
            .origin
            .read(&source.path, place, size, size + 1)
            .map_err(|error| fail(error.to_string()))?;
        if bytes.len() as u64 != size {
            return Err(fail("its size has changed".to_owned()));
        }
        Ok((source, bytes))
    }

    /// Notes that an image turned out unreadable. Returns whether that was news.
    ///
    /// # Errors
    /// As [`Sources::source`].
    pub fn note_unreadable(&self, image_id: u32, reason: &str) -> Result<bool> {
        if image_id >= self.len() || self.source(image_id)?.error.is_some() {
            return Ok(false);
        }
        self.news().insert(image_id, reason.to_owned());
        self.unreadable.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    fn news(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.news.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Writes `sources.parquet`.
    ///
    /// # Errors
    /// [`Error::Shards`] where it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut writer = SourcesWriter::create(path)?;
        for image_id in 0..self.len() {
            writer.write(self.source(image_id)?)?;
        }
        Ok(writer.finish()?)
    }
}

/// The classes met so far, by the order in which they were met.
#[derive(Debug, Default)]
struct Classes {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
    /// The label of each: at first where one was given, in the end for all.
    labels: Vec<Option<i32>>,
}

impl Classes {
    fn add(&mut self, class: Class) -> u32 {
        let (label, name) = match class {
            Class::Name(name) => (None, name),
            Class::Number(label, name) => (Some(label), name),
        };
        if let Some(&known) = self.numbers.get(name.as_str()) {
            return known;
        }
        let name: Arc<str> = name.into();
        let number = self.names.len() as u32;
        self.numbers.insert(name.clone(), number);
        self.names.push(name);
        self.labels.push(label);
        number
    }

    /// Gives each class its label: the one that came with it, or where any came without, its place among the names.
    fn number(&mut self) {
        if self.labels.iter().any(Option::is_none) {
            let mut order: Vec<usize> = (0..self.names.len()).collect();
            order.sort_by(|&a, &b| self.names[a].cmp(&self.names[b]));
            for (label, class) in order.into_iter().enumerate() {
                self.labels[class] = Some(label as i32);
            }
        }
    }

    fn get(&self, class: u32) -> (i32, Arc<str>) {
        let class = class as usize;
        (self.labels[class].unwrap_or_default(), self.names[class].clone())
    }
}

/// Looks into an image.
fn examine(
    origin: &dyn SourceFormat,
    mut found: Found,
    exif: Exif,
    look: Look,
) -> (Record, Option<Class>) {
    let class = found.class.take();
    let mut record = Record {
        path: std::mem::take(&mut found.path),
        class: None,
        width: 0,
        height: 0,
        bytes: found.bytes.unwrap_or_default(),
        place: found.place,
        error: None,
    };
    if let Err(reason) = examine_content(origin, found, exif, look, &mut record) {
        record.error = Some(reason.0);
    }
    (record, class)
}

fn examine_content(
    origin: &dyn SourceFormat,
    found: Found,
    exif: Exif,
    look: Look,
    record: &mut Record,
) -> std::result::Result<(), Unreadable> {
    let reason = |error: io::Error| Unreadable(error.to_string());
    if found.bytes.is_none() {
        record.bytes = match &found.content {
            Some(content) => content.len() as u64,
            None => origin.size(&record.path).map_err(reason)?.unwrap_or_default(),
        };
    }
    if let Some(refused) = found.refused {
        return Err(Unreadable(refused));
    }
    if record.bytes > MAX_SOURCE_BYTES {
        let limit = MAX_SOURCE_BYTES >> 20;
        return Err(Unreadable(format!("{} bytes: more than {limit} MiB", record.bytes)));
    }
    let read = |limit| origin.read(&record.path, record.place, record.bytes, limit).map_err(reason);
    let mut bytes = match (found.content, look) {
        (Some(content), _) => content,
        (None, Look::Header) => read(HEADER_BYTES)?,
        (None, Look::Whole) => read(record.bytes)?,
    };
    let mut size = read_size(&bytes, exif);
    if size.is_err() && (bytes.len() as u64) < record.bytes {
        bytes = read(record.bytes)?;
        size = read_size(&bytes, exif);
    }
    let size = size?;
    (record.width, record.height) = (size.width, size.height);
    match look {
        Look::Header => Ok(()),
        Look::Whole => decode(&bytes, exif).map(|_| ()),
    }
}

/// Finds out what `images` is.
fn open_origin(images: &Path) -> Result<Box<dyn SourceFormat>> {
    if fs::metadata(images).map_err(Error::io(images))?.is_dir() {
        return Ok(match folder::files_in(images)? {
            folder::Contents::Images => Box::new(folder::Tree::new(images)),
            folder::Contents::Archives(files) => Box::new(archive::Archives::new(images, files)),
            folder::Contents::Tables(files) => Box::new(parquet::Tables::new(images, files)),
        });
    }
    let fail =
        |reason: &str| Err(Error::Images { path: images.to_owned(), reason: reason.to_owned() });
    let mut head = Vec::new();
    File::open(images)
        .and_then(|file| file.take(archive::HEADER_BYTES).read_to_end(&mut head))
        .map_err(Error::io(images))?;
    let alone = vec![images.to_owned()];
    if head.starts_with(parquet::MAGIC) {
        Ok(Box::new(parquet::Tables::new(images, alone)))
    } else if archive::is_tar(&head) {
        Ok(Box::new(archive::Archives::new(images, alone)))
    } else if head.starts_with(&[0x1F, 0x8B]) || head.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        fail("is compressed; unpack it to a plain tar archive first")
    } else if image::guess_format(&head).is_ok() {
        fail("is a single image; give a folder of images or a text file of their paths")
    } else if head.contains(&0) {
        fail("is neither a folder, a tar archive, a Parquet file nor a text file of paths")
    } else {
        Ok(Box::new(list::PathList::new(images)))
    }
}

fn is_image_name(path: &Path) -> bool {
    path.extension()
        .and_then(|ending| ending.to_str())
        .is_some_and(|ending| IMAGE_ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// The first folder of a path that has several parts, `/` between them.
fn first_folder(path: &str) -> Option<Class> {
    let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    let first = parts.next()?;
    parts.next().map(|_| Class::Name(first.to_owned()))
}

/// The size of a file that is one, and not a pipe or a device, whose opening or reading might never end.
fn file_size(path: &Path) -> io::Result<Option<u64>> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() {
        Ok(Some(metadata.len()))
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

/// The first `limit` bytes of a file.
fn read_file(path: &Path, bytes: u64, limit: u64) -> io::Result<Vec<u8>> {
    file_size(path)?;
    let mut content = Vec::with_capacity(bytes.min(limit) as usize + 1);
    File::open(path)?.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
