//! Is a folder still what scrl-prep wrote?
//!
//! Every row follows from the seed, the options and the list of sources, so it can be made again and compared: which
//! image stands where, the parameters of both views, the boxes, and with the sources at hand the encoded pictures, byte
//! by byte. What a checksum cannot tell, a part written by something else, shows that way.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_schemas::{Epoch, Row, Shard, ShardReader, ShardRecord, Source, file_names};

use super::compare::difference;
use super::shards::{FinishedEpoch, Shards};
use crate::Result;
use crate::images::ImageSize;
use crate::images::decode;
use crate::prepare::resume;
use crate::prepare::rows::{RowMaker, recipe_row};
use crate::prepare::shuffle::{Pass, Shuffle};
use crate::sources::SourceReader;

/// Faults that are kept; of a folder with more of them these tell enough.
const MOST_FAULTS: usize = 100;
/// Rows of one part that are described.
const MOST_ROWS: usize = 3;
/// Rows made again together, on all threads.
const BLOCK: usize = 128;

/// Where the pixels to compare with come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pixels {
    /// Nowhere: pixels are not compared.
    Skip,
    /// From the images that were given to scrl-prep, or a copy of them.
    From(PathBuf),
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The file, below the folder of shards; an image by its path.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
    kind: Kind,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Shards,
    Source,
}

impl Fault {
    /// Whether a file of the shards is wrong, and not an image that they were made from.
    pub fn is_of_shards(&self) -> bool {
        self.kind == Kind::Shards
    }
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Parts looked at.
    pub parts: u64,
    /// Rows made again and compared.
    pub rows: u64,
    /// Bytes checksummed.
    pub bytes: u64,
    /// Rows whose pictures were rendered again and compared; for recipes, sources that were decoded.
    pub pixels: u64,
    /// Why pixels were not compared, or not all.
    pub notes: Vec<String>,
    /// Faults in the order of the files, the first hundred.
    pub faults: Vec<Fault>,
    /// How many there are.
    pub fault_count: u64,
}

/// Checks every finished epoch on all threads of the current pool. `reporter` counts rows, and for recipes of sources.
///
/// # Errors
/// [`crate::Error::Stopped`] after a stop. What is wrong with the folder is no error but part of the verdict.
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
    originals: Option<SourceReader>,
    reporter: &'a Reporter,
    found: Mutex<Verdict>,
    /// Sources that pictures could not be compared with.
    lost: Mutex<BTreeMap<String, String>>,
}

impl<'a> Check<'a> {
    fn new(shards: &'a Shards, pixels: &Pixels, reporter: &'a Reporter) -> Self {
        let mut found = Verdict::default();
        let originals = match pixels {
            Pixels::Skip => None,
            Pixels::From(images) => SourceReader::open(images)
                .map_err(|error| {
                    let reason = match images.exists() {
                        true => error.to_string(),
                        false => format!("{} is not there", images.display()),
                    };
                    found.notes.push(format!(
                        "pixels not compared: {reason}; --images says where the sources lie"
                    ));
                })
                .ok(),
        };
        Self { shards, originals, reporter, found: Mutex::new(found), lost: Mutex::default() }
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
                count => format!(" ({count} others likewise)"),
            };
            found.notes.push(format!("pixels of some rows not compared: {path}: {reason}{others}"));
        }
        found
    }

    /// What concerns no single part.
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
        for FinishedEpoch { epoch, parts } in &self.shards.epochs {
            self.names(*epoch, parts);
        }
    }

    /// An epoch's `_SUCCESS` lists the right parts, and no other lies beside them.
    fn names(&self, epoch: Epoch, parts: &[ShardRecord]) {
        let expected = self.shards.shuffle().shards_per_epoch();
        let listed: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let right: Vec<String> = (0..expected).map(|part| Shard(part).file_name()).collect();
        if listed != right {
            let what = format!(
                "lists {} parts, where there should be {expected} in their order",
                listed.len()
            );
            self.fault(self.shards.name(epoch, "_SUCCESS"), what);
        }
        for name in file_names(&self.shards.paths.epoch(epoch)).unwrap_or_default() {
            if name.ends_with(".parquet") && !listed.contains(&name.as_str()) {
                self.fault(self.shards.name(epoch, &name), "is not in _SUCCESS");
            }
        }
    }

    /// The parts of the epochs of one pass.
    fn pass(&self, pass: &Pass, shuffle: &Shuffle, epochs: &[&FinishedEpoch]) -> Result<()> {
        let mut parts: Vec<(Epoch, &ShardRecord, Option<u32>)> = Vec::new();
        for FinishedEpoch { epoch, parts: records } in epochs {
            let chunks: HashMap<String, u32> = shuffle
                .shards_of_chunks(*epoch)
                .into_iter()
                .map(Shard::file_name)
                .zip(0..)
                .collect();
            parts.extend(
                records.iter().map(|record| (*epoch, record, chunks.get(&record.name).copied())),
            );
        }
        parts.par_iter().try_for_each(|&(epoch, record, chunk)| {
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
            self.found().parts += 1;
            checked
        })
    }

    /// A part's size and checksum.
    fn checksum(&self, epoch: Epoch, record: &ShardRecord) -> std::result::Result<(), String> {
        let path = self.shards.paths.epoch(epoch).join(&record.name);
        let bytes = std::fs::metadata(&path).map_err(|error| error.to_string())?.len();
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

    /// A part's rows: those that the seed gives, in its order.
    fn rows(
        &self,
        epoch: Epoch,
        record: &ShardRecord,
        pass: &Pass,
        chunk: u32,
        file: &str,
    ) -> Result<()> {
        let path = self.shards.paths.epoch(epoch).join(&record.name);
        let pictures = self.originals.is_some() && !self.shards.are_recipes();
        let reader = match pictures {
            true => ShardReader::open(&path),
            false => ShardReader::open_without_pictures(&path),
        };
        let mut reader = match reader {
            Ok(reader) => reader,
            Err(error) => {
                self.fault(file, reason_of(&error));
                return Ok(self.reporter.step(record.rows)?);
            }
        };
        let expected = self.expected_images(epoch, pass, chunk, &reader, file);
        for (rows, of) in [(record.rows, "_SUCCESS lists"), (reader.total_rows(), "has")] {
            if rows != expected.len() as u64 {
                self.fault(
                    file,
                    format!("{of} {rows} rows, the readable sources give {}", expected.len()),
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
                    self.row(row, image, epoch, pictures.then_some(maker))
                })
                .collect();
            self.found().rows += rows.len() as u64;
            let place = |(index, odd): (usize, Option<String>)| {
                Some(format!("row {}: {}", first + index, odd?))
            };
            odd.extend(compared.into_iter().enumerate().filter_map(place));
            first += block.len();
            self.reporter.step(block.len() as u64)?;
        }
        let more = odd.len().saturating_sub(MOST_ROWS);
        odd.iter().take(MOST_ROWS).for_each(|what| self.fault(file, what));
        if more > 0 {
            self.fault(file, format!("row …: {more} more rows are not those of the seed"));
        }
        Ok(())
    }

    /// The images of a part in the order of its rows. Those that could not be read must be in its own list of them.
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

    /// What is wrong with a row, which should be that of `image`. Its pictures are compared where there is a maker of
    /// others.
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
        let original = self.original(image, source)?;
        let decoded = match decode(&original, manifest.options.exif) {
            Ok(decoded) if decoded.size == size => decoded,
            _ => return self.lose(source, "decodes to something else now"),
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

    /// The undecoded bytes of a source, if it is the one that the rows were made from.
    fn original(&self, image: u32, source: &Source) -> Option<Vec<u8>> {
        let bytes = match self.originals.as_ref()?.read(i64::from(image), &source.path) {
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

    /// Recipes hold no pixels to compare; but each source must still be there and decode to its size.
    fn sources(&self) -> Result<()> {
        let Some(originals) = &self.originals else { return Ok(()) };
        self.shards.sources.par_iter().enumerate().try_for_each(|(image, source)| {
            if source.error.is_none() {
                match self.decoded_size(originals, image as i64, source) {
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

    /// Width and height of a source, decoded whole.
    fn decoded_size(
        &self,
        originals: &SourceReader,
        image: i64,
        source: &Source,
    ) -> std::result::Result<[i32; 2], String> {
        let bytes = originals.read(image, &source.path)?;
        let decoded =
            decode(&bytes, self.shards.manifest.options.exif).map_err(|reason| reason.0)?;
        Ok([decoded.size.width, decoded.size.height])
    }
}

/// An error's reason without the path that stands before it.
fn reason_of(error: &scrl_schemas::Error) -> String {
    let text = error.to_string();
    text.split_once(".parquet: ").map_or(text.clone(), |(_, reason)| reason.to_owned())
}
