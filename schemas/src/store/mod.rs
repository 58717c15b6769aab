//! The files of folders and of object stores, through the same functions.
//!
//! A path that begins with `s3://`, `gs://` or `az://` is the URL of an object, or of a folder: the
//! objects whose names begin with it. All others are paths of the local system.
//!
//! A new local file appears by renaming a temporary one ([`atomic`]); an object appears when its
//! upload is finished, so that it needs no other name. Object stores have no folders to make and no
//! locks.

pub mod atomic;
#[cfg(feature = "cloud")]
mod cloud;
#[cfg(feature = "cloud")]
mod credentials;
mod file;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub use atomic::AtomicFile;
pub use file::StoredFile;

#[cfg(not(feature = "cloud"))]
use self::without_cloud as cloud;
use crate::{Error, Result};

/// The schemes of URLs.
const SCHEMES: [&str; 3] = ["s3://", "gs://", "az://"];

/// A file or folder in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name in the folder.
    pub name: String,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// The size of a file in bytes; 0 for folders.
    pub bytes: u64,
}

/// Whether a path is the URL of an object store.
pub fn is_url(path: &Path) -> bool {
    path.to_str().is_some_and(|path| SCHEMES.iter().any(|scheme| path.starts_with(scheme)))
}

/// The content of a file.
///
/// # Errors
/// Where it is missing or cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    if is_url(path) { Ok(cloud::Object::at(path)?.read()?.into()) } else { fs::read(path) }
}

/// The first `limit` bytes of a file, or all of them where it has fewer.
///
/// # Errors
/// Where it is missing or cannot be read.
pub fn read_first(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if is_url(path) {
        return Ok(cloud::Object::at(path)?.read_first(limit)?.into());
    }
    let file = File::open(path)?;
    // At once as large as it becomes, and a byte more to see the end.
    let mut content = Vec::with_capacity(file.metadata()?.len().min(limit) as usize + 1);
    file.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

/// These bytes of a file.
///
/// # Errors
/// Where it is missing, too short, or cannot be read.
pub fn read_range(path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
    let bytes = range.end.saturating_sub(range.start);
    let found = read_range_or_less(path, range)?;
    if (found.len() as u64) < bytes { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(found) }
}

/// These bytes of a file, or fewer where it ends before. Nothing can be read behind the end of an
/// object.
///
/// # Errors
/// Where it is missing or cannot be read.
pub fn read_range_or_less(path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
    // Object stores refuse requests for nothing.
    if range.is_empty() {
        return Ok(Vec::new());
    }
    if is_url(path) {
        return Ok(cloud::Object::at(path)?.read_range(range)?.into());
    }
    let file = File::open(path)?;
    let end = range.end.min(file.metadata()?.len());
    let mut content = vec![0; end.saturating_sub(range.start) as usize];
    file.read_exact_at(&mut content, range.start)?;
    Ok(content)
}

/// The content of a text file.
///
/// # Errors
/// As [`read`], and for content that is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// The size of a regular file in bytes. Others are refused: a pipe or a device might never end.
///
/// # Errors
/// Where it is missing, is no regular file, or cannot be looked at.
pub fn size(path: &Path) -> io::Result<u64> {
    if is_url(path) {
        return cloud::Object::at(path)?.size();
    }
    let metadata = fs::metadata(path)?;
    if metadata.is_file() {
        Ok(metadata.len())
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

/// Whether there is a file.
///
/// # Errors
/// Where it cannot be found out.
pub fn has_file(path: &Path) -> Result<bool> {
    match size(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        // A folder, for instance.
        Err(error) if is_url(path) => Err(Error::io(path)(error)),
        Err(_) => Ok(false),
    }
}

/// Whether there is a folder: in an object store, anything whose name begins with the folder's.
///
/// # Errors
/// Where it cannot be found out.
pub fn has_folder(path: &Path) -> Result<bool> {
    if !is_url(path) {
        return Ok(path.is_dir());
    }
    let found = cloud::Object::at(path).and_then(|object| object.has_any_below());
    found.map_err(Error::io(path))
}

/// The files and folders in a folder, sorted by name; none if there is no such folder. Names that
/// are not UTF-8 are left out.
///
/// # Errors
/// Where it cannot be listed.
pub fn list(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    if is_url(folder) {
        entries = cloud::Object::at(folder)?.list()?;
    } else {
        let found = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(entries),
            found => found?,
        };
        for entry in found {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // It may be gone meanwhile, or be a link to nothing.
            let metadata = fs::metadata(entry.path()).ok();
            let is_folder = metadata.as_ref().is_some_and(fs::Metadata::is_dir);
            let bytes = metadata.filter(fs::Metadata::is_file).map_or(0, |metadata| metadata.len());
            entries.push(Entry { name, is_folder, bytes });
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

/// The names of [`list`].
///
/// # Errors
/// Where the folder cannot be listed.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = list(folder).map_err(Error::io(folder))?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

/// Makes a folder and those above it, where they are missing.
///
/// # Errors
/// Where the system refuses.
pub fn create_folder(folder: &Path) -> Result<()> {
    if is_url(folder) { Ok(()) } else { fs::create_dir_all(folder).map_err(Error::io(folder)) }
}

/// Writes `bytes` as the complete content of a file, which is never seen partly written.
///
/// # Errors
/// Where it cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    io::Write::write_all(&mut file, bytes).map_err(Error::io(path))?;
    file.commit()
}

/// Removes a file; that it is gone already is no error.
///
/// # Errors
/// Where the system refuses.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match is_url(path) {
        true => cloud::Object::at(path).and_then(|object| object.remove()),
        false => fs::remove_file(path),
    };
    unless_gone(removed).map_err(Error::io(path))
}

/// Removes a folder with all that it contains; that it is gone already is no error.
///
/// # Errors
/// Where the system refuses.
pub fn remove_folder(folder: &Path) -> Result<()> {
    let removed = match is_url(folder) {
        true => cloud::Object::at(folder).and_then(|object| object.remove_all_below()),
        false => fs::remove_dir_all(folder),
    };
    unless_gone(removed).map_err(Error::io(folder))
}

/// The result of a removal, which has succeeded as well where another process was faster.
fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Stands for object stores in a program built without them.
#[cfg(not(feature = "cloud"))]
mod without_cloud {
    use std::io;
    use std::ops::Range;
    use std::path::Path;

    use bytes::Bytes;

    use super::Entry;

    /// There is none.
    #[derive(Clone, Debug)]
    pub enum Object {}

    impl Object {
        pub fn at(_: &Path) -> io::Result<Self> {
            let how =
                "this program was built without object stores; build it with --features cloud";
            Err(io::Error::new(io::ErrorKind::Unsupported, how))
        }

        pub fn read(&self) -> io::Result<Bytes> {
            match *self {}
        }

        pub fn read_first(&self, _: u64) -> io::Result<Bytes> {
            match *self {}
        }

        pub fn read_range(&self, _: Range<u64>) -> io::Result<Bytes> {
            match *self {}
        }

        pub fn read_ranges(&self, _: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
            match *self {}
        }

        pub fn size(&self) -> io::Result<u64> {
            match *self {}
        }

        pub fn has_any_below(&self) -> io::Result<bool> {
            match *self {}
        }

        pub fn list(&self) -> io::Result<Vec<Entry>> {
            match *self {}
        }

        pub fn remove(&self) -> io::Result<()> {
            match *self {}
        }

        pub fn remove_all_below(&self) -> io::Result<()> {
            match *self {}
        }
    }

    /// There is none.
    #[derive(Debug)]
    pub enum Upload {}

    impl Upload {
        pub fn to(url: &Path) -> io::Result<Self> {
            Object::at(url).map(|object| match object {})
        }

        pub fn write(&mut self, _: &[u8]) -> io::Result<()> {
            match *self {}
        }

        pub fn finish(self) -> io::Result<()> {
            match self {}
        }
    }
}
