//! Files that appear under their final name only when complete.
//!
//! A local file is written under a temporary name beside its destination, flushed to the disk, and
//! renamed; the folder is flushed as well, so that after a power failure the name has either no
//! content, the old or the complete new one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{cloud, is_url};
use crate::{Error, Result};

/// Part of every temporary name, and of no other name in a shards folder.
pub const TEMPORARY_MARK: &str = ".tmp-";

/// The number of temporary files of this process, which makes their names unique.
static CREATED: AtomicU64 = AtomicU64::new(0);

/// The writer of a temporary file, from its name, which ends in `.tmp-<host>-<process>-<number>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// The name of the machine.
    pub host: String,
    /// The process ID on it.
    pub process: u32,
}

impl Writer {
    /// This process.
    pub fn this() -> Self {
        // Of all characters in a host name only a slash is invalid in a file name.
        let host = rustix::system::uname().nodename().to_string_lossy().replace('/', "_");
        Self { host, process: std::process::id() }
    }

    /// The writer of a temporary file; `None` if the name is not that of one.
    pub fn of(name: &str) -> Option<Self> {
        let (host, process) =
            name.rsplit_once(TEMPORARY_MARK)?.1.rsplit_once('-')?.0.rsplit_once('-')?;
        Some(Self { host: host.to_owned(), process: process.parse().ok()? })
    }
}

/// A file or object being written. Dropped without [`AtomicFile::commit`], nothing of it is left.
#[derive(Debug)]
pub struct AtomicFile {
    place: Place,
    destination: PathBuf,
}

#[derive(Debug)]
enum Place {
    Local(TemporaryFile),
    Remote(cloud::Upload),
}

impl AtomicFile {
    /// Opens a temporary file for `destination`, or begins an upload. The temporary name contains the
    /// [`Writer`], so that two writers of the same file, even on two machines, use different ones.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(destination: &Path) -> Result<Self> {
        let place = if is_url(destination) {
            Place::Remote(cloud::Upload::to(destination).map_err(Error::io(destination))?)
        } else {
            Place::Local(TemporaryFile::create(destination)?)
        };
        Ok(Self { place, destination: destination.to_owned() })
    }

    /// Gives the file its final name, once it is on the disk, or finishes the upload. What was there
    /// is replaced.
    ///
    /// # Errors
    /// Where the system refuses; then what was there is still there.
    pub fn commit(self) -> Result<()> {
        let Self { place, destination } = self;
        let published = match place {
            Place::Local(file) => file.publish(&destination),
            Place::Remote(upload) => upload.finish(),
        };
        published.map_err(Error::io(&destination))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.place {
            Place::Local(file) => file.open().write(bytes),
            Place::Remote(upload) => upload.write(bytes).map(|()| bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.place {
            Place::Local(file) => file.open().flush(),
            Place::Remote(_) => Ok(()),
        }
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match &mut self.place {
            Place::Local(file) => file.open().seek(position),
            Place::Remote(_) => Err(io::Error::from(io::ErrorKind::NotSeekable)),
        }
    }
}

/// A local file under its temporary name.
#[derive(Debug)]
struct TemporaryFile {
    file: Option<BufWriter<File>>,
    path: PathBuf,
}

impl TemporaryFile {
    fn create(destination: &Path) -> Result<Self> {
        let mut name = destination.file_name().unwrap_or_default().to_owned();
        let Writer { host, process } = Writer::this();
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        name.push(format!("{TEMPORARY_MARK}{host}-{process}-{number}"));
        let path = destination.with_file_name(name);
        let file = File::create(&path).map_err(Error::io(&path))?;
        Ok(Self { file: Some(BufWriter::with_capacity(1 << 20, file)), path })
    }

    fn open(&mut self) -> &mut BufWriter<File> {
        self.file.as_mut().expect("open until published")
    }

    fn publish(mut self, destination: &Path) -> io::Result<()> {
        let Some(buffered) = self.file.take() else { return Ok(()) };
        let publish = || {
            let file = buffered.into_inner().map_err(|error| error.into_error())?;
            file.sync_all()?;
            fs::rename(&self.path, destination)?;
            if let Some(folder) = destination.parent().filter(|p| !p.as_os_str().is_empty()) {
                File::open(folder)?.sync_all()?;
            }
            Ok(())
        };
        publish().inspect_err(|_| {
            let _ = fs::remove_file(&self.path);
        })
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Some(buffered) = self.file.take() {
            // Not flushed, as the content is discarded.
            let _ = buffered.into_parts();
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_contains_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let file = TemporaryFile::create(&folder.path().join("a-b.bin")).unwrap();
        let name = file.path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(Writer::of(&name), Some(Writer::this()));
        let other = Writer { host: "node-7".into(), process: 12 };
        assert_eq!(Writer::of("part-00000.parquet.tmp-node-7-12-0"), Some(other));
        assert_eq!(Writer::of("part-00000.parquet"), None);
    }

    #[test]
    fn a_dropped_file_leaves_nothing_and_a_committed_one_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        super::super::write(&path, b"whole").unwrap();
        super::super::write(&path, b"whole again").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole again");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
