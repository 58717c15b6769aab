//! Reading single source images of a shards folder: to render recipes, or to verify rows.

use std::path::Path;

use super::format::SourceFormat;
use super::index::{Index, Location, Record};
use super::open::open;
use crate::Result;
use crate::images::MAX_SOURCE_BYTES;

/// Reads source images by their `image_id` and path.
#[derive(Debug)]
pub struct SourceReader {
    format: Box<dyn SourceFormat>,
    /// Where each image lies, if its path alone does not locate it.
    index: Option<Index>,
}

impl SourceReader {
    /// Opens what was given to scrl-prep as images, or a copy of it. Archives and Parquet files are
    /// listed, their images are not read.
    ///
    /// # Errors
    /// [`Error::Images`](crate::Error::Images) where `images` is nothing that holds images.
    pub fn open(images: &Path) -> Result<Self> {
        let format = open(images)?;
        if format.reads_by_path() {
            return Ok(Self { format, index: None });
        }
        let mut index = Index::default();
        format.list(false, &mut |batch| {
            for found in batch {
                index.push(&Record {
                    path: found.path,
                    bytes: found.bytes.unwrap_or_default(),
                    location: found.location,
                    ..Record::default()
                });
            }
            Ok(())
        })?;
        Ok(Self { format, index: Some(index) })
    }

    /// Checks that an image is there, without reading it.
    ///
    /// # Errors
    /// The reason, if it is missing or is another image.
    pub fn find(&self, image_id: i64, path: &str) -> std::result::Result<(), String> {
        self.locate(image_id, path).map(|_| ())
    }

    /// The undecoded bytes of an image.
    ///
    /// # Errors
    /// The reason, if it is missing or is another image.
    pub fn read(&self, image_id: i64, path: &str) -> std::result::Result<Vec<u8>, String> {
        let (location, bytes) = self.locate(image_id, path)?;
        if bytes > MAX_SOURCE_BYTES {
            return Err(format!("{bytes} bytes: more than {} MiB", MAX_SOURCE_BYTES >> 20));
        }
        let read = self.format.read(path, location, bytes, MAX_SOURCE_BYTES);
        read.map_err(|error| error.to_string())
    }

    /// Where an image lies and how many bytes it has.
    fn locate(&self, image_id: i64, path: &str) -> std::result::Result<(Location, u64), String> {
        let Some(index) = &self.index else {
            let bytes = self.format.size(path).map_err(|error| error.to_string())?;
            return Ok((Location::default(), bytes.unwrap_or_default()));
        };
        let number = u64::try_from(image_id).ok().filter(|&number| number < index.len());
        let record = index.get(number.ok_or("there are fewer images now")?);
        if record.path != path {
            return Err(format!("{} stands in its place", record.path));
        }
        Ok((record.location, record.bytes))
    }
}
