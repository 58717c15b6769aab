//! Reading the rows of a shard.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::array::{Array, BooleanArray, Float32Array, Int8Array, RecordBatch, StructArray};
use arrow::datatypes::{Fields, Float32Type, Int8Type, Int32Type, Int64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};

use crate::batches::{Batches, ParquetFile, Wanted};
use crate::row::{Box2, ColorJitter, Crop, EncodedImage, MatchedBox, Row, View, ViewParams};
use crate::shard_writer::{SKIPPED_KEY, Skipped};
use crate::{Error, FORMAT, FORMAT_KEY, Result, columns};

/// Rows decoded from Parquet at a time, with pixels: a few MB.
const ROWS_PER_BATCH: usize = 32;

/// Rows decoded at a time without pixels.
const ROWS_PER_BATCH_WITHOUT_PIXELS: usize = 1024;

/// The columns to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    All,
    /// All but the views' images, which are most of the bytes: every view's `image` is `None`.
    WithoutPixels,
    /// The views' images alone.
    Pixels,
}

impl Columns {
    /// Whether the column of this path in the file is read.
    fn contain(self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::WithoutPixels => !path.contains(".image."),
            Self::Pixels => path.contains(".image."),
        }
    }

    fn rows_per_batch(self) -> usize {
        match self {
            Self::WithoutPixels => ROWS_PER_BATCH_WITHOUT_PIXELS,
            Self::All | Self::Pixels => ROWS_PER_BATCH,
        }
    }
}

/// The images of some of a shard's rows, read beside the other columns.
struct Images {
    batches: Batches,
    /// Those that were read ahead, of one row each.
    images: VecDeque<[Option<EncodedImage>; 2]>,
    /// For each row from the next one on, whether it is one of them.
    is_read: std::vec::IntoIter<bool>,
}

/// Streams the rows of one shard in order, with a few megabytes of memory.
pub struct ShardReader {
    batches: Batches,
    rows: VecDeque<Row>,
    /// Where only some rows come with pixels: theirs.
    images: Option<Images>,
    skipped: Vec<Skipped>,
    total_rows: u64,
    path: PathBuf,
}

impl ShardReader {
    /// Opens a shard and checks that its format and columns are those of this version.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_at(path, 0)
    }

    /// Like [`ShardReader::open`], starting with row `first`.
    pub fn open_at(path: &Path, first: u64) -> Result<Self> {
        Self::begin(path, first, Columns::All)
    }

    /// Like [`ShardReader::open`], but without pixels: every view's `image` is `None`.
    pub fn open_without_pixels(path: &Path) -> Result<Self> {
        Self::begin(path, 0, Columns::WithoutPixels)
    }

    /// Like [`ShardReader::open_at`], with pixels for the rows of whose number in the shard
    /// `has_pixels` says so.
    pub fn open_with_pixels(
        path: &Path,
        first: u64,
        has_pixels: impl Fn(u64) -> bool,
    ) -> Result<Self> {
        let footer = Footer::read(path)?;
        let total = footer.file.rows();
        let is_read: Vec<bool> = (first..total).map(has_pixels).collect();
        if is_read.iter().all(|is_read| *is_read) {
            return Self::over(path, first, Columns::All, footer);
        }
        let selectors = is_read.chunk_by(|a, b| a == b).map(|run| match run[0] {
            true => RowSelector::select(run.len()),
            false => RowSelector::skip(run.len()),
        });
        let selection = std::iter::once(RowSelector::skip(first as usize)).chain(selectors);
        let batches =
            footer.batches(Columns::Pixels, Some(selection.collect::<Vec<_>>().into()))?;
        let images = Images { batches, images: VecDeque::new(), is_read: is_read.into_iter() };
        let rows = Self::over(path, first, Columns::WithoutPixels, footer)?;
        Ok(Self { images: Some(images), ..rows })
    }

    fn begin(path: &Path, first: u64, columns: Columns) -> Result<Self> {
        Self::over(path, first, columns, Footer::read(path)?)
    }

    fn over(path: &Path, first: u64, columns: Columns, footer: Footer) -> Result<Self> {
        let total_rows = footer.file.rows();
        let selection = (first > 0).then(|| {
            let left = total_rows.saturating_sub(first) as usize;
            vec![RowSelector::skip(first as usize), RowSelector::select(left)].into()
        });
        let batches = footer.batches(columns, selection)?;
        let skipped = footer.skipped;
        let (rows, path) = (VecDeque::new(), path.to_owned());
        Ok(Self { batches, rows, images: None, skipped, total_rows, path })
    }

    /// The unreadable images that have no row in this shard.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// All rows of the shard, including those before the first one read.
    pub fn total_rows(&self) -> u64 {
        self.total_rows
    }
}

/// A shard whose format and columns are those of this version, with its footer.
struct Footer {
    file: ParquetFile,
    skipped: Vec<Skipped>,
}

impl Footer {
    fn read(path: &Path) -> Result<Self> {
        let file = ParquetFile::open(path)?;
        let reader = file.metadata();
        let metadata = reader.metadata().file_metadata();
        check_format(path, metadata.key_value_metadata())?;
        let expected = columns::shard_schema();
        let earlier = Fields::from(columns::earlier_shard_fields());
        if ![expected.fields(), &earlier].contains(&reader.schema().fields()) {
            let odd = expected.fields().iter().find(|field| {
                reader.schema().field_with_name(field.name()).ok() != Some(field.as_ref())
            });
            let name = odd.map_or("order of columns", |field| field.name());
            return Err(Error::invalid(path, format!("not a shard of views: {name} differs")));
        }
        let skipped = metadata
            .key_value_metadata()
            .and_then(|pairs| pairs.iter().find(|pair| pair.key == SKIPPED_KEY))
            .and_then(|pair| pair.value.as_deref())
            .ok_or_else(|| Error::invalid(path, format!("{SKIPPED_KEY} is missing")))?;
        let skipped = serde_json::from_str(skipped)
            .map_err(|error| Error::invalid(path, format!("{SKIPPED_KEY}: {error}")))?;
        Ok(Self { file, skipped })
    }

    /// Some rows of these columns, or all.
    fn batches(&self, columns: Columns, rows: Option<RowSelection>) -> Result<Batches> {
        let leaves = self.file.metadata().parquet_schema();
        let is_read = |&leaf: &usize| columns.contain(&leaves.column(leaf).path().string());
        let mask = ProjectionMask::leaves(leaves, (0..leaves.num_columns()).filter(is_read));
        let wanted = Wanted::all_rows(mask, columns.rows_per_batch());
        self.file.read(Wanted { rows, ..wanted })
    }
}

impl Iterator for ShardReader {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        while self.rows.is_empty() {
            let batch = match self.batches.next()? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(error)),
            };
            match from_record_batch(&batch) {
                Ok(rows) => self.rows = rows,
                Err(reason) => return Some(Err(Error::invalid(&self.path, reason))),
            }
        }
        let mut row = self.rows.pop_front()?;
        if let Some(images) = &mut self.images
            && images.is_read.next() == Some(true)
        {
            match images.next(&self.path) {
                Ok(images) => [row.view1.image, row.view2.image] = images,
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(row))
    }
}

impl Images {
    /// The images of the next row that has them.
    fn next(&mut self, path: &Path) -> Result<[Option<EncodedImage>; 2]> {
        loop {
            if let Some(images) = self.images.pop_front() {
                return Ok(images);
            }
            let missing = || Error::invalid(path, "fewer images than rows".to_owned());
            let batch = self.batches.next().ok_or_else(missing)??;
            let image = |view: usize, row: usize| {
                image_at(batch.column(view).as_struct().column(0).as_struct(), row)
            };
            self.images.extend((0..batch.num_rows()).map(|row| [image(0, row), image(1, row)]));
        }
    }
}

/// The image of a row; `None` in a recipe.
fn image_at(images: &StructArray, row: usize) -> Option<EncodedImage> {
    images.is_valid(row).then(|| EncodedImage {
        bytes: images.column(0).as_binary::<i32>().value(row).to_vec(),
        path: images.column(1).as_string::<i32>().value(row).to_owned(),
    })
}

/// Checks the format number among a file's key-value metadata.
pub(crate) fn check_format(
    path: &Path,
    metadata: Option<&Vec<parquet::file::metadata::KeyValue>>,
) -> Result<()> {
    let found = metadata
        .and_then(|pairs| pairs.iter().find(|pair| pair.key == FORMAT_KEY))
        .and_then(|pair| pair.value.clone())
        .unwrap_or_else(|| "none".to_owned());
    if found == FORMAT.to_string() {
        Ok(())
    } else {
        Err(Error::Format { path: path.to_owned(), found, expected: FORMAT })
    }
}

// The schema was compared on opening, so the downcasts below cannot fail.
fn from_record_batch(batch: &RecordBatch) -> std::result::Result<VecDeque<Row>, String> {
    let image_id = batch.column(0).as_primitive::<Int64Type>();
    let path = batch.column(1).as_string::<i32>();
    let label = batch.column(2).as_primitive::<Int32Type>();
    let width = batch.column(3).as_primitive::<Int32Type>();
    let height = batch.column(4).as_primitive::<Int32Type>();
    let views = [
        ViewColumns::new(batch.column(5).as_struct()),
        ViewColumns::new(batch.column(6).as_struct()),
    ];
    let boxes = batch.column(7).as_list::<i32>();
    let corners: Vec<&[f32]> = boxes
        .values()
        .as_struct()
        .columns()
        .iter()
        .map(|side| &side.as_fixed_size_list().values().as_primitive::<Float32Type>().values()[..])
        .collect();
    let corner = |side: usize, index: usize| {
        let values = &corners[side][4 * index..4 * index + 4];
        Box2 { x0: values[0], y0: values[1], x1: values[2], y1: values[3] }
    };
    (0..batch.num_rows())
        .map(|row| {
            let range =
                boxes.value_offsets()[row] as usize..boxes.value_offsets()[row + 1] as usize;
            Ok(Row {
                image_id: image_id.value(row),
                path: path.value(row).to_owned(),
                label: label.is_valid(row).then(|| label.value(row)),
                source_width: width.value(row),
                source_height: height.value(row),
                view1: views[0].view(row)?,
                view2: views[1].view(row)?,
                boxes: range
                    .map(|index| MatchedBox {
                        source: corner(0, index),
                        view1: corner(1, index),
                        view2: corner(2, index),
                    })
                    .collect(),
            })
        })
        .collect()
}

/// The columns of one view. The image may be missing, and in shards of earlier builds
/// [`columns::ADDED_FIELDS`].
struct ViewColumns<'a> {
    image: Option<&'a StructArray>,
    crop: &'a StructArray,
    jitter: &'a StructArray,
    flip: &'a BooleanArray,
    vertical_flip: Option<&'a BooleanArray>,
    turns: Option<&'a Int8Array>,
    grayscale: &'a BooleanArray,
    blur: &'a Float32Array,
    solarize: &'a BooleanArray,
}

impl<'a> ViewColumns<'a> {
    fn new(all: &'a StructArray) -> Self {
        let field = |name: &str| all.column_by_name(name).expect("the schema was compared");
        Self {
            image: all.column_by_name("image").map(AsArray::as_struct),
            crop: field("crop").as_struct(),
            flip: field("flip").as_boolean(),
            vertical_flip: all.column_by_name("vertical_flip").map(AsArray::as_boolean),
            turns: all.column_by_name("turns").map(AsArray::as_primitive::<Int8Type>),
            jitter: field("jitter").as_struct(),
            grayscale: field("grayscale").as_boolean(),
            blur: field("blur").as_primitive(),
            solarize: field("solarize").as_boolean(),
        }
    }

    fn view(&self, row: usize) -> std::result::Result<View, String> {
        let crop = |side: usize| self.crop.column(side).as_primitive::<Int32Type>().value(row);
        let image = self.image.and_then(|images| image_at(images, row));
        let jitter = if self.jitter.is_valid(row) { Some(self.jitter_at(row)?) } else { None };
        let turns = self.turns.map_or(0, |turns| turns.value(row));
        if !(0..4).contains(&turns) {
            return Err(format!("{turns} quarter turns, where 0 to 3 are possible"));
        }
        Ok(View {
            image,
            params: ViewParams {
                crop: Crop { x: crop(0), y: crop(1), width: crop(2), height: crop(3) },
                flip: self.flip.value(row),
                vertical_flip: self.vertical_flip.is_some_and(|flips| flips.value(row)),
                turns,
                jitter,
                grayscale: self.grayscale.value(row),
                blur: self.blur.is_valid(row).then(|| self.blur.value(row)),
                solarize: self.solarize.value(row),
            },
        })
    }

    fn jitter_at(&self, row: usize) -> std::result::Result<ColorJitter, String> {
        let strength =
            |index: usize| self.jitter.column(index).as_primitive::<Float32Type>().value(row);
        let order = self.jitter.column(4).as_string::<i32>().value(row);
        Ok(ColorJitter {
            brightness: strength(0),
            contrast: strength(1),
            saturation: strength(2),
            hue: strength(3),
            order: ColorJitter::parse_order(order)
                .ok_or_else(|| format!("jitter order {order:?} is no permutation of \"bcsh\""))?,
        })
    }
}
