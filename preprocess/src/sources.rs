//! Which images there are: their order gives each its `image_id`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use scrl_schemas::{Exif, Source};
use walkdir::WalkDir;

use crate::decode::{self, Unreadable};
use crate::draw::ImageSize;
use crate::{Error, Result};

/// File names with one of these endings, in any case, are taken for images.
const IMAGE_ENDINGS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"];

/// Bytes read to find an image's size; the whole file follows where they do not suffice.
const HEADER_BYTES: u64 = 64 << 10;

/// The images of a run and where their bytes come from.
#[derive(Debug)]
pub struct Sources {
    origin: Origin,
    /// One entry an image, in the order of their `image_id`.
    pub list: Vec<Source>,
    /// Files that are no images by their name.
    pub ignored: u64,
    /// Classes, by number.
    pub classes: Vec<Arc<str>>,
}

/// Where the bytes of an image come from. Archives and tables of images would be further variants.
#[derive(Debug)]
enum Origin {
    /// A folder, and by `image_id` the image's path below it.
    Folder { root: PathBuf, files: Vec<PathBuf> },
}

impl Sources {
    /// Finds the images and reads their sizes, on all threads of the current rayon pool.
    ///
    /// # Errors
    /// [`Error::Images`] where `images` is no folder or holds no image.
    pub fn find(images: &Path, exif: Exif) -> Result<Self> {
        let metadata = fs::metadata(images).map_err(Error::io(images))?;
        if !metadata.is_dir() {
            let reason = "is not a folder; archives, Parquet files and lists of paths cannot be read yet: \
                          unpack the images into a folder";
            return Err(Error::Images { path: images.to_owned(), reason: reason.to_owned() });
        }
        let (files, ignored) = list_files(images)?;
        if files.is_empty() {
            let endings = IMAGE_ENDINGS.join(" ");
            let reason = format!("holds no images (files ending in {endings}); give another folder");
            return Err(Error::Images { path: images.to_owned(), reason });
        }
        if files.len() > u32::MAX as usize {
            let reason = "holds more than 4294967295 images; split it".to_owned();
            return Err(Error::Images { path: images.to_owned(), reason });
        }
        let numbers = class_numbers(&files);
        let list = files.par_iter().map(|file| scan(images, file, &numbers, exif)).collect();
        let classes = numbers.into_keys().map(Arc::from).collect();
        Ok(Self { origin: Origin::Folder { root: images.to_owned(), files }, list, ignored, classes })
    }

    /// The undecoded bytes of an image.
    ///
    /// # Errors
    /// [`Unreadable`] where the image's header was already found unreadable, or the file is gone.
    pub fn read(&self, image_id: u32) -> std::result::Result<Vec<u8>, Unreadable> {
        let source = &self.list[image_id as usize];
        if let Some(error) = &source.error {
            return Err(Unreadable(error.clone()));
        }
        match &self.origin {
            Origin::Folder { root, files } => {
                fs::read(root.join(&files[image_id as usize])).map_err(|error| Unreadable(error.to_string()))
            }
        }
    }

    /// The size an image had when the run began.
    pub fn size(&self, image_id: u32) -> ImageSize {
        let source = &self.list[image_id as usize];
        ImageSize { width: source.width, height: source.height }
    }

    /// Images that cannot be read, as far as is known.
    pub fn unreadable(&self) -> u64 {
        self.list.iter().filter(|source| source.error.is_some()).count() as u64
    }
}

/// The images below `root`, sorted by the bytes of their paths, and how many other files there are.
fn list_files(root: &Path) -> Result<(Vec<PathBuf>, u64)> {
    let mut files = Vec::new();
    let mut ignored = 0;
    // Links are followed; the walk reports a link to a folder above itself as an error instead of going round.
    for entry in WalkDir::new(root).follow_links(true) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if error.depth() == 0 => {
                let path = root.to_owned();
                let source =
                    error.into_io_error().unwrap_or_else(|| std::io::Error::other("cannot be listed"));
                return Err(Error::io(&path)(source));
            }
            // A loop, a dangling link or a folder that may not be read: if it is named like an image, it is listed
            // and its reading fails with the reason.
            Err(error) => {
                match error.path().and_then(|path| path.strip_prefix(root).ok()) {
                    Some(path) if is_image_name(path) => files.push(path.to_owned()),
                    _ => ignored += 1,
                }
                continue;
            }
        };
        if entry.file_type().is_dir() {
            continue;
        }
        match entry.path().strip_prefix(root) {
            Ok(path) if is_image_name(path) => files.push(path.to_owned()),
            _ => ignored += 1,
        }
    }
    files.sort_unstable_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok((files, ignored))
}

fn is_image_name(path: &Path) -> bool {
    path.extension()
        .and_then(|ending| ending.to_str())
        .is_some_and(|ending| IMAGE_ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// The first folder below the root, where there is one.
fn class_of(file: &Path) -> Option<String> {
    let mut parts = file.components();
    let first = parts.next()?;
    parts.next()?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}

/// Classes in alphabetical order, numbered from 0.
fn class_numbers(files: &[PathBuf]) -> BTreeMap<String, i32> {
    let mut numbers: BTreeMap<String, i32> =
        files.iter().filter_map(|file| class_of(file)).map(|class| (class, 0)).collect();
    for (number, value) in numbers.values_mut().enumerate() {
        *value = number as i32;
    }
    numbers
}

fn scan(root: &Path, file: &Path, numbers: &BTreeMap<String, i32>, exif: Exif) -> Source {
    let class = class_of(file).and_then(|class| Some((*numbers.get(&class)?, Arc::from(class))));
    let path = file.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
    let (bytes, size) = match scan_file(&root.join(file), exif) {
        Ok((bytes, size)) if file.to_str().is_some() => (bytes, size),
        Ok((bytes, _)) => (bytes, Err(Unreadable("the name is not UTF-8".to_owned()))),
        Err(reason) => (0, Err(reason)),
    };
    let (width, height) = size.as_ref().map_or((0, 0), |size| (size.width, size.height));
    Source { path, class, width, height, bytes: bytes as i64, error: size.err().map(|reason| reason.0) }
}

type Scan = (u64, std::result::Result<ImageSize, Unreadable>);

fn scan_file(path: &Path, exif: Exif) -> std::result::Result<Scan, Unreadable> {
    let reason = |error: std::io::Error| Unreadable(error.to_string());
    // Before opening: to open a pipe would wait for someone to write into it.
    let metadata = fs::metadata(path).map_err(reason)?;
    if !metadata.is_file() {
        return Err(Unreadable("not a regular file".to_owned()));
    }
    let mut file = File::open(path).map_err(reason)?;
    let mut bytes = Vec::with_capacity(metadata.len().min(HEADER_BYTES) as usize);
    (&mut file).take(HEADER_BYTES).read_to_end(&mut bytes).map_err(reason)?;
    let mut size = decode::read_size(&bytes, exif);
    if size.is_err() && metadata.len() > HEADER_BYTES {
        file.read_to_end(&mut bytes).map_err(reason)?;
        size = decode::read_size(&bytes, exif);
    }
    Ok((metadata.len(), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::new(5, 4).save(path).unwrap();
    }

    #[test]
    fn folders_are_classes_and_the_order_is_that_of_the_paths() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2.png", "b/1.PNG", "a b/deep/3.bmp", "top.gif"] {
            picture(&folder.path().join(name));
        }
        fs::write(folder.path().join("notes.txt"), "x").unwrap();
        fs::write(folder.path().join("b/broken.jpg"), "x").unwrap();
        let sources = Sources::find(folder.path(), Exif::Ignore).unwrap();
        let seen: Vec<_> =
            sources.list.iter().map(|s| (s.path.as_str(), s.class.as_ref().map(|c| c.0))).collect();
        assert_eq!(
            seen,
            [
                ("a b/deep/3.bmp", Some(0)),
                ("b/1.PNG", Some(1)),
                ("b/2.png", Some(1)),
                ("b/broken.jpg", Some(1)),
                ("top.gif", None)
            ]
        );
        assert_eq!((sources.ignored, sources.unreadable()), (1, 1));
        assert_eq!(sources.size(0), ImageSize { width: 5, height: 4 });
        assert!(sources.read(3).is_err() && sources.read(1).is_ok());
    }

    #[test]
    fn an_empty_folder_and_a_file_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let message = Sources::find(folder.path(), Exif::Ignore).unwrap_err().to_string();
        assert!(message.contains("holds no images"), "{message}");
        let file = folder.path().join("images.tar");
        fs::write(&file, "x").unwrap();
        let message = Sources::find(&file, Exif::Ignore).unwrap_err().to_string();
        assert!(message.contains("is not a folder"), "{message}");
        assert!(Sources::find(&folder.path().join("none"), Exif::Ignore).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn loops_and_names_that_are_not_text_are_survived() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let folder = tempfile::tempdir().unwrap();
        picture(&folder.path().join("a/1.png"));
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a/loop")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("a/gone.png")).unwrap();
        let odd = folder.path().join("a").join(OsStr::from_bytes(b"\xff.png"));
        fs::copy(folder.path().join("a/1.png"), odd).unwrap();
        let sources = Sources::find(folder.path(), Exif::Ignore).unwrap();
        assert_eq!(sources.list.len(), 3);
        assert_eq!(sources.unreadable(), 2);
        assert_eq!(sources.list[2].error.as_deref(), Some("the name is not UTF-8"));
    }
}
