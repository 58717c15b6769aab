//! The locks of the processes that write into a shards folder. Each holds one on a file of its own
//! there while it runs, so that no work is done twice by mistake, and no process removes what
//! another is still writing.
//!
//! An object store has no locks and needs none: equal rows give equal bytes, so that work done twice
//! does no harm.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use scrl_cli::World;
use scrl_schemas::ShardPaths;
use scrl_schemas::store;
use scrl_schemas::store::atomic::Writer;

use crate::{Error, Result};

/// How the names of lock files begin.
const PREFIX: &str = ".writer-";

/// This process's lock among the writers of a folder, held until dropped.
#[derive(Debug)]
pub(super) struct WriterLock {
    path: PathBuf,
    /// Keeps the lock; `None` on a file system without locks, or in an object store.
    file: Option<File>,
}

impl WriterLock {
    /// Takes the lock of a rank in a folder that exists.
    ///
    /// # Errors
    /// [`Error::Folder`] if another process holds that lock, or one of another world size.
    pub fn take(paths: &ShardPaths, world: World) -> Result<Self> {
        let path = paths.root().join(format!("{PREFIX}{}-of-{}", world.rank, world.size));
        if store::is_url(paths.root()) {
            return Ok(Self { path, file: None });
        }
        loop {
            let options =
                || File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = options().map_err(Error::io(&path))?;
            let file = match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(is_held(paths, &path, world)),
                Err(TryLockError::Error(_)) => None,
                Ok(()) => {
                    // Whoever had the lock before may just have removed the file: then it is not
                    // ours either.
                    let same = |there: fs::Metadata| {
                        file.metadata().is_ok_and(|ours| ours.ino() == there.ino())
                    };
                    if !fs::metadata(&path).is_ok_and(same) {
                        continue;
                    }
                    let Writer { host, process } = Writer::this();
                    let note = format!("process {process} on {host}");
                    file.set_len(0)
                        .and_then(|()| file.rewind())
                        .and_then(|()| file.write_all(note.as_bytes()))
                        .map_err(Error::io(&path))?;
                    Some(file)
                }
            };
            let lock = Self { path, file };
            let ending = format!("-of-{}", world.size);
            return match lock.others()?.into_iter().find(|other| !name_of(other).ends_with(&ending))
            {
                Some(other) => Err(is_held(paths, &other, world)),
                None => Ok(lock),
            };
        }
    }

    /// Whether the file system has locks; if not, the user has to make sure that no two processes
    /// do the same work.
    pub fn is_sure(&self) -> bool {
        self.file.is_some()
    }

    /// Whether no other process writes into the folder.
    ///
    /// # Errors
    /// Where the folder cannot be listed.
    pub fn is_alone(&self) -> Result<bool> {
        Ok(self.is_sure() && self.others()?.is_empty())
    }

    /// The lock files that other processes hold.
    fn others(&self) -> Result<Vec<PathBuf>> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut held = Vec::new();
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            if path == self.path || !name_of(&path).starts_with(PREFIX) {
                continue;
            }
            // If it is gone, its process has ended.
            let Ok(file) = File::open(&path) else { continue };
            if matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
                held.push(path);
            }
        }
        Ok(held)
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        if store::is_url(&self.path) {
            return;
        }
        // Removed while still locked: closing the file releases the lock.
        let _ = fs::remove_file(&self.path);
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_held(paths: &ShardPaths, lock: &Path, wanted: World) -> Error {
    let mut who = String::new();
    let read = File::open(lock).and_then(|mut file| file.read_to_string(&mut who));
    let who = if read.is_ok() && !who.is_empty() { who } else { "a process".to_owned() };
    let name = name_of(lock);
    let rank = name.trim_start_matches(PREFIX).replace("-of-", " of ");
    let reason = format!(
        "another scrl-prep writes here ({who}, rank {rank}) and this one would be {wanted}; wait \
         until it has ended, or share the work with --rank and --world-size"
    );
    Error::Folder { path: paths.root().to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_once_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ShardPaths::new(folder.path());
        let world = |rank, size| World { rank, size };
        let first = WriterLock::take(&paths, world(0, 2)).unwrap();
        assert!(first.is_sure() && first.is_alone().unwrap());
        let second = WriterLock::take(&paths, world(1, 2)).unwrap();
        assert!(!first.is_alone().unwrap() && !second.is_alone().unwrap());
        for other in [world(0, 2), World::ALONE, world(2, 3)] {
            let message = WriterLock::take(&paths, other).unwrap_err().to_string();
            assert!(
                message.contains("another scrl-prep") && message.contains("process "),
                "{message}"
            );
        }
        drop((first, second));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // A file left by a killed process does no harm.
        fs::write(folder.path().join(".writer-1-of-2"), "process 1 on nowhere").unwrap();
        assert!(WriterLock::take(&paths, World::ALONE).unwrap().is_alone().unwrap());
    }
}
