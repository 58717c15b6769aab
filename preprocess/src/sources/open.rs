//! Detecting what was given as images, from its content.

use std::path::Path;
use std::sync::Arc;

use scrl_cli::text;
use scrl_schemas::{SourceOptions, store};

use super::archive::{self, TarArchives};
use super::compressed;
use super::folder::{self, Contents, FolderTree};
use super::format::SourceFormat;
use super::parquet::{self, ParquetFiles};
use super::passed_over::PassedOver;
use super::path_list::PathList;
use super::zip::{self, ZipArchives};
use crate::images::unsupported;
use crate::{Error, Result};

/// Opens a folder of images, of tar or zip archives or of Parquet files, a single archive or Parquet
/// file, or a text file of paths.
///
/// # Errors
/// [`Error::Images`] for anything else.
pub(super) fn open(images: &Path, options: &SourceOptions) -> Result<Arc<dyn SourceFormat>> {
    if store::has_folder(images)? {
        return Ok(match folder::contents_of(images)? {
            Contents::Images => {
                refuse_columns("a folder of images", options)?;
                Arc::new(FolderTree::new(images))
            }
            Contents::Tar(files, beside) => {
                refuse_columns("a folder of archives", options)?;
                Arc::new(TarArchives::new(images, files, beside))
            }
            Contents::Zip(files, beside) => {
                refuse_columns("a folder of archives", options)?;
                Arc::new(ZipArchives::new(images, files, beside))
            }
            Contents::Parquet(files) => Arc::new(ParquetFiles::new(images, files, options)),
        });
    }
    let fail =
        |reason: &str| Err(Error::Images { path: images.to_owned(), reason: reason.to_owned() });
    let head = store::read_first(images, archive::HEADER_BYTES).map_err(Error::io(images))?;
    let alone = vec![images.to_owned()];
    let name = images.file_name().unwrap_or_default().to_string_lossy();
    if head.starts_with(parquet::MAGIC) {
        Ok(Arc::new(ParquetFiles::new(images, alone, options)))
    } else if archive::is_tar(&head) {
        refuse_columns("an archive", options)?;
        Ok(Arc::new(TarArchives::new(images, alone, PassedOver::default())))
    } else if zip::is_zip(&head) {
        refuse_columns("an archive", options)?;
        Ok(Arc::new(ZipArchives::new(images, alone, PassedOver::default())))
    } else if let Some(advice) = compressed::by_content(&head, &name) {
        fail(&format!("is compressed, and cannot be read in random order as it is: {advice}"))
    } else if image::guess_format(&head).is_ok() {
        fail("is a single image; give a folder of images or a text file of their paths")
    } else if let Some(reason) = unsupported::reason(&head) {
        fail(&format!("is no folder, archive or list of images but {reason}"))
    } else if name.to_ascii_lowercase().ends_with(".zip") {
        // The last part of several, or one that something precedes.
        refuse_columns("an archive", options)?;
        Ok(Arc::new(ZipArchives::new(images, alone, PassedOver::default())))
    } else if text::is_utf_16(&head) {
        fail("is text in UTF-16; save it as UTF-8")
    } else if is_json(&head) {
        fail(
            "is JSON; give the folder of its images, or a CSV of their paths and labels, as by \
             pandas.read_json(FILE, lines=True).to_csv(OUT, index=False)",
        )
    } else if head.contains(&0) {
        let advice = compressed::by_name(&name).map(|advice| format!(": {advice}"));
        fail(&format!(
            "is neither a folder, a tar or zip archive, a Parquet file nor a text file of paths{}",
            advice.unwrap_or_default()
        ))
    } else {
        Ok(Arc::new(PathList::new(images, options)))
    }
}

/// Whether text begins as JSON of objects or lists does.
fn is_json(head: &[u8]) -> bool {
    let mut begin = text::without_mark(head).iter().filter(|byte| !byte.is_ascii_whitespace());
    matches!(
        (begin.next(), begin.next()),
        (Some(b'{'), Some(b'"')) | (Some(b'['), Some(b'{' | b'"'))
    )
}

/// Refuses options that name columns of what has none.
fn refuse_columns(images: &str, options: &SourceOptions) -> Result<()> {
    let label = options.label_column.as_ref().filter(|name| *name != "none");
    let option = match (&options.image_column, label) {
        (Some(_), _) => "image-column",
        (None, Some(_)) => "label-column",
        (None, None) => return Ok(()),
    };
    let reason = format!("{images} has no columns; leave out --{option}");
    Err(Error::Option { option, reason })
}
