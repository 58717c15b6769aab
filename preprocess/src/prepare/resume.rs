//! The state of a shards folder: what an earlier run finished, and what has to go.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use scrl_schemas::store::atomic::Writer;
use scrl_schemas::store::{self, StoredFile};
use scrl_schemas::{
    Epoch, FinishedShard, Manifest, Shard, ShardPaths, ShardReader, ShardRecord, Success,
};

use super::journal;
use crate::{Error, Result};

/// Bytes read at a time to checksum a shard.
const CHECKSUM_BUFFER: usize = 1 << 20;

/// What to do with a folder whose shards are others.
const WAY_OUT: &str = "give another folder, or --overwrite to remove these shards";

/// The manifest of the run that began the folder; `None` if none has.
///
/// # Errors
/// [`Error::Folder`] where there are epochs without one; [`Error::Shards`] where it cannot be read.
pub(crate) fn existing_manifest(paths: &ShardPaths) -> Result<Option<Manifest>> {
    if store::has_file(&paths.manifest())? {
        return Ok(Some(Manifest::read(&paths.manifest())?));
    }
    match epoch_folders(paths)?.first() {
        Some(name) => refuse(paths, format!("holds {name} but no dataset.toml; {WAY_OUT}")),
        None => Ok(None),
    }
}

fn refuse<T>(paths: &ShardPaths, reason: String) -> Result<T> {
    Err(Error::Folder { path: paths.root().to_owned(), reason })
}

/// Checks that the run that began the folder had the same options, so that its finished shards can
/// stay: those requested are in `manifest`, whose counts are ignored. More epochs may be planned
/// now, as no row depends on their number.
///
/// # Errors
/// [`Error::Folder`] that names each difference.
pub(crate) fn check_existing(
    paths: &ShardPaths,
    found: &Manifest,
    manifest: &Manifest,
) -> Result<()> {
    let (planned, epochs) = (found.epochs, manifest.epochs);
    let found = Manifest { counts: manifest.counts, epochs, ..found.clone() };
    let differences = found.differences(manifest);
    if !differences.is_empty() {
        let differences = differences.join(", ");
        return refuse(paths, format!("was made with other options: {differences}; {WAY_OUT}"));
    }
    if epochs < planned {
        let reason = format!(
            "has {planned} planned epochs, which --epochs {epochs} would lower; give --epochs \
             {planned}, with --only 0..{epochs} to write no more than these, and train on fewer \
             with scrl-train --epochs {epochs}"
        );
        return refuse(paths, reason);
    }
    Ok(())
}

/// Writes the manifest, or raises the planned epochs of the one that is there. Another process may
/// have planned more meanwhile: then they stay. Returns whether there was none.
///
/// # Errors
/// Where it cannot be read or written.
pub(crate) fn write_manifest(paths: &ShardPaths, manifest: &Manifest) -> Result<bool> {
    let path = paths.manifest();
    if !store::has_file(&path)? {
        manifest.write(&path)?;
        return Ok(true);
    }
    let found = Manifest::read(&path)?;
    if found.epochs < manifest.epochs {
        Manifest { epochs: manifest.epochs, ..found }.write(&path)?;
    }
    Ok(false)
}

/// Removes what scrl-prep writes, and nothing else.
///
/// # Errors
/// [`Error::io`] where the system refuses.
pub(crate) fn remove_shards(paths: &ShardPaths) -> Result<()> {
    // The manifest goes first: without it the folder counts as incomplete.
    for file in [paths.manifest(), paths.sources(), paths.consumed()] {
        store::remove(&file)?;
    }
    for name in epoch_folders(paths)? {
        let folder = paths.root().join(name);
        store::remove_folder(&folder)?;
    }
    Ok(())
}

/// How the names of the files begin that scrl-prep writes; it never removes others.
const OWN_FILES: [&str; 4] = ["dataset.toml", "sources.parquet", "part-", "_SUCCESS"];

/// Removes temporary files that nobody will complete: those of processes of this machine that no
/// longer run, and if `alone`, as no other process writes here, those of other machines.
///
/// # Errors
/// [`Error::io`] where the system refuses.
pub(crate) fn remove_stale_files(paths: &ShardPaths, alone: bool) -> Result<()> {
    if store::is_url(paths.root()) {
        return Ok(());
    }
    let this = Writer::this();
    let mut folders = vec![paths.root().to_owned()];
    folders.extend(epoch_folders(paths)?.into_iter().map(|name| paths.root().join(name)));
    for folder in folders {
        for name in store::names(&folder)? {
            let Some(writer) = Writer::of(&name) else { continue };
            let is_own = OWN_FILES.iter().any(|own| name.starts_with(own));
            let is_stale = if writer.host == this.host { has_ended(writer.process) } else { alone };
            if is_own && is_stale {
                let path = folder.join(&name);
                store::remove(&path)?;
            }
        }
    }
    Ok(())
}

/// Whether a process is known to have ended; without `/proc` it is assumed to run.
fn has_ended(process: u32) -> bool {
    let processes = Path::new("/proc");
    processes.join("self").exists() && !processes.join(process.to_string()).exists()
}

/// Removes an epoch that training has consumed. `_SUCCESS` goes first, so that a partly removed
/// epoch counts as unfinished.
///
/// # Errors
/// [`Error::io`] where the system refuses; files that are already gone are no error.
pub(crate) fn remove_epoch(paths: &ShardPaths, epoch: Epoch) -> Result<()> {
    let success = paths.success(epoch);
    let folder = paths.epoch(epoch);
    store::remove(&success)?;
    Ok(store::remove_folder(&folder)?)
}

/// The epochs that have a folder, in order.
///
/// # Errors
/// [`Error::io`] where the shards folder cannot be listed.
pub(crate) fn epochs(paths: &ShardPaths) -> Result<Vec<Epoch>> {
    let number = |name: &String| name.trim_start_matches("epoch=").parse().ok().map(Epoch);
    Ok(epoch_folders(paths)?.iter().filter_map(number).collect())
}

/// The names `epoch=NNNNN`, sorted.
fn epoch_folders(paths: &ShardPaths) -> Result<Vec<String>> {
    let is_epoch = |name: &String| {
        name.strip_prefix("epoch=")
            .is_some_and(|n| n.len() >= 5 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    Ok(store::names(paths.root())?.into_iter().filter(is_epoch).collect())
}

/// Whether an epoch is complete: `_SUCCESS` lists all its shards, and all exist with the size
/// listed.
///
/// # Errors
/// [`Error::Shards`] for a `_SUCCESS` of another format; where the epoch's folder cannot be listed.
pub(crate) fn is_complete(paths: &ShardPaths, epoch: Epoch, shards: u32) -> Result<bool> {
    let Some(Success { parts: listed, .. }) = Success::find(&paths.success(epoch))? else {
        return Ok(false);
    };
    let sizes = sizes(&paths.epoch(epoch))?;
    let is_there = |shard: &ShardRecord| sizes.get(&shard.name) == Some(&shard.bytes);
    Ok(listed.len() == shards as usize && listed.iter().all(is_there))
}

/// The finished shards of an epoch, by their number; `None` for a shard that has yet to be made.
///
/// A shard that a journal lists with the right size is trusted; any other is opened and
/// checksummed, and a damaged one counts as missing.
///
/// # Errors
/// Where the epoch's folder cannot be listed.
pub(crate) fn finished_shards(
    paths: &ShardPaths,
    epoch: Epoch,
    shards: u32,
) -> Result<Vec<Option<FinishedShard>>> {
    let sizes = sizes(&paths.epoch(epoch))?;
    if sizes.is_empty() {
        return Ok(vec![None; shards as usize]);
    }
    let mut known = journal::read(paths, epoch)?;
    Ok((0..shards)
        .map(|number| {
            let path = paths.shard(epoch, Shard(number));
            let name = Shard(number).file_name();
            let bytes = *sizes.get(&name)?;
            if let Some(shard) = known.remove(&name).filter(|shard| shard.record.bytes == bytes) {
                return Some(shard);
            }
            let reader = ShardReader::open(&path).ok()?;
            let record = ShardRecord {
                name,
                rows: reader.total_rows(),
                bytes,
                crc32c: checksum(&path).ok()?,
            };
            Some(FinishedShard { record, skipped: reader.skipped().to_vec() })
        })
        .collect())
}

/// The files in a folder with their sizes in bytes.
fn sizes(folder: &Path) -> Result<HashMap<String, u64>> {
    let entries = store::list(folder).map_err(Error::io(folder))?;
    Ok(entries.into_iter().map(|entry| (entry.name, entry.bytes)).collect())
}

/// The CRC-32C of a file.
///
/// # Errors
/// Where it cannot be read.
pub(crate) fn checksum(path: &Path) -> std::io::Result<u32> {
    let mut file = StoredFile::open(path)?;
    let mut buffer = vec![0; CHECKSUM_BUFFER];
    let mut checksum = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(checksum),
            count => checksum = crc32c::crc32c_append(checksum, &buffer[..count]),
        }
    }
}

/// Bytes free for this user on the disk of `path`, which need not exist yet; `None` if the system
/// does not report them, or for an object store.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    if store::is_url(path) {
        return None;
    }
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let disk = rustix::fs::statvfs(existing).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use scrl_schemas::store::names;

    use super::*;

    #[test]
    fn only_files_of_scrl_prep_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ShardPaths::new(folder.path());
        for name in ["epoch=00000/part-00000.parquet", "epoch=notes/x", "mine.txt", "dataset.toml"]
        {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        remove_shards(&paths).unwrap();
        assert_eq!(names(folder.path()).unwrap(), ["epoch=notes", "mine.txt"]);
    }

    #[test]
    fn temporary_files_of_running_processes_stay() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ShardPaths::new(folder.path());
        let Writer { host, process } = Writer::this();
        let running = format!("part-1.tmp-{host}-{process}-0");
        let ended = format!("part-1.tmp-{host}-{}-0", u32::MAX);
        let elsewhere = "part-1.tmp-else-where-7-0".to_owned();
        let foreign = "consumed.json.tmp-else-where-7-0".to_owned();
        for name in [&running, &ended, &elsewhere, &foreign] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_stale_files(&paths, false).unwrap();
        let left = names(folder.path()).unwrap();
        assert!(left.contains(&running) && left.contains(&elsewhere));
        assert_eq!(left.contains(&ended), !Path::new("/proc/self").exists());
        remove_stale_files(&paths, true).unwrap();
        let left = names(folder.path()).unwrap();
        assert!(left.contains(&running) && left.contains(&foreign) && !left.contains(&elsewhere));
    }

    #[test]
    fn free_space_is_known_for_folders_yet_to_be_made() {
        assert!(free_bytes(Path::new("/tmp/not/made/yet")).is_none_or(|bytes| bytes > 0));
    }
}
