//! Reading single source images of a shards folder: to render recipes, or to verify rows.

use std::path::Path;
use std::sync::Arc;

use scrl_schemas::{SourceOptions, store};

use super::format::SourceFormat;
use super::index::{Index, Location, Record};
use super::open::open;
use super::read_ahead::{ReadAhead, Request};
use crate::Result;
use crate::images::MAX_SOURCE_BYTES;

/// Reads source images by their `image_id` and path.
#[derive(Debug)]
pub struct SourceReader {
    format: Arc<dyn SourceFormat>,
    /// Reads images of an object store before they are needed.
    ahead: Option<ReadAhead>,
    /// Where each image lies, if its path alone does not locate it.
    index: Option<Index>,
}

impl SourceReader {
    /// Opens what was given to scrl-prep as images with these options, or a copy of it. Archives and Parquet files are
    /// listed, their images are not read.
    ///
    /// # Errors
    /// [`Error::Images`](crate::Error::Images) where `images` is nothing that holds images.
    pub fn open(images: &Path, options: &SourceOptions) -> Result<Self> {
        let format = open(images, options)?;
        let ahead = store::is_url(images).then(|| ReadAhead::new(format.clone()));
        if format.files().is_empty() {
            return Ok(Self { format, ahead, index: None });
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
        Ok(Self { format, ahead, index: Some(index) })
    }

    /// Checks that an image is there, without reading it.
    ///
    /// # Errors
    /// The reason, if it is missing or is another image.
    pub fn find(&self, image_id: i64, path: &str) -> std::result::Result<(), String> {
        self.locate(image_id, path).map(|_| ())
    }

    /// Begins to read these images of an object store, in this order, for later calls of
    /// [`SourceReader::read`]. Without effect on others, which are at hand.
    pub fn read_ahead<'a>(&self, images: impl IntoIterator<Item = (i64, &'a str)>) {
        let Some(ahead) = &self.ahead else { return };
        ahead.begin(images.into_iter().filter_map(|(image_id, path)| {
            // Of an image that lies elsewhere now, `read` has the reason.
            let (location, bytes) = match &self.index {
                Some(_) => self.locate(image_id, path).ok()?,
                None => (Location::default(), 0),
            };
            let image_id = u32::try_from(image_id).ok()?;
            let path = path.to_owned();
            Some(Request { image_id, path, location, bytes, limit: MAX_SOURCE_BYTES })
        }));
    }

    /// The undecoded bytes of an image.
    ///
    /// # Errors
    /// The reason, if it is missing or is another image.
    pub fn read(&self, image_id: i64, path: &str) -> std::result::Result<Vec<u8>, String> {
        let id = u32::try_from(image_id).ok();
        if let Some(content) = self.ahead.as_ref().zip(id).and_then(|(ahead, id)| ahead.take(id)) {
            return content.map_err(|error| error.to_string());
        }
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
