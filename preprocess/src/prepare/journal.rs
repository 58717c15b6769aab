//! The finished shards of an unfinished epoch: `_parts-<rank>-of-<world>.jsonl` in the epoch's
//! folder, one line for each shard. With it a restart need not read every shard to check it, and
//! each process knows what the others have made. When all shards are there, `_SUCCESS` replaces it.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use scrl_cli::World;
use scrl_schemas::{Epoch, FinishedShard, ShardPaths, ShardRecord, Skipped, store};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the names of journals begin; readers of Parquet folders skip names with an underscore.
const PREFIX: &str = "_parts-";

/// Time between two puts of a journal in an object store.
const PUT_INTERVAL: Duration = Duration::from_secs(60);

/// A line.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    record: ShardRecord,
    skipped: Vec<Skipped>,
}

/// This process's journals.
pub(super) struct Journals {
    paths: ShardPaths,
    world: World,
    /// Those in an object store, where a file cannot grow: each is put again.
    remote: Mutex<HashMap<Epoch, Remote>>,
}

/// A journal in an object store.
struct Remote {
    text: String,
    put: Instant,
}

impl Journals {
    /// The journals of a rank.
    pub fn new(paths: &ShardPaths, world: World) -> Self {
        Self { paths: paths.clone(), world, remote: Mutex::default() }
    }

    /// Records a shard that has just been given its final name.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub fn append(&self, epoch: Epoch, shard: &FinishedShard) -> Result<()> {
        let entry = Entry { record: shard.record.clone(), skipped: shard.skipped.clone() };
        let line = serde_json::to_string(&entry).expect("plain values") + "\n";
        let path = self.path(epoch);
        if !store::is_url(&path) {
            // Closed after each line, so that others see it over a network file system; not flushed
            // to the disk, as a lost line only costs reading the shard.
            let file = File::options().append(true).create(true).open(&path);
            let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
            return written.map_err(Error::io(&path));
        }
        let mut remote = self.lock();
        let journal = match remote.entry(epoch) {
            Vacant(place) => {
                // What this rank wrote before it was restarted.
                let text = match store::read_to_string(&path) {
                    Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
                    text => text.map_err(Error::io(&path))?,
                };
                place.insert(Remote { text, put: Instant::now() })
            }
            Occupied(place) => place.into_mut(),
        };
        journal.text += &line;
        if journal.put.elapsed() >= PUT_INTERVAL {
            store::write(&path, journal.text.as_bytes())?;
            journal.put = Instant::now();
        }
        Ok(())
    }

    /// Puts the epoch's journal, so that other ranks see all shards of this one.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn publish(&self, epoch: Epoch) -> Result<()> {
        match self.lock().remove(&epoch) {
            Some(journal) => Ok(store::write(&self.path(epoch), journal.text.as_bytes())?),
            None => Ok(()),
        }
    }

    fn path(&self, epoch: Epoch) -> PathBuf {
        let World { rank, size } = self.world;
        self.paths.epoch(epoch).join(format!("{PREFIX}{rank}-of-{size}.jsonl"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Epoch, Remote>> {
        self.remote.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shards in all journals of the epoch, by name. A line that was cut off is ignored.
///
/// # Errors
/// Where the folder cannot be listed.
pub(super) fn read(paths: &ShardPaths, epoch: Epoch) -> Result<HashMap<String, FinishedShard>> {
    let mut shards = HashMap::new();
    for path in journals(paths, epoch)? {
        let text = match store::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // Another process has completed the epoch meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io(&path)(error)),
        };
        for Entry { record, skipped } in
            text.lines().filter_map(|line| serde_json::from_str(line).ok())
        {
            shards.insert(record.name.clone(), FinishedShard { record, skipped });
        }
    }
    Ok(shards)
}

/// Removes the journals of an epoch that is complete.
///
/// # Errors
/// Where one cannot be removed.
pub(super) fn remove(paths: &ShardPaths, epoch: Epoch) -> Result<()> {
    for path in journals(paths, epoch)? {
        store::remove(&path)?;
    }
    Ok(())
}

fn journals(paths: &ShardPaths, epoch: Epoch) -> Result<Vec<PathBuf>> {
    let folder = paths.epoch(epoch);
    let names = store::names(&folder)?;
    Ok(names.iter().filter(|name| name.starts_with(PREFIX)).map(|name| folder.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn complete_lines_of_all_journals_count() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ShardPaths::new(folder.path());
        let epoch = Epoch(3);
        assert!(read(&paths, epoch).unwrap().is_empty());
        fs::create_dir(paths.epoch(epoch)).unwrap();
        let shard = |name: &str| FinishedShard {
            record: ShardRecord { name: name.into(), rows: 1, bytes: 2, crc32c: 3 },
            skipped: vec![Skipped { image_id: 4, error: "empty\nfile".into() }],
        };
        let alone = Journals::new(&paths, World::ALONE);
        let second = Journals::new(&paths, World { rank: 1, size: 2 });
        alone.append(epoch, &shard("a")).unwrap();
        second.append(epoch, &shard("b")).unwrap();
        alone.append(epoch, &shard("c")).unwrap();
        let cut = paths.epoch(epoch).join("_parts-0-of-1.jsonl");
        let text = fs::read(&cut).unwrap();
        fs::write(&cut, &text[..text.len() - 5]).unwrap();
        let found = read(&paths, epoch).unwrap();
        assert_eq!((found.len(), &found["a"], &found["b"]), (2, &shard("a"), &shard("b")));
        remove(&paths, epoch).unwrap();
        assert!(read(&paths, epoch).unwrap().is_empty());
    }
}
