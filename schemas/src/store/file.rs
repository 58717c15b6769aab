//! Reading parts of a file.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

use super::{cloud, is_url};

/// Bytes that reading one after the other fetches at a time.
const LOCAL_READ: u64 = 8 << 10;
const REMOTE_READ: u64 = 1 << 20;
/// Bytes at the end of an object that are read together: most often all of a Parquet file's footer.
const TAIL: u64 = 64 << 10;

/// An open file. Its clones share it, each with a position of its own.
#[derive(Clone, Debug)]
pub struct StoredFile {
    origin: Origin,
    bytes: u64,
    position: u64,
    /// What has been read ahead from `position` on.
    ahead: Bytes,
}

#[derive(Clone, Debug)]
enum Origin {
    Local(Arc<File>),
    Remote { object: cloud::Object, tail: Arc<OnceLock<Bytes>> },
}

impl StoredFile {
    /// Opens a file.
    ///
    /// # Errors
    /// Where it is missing or cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (origin, bytes) = if is_url(path) {
            let object = cloud::Object::at(path)?;
            let bytes = object.size()?;
            (Origin::Remote { object, tail: Arc::default() }, bytes)
        } else {
            let file = File::open(path)?;
            let bytes = file.metadata()?.len();
            (Origin::Local(Arc::new(file)), bytes)
        };
        Ok(Self { origin, bytes, position: 0, ahead: Bytes::new() })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.bytes
    }

    /// Whether it is an object, so that each reading of it is a request.
    pub fn is_remote(&self) -> bool {
        matches!(self.origin, Origin::Remote { .. })
    }

    /// These bytes of it, the requests for an object's ranges at the same time.
    ///
    /// # Errors
    /// Where a range cannot be read or goes beyond the end.
    pub fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        if ranges.iter().any(|range| range.end > self.bytes) {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the file ends too early"));
        }
        match &self.origin {
            Origin::Remote { object, .. } => object.read_ranges(ranges),
            Origin::Local(file) => ranges
                .iter()
                .map(|range| {
                    let mut bytes = vec![0; (range.end - range.start) as usize];
                    file.read_exact_at(&mut bytes, range.start)?;
                    Ok(bytes.into())
                })
                .collect(),
        }
    }

    /// These bytes of it.
    ///
    /// # Errors
    /// As [`Self::read_ranges`].
    pub fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let begin = self.bytes.saturating_sub(TAIL);
        match &self.origin {
            Origin::Remote { object, tail } if begin <= range.start && range.end <= self.bytes => {
                let bytes = match tail.get() {
                    Some(bytes) => bytes.clone(),
                    None => object.read_range(begin..self.bytes)?,
                };
                let _ = tail.set(bytes.clone());
                Ok(bytes.slice((range.start - begin) as usize..(range.end - begin) as usize))
            }
            _ => Ok(self.read_ranges(std::slice::from_ref(&range))?.remove(0)),
        }
    }
}

impl Read for StoredFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() && !bytes.is_empty() {
            let most = if self.is_remote() { REMOTE_READ } else { LOCAL_READ };
            let end = self.position.saturating_add(most.max(bytes.len() as u64)).min(self.bytes);
            self.ahead = self.read_range(self.position.min(end)..end)?;
        }
        let count = bytes.len().min(self.ahead.len());
        self.ahead.copy_to_slice(&mut bytes[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for StoredFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(distance) => self.bytes.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        let before = || io::Error::new(ErrorKind::InvalidInput, "a position before the beginning");
        let target = target.ok_or_else(before)?;
        match target.checked_sub(self.position) {
            Some(skipped) if skipped <= self.ahead.len() as u64 => {
                self.ahead.advance(skipped as usize);
            }
            _ => self.ahead.clear(),
        }
        self.position = target;
        Ok(target)
    }
}

impl Length for StoredFile {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for StoredFile {
    type T = Self;

    fn get_read(&self, start: u64) -> ParquetResult<Self> {
        Ok(Self { position: start, ahead: Bytes::new(), ..self.clone() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let external = |error: io::Error| ParquetError::External(Box::new(error));
        self.read_range(start..start + length as u64).map_err(external)
    }
}
