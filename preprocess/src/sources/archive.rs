//! Tar archives, named as in WebDataset: the members of a sample share everything before their
//! first dot, so the class of `00042.jpg` is the content of `00042.cls`. Without such a member an
//! image's class is the first folder of its path.
//!
//! Nothing is unpacked: listing notes where each member begins, and reading starts there. It goes on
//! behind the end of an archive where another follows, as `tar --ignore-zeros` does.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use indicatif::HumanCount;
use scrl_schemas::store::{self, StoredFile};
use tar::{Archive, EntryType, Header};

use super::format::{
    BatchSink, Batcher, Class, Containers, FoundImage, Listing, SourceFormat, first_folder,
    is_image_name,
};
use super::index::Location;
use super::passed_over::{PassedOver, is_below_hidden};
use crate::{Error, Result};

/// Bytes of a tar header.
pub(super) const HEADER_BYTES: u64 = 512;
/// Largest `.cls` member that is read, in bytes; a longer one is no class.
const MAX_CLASS_BYTES: u64 = 32;

/// Whether a file begins as a tar archive does: with the mark of POSIX or GNU, or as an old one with
/// a header whose checksum is right.
pub(super) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar") || is_header(head)
}

/// Whether bytes begin with a header whose checksum is right.
fn is_header(bytes: &[u8]) -> bool {
    let Some(block) = bytes.get(..HEADER_BYTES as usize) else { return false };
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    // The checksum counts its own field as spaces.
    let expected = sum(block) - sum(&block[148..156]) + 8 * u32::from(b' ');
    Header::from_byte_slice(block).cksum().is_ok_and(|found| found == expected)
}

/// One or more tar archives.
#[derive(Debug)]
pub(super) struct TarArchives {
    archives: Containers,
    /// The other files of their folder.
    beside: PassedOver,
}

/// How an archive ended.
enum End {
    /// With the blocks of zeros that mark it, or exactly with a member, which some writers do.
    Whole,
    /// Behind a mark, with bytes that are no archive.
    Followed { by: u64 },
    /// Within a member or its header.
    Cut { within: String },
}

impl TarArchives {
    /// The archives `files`, which are `root` itself or lie below it, with other files `beside`.
    pub fn new(root: &Path, files: Vec<PathBuf>, beside: PassedOver) -> Self {
        Self { archives: Containers::new(root, files), beside }
    }

    fn list_archive(
        &self,
        container: u32,
        batcher: &mut Batcher,
        passed_over: &mut PassedOver,
    ) -> Result<End> {
        let (path, prefix) = (self.archives.path(container), self.archives.prefix(container));
        let file = StoredFile::open(path).map_err(Error::io(path))?;
        let end = file.size();
        let damaged = |members: usize, error: io::Error| Error::Images {
            path: path.to_owned(),
            reason: format!(
                "damaged after {members} members: {error}; make or fetch the archive again"
            ),
        };
        let mut archive = Archive::new(file.clone());
        archive.set_ignore_zeros(true);
        let mut sample = Sample::default();
        // Where the header after the last member is expected.
        let mut next = 0;
        let mut ending = End::Whole;
        for (members, entry) in
            archive.entries_with_seek().map_err(|error| damaged(0, error))?.enumerate()
        {
            let mut entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    ending = end_at(&file, next).map_err(Error::io(path))?;
                    match ending {
                        End::Whole => return Err(damaged(members, error)),
                        _ => break,
                    }
                }
            };
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let (position, size) = (entry.raw_file_position(), entry.size());
            let location = Location { container, position };
            let kind = entry.header().entry_type();
            let is_sparse = kind == EntryType::GNUSparse || has_sparse_map(&mut entry);
            // Of a sparse member, `size` counts the holes as well.
            let stored = if is_sparse { entry.header().entry_size().unwrap_or(0) } else { size };
            next = position.saturating_add(stored).div_ceil(HEADER_BYTES) * HEADER_BYTES;
            if matches!(kind, EntryType::Link | EntryType::Symlink) {
                if is_image_name(Path::new(&name)) && !is_below_hidden(&name) {
                    passed_over.link(&name);
                }
                continue;
            }
            if !is_sparse && !matches!(kind, EntryType::Regular | EntryType::Continuous) {
                continue;
            }
            let is_cut = !is_sparse && position.saturating_add(size) > end;
            if is_below_hidden(&name) {
                passed_over.hidden(&name);
                if is_cut {
                    ending = End::Cut { within: name };
                    break;
                }
                continue;
            }
            let key = sample_key(&name);
            if key != sample.key {
                sample.pass_on(batcher)?;
                sample.key = key.to_owned();
            }
            if is_image_name(Path::new(&name)) {
                let refused = match (is_cut, is_sparse) {
                    (true, _) => Some("cut short: the archive ends within it"),
                    (_, true) => Some("a sparse member; make the archive without --sparse"),
                    _ => None,
                };
                sample.images.push(FoundImage {
                    class: first_folder(&name),
                    path: format!("{prefix}{name}"),
                    location,
                    bytes: Some(size),
                    refused: refused.map(str::to_owned),
                    content: None,
                });
            } else if name.ends_with(".cls") && size <= MAX_CLASS_BYTES {
                let mut text = String::new();
                entry.read_to_string(&mut text).map_err(|error| damaged(members, error))?;
                let text = text.trim().to_owned();
                sample.class = Some(match text.parse() {
                    Ok(number) => (Some(number), text),
                    Err(_) => (None, text),
                });
            } else {
                passed_over.suspect(&format!("{prefix}{name}"), location, Some(size));
            }
            if is_cut {
                ending = End::Cut { within: name };
                break;
            }
        }
        sample.pass_on(batcher)?;
        Ok(ending)
    }
}

/// Whether a member is a sparse file in the way of pax headers.
fn has_sparse_map<R: Read>(entry: &mut tar::Entry<R>) -> bool {
    let Ok(Some(extensions)) = entry.pax_extensions() else { return false };
    extensions.flatten().any(|it| it.key_bytes().starts_with(b"GNU.sparse."))
}

/// How an archive ends at `position`, where a member was expected and could not be read; whole if
/// it has another damage.
fn end_at(file: &StoredFile, mut position: u64) -> io::Result<End> {
    let cut = || Ok(End::Cut { within: "the header of a member".to_owned() });
    loop {
        let left = file.size().saturating_sub(position);
        let block = match left {
            0 => return cut(),
            left => file.read_range(position..position + left.min(HEADER_BYTES))?,
        };
        if block.iter().all(|&byte| byte == 0) {
            let mut rest = file.clone();
            rest.seek(SeekFrom::Start(position))?;
            return Ok(End::Followed { by: left - leading_zeros(rest)? });
        }
        if (block.len() as u64) < HEADER_BYTES {
            return cut();
        }
        let header = is_header(&block).then(|| Header::from_byte_slice(&block));
        let Some((header, size)) = header.and_then(|it| Some((it, it.entry_size().ok()?))) else {
            return Ok(End::Whole);
        };
        let next = size.div_ceil(HEADER_BYTES).saturating_add(1).saturating_mul(HEADER_BYTES);
        if next > left {
            return cut();
        }
        // Headers that describe the next member.
        if !matches!(
            header.entry_type(),
            EntryType::XHeader
                | EntryType::XGlobalHeader
                | EntryType::GNULongName
                | EntryType::GNULongLink
        ) {
            return Ok(End::Whole);
        }
        position += next;
    }
}

/// How many zeros there are before another byte.
fn leading_zeros(file: impl Read) -> io::Result<u64> {
    let mut file = BufReader::new(file);
    let mut zeros = 0;
    loop {
        let bytes = file.fill_buf()?;
        let here = bytes.iter().take_while(|&&byte| byte == 0).count();
        let is_last = here < bytes.len() || bytes.is_empty();
        zeros += here as u64;
        if is_last {
            return Ok(zeros);
        }
        file.consume(here);
    }
}

impl SourceFormat for TarArchives {
    fn list(&self, _contents: bool, sink: BatchSink) -> Result<Listing> {
        let mut batcher = Batcher::new(sink);
        let mut listing = Listing { passed_over: self.beside.clone(), ..Listing::default() };
        for container in self.archives.numbers() {
            let end = self.list_archive(container, &mut batcher, &mut listing.passed_over)?;
            let file = self.archives.path(container).display();
            listing.notices.extend(match end {
                End::Whole | End::Followed { by: 0 } => None,
                End::Followed { by } => Some(format!(
                    "{file}: the last {} bytes, behind the end of the archive, are no archive and \
                     are not read",
                    HumanCount(by)
                )),
                End::Cut { within } => Some(format!(
                    "{file} breaks off within {within}: what followed is missing; make or fetch \
                     the archive again"
                )),
            });
        }
        batcher.flush()?;
        Ok(listing)
    }

    fn files(&self) -> &[PathBuf] {
        &self.archives.files
    }

    fn read(&self, _path: &str, location: Location, bytes: u64, limit: u64) -> io::Result<Vec<u8>> {
        let range = location.position..location.position + bytes.min(limit);
        store::read_range(self.archives.path(location.container), range)
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
