//! Files that appear under their final name only when complete.
//!
//! A file is written under a temporary name beside its destination, flushed to the disk, and
//! renamed; the folder is flushed as well, so that after a power failure the name has either no
//! content, the old or the complete new one.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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

/// A file under its temporary name. Dropped without [`AtomicFile::commit`], it is removed.
#[derive(Debug)]
pub struct AtomicFile {
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    destination: PathBuf,
}

impl AtomicFile {
    /// Opens the temporary file of `destination`. Its name contains the [`Writer`], so that two
    /// writers of the same file, even on two machines, use different temporary files.
    pub fn create(destination: &Path) -> Result<Self> {
        let mut name = destination.file_name().unwrap_or_default().to_owned();
        let Writer { host, process } = Writer::this();
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        name.push(format!("{TEMPORARY_MARK}{host}-{process}-{number}"));
        let temporary = destination.with_file_name(name);
        let file = File::create(&temporary).map_err(Error::io(&temporary))?;
        let file = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(Self { file, temporary, destination: destination.to_owned() })
    }

    /// Flushes everything to the disk and gives the file its final name, replacing what was there.
    pub fn commit(mut self) -> Result<()> {
        let Some(buffered) = self.file.take() else { return Ok(()) };
        let publish = || {
            let file = buffered.into_inner().map_err(|error| error.into_error())?;
            file.sync_all()?;
            fs::rename(&self.temporary, &self.destination)?;
            if let Some(folder) = self.destination.parent().filter(|p| !p.as_os_str().is_empty()) {
                File::open(folder)?.sync_all()?;
            }
            Ok(())
        };
        publish().map_err(|source| {
            let _ = fs::remove_file(&self.temporary);
            Error::Io { path: self.destination.clone(), source }
        })
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.as_mut().expect("open until committed").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.as_mut().expect("open until committed").flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> std::io::Result<u64> {
        self.file.as_mut().expect("open until committed").seek(position)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(buffered) = self.file.take() {
            // Not flushed, as the content is discarded.
            let _ = buffered.into_parts();
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes `bytes` as the complete content of `destination`.
pub fn write(destination: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(destination)?;
    file.write_all(bytes).map_err(Error::io(destination))?;
    file.commit()
}

/// The result of a removal, which has succeeded as well where another process was faster.
///
/// # Errors
/// Those of `removed`, except that there was nothing to remove.
pub fn unless_gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_contains_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let file = AtomicFile::create(&folder.path().join("a-b.bin")).unwrap();
        let name = file.temporary.file_name().unwrap().to_str().unwrap().to_owned();
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

        write(&path, b"whole").unwrap();
        write(&path, b"whole again").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole again");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
