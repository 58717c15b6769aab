//! The images that a prepared folder was made from, read again one by one: by who renders recipes, or checks them.

use std::path::Path;

use super::index::{Index, Location, Record};
use super::{SourceFormat, open_origin};
use crate::images::MAX_SOURCE_BYTES;
use crate::{Error, Result};

/// Images to be read by their `image_id` and path.
#[derive(Debug)]
pub struct SourceReader {
    origin: Box<dyn SourceFormat>,
    /// Where each image lies, where its path does not tell.
    index: Option<Index>,
}

impl SourceReader {
    /// Opens what was given to scrl-prep as images, or a copy of it. Archives and tables are listed, not read.
    ///
    /// # Errors
    /// [`Error::Images`] where `images` is nothing that holds images.
    pub fn open(images: &Path) -> Result<Self> {
        let origin = open_origin(images)?;
        if origin.reads_by_path() {
            return Ok(Self { origin, index: None });
        }
        let mut index = Index::default();
        let temporary = std::env::temp_dir();
        origin.list(false, &mut |block| {
            block.into_iter().try_for_each(|found| {
                let record = Record {
                    path: found.path,
                    class: None,
                    width: 0,
                    height: 0,
                    bytes: found.bytes.unwrap_or_default(),
                    place: found.place,
                    error: None,
                };
                index.push(record).map_err(Error::io(&temporary))
            })
        })?;
        index.seal().map_err(Error::io(&temporary))?;
        Ok(Self { origin, index: Some(index) })
    }

    /// Whether an image is there, without reading it.
    ///
    /// # Errors
    /// The reason, where it is not there or is another one.
    pub fn find(&self, image_id: i64, path: &str) -> std::result::Result<(), String> {
        self.locate(image_id, path).map(|_| ())
    }

    /// The undecoded bytes of an image.
    ///
    /// # Errors
    /// The reason, where it is not there or is another one.
    pub fn read(&self, image_id: i64, path: &str) -> std::result::Result<Vec<u8>, String> {
        let (place, bytes) = self.locate(image_id, path)?;
        if bytes > MAX_SOURCE_BYTES {
            return Err(format!("{bytes} bytes: more than {} MiB", MAX_SOURCE_BYTES >> 20));
        }
        let read = self.origin.read(path, place, bytes, MAX_SOURCE_BYTES);
        read.map_err(|error| error.to_string())
    }

    /// Where an image lies and how many bytes it has.
    fn locate(&self, image_id: i64, path: &str) -> std::result::Result<(Location, u64), String> {
        let reason = |error: std::io::Error| error.to_string();
        match &self.index {
            None => Ok((
                Location::default(),
                self.origin.size(path).map_err(reason)?.unwrap_or_default(),
            )),
            Some(index) => {
                let number = u64::try_from(image_id).ok().filter(|&number| number < index.len());
                let record =
                    index.get(number.ok_or("there are fewer images now")?).map_err(reason)?;
                if record.path != path {
                    return Err(format!("{} stands in its place", record.path));
                }
                Ok((record.place, record.bytes))
            }
        }
    }
}
