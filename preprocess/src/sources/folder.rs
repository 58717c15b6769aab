//! A folder tree: every file that is an image by its name, sorted by name, folder by folder.

use std::io;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::format::{
    BatchSink, Batcher, FoundImage, SourceFormat, file_size, first_folder, is_image_name, read_file,
};
use super::index::Location;
use crate::{Error, Result};

/// What a folder holds.
pub(super) enum Contents {
    /// Image files, or nothing that could hold images.
    Images,
    /// No image files but tar archives, sorted.
    Archives(Vec<PathBuf>),
    /// Neither of these but Parquet files, sorted.
    Parquet(Vec<PathBuf>),
}

/// Looks for image files below `root`, and if there are none, for archives and Parquet files.
///
/// # Errors
/// Where the folder itself cannot be listed.
pub(super) fn contents_of(root: &Path) -> Result<Contents> {
    let (mut archives, mut parquet) = (Vec::new(), Vec::new());
    for entry in walk(root) {
        let path = match entry {
            Ok(entry) if !entry.file_type().is_dir() => entry.into_path(),
            Ok(_) => continue,
            Err(error) if error.depth() == 0 => return Err(unlistable(root, error)),
            Err(_) => continue,
        };
        if is_image_name(&path) {
            return Ok(Contents::Images);
        }
        let has_ending =
            |wanted: &str| path.extension().is_some_and(|it| it.eq_ignore_ascii_case(wanted));
        if has_ending("tar") {
            archives.push(path);
        } else if has_ending("parquet") {
            parquet.push(path);
        }
    }
    Ok(match (archives.is_empty(), parquet.is_empty()) {
        (false, _) => Contents::Archives(archives),
        (true, false) => Contents::Parquet(parquet),
        (true, true) => Contents::Images,
    })
}

/// Everything below `root`, sorted. Links are followed; one to a folder above itself is an error of
/// the entry instead of an endless walk.
fn walk(root: &Path) -> walkdir::IntoIter {
    WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter()
}

fn unlistable(root: &Path, error: walkdir::Error) -> Error {
    Error::io(root)(error.into_io_error().unwrap_or_else(|| io::Error::other("cannot be listed")))
}

/// A folder tree of images.
#[derive(Debug)]
pub(super) struct FolderTree {
    root: PathBuf,
}

impl FolderTree {
    /// The images below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl SourceFormat for FolderTree {
    fn list(&self, _contents: bool, sink: BatchSink) -> Result<u64> {
        let mut batcher = Batcher::new(sink);
        let mut ignored = 0;
        for entry in walk(&self.root) {
            let path = match entry {
                Ok(entry) if entry.file_type().is_dir() => continue,
                Ok(entry) => entry.into_path(),
                Err(error) if error.depth() == 0 => return Err(unlistable(&self.root, error)),
                // A loop, a dangling link or a folder without permission: if it is named like an
                // image it is listed, and examining it gives the reason.
                Err(error) => error.path().unwrap_or(Path::new("")).to_owned(),
            };
            match path.strip_prefix(&self.root) {
                Ok(below) if is_image_name(below) => batcher.push(found(below))?,
                _ => ignored += 1,
            }
        }
        batcher.flush()?;
        Ok(ignored)
    }

    fn reads_by_path(&self) -> bool {
        true
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        file_size(&self.root.join(path))
    }

    fn read(&self, path: &str, _location: Location, bytes: u64, limit: u64) -> io::Result<Vec<u8>> {
        read_file(&self.root.join(path), bytes, limit)
    }
}

fn found(below: &Path) -> FoundImage {
    let path = below.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
    let is_text = below.to_str().is_some();
    FoundImage {
        class: first_folder(&path),
        path,
        // The path is lossy here, so that the size cannot be looked up by it.
        bytes: (!is_text).then_some(0),
        refused: (!is_text).then(|| "the name is not UTF-8".to_owned()),
        ..FoundImage::default()
    }
}
