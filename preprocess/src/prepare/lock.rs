//! Which processes write into a folder of shards: each holds a lock on a file of its own there while it runs, so that the
//! same work is not done twice by mistake, and nobody removes what another is still writing.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use scrl_cli::World;
use scrl_schemas::ShardPaths;
use scrl_schemas::atomic::Writer;

use crate::{Error, Result};

/// How the names of lock files begin.
const PREFIX: &str = ".writer-";

/// This process's place among the writers of a folder, held until dropped.
#[derive(Debug)]
pub struct WriterLock {
    path: PathBuf,
    /// Keeps the lock; `None` on a file system that knows no locks.
    file: Option<File>,
}

/// Whether a lock was taken.
enum Lock {
    Taken,
    Held,
    Unknown,
}

fn try_lock(file: &File, how: FlockOperation) -> Lock {
    match flock(file, how) {
        Ok(()) => Lock::Taken,
        Err(Errno::WOULDBLOCK) => Lock::Held,
        Err(_) => Lock::Unknown,
    }
}

impl WriterLock {
    /// Takes the place of `share` in a folder that exists.
    ///
    /// # Errors
    /// [`Error::Folder`] if another process has that place, or processes that share the work in another way run.
    pub fn take(paths: &ShardPaths, world: World) -> Result<Self> {
        let path = paths.root().join(format!("{PREFIX}{}-of-{}", world.rank, world.size));
        loop {
            let options =
                || File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = options().map_err(Error::io(&path))?;
            let file = match try_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Lock::Held => return Err(is_held(paths, &path, world)),
                Lock::Unknown => None,
                Lock::Taken => {
                    // Whoever had the lock before may just have removed the file: then it is not ours either.
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

    /// Whether the file system knows locks; if not, it is up to the user that no two processes do the same.
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
            // Gone by now: its process has ended.
            let Ok(file) = File::open(&path) else { continue };
            if let Lock::Held = try_lock(&file, FlockOperation::NonBlockingLockShared) {
                held.push(path);
            }
        }
        Ok(held)
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Before the lock goes with the file.
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
    let place = name.trim_start_matches(PREFIX).replace("-of-", " of ");
    let reason = format!(
        "another scrl-prep writes here ({who}, rank {place}) and this one would be {wanted}; wait until it has ended, \
         or share the work with --rank and --world-size"
    );
    Error::Folder { path: paths.root().to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_once_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ShardPaths::new(folder.path());
        let share = |rank, world| World { rank, size: world };
        let first = WriterLock::take(&paths, share(0, 2)).unwrap();
        assert!(first.is_sure() && first.is_alone().unwrap());
        let second = WriterLock::take(&paths, share(1, 2)).unwrap();
        assert!(!first.is_alone().unwrap() && !second.is_alone().unwrap());
        for other in [share(0, 2), World::ALONE, share(2, 3)] {
            let message = WriterLock::take(&paths, other).unwrap_err().to_string();
            assert!(
                message.contains("another scrl-prep") && message.contains("process "),
                "{message}"
            );
        }
        drop((first, second));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // What a killed process leaves is no obstacle.
        fs::write(folder.path().join(".writer-1-of-2"), "process 1 on nowhere").unwrap();
        assert!(WriterLock::take(&paths, World::ALONE).unwrap().is_alone().unwrap());
    }
}
