//! The images of any source that `scrl-prep` reads.

use std::path::{Path, PathBuf};

use scrl_cli::Reporter;
use scrl_preprocess::images::{Decoding, PixelOptions, RgbImage, decode};
use scrl_preprocess::sources::{Examine, Sources};
use scrl_schemas::{Source, SourceOptions};

use super::inputs::{decoding, with_window};
use crate::{Error, Result};

/// The readable images of a source.
pub(super) struct SourceImages {
    path: PathBuf,
    sources: Sources,
    /// How they are decoded.
    pub decoding: Decoding,
    /// Their indices in the source, in its order.
    pub ids: Vec<u32>,
}

impl SourceImages {
    /// Finds the images and decodes each once. `levels` is how they are decoded if other images
    /// have decided that, as those of training do for validation.
    ///
    /// # Errors
    /// If there are no images.
    pub fn find(
        path: &Path,
        options: &SourceOptions,
        levels: Option<Decoding>,
        (pixels, seed): (PixelOptions, u64),
        reporter: &Reporter,
    ) -> Result<Self> {
        reporter.say(format_args!("{}: decoding every image once", path.display()));
        let how = levels.unwrap_or_else(|| decoding(pixels));
        let sources = Sources::find(path, options, how, Examine::Pixels)?;
        let decoding = match levels {
            Some(levels) => levels,
            None => with_window(&sources, pixels, seed, reporter)?,
        };
        sources.notices().iter().for_each(|notice| reporter.say(format_args!("{notice}")));
        let mut ids = Vec::new();
        for id in 0..sources.len() {
            reporter.check_stop()?;
            let source = sources.source(id);
            match source.error {
                Some(reason) => {
                    let image = path.join(&source.path);
                    reporter.say(format_args!("left out: {}: {reason}", image.display()));
                }
                None => ids.push(id),
            }
        }
        Ok(Self { path: path.to_owned(), sources, decoding, ids })
    }

    /// What is known of an image: its path below the source, its class, its size.
    pub fn source(&self, id: u32) -> Source {
        self.sources.source(id)
    }

    /// The file or object of an image; `None` for one within an archive or a table.
    pub fn file(&self, id: u32) -> Option<PathBuf> {
        self.sources.file(id)
    }

    /// Decodes an image.
    ///
    /// # Errors
    /// If it has become unreadable.
    pub fn decode(&self, id: u32) -> Result<RgbImage> {
        let (source, bytes) = self.sources.read(id)?;
        decode(&bytes, self.decoding)
            .map_err(|reason| Error::dataset(&self.path.join(&source.path), reason.to_string()))
    }

    /// The CRC-32C of the paths, sizes and classes of some images.
    pub fn checksum(&self, ids: impl IntoIterator<Item = u32>) -> u32 {
        ids.into_iter().fold(0, |sum, id| {
            let source = self.sources.source(id);
            let line = format!("{} {} {:?};", source.path, source.bytes, source.class);
            crc32c::crc32c_append(sum, line.as_bytes())
        })
    }
}
