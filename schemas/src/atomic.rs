//! Files that appear under their final name only when whole.
//!
//! A file is written under a temporary name beside its destination, flushed to the disk, and renamed; the folder is
//! flushed as well, so that after a power cut the name holds either nothing, the old content, or all of the new.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// What every temporary name contains; nothing else in a prepared folder does.
pub const TEMPORARY_MARK: &str = ".tmp-";

/// A file under its temporary name. Dropped without [`AtomicFile::commit`], it is removed.
#[derive(Debug)]
pub struct AtomicFile {
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    destination: PathBuf,
}

impl AtomicFile {
    /// Opens the temporary file of `destination`. The name holds the process number, so that two writers of the same
    /// file do not write into each other's.
    pub fn create(destination: &Path) -> Result<Self> {
        let mut name = destination.file_name().unwrap_or_default().to_owned();
        name.push(format!("{TEMPORARY_MARK}{}", std::process::id()));
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

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(buffered) = self.file.take() {
            // Not flushed: the content is of no use to anyone.
            let _ = buffered.into_parts();
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes `bytes` as the whole content of `destination`.
pub fn write(destination: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(destination)?;
    file.write_all(bytes).map_err(Error::io(destination))?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

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
