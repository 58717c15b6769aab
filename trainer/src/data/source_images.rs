//! The source images that recipe shards are rendered from.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use scrl_preprocess::sources::SourceReader;
use scrl_schemas::{Row, SourceOptions, SourcesReader, store};

use crate::{Error, Result};

/// Images looked for before training begins, evenly spread over all: on a file server each takes a
/// moment.
const SAMPLE: u64 = 100_000;

/// Images looked for at a time, by all threads together.
const AT_A_TIME: usize = 4096;

/// The advice to a user whose images are missing.
const ADVICE: &str = "recipe shards need their source images: give their folder with --images";

/// The source images of recipe shards; opened once, when the first of them is needed.
#[derive(Debug)]
pub struct SourceImages {
    images: PathBuf,
    options: SourceOptions,
    reader: OnceLock<std::result::Result<SourceReader, String>>,
}

/// Images that are not where they should be.
struct Missing {
    /// The first one's path, and the reason.
    first: (String, String),
    count: u64,
}

impl SourceImages {
    /// The images given to scrl-prep with these options, or a copy of them.
    pub fn new(images: PathBuf, options: SourceOptions) -> Self {
        Self { images, options, reader: OnceLock::new() }
    }

    /// An image's path for messages.
    pub(super) fn path_of(&self, path: &str) -> PathBuf {
        self.images.join(path)
    }

    fn reader(&self) -> std::result::Result<&SourceReader, String> {
        let open =
            || SourceReader::open(&self.images, &self.options).map_err(|error| error.to_string());
        self.reader.get_or_init(open).as_ref().map_err(String::clone)
    }

    /// The reader, or the error of the images as a whole.
    fn opened(&self) -> Result<&SourceReader> {
        let problem = |reason| Error::dataset(&self.images, format!("{reason}; {ADVICE}"));
        self.reader().map_err(problem)
    }

    /// The undecoded source of a row.
    pub(super) fn read(&self, row: &Row) -> Result<Vec<u8>> {
        let read = |reader: &SourceReader| reader.read(row.image_id, &row.path);
        let problem =
            |reason| Error::dataset(&self.path_of(&row.path), format!("{reason}; {ADVICE}"));
        self.reader().and_then(read).map_err(problem)
    }

    /// Begins to read the undecoded sources of rows from an object store, for later calls of
    /// [`Self::read`]; others are at hand.
    pub(super) fn read_ahead(&self, rows: &[Row]) -> Result<()> {
        if !store::is_url(&self.images) {
            return Ok(());
        }
        self.opened()?.read_ahead(rows.iter().map(|row| (row.image_id, &*row.path)));
        Ok(())
    }

    /// Checks that the images listed in `sources` (`sources.parquet`) exist: all of them, or a
    /// sample where they are very many.
    ///
    /// # Errors
    /// Names the first missing image and counts the others.
    pub(crate) fn check(&self, sources: &Path) -> Result<()> {
        if !store::has_folder(&self.images)? && !store::has_file(&self.images)? {
            return Err(Error::dataset(&self.images, format!("not there; {ADVICE}")));
        }
        let every = SourcesReader::open(sources)?.total().div_ceil(SAMPLE).max(1);
        if self.find_missing(sources, every)?.is_none() {
            return Ok(());
        }
        let Some(Missing { first: (path, reason), count }) = self.find_missing(sources, 1)? else {
            return Ok(());
        };
        let others = match count - 1 {
            0 => String::new(),
            1 => "; another one is missing as well".to_owned(),
            others => format!("; {others} others are missing as well"),
        };
        Err(Error::dataset(&self.path_of(&path), format!("{reason}{others}; {ADVICE}")))
    }

    /// Looks for every `every`-th image.
    fn find_missing(&self, sources: &Path, every: u64) -> Result<Option<Missing>> {
        let reader = self.opened()?;
        let mut used = SourcesReader::open(sources)?
            .enumerate()
            .step_by(every as usize)
            .filter(|(_, source)| source.as_ref().map_or(true, |source| source.error.is_none()));
        let mut missing: Option<Missing> = None;
        loop {
            let images: Vec<(i64, String)> = used
                .by_ref()
                .take(AT_A_TIME)
                .map(|(image_id, source)| Ok((image_id as i64, source?.path)))
                .collect::<Result<_>>()?;
            if images.is_empty() {
                return Ok(missing);
            }
            let look = |(image_id, path): (i64, String)| {
                reader.find(image_id, &path).err().map(|reason| (path, reason))
            };
            let found: Vec<(String, String)> = images.into_par_iter().filter_map(look).collect();
            let count = found.len() as u64;
            missing = match (missing, found.into_iter().next()) {
                (None, Some(first)) => Some(Missing { first, count }),
                (missing, _) => missing.map(|m| Missing { count: m.count + count, ..m }),
            };
        }
    }
}
