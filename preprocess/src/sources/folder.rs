//! A folder tree: every file that is an image by its name, in the order of the names, folder by folder.

use std::io;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::{
    Blocks, Found, Location, Receive, SourceFormat, file_size, first_folder, is_image_name,
    read_file,
};
use crate::{Error, Result};

/// What a folder holds.
pub enum Contents {
    /// Images, or nothing at all that could hold some.
    Images,
    /// No image as a file of its own, but tar archives: these, sorted.
    Archives(Vec<PathBuf>),
    /// Neither, but Parquet files: these, sorted.
    Tables(Vec<PathBuf>),
}

/// Looks for images below `root`, and where there are none, for what else may hold some.
///
/// # Errors
/// Where the folder itself cannot be listed.
pub fn files_in(root: &Path) -> Result<Contents> {
    let (mut archives, mut tables) = (Vec::new(), Vec::new());
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
            tables.push(path);
        }
    }
    Ok(match (archives.is_empty(), tables.is_empty()) {
        (false, _) => Contents::Archives(archives),
        (true, false) => Contents::Tables(tables),
        (true, true) => Contents::Images,
    })
}

/// Everything below `root`, sorted. Links are followed; a link to a folder above itself is reported as an error instead
/// of going round.
fn walk(root: &Path) -> walkdir::IntoIter {
    WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter()
}

fn unlistable(root: &Path, error: walkdir::Error) -> Error {
    Error::io(root)(error.into_io_error().unwrap_or_else(|| io::Error::other("cannot be listed")))
}

/// A folder tree of images.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The images below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl SourceFormat for Tree {
    fn list(&self, _contents: bool, receive: Receive) -> Result<u64> {
        let mut blocks = Blocks::new(receive);
        let mut ignored = 0;
        for entry in walk(&self.root) {
            let path = match entry {
                Ok(entry) if entry.file_type().is_dir() => continue,
                Ok(entry) => entry.into_path(),
                Err(error) if error.depth() == 0 => return Err(unlistable(&self.root, error)),
                // A loop, a dangling link or a folder that may not be read: if it is named like an image, it is
                // listed, and looking into it gives the reason.
                Err(error) => error.path().unwrap_or(Path::new("")).to_owned(),
            };
            match path.strip_prefix(&self.root) {
                Ok(below) if is_image_name(below) => blocks.push(found(below))?,
                _ => ignored += 1,
            }
        }
        blocks.flush()?;
        Ok(ignored)
    }

    fn reads_by_path(&self) -> bool {
        true
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        file_size(&self.root.join(path))
    }

    fn read(&self, path: &str, _place: Location, bytes: u64, limit: u64) -> io::Result<Vec<u8>> {
        read_file(&self.root.join(path), bytes, limit)
    }
}

fn found(below: &Path) -> Found {
    let path = below.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
    let is_text = below.to_str().is_some();
    Found {
        class: first_folder(&path),
        path,
        // Its size cannot be asked for by a name that is only nearly its own.
        bytes: (!is_text).then_some(0),
        refused: (!is_text).then(|| "the name is not UTF-8".to_owned()),
        ..Found::default()
    }
}
