//! What already lies in the folder of shards, and what of it stays.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use scrl_schemas::atomic::TEMPORARY_MARK;
use scrl_schemas::{
    Epoch, FinishedPart, Layout, Manifest, Part, PartRecord, ShardReader, Source, Success, read_sources,
};

use crate::{Error, Result};

/// Bytes read at a time to checksum a part.
const CHECKSUM_BUFFER: usize = 1 << 20;

/// Checks that what an earlier run left goes with `manifest` and `sources`, so that its finished parts can stay.
///
/// # Errors
/// [`Error::Folder`] that names each difference; [`Error::Shards`] where a file cannot be read.
pub fn check_existing(layout: &Layout, manifest: &Manifest, sources: &[Source]) -> Result<()> {
    let way_out = "give another folder, or --overwrite to remove these shards";
    let refuse = |reason: String| Err(Error::Folder { path: layout.root().to_owned(), reason });
    if !layout.manifest().exists() {
        return match epoch_folders(layout)?.first() {
            Some(name) => refuse(format!("holds {name} but no dataset.toml; {way_out}")),
            None => Ok(()),
        };
    }
    let differences = Manifest::read(&layout.manifest())?.differences(manifest);
    if !differences.is_empty() {
        return refuse(format!("was made with other options: {}; {way_out}", differences.join(", ")));
    }
    if layout.sources().exists() {
        let known = read_sources(&layout.sources())?;
        let changed = known.iter().zip(sources).find(|(a, b)| (&a.path, a.bytes) != (&b.path, b.bytes));
        if let Some((before, now)) = changed {
            return refuse(format!(
                "was made from other images: {} ({} bytes) is now {} ({} bytes); {way_out}",
                before.path, before.bytes, now.path, now.bytes
            ));
        }
    }
    Ok(())
}

/// Removes what scrl-prep writes, and nothing else.
///
/// # Errors
/// [`Error::io`] where the system refuses.
pub fn remove_shards(layout: &Layout) -> Result<()> {
    // The manifest goes first: a folder without one is not taken for whole.
    for file in [layout.manifest(), layout.sources()] {
        if file.exists() {
            fs::remove_file(&file).map_err(Error::io(&file))?;
        }
    }
    for name in epoch_folders(layout)? {
        let folder = layout.root().join(name);
        fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
    }
    Ok(())
}

/// Removes temporary files of processes that no longer run.
///
/// # Errors
/// [`Error::io`] where the system refuses.
pub fn remove_stale_files(layout: &Layout) -> Result<()> {
    let mut folders = vec![layout.root().to_owned()];
    folders.extend(epoch_folders(layout)?.into_iter().map(|name| layout.root().join(name)));
    for folder in folders {
        for name in names(&folder)? {
            let Some((_, process)) = name.split_once(TEMPORARY_MARK) else { continue };
            if process.parse().is_ok_and(has_ended) {
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

/// The names `epoch=NNNNN`, sorted.
fn epoch_folders(layout: &Layout) -> Result<Vec<String>> {
    let is_epoch = |name: &String| {
        name.strip_prefix("epoch=").is_some_and(|n| n.len() >= 5 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    Ok(names(layout.root())?.into_iter().filter(is_epoch).collect())
}

/// The UTF-8 names in a folder, sorted; none where the folder does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(folder))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// The finished parts of an epoch, by part number; `None` where a part has yet to be made.
///
/// A part listed in `_SUCCESS` with its right size is believed; any other is opened and checksummed, and one that is
/// damaged counts as missing.
///
/// # Errors
/// [`Error::Shards`] for a `_SUCCESS` of another format.
pub fn finished_parts(layout: &Layout, epoch: Epoch, parts: u32) -> Result<Vec<Option<FinishedPart>>> {
    let success = layout.success(epoch);
    let listed = if success.exists() { Success::read(&success)?.parts } else { Vec::new() };
    Ok((0..parts)
        .map(|number| {
            let path = layout.part(epoch, Part(number));
            let bytes = fs::metadata(&path).ok()?.len();
            let reader = ShardReader::open(&path).ok()?;
            let name = Part(number).file_name();
            let known = listed.iter().find(|part| part.name == name && part.bytes == bytes);
            let record = match known {
                Some(record) => record.clone(),
                None => PartRecord { name, rows: reader.total_rows(), bytes, crc32c: checksum(&path).ok()? },
            };
            Some(FinishedPart { record, skipped: reader.skipped().to_vec() })
        })
        .collect())
}

fn checksum(path: &Path) -> std::io::Result<u32> {
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
pub fn free_bytes(path: &Path) -> Option<u64> {
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
        let layout = Layout::new(folder.path());
        for name in ["epoch=00000/part-00000.parquet", "epoch=notes/x", "mine.txt", "dataset.toml"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        remove_shards(&layout).unwrap();
        assert_eq!(names(folder.path()).unwrap(), ["epoch=notes", "mine.txt"]);
    }

    #[test]
    fn temporary_files_of_the_living_stay() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let living = format!("a{TEMPORARY_MARK}{}", std::process::id());
        let dead = format!("a{TEMPORARY_MARK}{}", u32::MAX);
        for name in [&living, &dead] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_stale_files(&layout).unwrap();
        let left = names(folder.path()).unwrap();
        assert!(left.contains(&living));
        assert_eq!(left.contains(&dead), !Path::new("/proc/self").exists());
    }

    #[test]
    fn free_space_is_known_for_folders_yet_to_be_made() {
        assert!(free_bytes(Path::new("/tmp/not/made/yet")).is_none_or(|bytes| bytes > 0));
    }
}
