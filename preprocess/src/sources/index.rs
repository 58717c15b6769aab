//! What is known of every image, in little memory: up to some millions of images it lies in memory, beyond that in a
//! temporary file that has no name and vanishes with the process.
//!
//! An image takes [`RECORD_BYTES`] and the length of its path, about 80 bytes: a hundred million take 8 GB of disk and
//! [`MEMORY_LIMIT`] of memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that a [`Store`] keeps in memory before it moves to a file.
const MEMORY_LIMIT: usize = 192 << 20;
/// Bytes gathered before they are written to the file.
const WRITE_BUFFER: usize = 1 << 20;
/// Size of a record, see [`Record::to_bytes`].
const RECORD_BYTES: usize = 48;
/// Stands for no class.
const NO_CLASS: u32 = u32::MAX;

/// Where an image's bytes lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The archive or table; 0 where every image is a file of its own.
    pub container: u32,
    /// The first byte within an archive, or the row within an index.
    pub position: u64,
}

/// What the index knows of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name: below the images folder, or within the archive.
    pub path: String,
    /// Its class, by the order in which classes were met.
    pub class: Option<u32>,
    /// Width in pixels, 0 where the header could not be read.
    pub width: i32,
    /// Height in pixels, likewise.
    pub height: i32,
    /// Its size in bytes.
    pub bytes: u64,
    /// Where its bytes lie.
    pub place: Location,
    /// Why it has no rows.
    pub error: Option<String>,
}

/// The fixed part of a record: all but its two texts, and where these lie.
struct Fixed {
    text: u64,
    path: u32,
    error: u32,
    record: Record,
}

impl Fixed {
    fn to_bytes(&self) -> [u8; RECORD_BYTES] {
        let record = &self.record;
        let mut bytes = [0; RECORD_BYTES];
        let mut rest = &mut bytes[..];
        let mut put = |value: &[u8]| {
            let (here, after) = std::mem::take(&mut rest).split_at_mut(value.len());
            here.copy_from_slice(value);
            rest = after;
        };
        put(&self.text.to_le_bytes());
        put(&self.path.to_le_bytes());
        put(&self.error.to_le_bytes());
        put(&record.class.unwrap_or(NO_CLASS).to_le_bytes());
        put(&record.place.container.to_le_bytes());
        put(&record.place.position.to_le_bytes());
        put(&record.bytes.to_le_bytes());
        put(&record.width.to_le_bytes());
        put(&record.height.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self {
            text: u64_at(0),
            path: u32_at(8),
            error: u32_at(12),
            record: Record {
                path: String::new(),
                class: Some(u32_at(16)).filter(|&class| class != NO_CLASS),
                place: Location { container: u32_at(20), position: u64_at(24) },
                bytes: u64_at(32),
                width: u32_at(40) as i32,
                height: u32_at(44) as i32,
                error: None,
            },
        }
    }
}

/// The records of all images, by their number.
#[derive(Debug)]
pub struct Index {
    fixed: Store,
    texts: Store,
    len: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self::with_memory(MEMORY_LIMIT)
    }
}

impl Index {
    /// An empty index that keeps up to `bytes` of each of its two stores in memory.
    fn with_memory(bytes: usize) -> Self {
        Self { fixed: Store::new(bytes), texts: Store::new(bytes), len: 0 }
    }

    /// Appends an image.
    pub fn push(&mut self, record: Record) -> io::Result<()> {
        let error = record.error.as_deref().unwrap_or_default();
        let fixed = Fixed {
            text: self.texts.len,
            path: record.path.len() as u32,
            error: error.len() as u32,
            record: record.clone(),
        };
        self.texts.append(record.path.as_bytes())?;
        self.texts.append(error.as_bytes())?;
        self.fixed.append(&fixed.to_bytes())?;
        self.len += 1;
        Ok(())
    }

    /// To be called after the last [`Index::push`], before the first [`Index::get`].
    pub fn seal(&mut self) -> io::Result<()> {
        self.fixed.flush()?;
        self.texts.flush()
    }

    /// How many images there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The image of this number, which is below [`Index::len`].
    pub fn get(&self, number: u64) -> io::Result<Record> {
        let mut bytes = [0; RECORD_BYTES];
        self.fixed.read_at(number * RECORD_BYTES as u64, &mut bytes)?;
        let Fixed { text, path, error, mut record } = Fixed::from_bytes(&bytes);
        let mut texts = vec![0; path as usize + error as usize];
        self.texts.read_at(text, &mut texts)?;
        let reason = texts.split_off(path as usize);
        let text = |bytes| String::from_utf8(bytes).map_err(io::Error::other);
        record.path = text(texts)?;
        record.error = if reason.is_empty() { None } else { Some(text(reason)?) };
        Ok(record)
    }
}

/// Bytes to append to and to read at any place: in memory while they are few, then in a temporary file.
#[derive(Debug)]
struct Store {
    file: Option<File>,
    /// All bytes, or with a file those that have yet to be written to it.
    memory: Vec<u8>,
    len: u64,
    limit: usize,
}

impl Store {
    fn new(limit: usize) -> Self {
        Self { file: None, memory: Vec::new(), len: 0, limit }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.memory.extend_from_slice(bytes);
        self.len += bytes.len() as u64;
        if self.file.is_none() && self.memory.len() > self.limit {
            self.file = Some(tempfile::tempfile()?);
        }
        if self.file.is_some() && self.memory.len() >= WRITE_BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_all_at(&self.memory, self.len - self.memory.len() as u64)?;
            self.memory = Vec::new();
        }
        Ok(())
    }

    fn read_at(&self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        match &self.file {
            Some(file) => file.read_exact_at(bytes, position),
            None => {
                let first = position as usize;
                bytes.copy_from_slice(&self.memory[first..first + bytes.len()]);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> Record {
        Record {
            path: format!("ü/{}.jpg", "x".repeat(number as usize % 7)),
            class: (!number.is_multiple_of(3)).then_some(number as u32),
            width: number as i32 * 3,
            height: 7,
            bytes: number << 33,
            place: Location { container: number as u32 % 5, position: u64::MAX - number },
            error: number.is_multiple_of(4).then(|| "empty file".to_owned()),
        }
    }

    #[test]
    fn a_file_holds_what_memory_would() {
        for memory in [0, 1000, MEMORY_LIMIT] {
            let mut index = Index::with_memory(memory);
            for number in 0..500 {
                index.push(record(number)).unwrap();
            }
            index.seal().unwrap();
            assert_eq!((index.len(), index.fixed.file.is_some()), (500, memory < 20_000));
            for number in [0, 499, 3, 250] {
                assert_eq!(index.get(number).unwrap(), record(number));
            }
        }
    }
}
