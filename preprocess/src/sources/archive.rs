//! Tar archives, named as in WebDataset: the members of a sample share everything before their
//! first dot, so the class of `00042.jpg` is the content of `00042.cls`. Without such a member an
//! image's class is the first folder of its path.
//!
//! Nothing is unpacked: listing notes where each member begins, and reading starts there.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use scrl_schemas::store::{self, StoredFile};
use tar::{Archive, EntryType};

use super::format::{
    BatchSink, Batcher, Class, FoundImage, Listing, SourceFormat, first_folder, is_image_name,
    name_prefix,
};
use super::index::Location;
use crate::{Error, Result};

/// Bytes of a tar header.
pub(super) const HEADER_BYTES: u64 = 512;
/// Largest `.cls` member that is read, in bytes; a longer one is no class.
const MAX_CLASS_BYTES: u64 = 32;

/// Whether a file begins as a tar archive does (POSIX or GNU).
pub(super) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// One or more tar archives.
#[derive(Debug)]
pub(super) struct TarArchives {
    files: Vec<PathBuf>,
    /// The prefix of the members' names, by archive.
    prefixes: Vec<String>,
}

impl TarArchives {
    /// The archives `files`, which lie below `root` or are `root` itself.
    pub fn new(root: &Path, files: Vec<PathBuf>) -> Self {
        let prefixes = files.iter().map(|file| name_prefix(root, file)).collect();
        Self { files, prefixes }
    }

    fn list_archive(&self, container: u32, batcher: &mut Batcher) -> Result<u64> {
        let path = &self.files[container as usize];
        let prefix = &self.prefixes[container as usize];
        let file = StoredFile::open(path).map_err(Error::io(path))?;
        let end = file.size();
        let mut ignored = 0;
        let damaged = |members: usize, error: io::Error| Error::Images {
            path: path.clone(),
            reason: format!(
                "damaged after {members} members: {error}; make or fetch the archive again"
            ),
        };
        let mut archive = Archive::new(file);
        let mut sample = Sample::default();
        for (members, entry) in
            archive.entries_with_seek().map_err(|error| damaged(0, error))?.enumerate()
        {
            let mut entry = entry.map_err(|error| damaged(members, error))?;
            if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let key = sample_key(&name);
            if key != sample.key {
                sample.pass_on(batcher)?;
                sample.key = key.to_owned();
            }
            let (position, size) = (entry.raw_file_position(), entry.size());
            if is_image_name(Path::new(&name)) {
                let cut = position.saturating_add(size) > end;
                sample.images.push(FoundImage {
                    class: first_folder(&name),
                    path: format!("{prefix}{name}"),
                    location: Location { container, position },
                    bytes: Some(size),
                    refused: cut.then(|| "cut short: the archive ends within it".to_owned()),
                    content: None,
                });
                if cut {
                    break;
                }
            } else if name.ends_with(".cls") && size <= MAX_CLASS_BYTES {
                let mut text = String::new();
                entry.read_to_string(&mut text).map_err(|error| damaged(members, error))?;
                let text = text.trim().to_owned();
                sample.class = Some(match text.parse() {
                    Ok(number) => (Some(number), text),
                    Err(_) => (None, text),
                });
            } else {
                ignored += 1;
            }
        }
        sample.pass_on(batcher)?;
        Ok(ignored)
    }
}

impl SourceFormat for TarArchives {
    fn list(&self, _contents: bool, sink: BatchSink) -> Result<Listing> {
        let mut batcher = Batcher::new(sink);
        let mut listing = Listing::default();
        for container in 0..self.files.len() as u32 {
            listing.ignored += self.list_archive(container, &mut batcher)?;
        }
        batcher.flush()?;
        Ok(listing)
    }

    fn reads_by_path(&self) -> bool {
        false
    }

    fn size(&self, _path: &str) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn read(&self, _path: &str, location: Location, bytes: u64, limit: u64) -> io::Result<Vec<u8>> {
        let range = location.position..location.position + bytes.min(limit);
        store::read_range(&self.files[location.container as usize], range)
    }
}

/// The key of a member's sample: its path up to the first dot of the file name.
fn sample_key(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    name[file..].find('.').map_or(name, |dot| &name[..file + dot])
}

/// Consecutive members of the same key.
#[derive(Default)]
struct Sample {
    key: String,
    images: Vec<FoundImage>,
    class: Option<(Option<i32>, String)>,
}

impl Sample {
    fn pass_on(&mut self, batcher: &mut Batcher) -> Result<()> {
        let class = self.class.take();
        for mut image in std::mem::take(&mut self.images) {
            match &class {
                Some((Some(number), text)) => {
                    image.class = Some(Class::Number(*number, text.clone()))
                }
                Some((None, text)) => image.class = Some(Class::Name(text.clone())),
                None => {}
            }
            batcher.push(image)?;
        }
        Ok(())
    }
}
