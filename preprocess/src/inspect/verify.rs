//! Verifying that a shards folder is what scrl-prep wrote.
//!
//! Every row follows from the seed, the options and the list of sources, so it can be made again
//! and compared: the image, the parameters of both views, the boxes, and if the source images are
//! available, the encoded views, byte by byte. That also finds shards with a right checksum and
//! wrong content.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_schemas::{Epoch, Row, Shard, ShardReader, ShardRecord, Source, store};

use super::compare::difference;
use super::shards::{FinishedEpoch, Shards};
use crate::Result;
use crate::images::{ImageSize, decode};
use crate::prepare::resume;
use crate::prepare::rows::{RowMaker, recipe_row};
use crate::prepare::shuffle::{Pass, Shuffle};
use crate::sources::SourceReader;

/// Largest number of faults that are kept.
const MOST_FAULTS: usize = 100;
/// Largest number of rows of one shard that are described.
const MOST_ROWS: usize = 3;
/// Rows made again together, on all threads.
const BLOCK: usize = 128;

/// Whether pixels are compared, and with which source images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pixels {
    /// Pixels are not compared.
    Skip,
    /// With the images that were given to scrl-prep, or a copy of them.
    From(PathBuf),
}

/// A difference from what scrl-prep wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The file below the shards folder, or the path of a source image.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
    kind: Kind,
}

/// What a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Shards,
    Source,
}

impl Fault {
    /// Whether it concerns a file of the shards, and not a source image.
    pub fn is_of_shards(&self) -> bool {
        self.kind == Kind::Shards
    }
}

/// The result of verification.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Shards checked.
    pub shards: u64,
    /// Rows made again and compared.
    pub rows: u64,
    /// Bytes checksummed.
    pub bytes: u64,
    /// Rows whose views were rendered again and compared; for recipes, source images that were
    /// decoded.
    pub pixels: u64,
    /// Why some or all pixels were not compared.
    pub notes: Vec<String>,
    /// The first hundred faults, sorted by file.
    pub faults: Vec<Fault>,
    /// The number of faults.
    pub fault_count: u64,
}

/// Checks every finished epoch on all threads of the current pool. The reporter counts rows, and
/// for recipes also source images.
///
/// # Errors
/// [`crate::Error::Stopped`] after a stop. Faults of the folder are no errors but in the verdict.
pub fn verify(shards: &Shards, pixels: &Pixels, reporter: &Reporter) -> Result<Verdict> {
    let check = Check::new(shards, pixels, reporter);
    check.folder();
    let shuffle = shards.shuffle();
    let mut passes: BTreeMap<u32, Vec<&FinishedEpoch>> = BTreeMap::new();
    for epoch in &shards.epochs {
        passes
            .entry(shuffle.passes(epoch.epoch.0..epoch.epoch.0 + 1).start)
            .or_default()
            .push(epoch);
    }
    for (number, epochs) in passes {
        check.pass(&shuffle.pass(number), &shuffle, &epochs)?;
    }
    if shards.are_recipes() {
        check.sources()?;
    }
    Ok(check.verdict())
}

struct Check<'a> {
    shards: &'a Shards,
    source_reader: Option<SourceReader>,
    reporter: &'a Reporter,
    found: Mutex<Verdict>,
    /// Why source images could not be compared with, by path.
    lost: Mutex<BTreeMap<String, String>>,
}

impl<'a> Check<'a> {
    fn new(shards: &'a Shards, pixels: &Pixels, reporter: &'a Reporter) -> Self {
        let mut found = Verdict::default();
        let source_reader = match pixels {
            Pixels::Skip => None,
            Pixels::From(images) => SourceReader::open(images, &shards.manifest.options.sources)
                .map_err(|error| {
                    let reason = match store::is_url(images) || images.exists() {
                        true => error.to_string(),
                        false => format!("{} is not there", images.display()),
                    };
                    found.notes.push(format!(
                        "pixels not compared: {reason}; give the source images with --images"
                    ));
                })
                .ok(),
        };
        Self { shards, source_reader, reporter, found: Mutex::new(found), lost: Mutex::default() }
    }

    fn found(&self) -> MutexGuard<'_, Verdict> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, file: impl Into<String>, what: impl Into<String>) {
        self.note(Fault { file: file.into(), what: what.into(), kind: Kind::Shards });
    }

    fn source_fault(&self, source: &Source, what: String) {
        self.note(Fault { file: source.path.clone(), what, kind: Kind::Source });
    }

    fn note(&self, fault: Fault) {
        let mut found = self.found();
        found.fault_count += 1;
        found.faults.push(fault);
        if found.faults.len() >= 2 * MOST_FAULTS {
            found.faults.sort_unstable();
            found.faults.truncate(MOST_FAULTS);
        }
    }

    fn verdict(self) -> Verdict {
        let mut found = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.faults.sort_unstable();
        found.faults.truncate(MOST_FAULTS);
        let lost = self.lost.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, reason)) = lost.first_key_value() {
            let others = match lost.len() - 1 {
                0 => String::new(),
                count => format!(" ({count} others as well)"),
            };
            found.notes.push(format!("pixels of some rows not compared: {path}: {reason}{others}"));
        }
        found
    }

    /// Checks the manifest, the list of sources and the `_SUCCESS` files.
    fn folder(&self) {
        let Shards { ref manifest, ref sources, ref damaged, .. } = *self.shards;
        for (epoch, reason) in damaged {
            self.fault(self.shards.name(*epoch, "_SUCCESS"), reason);
        }
        if manifest.counts.images != sources.len() as u64 {
            let what = format!(
                "lists {} images, dataset.toml says {}",
                sources.len(),
                manifest.counts.images
            );
            self.fault("sources.parquet", what);
        }
        for FinishedEpoch { epoch, shards } in &self.shards.epochs {
            self.names(*epoch, shards);
        }
    }

    /// Checks that an epoch's `_SUCCESS` lists the right shards, and that no others exist.
    fn names(&self, epoch: Epoch, shards: &[ShardRecord]) {
        let expected = self.shards.shuffle().shards_per_epoch();
        let listed: Vec<&str> = shards.iter().map(|shard| shard.name.as_str()).collect();
        let right: Vec<String> = (0..expected).map(|number| Shard(number).file_name()).collect();
        if listed != right {
            let what =
                format!("lists {} shards, should list {expected}, sorted by number", listed.len());
            self.fault(self.shards.name(epoch, "_SUCCESS"), what);
        }
        for name in store::names(&self.shards.paths.epoch(epoch)).unwrap_or_default() {
            if name.ends_with(".parquet") && !listed.contains(&name.as_str()) {
                self.fault(self.shards.name(epoch, &name), "is not in _SUCCESS");
            }
        }
    }

    /// Checks the shards of the epochs of one pass.
    fn pass(&self, pass: &Pass, shuffle: &Shuffle, epochs: &[&FinishedEpoch]) -> Result<()> {
        let mut shards: Vec<(Epoch, &ShardRecord, Option<u32>)> = Vec::new();
        for FinishedEpoch { epoch, shards: records } in epochs {
            let chunks: HashMap<String, u32> = shuffle
                .shards_of_chunks(*epoch)
                .into_iter()
                .map(Shard::file_name)
                .zip(0..)
                .collect();
            shards.extend(
                records.iter().map(|record| (*epoch, record, chunks.get(&record.name).copied())),
            );
        }
        shards.par_iter().try_for_each(|&(epoch, record, chunk)| {
            let file = self.shards.name(epoch, &record.name);
            let checked = match self.checksum(epoch, record) {
                Ok(()) => match chunk {
                    Some(chunk) => self.rows(epoch, record, pass, chunk, &file),
                    None => Ok(()),
                },
                Err(what) => {
                    self.fault(&file, what);
                    Ok(self.reporter.step(record.rows)?)
                }
            };
            self.found().shards += 1;
            checked
        })
    }

    /// Checks a shard's size and checksum.
    fn checksum(&self, epoch: Epoch, record: &ShardRecord) -> std::result::Result<(), String> {
        let path = self.shards.paths.epoch(epoch).join(&record.name);
        let bytes = store::size(&path).map_err(|error| error.to_string())?;
        if bytes != record.bytes {
            return Err(format!("has {bytes} bytes, _SUCCESS says {}", record.bytes));
        }
        let crc32c = resume::checksum(&path).map_err(|error| error.to_string())?;
        self.found().bytes += bytes;
        if crc32c != record.crc32c {
            return Err(format!(
                "its checksum is {crc32c:08x}, _SUCCESS says {:08x}: it has changed",
                record.crc32c
            ));
        }
        Ok(())
    }

    /// Compares a shard's rows with those that the seed gives.
    fn rows(
        &self,
        epoch: Epoch,
        record: &ShardRecord,
        pass: &Pass,
        chunk: u32,
        file: &str,
    ) -> Result<()> {
        let path = self.shards.paths.epoch(epoch).join(&record.name);
        let compares_pixels = self.source_reader.is_some() && !self.shards.are_recipes();
        let reader = match compares_pixels {
            true => ShardReader::open(&path),
            false => ShardReader::open_without_pixels(&path),
        };
        let mut reader = match reader {
            Ok(reader) => reader,
            Err(error) => {
                self.fault(file, reason_of(&error));
                return Ok(self.reporter.step(record.rows)?);
            }
        };
        let expected = self.expected_images(epoch, pass, chunk, &reader, file);
        for (rows, has) in [(record.rows, "_SUCCESS lists"), (reader.total_rows(), "has")] {
            if rows != expected.len() as u64 {
                self.fault(
                    file,
                    format!("{has} {rows} rows, the readable sources give {}", expected.len()),
                );
            }
        }
        let mut odd: Vec<String> = Vec::new();
        let mut first = 0;
        for block in expected.chunks(BLOCK) {
            let rows =
                match reader.by_ref().take(block.len()).collect::<scrl_schemas::Result<Vec<Row>>>()
                {
                    Ok(rows) => rows,
                    Err(error) => {
                        self.fault(file, reason_of(&error));
                        return Ok(());
                    }
                };
            let compared: Vec<Option<String>> = rows
                .par_iter()
                .zip(block)
                .map_init(RowMaker::default, |maker, (row, &image)| {
                    self.row(row, image, epoch, compares_pixels.then_some(maker))
                })
                .collect();
            self.found().rows += rows.len() as u64;
            let describe = |(index, odd): (usize, Option<String>)| {
                Some(format!("row {}: {}", first + index, odd?))
            };
            odd.extend(compared.into_iter().enumerate().filter_map(describe));
            first += block.len();
            self.reporter.step(block.len() as u64)?;
        }
        let more = odd.len().saturating_sub(MOST_ROWS);
        odd.iter().take(MOST_ROWS).for_each(|what| self.fault(file, what));
        if more > 0 {
            self.fault(file, format!("and {more} more rows that are not those of the seed"));
        }
        Ok(())
    }

    /// The images of a shard in the order of its rows. The unreadable ones must be in the shard's
    /// own list of them.
    fn expected_images(
        &self,
        epoch: Epoch,
        pass: &Pass,
        chunk: u32,
        reader: &ShardReader,
        file: &str,
    ) -> Vec<u32> {
        let images = pass.images(chunk);
        let is_readable = |image: &u32| self.shards.sources[*image as usize].error.is_none();
        let mut unreadable: Vec<i64> = images
            .iter()
            .filter(|image| !is_readable(image))
            .map(|&image| i64::from(image))
            .collect();
        unreadable.sort_unstable();
        if !unreadable.iter().eq(reader.skipped().iter().map(|skipped| &skipped.image_id)) {
            self.fault(file, "its list of unreadable images is not that of sources.parquet");
        }
        let rows = pass.rows(chunk, epoch).into_iter();
        rows.map(|position| images[position as usize]).filter(is_readable).collect()
    }

    /// What is wrong with a row, which should be that of `image`. Its pixels are compared if a
    /// maker is given.
    fn row(
        &self,
        row: &Row,
        image: u32,
        epoch: Epoch,
        maker: Option<&mut RowMaker>,
    ) -> Option<String> {
        let manifest = &self.shards.manifest;
        let source = &self.shards.sources[image as usize];
        let size = ImageSize { width: source.width, height: source.height };
        let bare = recipe_row(image, source, size, manifest.seed, epoch, &manifest.options);
        if let Some(what) = difference(row, &bare) {
            return Some(what);
        }
        let maker = maker?;
        let bytes = self.source_bytes(image, source)?;
        let decoded = match decode(&bytes, &manifest.options) {
            Ok(decoded) if decoded.size == size => decoded,
            _ => return self.lose(source, "decodes to another image now"),
        };
        let again =
            maker.make(image, source, &decoded, manifest.seed, epoch, &manifest.options).ok()?;
        self.found().pixels += 1;
        for (found, expected, name) in
            [(&row.view1, &again.view1, "view1"), (&row.view2, &again.view2, "view2")]
        {
            if expected.image != found.image {
                return Some(format!("{}: {name}.image is not what its source gives", source.path));
            }
        }
        None
    }

    /// The undecoded bytes of a source image, if it has the size recorded.
    fn source_bytes(&self, image: u32, source: &Source) -> Option<Vec<u8>> {
        let bytes = match self.source_reader.as_ref()?.read(i64::from(image), &source.path) {
            Ok(bytes) => bytes,
            Err(reason) => return self.lose(source, &reason),
        };
        if bytes.len() as u64 != source.bytes as u64 {
            return self
                .lose(source, &format!("has {} bytes now, had {}", bytes.len(), source.bytes));
        }
        Some(bytes)
    }

    fn lose<T>(&self, source: &Source, reason: &str) -> Option<T> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.insert(source.path.clone(), reason.to_owned());
        None
    }

    /// For recipes, which hold no pixels: checks that each source image exists and decodes to its
    /// size.
    fn sources(&self) -> Result<()> {
        let Some(source_reader) = &self.source_reader else { return Ok(()) };
        self.shards.sources.par_iter().enumerate().try_for_each(|(image, source)| {
            if source.error.is_none() {
                match self.decoded_size(source_reader, image as i64, source) {
                    Ok([width, height]) if (width, height) == (source.width, source.height) => {
                        self.found().pixels += 1;
                    }
                    Ok([width, height]) => {
                        let before = format!("{}×{}", source.width, source.height);
                        self.source_fault(
                            source,
                            format!("has {width}×{height} pixels, sources.parquet says {before}"),
                        );
                    }
                    Err(reason) => self.source_fault(source, reason),
                }
            }
            Ok(self.reporter.step(1)?)
        })
    }

    /// Width and height of a source image after decoding it.
    fn decoded_size(
        &self,
        source_reader: &SourceReader,
        image: i64,
        source: &Source,
    ) -> std::result::Result<[i32; 2], String> {
        let bytes = source_reader.read(image, &source.path)?;
        let decoded = decode(&bytes, &self.shards.manifest.options).map_err(|reason| reason.0)?;
        Ok([decoded.size.width, decoded.size.height])
    }
}

/// An error's message without the path at its start.
fn reason_of(error: &scrl_schemas::Error) -> String {
    let text = error.to_string();
    text.split_once(".parquet: ").map_or(text.clone(), |(_, reason)| reason.to_owned())
}
