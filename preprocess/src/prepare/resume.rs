//! What already lies in the folder of shards, and what of it stays.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use scrl_schemas::atomic::Writer;
use scrl_schemas::{
    Epoch, FinishedShard, Manifest, Shard, ShardPaths, ShardReader, ShardRecord, Success,
    file_names,
};

use super::journal;
use crate::{Error, Result};

/// Bytes read at a time to checksum a part.
const CHECKSUM_BUFFER: usize = 1 << 20;

/// Checks that what an earlier run left goes with `options`, so that its finished parts can stay: `manifest` gives the
/// options asked for, and counts that are not looked at.
///
/// # Errors
/// [`Error::Folder`] that names each difference; [`Error::Shards`] where a file cannot be read.
pub(crate) fn check_existing(paths: &ShardPaths, manifest: &Manifest) -> Result<()> {
    let way_out = "give another folder, or --overwrite to remove these shards";
    let refuse = |reason: String| Err(Error::Folder { path: paths.root().to_owned(), reason });
    if !paths.manifest().exists() {
        return match epoch_folders(paths)?.first() {
            Some(name) => refuse(format!("holds {name} but no dataset.toml; {way_out}")),
            None => Ok(()),
        };
    }
    let found = Manifest::read(&paths.manifest())?;
    let differences = Manifest { counts: manifest.counts, ..found }.differences(manifest);
    if differences.is_empty() {
        Ok(())
    } else {
        refuse(format!("was made with other options: {}; {way_out}", differences.join(", ")))
    }
}

/// Removes what scrl-prep writes, and nothing else.
///
/// # Errors
/// [`Error::io`] where the system refuses.
pub(crate) fn remove_shards(paths: &ShardPaths) -> Result<()> {
    // The manifest goes first: a folder without one is not taken for whole.
    for file in [paths.manifest(), paths.sources(), paths.consumed()] {
        if file.exists() {
            fs::remove_file(&file).map_err(Error::io(&file))?;
        }
    }
    for name in epoch_folders(paths)? {
        let folder = paths.root().join(name);
        fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
    }
    Ok(())
}

/// How the names of files begin that scrl-prep writes; others than these are none of its business.
const OWN_FILES: [&str; 4] = ["dataset.toml", "sources.parquet", "part-", "_SUCCESS"];

/// Removes temporary files that nobody will complete: those of processes of this machine that no longer run, and if this
/// process is the only one that writes here, `alone`, all but its own.
///
/// # Errors
/// [`Error::io`] where the system refuses.
pub(crate) fn remove_stale_files(paths: &ShardPaths, alone: bool) -> Result<()> {
    let this = Writer::this();
    let mut folders = vec![paths.root().to_owned()];
    folders.extend(epoch_folders(paths)?.into_iter().map(|name| paths.root().join(name)));
    for folder in folders {
        for name in file_names(&folder)? {
            let Some(writer) = Writer::of(&name) else { continue };
            let is_own = OWN_FILES.iter().any(|own| name.starts_with(own));
            let is_stale = if writer.host == this.host { has_ended(writer.process) } else { alone };
            if is_own && is_stale {
                let path = folder.join(&name);
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
    }
    Ok(())
}

/// Whether a process is known to run no more. Where the system does not say, it is taken to run.
fn has_ended(process: u32) -> bool {
    let processes = Path::new("/proc");
    processes.join("self").exists() && !processes.join(process.to_string()).exists()
}

/// Removes an epoch that training has used up. `_SUCCESS` goes first: what is left after that is no finished epoch.
///
/// # Errors
/// [`Error::io`] where the system refuses; that another process was faster is no error.
pub(crate) fn remove_epoch(paths: &ShardPaths, epoch: Epoch) -> Result<()> {
    let success = paths.success(epoch);
    let folder = paths.epoch(epoch);
    for (path, removed) in
        [(&success, fs::remove_file(&success)), (&folder, fs::remove_dir_all(&folder))]
    {
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The epochs that have a folder, in order.
///
/// # Errors
/// [`Error::io`] where the folder of shards cannot be listed.
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
    Ok(file_names(paths.root())?.into_iter().filter(is_epoch).collect())
}

/// Whether an epoch is complete: `_SUCCESS` lists all its parts and they are there in their right sizes.
///
/// # Errors
/// [`Error::Shards`] for a `_SUCCESS` of another format.
pub(crate) fn is_complete(paths: &ShardPaths, epoch: Epoch, parts: u32) -> Result<bool> {
    let success = paths.success(epoch);
    if !success.exists() {
        return Ok(false);
    }
    let listed = Success::read(&success)?.parts;
    let folder = paths.epoch(epoch);
    let is_there = |part: &ShardRecord| {
        fs::metadata(folder.join(&part.name)).is_ok_and(|m| m.len() == part.bytes)
    };
    Ok(listed.len() == parts as usize && listed.iter().all(is_there))
}

/// The finished parts of an epoch, by part number; `None` where a part has yet to be made.
///
/// A part of which a journal tells with its right size is believed; any other is opened and checksummed, and one that is
/// damaged counts as missing.
///
/// # Errors
/// Where the epoch's folder cannot be listed.
pub(crate) fn finished_shards(
    paths: &ShardPaths,
    epoch: Epoch,
    parts: u32,
) -> Result<Vec<Option<FinishedShard>>> {
    if !paths.epoch(epoch).exists() {
        return Ok(vec![None; parts as usize]);
    }
    let mut known = journal::read(paths, epoch)?;
    Ok((0..parts)
        .map(|number| {
            let path = paths.part(epoch, Shard(number));
            let name = Shard(number).file_name();
            let bytes = fs::metadata(&path).ok()?.len();
            if let Some(part) = known.remove(&name).filter(|part| part.record.bytes == bytes) {
                return Some(part);
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

/// The CRC-32C of a whole file.
///
/// # Errors
/// Where it cannot be read.
pub(crate) fn checksum(path: &Path) -> std::io::Result<u32> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; CHECKSUM_BUFFER];
    let mut checksum = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(checksum),
            count => checksum = crc32c::crc32c_append(checksum, &buffer[..count]),
        }
    }
}

/// Bytes free for this user on the disk that holds `path` or will hold it; `None` where the system does not say.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let disk = rustix::fs::statvfs(existing).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_here_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ShardPaths::new(folder.path());
        for name in ["epoch=00000/part-00000.parquet", "epoch=notes/x", "mine.txt", "dataset.toml"]
        {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        remove_shards(&paths).unwrap();
        assert_eq!(file_names(folder.path()).unwrap(), ["epoch=notes", "mine.txt"]);
    }

    #[test]
    fn temporary_files_of_the_living_stay() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ShardPaths::new(folder.path());
        let Writer { host, process } = Writer::this();
        let living = format!("part-1.tmp-{host}-{process}-0");
        let dead = format!("part-1.tmp-{host}-{}-0", u32::MAX);
        let elsewhere = "part-1.tmp-else-where-7-0".to_owned();
        let foreign = "consumed.json.tmp-else-where-7-0".to_owned();
        for name in [&living, &dead, &elsewhere, &foreign] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_stale_files(&paths, false).unwrap();
        let left = file_names(folder.path()).unwrap();
        assert!(left.contains(&living) && left.contains(&elsewhere));
        assert_eq!(left.contains(&dead), !Path::new("/proc/self").exists());
        remove_stale_files(&paths, true).unwrap();
        let left = file_names(folder.path()).unwrap();
        assert!(left.contains(&living) && left.contains(&foreign) && !left.contains(&elsewhere));
    }

    #[test]
    fn free_space_is_known_for_folders_yet_to_be_made() {
        assert!(free_bytes(Path::new("/tmp/not/made/yet")).is_none_or(|bytes| bytes > 0));
    }
}
