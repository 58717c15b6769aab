//! All images of a run.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use image::ImageFormat;
use indicatif::HumanCount;
use rayon::prelude::*;
use scrl_schemas::{ClassSource, Source, SourceOptions, SourcesReader, SourcesWriter, store};

use super::classes::Classes;
use super::difference::Difference;
use super::examine::{Examine, Examined, examine};
use super::format::{FoundImage, IMAGE_ENDINGS, Listing, SourceFormat};
use super::index::{Index, Record};
use super::open::open;
use super::passed_over::Suspect;
use super::read_ahead::{ReadAhead, Request};
use super::splits::Folders;
use crate::images::{Decoding, Header, recognize};
use crate::{Error, Result};

/// Reasons that images cannot be read, as many as are printed.
const REASONS: usize = 3;
/// First bytes that show the format of an image.
const FORMAT_BYTES: u64 = 64;

/// The images of a run, and access to their bytes.
///
/// Memory: that of the index, 40 bytes and the path for each image, and the reason for each that
/// cannot be read.
#[derive(Debug)]
pub struct Sources {
    images: PathBuf,
    format: Arc<dyn SourceFormat>,
    /// Reads images of an object store before they are needed.
    ahead: Option<ReadAhead>,
    index: Index,
    classes: Classes,
    listing: Listing,
    /// Why an image cannot be read, by its number; some are only found while the run decodes them.
    errors: RwLock<BTreeMap<u32, String>>,
    /// Images whose samples have more than 8 bits, in ascending order; known of images that were
    /// examined just now.
    deep: Vec<u32>,
    /// The first image of which only three of more bands are shown, with their number; and how many
    /// such images there are.
    banded: Option<(u32, u16, u64)>,
}

impl Sources {
    /// Finds the images and examines each, on all threads of the current rayon pool.
    ///
    /// # Errors
    /// [`Error::Images`] where `images` is nothing that holds images, or holds none.
    pub fn find(
        images: &Path,
        options: &SourceOptions,
        how: impl Into<Decoding>,
        depth: Examine,
    ) -> Result<Self> {
        let how = how.into();
        Self::list(images, options, true, |format, batch| {
            let each = |found| examine(images, format, found, how, depth);
            batch.into_par_iter().map(each).collect()
        })
    }

    /// Finds the images that the shards in the folder `shards` were made from, and takes size and
    /// error of each from the folder's list, `known`.
    ///
    /// # Errors
    /// As [`Sources::find`], and [`Error::Folder`] where names or sizes have changed.
    pub(crate) fn find_again(
        images: &Path,
        options: &SourceOptions,
        shards: &Path,
        mut known: SourcesReader,
    ) -> Result<Self> {
        let mut difference = Difference::default();
        let mut compare = |format: &dyn SourceFormat, batch: Vec<FoundImage>| {
            let sizes: Vec<Option<u64>> = batch
                .par_iter()
                .map(|found| found.bytes.or_else(|| format.size(&found.path).unwrap_or(Some(0))))
                .collect();
            let mut listed = Vec::new();
            for (found, size) in batch.into_iter().zip(sizes) {
                let before = known.next().transpose()?;
                let pair = before.as_ref().map(|before| (&*before.path, before.bytes as u64));
                difference.compare(pair, Some((&found.path, size)));
                // Whatever stands here if they are not the same, it is not used.
                let (width, height, bytes, error) = match before {
                    Some(it) => (it.width, it.height, it.bytes as u64, it.error),
                    None => (0, 0, 0, None),
                };
                let FoundImage { path, location, class, .. } = found;
                let record = Record { path, class: None, width, height, bytes, location };
                listed.push(Examined { record, class, error, header: None });
            }
            Ok(listed)
        };
        let sources = Self::list(images, options, false, &mut compare)?;
        for lost in known {
            if difference.is_cut() {
                break;
            }
            let lost = lost?;
            difference.compare(Some((&lost.path, lost.bytes as u64)), None);
        }
        let Some(reason) = difference.describe() else { return Ok(sources) };
        let reason = format!(
            "was made from other images: {reason}; restore the images as they were, give another \
             folder for the shards, or --overwrite to remove these"
        );
        Err(Error::Folder { path: shards.to_owned(), reason })
    }

    /// Lists the images and indexes what `examine` returns for each batch.
    fn list(
        images: &Path,
        options: &SourceOptions,
        contents: bool,
        mut examine: impl FnMut(&dyn SourceFormat, Vec<FoundImage>) -> Result<Vec<Examined>>,
    ) -> Result<Self> {
        let format = open(images, options)?;
        let mut index = Index::default();
        let mut classes = Classes::default();
        let mut folders = Folders::default();
        let mut errors = BTreeMap::new();
        let (mut deep, mut banded) = (Vec::new(), None);
        let refuse = |reason: String| Error::Images { path: images.to_owned(), reason };
        let mut listing = format.list(contents, &mut |batch| {
            for Examined { mut record, class, error, header } in examine(&*format, batch)? {
                if options.classes == ClassSource::Folder {
                    record.class = class.map(|class| classes.add(class));
                    if classes.len() <= 1 {
                        folders.note(&record.path, record.class.and(classes.names().next()));
                    }
                }
                let number = u32::try_from(index.len())
                    .ok()
                    .filter(|&number| number < u32::MAX)
                    .ok_or_else(|| {
                        refuse(format!("holds more than {} images; split it", u32::MAX))
                    })?;
                errors.extend(error.map(|error| (number, error)));
                if let Some(Header { is_deep, bands, .. }) = header {
                    deep.extend(is_deep.then_some(number));
                    if bands > 0 {
                        banded.get_or_insert((number, bands, 0)).2 += 1;
                    }
                }
                index.push(&record);
            }
            Ok(())
        })?;
        classes.assign_labels();
        let is_image = |file: &Suspect| recognize_file(&*format, file);
        if index.len() == 0 {
            let endings = IMAGE_ENDINGS.join(" ");
            let instead = listing.passed_over.instead_of_images(is_image);
            let reason = format!(
                "holds no images (files ending in {endings}){instead}; give another folder or file"
            );
            return Err(refuse(reason));
        }
        let notices = &mut listing.notices;
        notices.append(&mut listing.passed_over.notices(is_image));
        if options.classes == ClassSource::Folder {
            notices.extend(folders.notice(images, format.files(), &classes));
        }
        notices.extend(most_frequent(&errors, &index));
        let errors = RwLock::new(errors);
        let ahead = store::is_url(images).then(|| ReadAhead::new(format.clone()));
        let images = images.to_owned();
        Ok(Self { images, format, ahead, index, classes, listing, errors, deep, banded })
    }

    /// How many images there are, readable or not.
    #[allow(clippy::len_without_is_empty)] // There is at least one.
    pub fn len(&self) -> u32 {
        self.index.len() as u32
    }

    /// How many classes there are.
    pub(crate) fn classes(&self) -> u64 {
        self.classes.len() as u64
    }

    /// How many files there are that are no images by their name.
    pub(crate) fn ignored(&self) -> u64 {
        self.listing.passed_over.files()
    }

    /// The endings of most of these files.
    pub(crate) fn ignored_endings(&self) -> String {
        self.listing.passed_over.endings()
    }

    /// What the user should know of the images, a line each.
    pub fn notices(&self) -> &[String] {
        &self.listing.notices
    }

    /// Images whose samples have more than 8 bits, as far as they were examined just now.
    pub(crate) fn deep(&self) -> &[u32] {
        &self.deep
    }

    /// What the user should know of images of more than three bands.
    pub(crate) fn notice_of_bands(&self) -> Option<String> {
        let (first, bands, count) = self.banded?;
        Some(format!(
            "images of more than 3 bands: {count} ({} has {bands}); the first three become red, green \
             and blue, gdal_translate -b chooses others",
            self.source(first).path
        ))
    }

    /// How many images cannot be read, as far as is known.
    pub(crate) fn unreadable(&self) -> u64 {
        self.errors().len() as u64
    }

    /// An image's path, class, size, and the reason if it cannot be read.
    ///
    /// # Panics
    /// If `image_id` is not below [`Sources::len`].
    pub fn source(&self, image_id: u32) -> Source {
        self.describe(image_id, self.index.get(u64::from(image_id)))
    }

    fn describe(&self, image_id: u32, record: Record) -> Source {
        Source {
            path: record.path,
            class: record.class.map(|class| self.classes.get(class)),
            width: record.width,
            height: record.height,
            bytes: record.bytes as i64,
            error: self.errors().get(&image_id).cloned(),
        }
    }

    /// The file or object of an image; `None` for one within an archive or a table.
    pub fn file(&self, image_id: u32) -> Option<PathBuf> {
        self.format.file(&self.index.get(u64::from(image_id)).path)
    }

    /// Begins to read these images of an object store, in this order, for later calls of
    /// [`Sources::read`]. Without effect on others, which are at hand.
    pub(crate) fn read_ahead(&self, images: &[u32]) {
        let Some(ahead) = &self.ahead else { return };
        let readable: Vec<u32> = {
            let errors = self.errors();
            images.iter().copied().filter(|image_id| !errors.contains_key(image_id)).collect()
        };
        ahead.begin(readable.into_iter().map(|image_id| {
            let Record { path, location, bytes, .. } = self.index.get(u64::from(image_id));
            Request { image_id, path, location, bytes, limit: bytes + 1 }
        }));
    }

    /// An image's description and its undecoded bytes; no bytes if it is known to be unreadable.
    ///
    /// # Errors
    /// [`Error::Source`] if the file is gone or its size has changed since the images were listed:
    /// that stops the run, as it concerns more than one image.
    pub fn read(&self, image_id: u32) -> Result<(Source, Vec<u8>)> {
        let record = self.index.get(u64::from(image_id));
        let location = record.location;
        let source = self.describe(image_id, record);
        if source.error.is_some() {
            return Ok((source, Vec::new()));
        }
        let fail = |reason: String| Error::source(&self.images, &source.path, reason);
        let size = source.bytes as u64;
        // One byte more than expected: a file that has grown is another file.
        let bytes = match self.ahead.as_ref().and_then(|ahead| ahead.take(image_id)) {
            Some(content) => content,
            None => self.format.read(&source.path, location, size, size + 1),
        };
        let bytes = match bytes {
            // A damage of this image alone, as those that only decoding finds.
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return Ok((Source { error: Some(error.to_string()), ..source }, Vec::new()));
            }
            bytes => bytes.map_err(|error| fail(error.to_string()))?,
        };
        if bytes.len() as u64 != size {
            return Err(fail("its size has changed".to_owned()));
        }
        Ok((source, bytes))
    }

    /// Notes that an image turned out unreadable. Returns whether that was not known before.
    pub(crate) fn note_unreadable(&self, image_id: u32, reason: &str) -> bool {
        let mut errors = self.errors.write().unwrap_or_else(PoisonError::into_inner);
        if image_id >= self.len() || errors.contains_key(&image_id) {
            return false;
        }
        errors.insert(image_id, reason.to_owned());
        true
    }

    fn errors(&self) -> RwLockReadGuard<'_, BTreeMap<u32, String>> {
        self.errors.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `sources.parquet`.
    ///
    /// # Errors
    /// [`Error::Shards`] where it cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut writer = SourcesWriter::create(path)?;
        for image_id in 0..self.len() {
            writer.write(self.source(image_id))?;
        }
        Ok(writer.finish()?)
    }
}

/// The ending that a file should have, if it is an image by its content. Not of the kinds whose
/// signatures are two letters.
fn recognize_file(format: &dyn SourceFormat, file: &Suspect) -> Option<&'static str> {
    let bytes = match file.bytes {
        Some(bytes) => bytes,
        None => format.size(&file.path).ok()??,
    };
    let head = format.read(&file.path, file.location, bytes, FORMAT_BYTES).ok()?;
    match recognize(&head).ok()? {
        found @ (ImageFormat::Jpeg
        | ImageFormat::Png
        | ImageFormat::WebP
        | ImageFormat::Tiff
        | ImageFormat::Gif) => Some(found.extensions_str()[0]),
        _ => None,
    }
}

/// The most frequent reasons for which images cannot be read, a line each.
fn most_frequent(errors: &BTreeMap<u32, String>, index: &Index) -> impl Iterator<Item = String> {
    let mut reasons: BTreeMap<&str, (u64, u32)> = BTreeMap::new();
    for (&image_id, reason) in errors {
        reasons.entry(reason).or_insert((0, image_id)).0 += 1;
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|&(_, (count, image_id))| (Reverse(count), image_id));
    reasons.into_iter().take(REASONS).map(|(reason, (count, image_id))| {
        let path = index.get(u64::from(image_id)).path;
        match count {
            1 => format!("unreadable: {path}: {reason}"),
            _ => format!("unreadable: {path} and {} more: {reason}", HumanCount(count - 1)),
        }
    })
}
