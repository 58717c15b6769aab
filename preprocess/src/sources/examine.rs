//! Finding out the size of an image, and whether it can be read.

use std::io;

use super::format::{Class, FoundImage, SourceFormat};
use super::index::Record;
use crate::images::{Decoding, MAX_SOURCE_BYTES, Unreadable, decode, read_size};

/// Bytes read to find an image's size; the whole file follows where they do not suffice.
const HEADER_BYTES: u64 = 64 << 10;

/// How closely images are examined before the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Examine {
    /// The header alone: damaged pixels show when they are decoded.
    Header,
    /// Everything is decoded: for rows without pixels, where damage would only show in training.
    Pixels,
}

/// An image that has been examined.
pub(super) struct Examined {
    /// What the index holds of it; its class is in `class`.
    pub record: Record,
    /// Its class, not numbered yet.
    pub class: Option<Class>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// Examines an image.
pub(super) fn examine(
    format: &dyn SourceFormat,
    mut found: FoundImage,
    how: Decoding,
    depth: Examine,
) -> Examined {
    let class = found.class.take();
    let mut record = Record {
        path: std::mem::take(&mut found.path),
        bytes: found.bytes.unwrap_or_default(),
        location: found.location,
        ..Record::default()
    };
    let result = examine_content(format, found, how, depth, &mut record);
    Examined { record, class, error: result.err().map(|reason| reason.0) }
}

fn examine_content(
    format: &dyn SourceFormat,
    found: FoundImage,
    how: Decoding,
    depth: Examine,
    record: &mut Record,
) -> Result<(), Unreadable> {
    let reason = |error: io::Error| Unreadable(error.to_string());
    if found.bytes.is_none() {
        record.bytes = match &found.content {
            Some(content) => content.len() as u64,
            None => format.size(&record.path).map_err(reason)?.unwrap_or_default(),
        };
    }
    if let Some(refused) = found.refused {
        return Err(Unreadable(refused));
    }
    if record.bytes > MAX_SOURCE_BYTES {
        let limit = MAX_SOURCE_BYTES >> 20;
        return Err(Unreadable(format!("{} bytes: more than {limit} MiB", record.bytes)));
    }
    let read =
        |limit| format.read(&record.path, record.location, record.bytes, limit).map_err(reason);
    let mut bytes = match (found.content, depth) {
        (Some(content), _) => content,
        (None, Examine::Header) => read(HEADER_BYTES)?,
        (None, Examine::Pixels) => read(record.bytes)?,
    };
    let mut size = read_size(&bytes, how.exif);
    if size.is_err() && (bytes.len() as u64) < record.bytes {
        bytes = read(record.bytes)?;
        size = read_size(&bytes, how.exif);
    }
    let size = size?;
    (record.width, record.height) = (size.width, size.height);
    match depth {
        Examine::Header => Ok(()),
        Examine::Pixels => decode(&bytes, how).map(|_| ()),
    }
}
