//! The finished shards of an unfinished epoch: `_parts-<rank>-of-<world>.jsonl` in the epoch's
//! folder, one line for each shard. With it a restart need not read every shard to check it, and
//! each process knows what the others have made. When all shards are there, `_SUCCESS` replaces it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use scrl_cli::World;
use scrl_schemas::atomic::unless_gone;
use scrl_schemas::{Epoch, FinishedShard, ShardPaths, ShardRecord, Skipped};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the names of journals begin; readers of Parquet folders skip names with an underscore.
const PREFIX: &str = "_parts-";

/// A line.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    record: ShardRecord,
    skipped: Vec<Skipped>,
}

/// Records a shard that has just been given its final name.
///
/// # Errors
/// Where the journal cannot be written.
pub(super) fn append(
    paths: &ShardPaths,
    epoch: Epoch,
    world: World,
    shard: &FinishedShard,
) -> Result<()> {
    let path = paths.epoch(epoch).join(format!("{PREFIX}{}-of-{}.jsonl", world.rank, world.size));
    let entry = Entry { record: shard.record.clone(), skipped: shard.skipped.clone() };
    let line = serde_json::to_string(&entry).expect("plain values") + "\n";
    // Closed after each line, so that others see it over a network file system; not flushed to the
    // disk, as a lost line only costs reading the shard.
    let file = File::options().append(true).create(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(Error::io(&path))
}

/// The shards in all journals of the epoch, by name. A line that was cut off is ignored.
///
/// # Errors
/// Where the folder cannot be listed.
pub(super) fn read(paths: &ShardPaths, epoch: Epoch) -> Result<HashMap<String, FinishedShard>> {
    let mut shards = HashMap::new();
    for path in journals(paths, epoch)? {
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // Another process has completed the epoch meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
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
        unless_gone(fs::remove_file(&path)).map_err(Error::io(&path))?;
    }
    Ok(())
}

fn journals(paths: &ShardPaths, epoch: Epoch) -> Result<Vec<PathBuf>> {
    let folder = paths.epoch(epoch);
    let names = scrl_schemas::file_names(&folder)?;
    Ok(names.iter().filter(|name| name.starts_with(PREFIX)).map(|name| folder.join(name)).collect())
}

#[cfg(test)]
mod tests {
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
        append(&paths, epoch, World::ALONE, &shard("a")).unwrap();
        append(&paths, epoch, World { rank: 1, size: 2 }, &shard("b")).unwrap();
        append(&paths, epoch, World::ALONE, &shard("c")).unwrap();
        let cut = paths.epoch(epoch).join("_parts-0-of-1.jsonl");
        let text = fs::read(&cut).unwrap();
        fs::write(&cut, &text[..text.len() - 5]).unwrap();
        let found = read(&paths, epoch).unwrap();
        assert_eq!((found.len(), &found["a"], &found["b"]), (2, &shard("a"), &shard("b")));
        remove(&paths, epoch).unwrap();
        assert!(read(&paths, epoch).unwrap().is_empty());
    }
}
