//! The images that recipe shards were made from.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use scrl_preprocess::sources::SourceReader;
use scrl_schemas::{Row, SourcesReader};

use crate::{Error, Result};

/// Images looked for before training begins, evenly spread over all: on a file server each takes a moment.
const SAMPLE: u64 = 100_000;

/// Images looked for at a time, by all threads together.
const BLOCK: usize = 4096;

/// What to do without them.
const WAY_OUT: &str = "recipe shards need their sources: say with --images where they lie";

/// Where the sources of recipe shards lie; looked into when the first of them is needed, and once only.
#[derive(Debug)]
pub struct SourceImages {
    images: PathBuf,
    originals: OnceLock<std::result::Result<SourceReader, String>>,
}

/// Images that are not where they should be.
struct Missing {
    /// The first of them and what became of it.
    first: (String, String),
    count: u64,
}

impl SourceImages {
    /// What was given to scrl-prep as images, or a copy of it.
    pub fn new(images: PathBuf) -> Self {
        Self { images, originals: OnceLock::new() }
    }

    /// An image's place, as messages name it.
    pub(super) fn place(&self, path: &str) -> PathBuf {
        self.images.join(path)
    }

    fn originals(&self) -> std::result::Result<&SourceReader, String> {
        let open = || SourceReader::open(&self.images).map_err(|error| error.to_string());
        self.originals.get_or_init(open).as_ref().map_err(String::clone)
    }

    /// The undecoded source of a row.
    pub(super) fn read(&self, row: &Row) -> Result<Vec<u8>> {
        let read = |originals: &SourceReader| originals.read(row.image_id, &row.path);
        let problem =
            |reason| Error::dataset(&self.place(&row.path), format!("{reason}; {WAY_OUT}"));
        self.originals().and_then(read).map_err(problem)
    }

    /// Looks for the images that `sources`, a prepared folder's list, says were used: for all of them, or for some
    /// where they are very many.
    ///
    /// # Errors
    /// Names the first one that is missing and counts the others.
    pub fn check(&self, sources: &Path) -> Result<()> {
        if !self.images.exists() {
            return Err(Error::dataset(&self.images, format!("not there; {WAY_OUT}")));
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
        Err(Error::dataset(&self.place(&path), format!("{reason}{others}; {WAY_OUT}")))
    }

    /// Looks for one of `every` so many images.
    fn find_missing(&self, sources: &Path, every: u64) -> Result<Option<Missing>> {
        let originals = self
            .originals()
            .map_err(|reason| Error::dataset(&self.images, format!("{reason}; {WAY_OUT}")))?;
        let mut used = SourcesReader::open(sources)?
            .enumerate()
            .step_by(every as usize)
            .filter(|(_, source)| source.as_ref().map_or(true, |source| source.error.is_none()));
        let mut missing: Option<Missing> = None;
        loop {
            let block: Vec<(i64, String)> = used
                .by_ref()
                .take(BLOCK)
                .map(|(image_id, source)| Ok((image_id as i64, source?.path)))
                .collect::<Result<_>>()?;
            if block.is_empty() {
                return Ok(missing);
            }
            let look = |(image_id, path): (i64, String)| {
                originals.find(image_id, &path).err().map(|reason| (path, reason))
            };
            let found: Vec<(String, String)> = block.into_par_iter().filter_map(look).collect();
            let count = found.len() as u64;
            missing = match (missing, found.into_iter().next()) {
                (None, Some(first)) => Some(Missing { first, count }),
                (missing, _) => missing.map(|m| Missing { count: m.count + count, ..m }),
            };
        }
    }
}
