//! A text file of paths, one per line, relative to the folder of the file. A tab and the name of
//! the image's class may follow the path. Empty lines are skipped.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use scrl_schemas::store::{self, StoredFile};

use super::format::{BatchSink, Batcher, Class, FoundImage, Listing, SourceFormat, read_file};
use super::index::Location;
use crate::{Error, Result};

/// Longest line in bytes; a file with a longer one is no list of paths.
const MAX_LINE: u64 = 1 << 16;

/// The images whose paths a file lists.
#[derive(Debug)]
pub(super) struct PathList {
    file: PathBuf,
    folder: PathBuf,
}

impl PathList {
    /// The images listed in `file`.
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), folder: file.parent().unwrap_or(Path::new("")).to_owned() }
    }
}

impl SourceFormat for PathList {
    fn list(&self, _contents: bool, sink: BatchSink) -> Result<Listing> {
        let mut lines =
            BufReader::new(StoredFile::open(&self.file).map_err(Error::io(&self.file))?);
        let mut batcher = Batcher::new(sink);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = io::Read::take(&mut lines, MAX_LINE).read_until(b'\n', &mut line);
            match read.map_err(Error::io(&self.file))? as u64 {
                0 => break,
                MAX_LINE => {
                    let reason =
                        format!("is no list of paths: it has a line of over {MAX_LINE} bytes");
                    return Err(Error::Images { path: self.file.clone(), reason });
                }
                _ => {}
            }
            let text = line.trim_ascii_end();
            if !text.is_empty() {
                batcher.push(found(text))?;
            }
        }
        batcher.flush()?;
        Ok(Listing::default())
    }

    fn reads_by_path(&self) -> bool {
        true
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        store::size(&self.folder.join(path)).map(Some)
    }

    fn read(&self, path: &str, _: Location, _: u64, limit: u64) -> io::Result<Vec<u8>> {
        read_file(&self.folder.join(path), limit)
    }
}

fn found(line: &[u8]) -> FoundImage {
    let text = String::from_utf8_lossy(line);
    let is_text = matches!(text, std::borrow::Cow::Borrowed(_));
    let (path, class) = match text.split_once('\t') {
        Some((path, class)) => (path, Some(Class::Name(class.trim().to_owned()))),
        None => (&*text, None),
    };
    FoundImage {
        path: path.to_owned(),
        class,
        bytes: (!is_text).then_some(0),
        refused: (!is_text).then(|| "the name is not UTF-8".to_owned()),
        ..FoundImage::default()
    }
}
