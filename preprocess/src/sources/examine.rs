//! Finding out the size of an image, and whether it can be read.

use std::io::{self, ErrorKind};
use std::path::Path;

use scrl_schemas::store;

use super::format::{Class, FoundImage, SourceFormat};
use super::index::Record;
use crate::images::{Decoding, Header, MAX_SOURCE_BYTES, Unreadable, decode, read_header};
use crate::{Error, Result};

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
    /// What its header says, if it could be read just now.
    pub header: Option<Header>,
}

/// Why an examination failed.
enum Fault {
    /// The image cannot be read.
    Image(Unreadable),
    /// The object store does not give it.
    Store(io::Error),
}

impl From<Unreadable> for Fault {
    fn from(reason: Unreadable) -> Self {
        Self::Image(reason)
    }
}

/// Examines an image below `images`.
///
/// # Errors
/// Where an object store refuses, which concerns more than one image.
pub(super) fn examine(
    images: &Path,
    format: &dyn SourceFormat,
    mut found: FoundImage,
    how: Decoding,
    depth: Examine,
) -> Result<Examined> {
    let class = found.class.take();
    let mut record = Record {
        path: std::mem::take(&mut found.path),
        bytes: found.bytes.unwrap_or_default(),
        location: found.location,
        ..Record::default()
    };
    let is_remote = store::is_url(images);
    let mut header = None;
    let error = match examine_content(format, found, how, depth, &mut record) {
        Ok(read) => {
            header = Some(read);
            None
        }
        Err(Fault::Image(reason)) => Some(reason.0),
        Err(Fault::Store(error))
            if is_remote
                && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) =>
        {
            return Err(Error::io(&images.join(&record.path))(error));
        }
        Err(Fault::Store(error)) => Some(error.to_string()),
    };
    Ok(Examined { record, class, error, header })
}

fn examine_content(
    format: &dyn SourceFormat,
    found: FoundImage,
    how: Decoding,
    depth: Examine,
    record: &mut Record,
) -> std::result::Result<Header, Fault> {
    if found.bytes.is_none() {
        record.bytes = match &found.content {
            Some(content) => content.len() as u64,
            None => format.size(&record.path).map_err(Fault::Store)?.unwrap_or_default(),
        };
    }
    if let Some(refused) = found.refused {
        return Err(Unreadable(refused).into());
    }
    if record.bytes > MAX_SOURCE_BYTES {
        let limit = MAX_SOURCE_BYTES >> 20;
        let reason = format!("{} bytes: more than {limit} MiB", record.bytes);
        return Err(Unreadable(reason).into());
    }
    let read = |limit| {
        format.read(&record.path, record.location, record.bytes, limit).map_err(Fault::Store)
    };
    let mut bytes = match (found.content, depth) {
        (Some(content), _) => content,
        (None, Examine::Header) => read(HEADER_BYTES)?,
        (None, Examine::Pixels) => read(record.bytes)?,
    };
    let mut header = read_header(&bytes, how);
    if header.is_err() && (bytes.len() as u64) < record.bytes {
        bytes = read(record.bytes)?;
        header = read_header(&bytes, how);
    }
    let header = header?;
    (record.width, record.height) = (header.size.width, header.size.height);
    if depth == Examine::Pixels {
        decode(&bytes, how)?;
    }
    Ok(header)
}
