//! Detecting what was given as images, from its content.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::archive::{self, TarArchives};
use super::folder::{self, Contents, FolderTree};
use super::format::SourceFormat;
use super::parquet::{self, ParquetFiles};
use super::path_list::PathList;
use crate::{Error, Result};

/// Opens a folder of images, of archives or of Parquet files, a single archive or Parquet file, or
/// a text file of paths.
///
/// # Errors
/// [`Error::Images`] for anything else.
pub(super) fn open(images: &Path) -> Result<Box<dyn SourceFormat>> {
    if fs::metadata(images).map_err(Error::io(images))?.is_dir() {
        return Ok(match folder::contents_of(images)? {
            Contents::Images => Box::new(FolderTree::new(images)),
            Contents::Archives(files) => Box::new(TarArchives::new(images, files)),
            Contents::Parquet(files) => Box::new(ParquetFiles::new(images, files)),
        });
    }
    let fail =
        |reason: &str| Err(Error::Images { path: images.to_owned(), reason: reason.to_owned() });
    let mut head = Vec::new();
    File::open(images)
        .and_then(|file| file.take(archive::HEADER_BYTES).read_to_end(&mut head))
        .map_err(Error::io(images))?;
    let alone = vec![images.to_owned()];
    if head.starts_with(parquet::MAGIC) {
        Ok(Box::new(ParquetFiles::new(images, alone)))
    } else if archive::is_tar(&head) {
        Ok(Box::new(TarArchives::new(images, alone)))
    } else if head.starts_with(&[0x1F, 0x8B]) || head.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        fail("is compressed; unpack it to a plain tar archive first")
    } else if image::guess_format(&head).is_ok() {
        fail("is a single image; give a folder of images or a text file of their paths")
    } else if head.contains(&0) {
        fail("is neither a folder, a tar archive, a Parquet file nor a text file of paths")
    } else {
        Ok(Box::new(PathList::new(images)))
    }
}
