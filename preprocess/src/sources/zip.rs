//! Zip archives. The class of an image is the first folder of its path.
//!
//! Nothing is unpacked: listing reads the central directory, and notes of each image where its
//! local header begins. Reading an image inflates it alone and checks its checksum.

use std::cmp::Ordering;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ::zip::CompressionMethod;
use ::zip::read::{Config, ZipFileEntry};
use ::zip::result::ZipError;
use ::zip::unstable::read::ZipIterable;
use flate2::{Crc, Decompress, FlushDecompress, Status};
use scrl_schemas::store::{self, StoredFile};

use super::format::{
    BatchSink, Batcher, Containers, FoundImage, Listing, SourceFormat, first_folder, is_image_name,
};
use super::index::Location;
use super::passed_over::{PassedOver, is_below_hidden};
use crate::{Error, Result};

/// How a zip archive begins: with a file, with its end if it is empty, or as the first of several
/// parts.
const MAGIC: [&[u8]; 3] = [LOCAL_HEADER, b"PK\x05\x06", DESCRIPTOR];
const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
/// What may stand before the checksum behind an entry's data.
const DESCRIPTOR: &[u8] = b"PK\x07\x08";
/// Bytes of a local header without its name and extra fields.
const HEADER_BYTES: usize = 30;
/// Bytes that are read with a header for its name and extra fields; there are seldom more.
const NAME_BYTES: u64 = 256;
/// Bytes of an entry's data that are read at a time.
const READ_BYTES: u64 = 1 << 20;
/// Compression methods, by their number in a local header.
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// The bit of an entry's flags that says that the checksum follows the data.
const HAS_DESCRIPTOR: u16 = 1 << 3;

/// Whether a file begins as a zip archive does.
pub(super) fn is_zip(head: &[u8]) -> bool {
    MAGIC.iter().any(|magic| head.starts_with(magic))
}

/// One or more zip archives.
#[derive(Debug)]
pub(super) struct ZipArchives {
    archives: Containers,
    /// The other files of their folder.
    beside: PassedOver,
}

impl ZipArchives {
    /// The archives `files`, which are `root` itself or lie below it, with other files `beside`.
    pub fn new(root: &Path, files: Vec<PathBuf>, beside: PassedOver) -> Self {
        Self { archives: Containers::new(root, files), beside }
    }

    fn list_archive(
        &self,
        container: u32,
        batcher: &mut Batcher,
        passed_over: &mut PassedOver,
    ) -> Result<()> {
        let (path, prefix) = (self.archives.path(container), self.archives.prefix(container));
        let refuse = |reason: String| Error::Images { path: path.to_owned(), reason };
        let unreadable = |error: ZipError| match error {
            ZipError::Io(error) if error.kind() != ErrorKind::UnexpectedEof => {
                Error::io(path)(error)
            }
            error => refuse(format!(
                "its directory, at its end, cannot be read ({error}): it was cut, or is one part \
                 of several; fetch it again, or join the parts (zip -s 0 PARTS.zip --out \
                 whole.zip, or cat PARTS.zip.* > whole.zip)"
            )),
        };
        let file = StoredFile::open(path).map_err(Error::io(path))?;
        let mut archive = ZipIterable::try_new(file, Config::default()).map_err(unreadable)?;
        // Of images that are all refused for their encryption or compression, one line says it.
        let (mut images, mut refusals) = (0u64, 0u64);
        let mut last_refusal = None;
        for entry in archive.files().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = name_of(&entry);
            if entry.is_dir() || name.ends_with('/') {
                continue;
            }
            let location = Location { container, position: entry.header_start() };
            let bytes = Some(entry.size());
            if is_below_hidden(&name) {
                passed_over.hidden(&name);
            } else if !is_image_name(Path::new(&name)) {
                passed_over.suspect(&format!("{prefix}{name}"), location, bytes);
            } else if entry.is_symlink() {
                passed_over.link(&name);
            } else {
                let refused = refusal(&entry);
                images += 1;
                refusals += u64::from(refused.is_some());
                last_refusal = refused.clone().or(last_refusal);
                batcher.push(FoundImage {
                    class: first_folder(&name),
                    path: format!("{prefix}{name}"),
                    location,
                    bytes,
                    refused,
                    content: None,
                })?;
            }
        }
        match last_refusal {
            Some(reason) if images == refusals => Err(refuse(format!("all its images: {reason}"))),
            _ => Ok(()),
        }
    }
}

/// The name of an entry, with `/` between folders.
fn name_of(entry: &ZipFileEntry) -> String {
    let name = match entry.name() {
        Ok(name) => name.into_owned(),
        Err(_) => String::from_utf8_lossy(entry.name_raw()).into_owned(),
    };
    // Some programs write the paths of Windows as they are.
    if name.contains('/') { name } else { name.replace('\\', "/") }
}

/// Why an entry cannot be read, whatever is in it.
fn refusal(entry: &ZipFileEntry) -> Option<String> {
    if entry.encrypted() {
        return Some("encrypted; unpack the archive with its password".to_owned());
    }
    match entry.compression() {
        CompressionMethod::Stored | CompressionMethod::Deflated => None,
        other => Some(format!(
            "{other} compression is not supported; unpack the archive, or make it with zip -0"
        )),
    }
}

impl SourceFormat for ZipArchives {
    fn list(&self, _contents: bool, sink: BatchSink) -> Result<Listing> {
        let mut batcher = Batcher::new(sink);
        let mut listing = Listing { passed_over: self.beside.clone(), ..Listing::default() };
        for container in self.archives.numbers() {
            self.list_archive(container, &mut batcher, &mut listing.passed_over)?;
        }
        batcher.flush()?;
        Ok(listing)
    }

    fn files(&self) -> &[PathBuf] {
        &self.archives.files
    }

    fn read(&self, _path: &str, location: Location, bytes: u64, limit: u64) -> io::Result<Vec<u8>> {
        let archive = self.archives.path(location.container);
        Entry::open(archive, location.position, bytes.min(limit))?.read(bytes, limit)
    }
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("damaged in the archive: {reason}"))
}

/// An entry that is being read.
struct Entry<'a> {
    archive: &'a Path,
    flags: u16,
    method: u16,
    /// The checksum in its header.
    crc: u32,
    /// What has been read and not used yet.
    read: Vec<u8>,
    /// How much of `read` has been used.
    used: usize,
    /// The first byte of the archive that has not been read.
    next: u64,
}

impl<'a> Entry<'a> {
    /// The entry whose local header begins at `position`, and which is likely to take so many
    /// bytes.
    fn open(archive: &'a Path, position: u64, likely: u64) -> io::Result<Self> {
        let mut entry = Self {
            archive,
            flags: 0,
            method: 0,
            crc: 0,
            read: Vec::new(),
            used: 0,
            next: position,
        };
        // Most entries are hardly smaller than their content, so that one request is enough.
        entry.fetch((HEADER_BYTES as u64 + NAME_BYTES).saturating_add(likely).min(READ_BYTES))?;
        let header = entry.read.get(..HEADER_BYTES).filter(|it| it.starts_with(LOCAL_HEADER));
        let header = header.ok_or_else(|| damaged("there is no header where it should begin"))?;
        let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let crc = [header[14], header[15], header[16], header[17]];
        let skipped = HEADER_BYTES + usize::from(short(26)) + usize::from(short(28));
        (entry.flags, entry.method, entry.crc) = (short(6), short(8), u32::from_le_bytes(crc));
        entry.used = skipped;
        entry.need(0)?;
        Ok(entry)
    }

    /// Reads up to `bytes` more; fewer at the end of the archive.
    fn fetch(&mut self, bytes: u64) -> io::Result<usize> {
        let end = self.next.saturating_add(bytes);
        let found = store::read_range_or_less(self.archive, self.next..end)?;
        self.next += found.len() as u64;
        let count = found.len();
        if self.used >= self.read.len() {
            self.used -= self.read.len();
            self.read = found;
        } else {
            self.read.extend_from_slice(&found);
        }
        Ok(count)
    }

    /// Sees to it that `bytes` can be used.
    fn need(&mut self, bytes: u64) -> io::Result<()> {
        loop {
            let there = self.read.len() as u64;
            let missing = (self.used as u64 + bytes).saturating_sub(there);
            if missing == 0 {
                return Ok(());
            }
            if self.fetch(missing)? == 0 {
                return Err(damaged("the archive ends within it"));
            }
        }
    }

    /// The first `limit` of its `bytes` bytes. The checksum can only be compared of all.
    fn read(mut self, bytes: u64, limit: u64) -> io::Result<Vec<u8>> {
        let wanted = bytes.min(limit);
        let content = match self.method {
            STORED => {
                self.need(wanted)?;
                let content = self.read[self.used..self.used + wanted as usize].to_vec();
                self.used += wanted as usize;
                content
            }
            DEFLATED => self.inflate(wanted, wanted == bytes)?,
            _ => return Err(damaged("its header differs from the directory")),
        };
        if wanted == bytes {
            let mut crc = Crc::new();
            crc.update(&content);
            if !self.expects(crc.sum())? {
                return Err(damaged("its checksum is wrong"));
            }
        }
        Ok(content)
    }

    /// The first `wanted` bytes of the inflated data; if `whole`, there must not be more.
    fn inflate(&mut self, wanted: u64, whole: bool) -> io::Result<Vec<u8>> {
        let broken = || damaged("its compressed data are broken");
        let mut inflater = Decompress::new(false);
        let mut content = Vec::new();
        // One byte more shows whether there are more than wanted.
        let most = wanted as usize + usize::from(whole);
        loop {
            let room = most - content.len();
            if room == 0 {
                return if whole { Err(damaged("it is larger than stated")) } else { Ok(content) };
            }
            // Memory is taken as the data come, whatever size the directory states.
            content.reserve_exact(room.min(content.len().max(READ_BYTES as usize)));
            let (before, length) = (inflater.total_in(), content.len());
            let status = inflater
                .decompress_vec(&self.read[self.used..], &mut content, FlushDecompress::None)
                .map_err(|_| broken())?;
            let eaten = (inflater.total_in() - before) as usize;
            self.used += eaten;
            content.truncate(most);
            match status {
                Status::StreamEnd => {
                    return match (content.len() as u64).cmp(&wanted) {
                        Ordering::Less => Err(damaged("it is smaller than stated")),
                        Ordering::Equal => Ok(content),
                        Ordering::Greater => Err(damaged("it is larger than stated")),
                    };
                }
                _ if eaten > 0 || content.len() > length => {}
                _ => {
                    if self.fetch(READ_BYTES)? == 0 {
                        return Err(damaged("the archive ends within it"));
                    }
                }
            }
        }
    }

    /// Whether this is the checksum in its header, or behind its data.
    fn expects(&mut self, crc: u32) -> io::Result<bool> {
        if self.flags & HAS_DESCRIPTOR == 0 {
            return Ok(self.crc == crc);
        }
        // A signature may come first, which could be the checksum itself.
        self.need(8)?;
        let found = &self.read[self.used..];
        let crc = crc.to_le_bytes();
        Ok(found.starts_with(&crc) || (found.starts_with(DESCRIPTOR) && found[4..8] == crc))
    }
}
