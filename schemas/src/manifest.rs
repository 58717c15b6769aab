//! `dataset.toml`: the images and options that a shards folder was made from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, FORMAT, Levels, Result, StepOptions, named_choice, store};

/// The content of `dataset.toml`. It is written before the first shard and compared on every later
/// start, so that shards of different options never mix in one folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// The writer's name and version, such as `scrl-prep 0.1.0`.
    pub writer: String,
    /// The absolute path of the images: a folder, an archive, a Parquet file or a list of paths.
    pub images: String,
    /// The seed of every random number.
    pub seed: u64,
    /// The number of planned epochs: the length of the trainer's schedule.
    pub epochs: u32,
    /// Every option that decides the content of the rows, with defaults and preset resolved.
    pub options: PrepOptions,
    /// The numbers of images, classes and shards.
    pub counts: Counts,
}

/// The numbers that follow from sources and options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Images found, readable or not: the rows of `sources.parquet`.
    pub images: u64,
    /// Classes found; 0 without class folders.
    pub classes: u64,
    /// Shards of each epoch.
    #[serde(rename = "parts_per_epoch")]
    pub shards_per_epoch: u64,
}

/// The options of `scrl-prep` that decide the content of the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PrepOptions {
    /// The preset, which gives the defaults of other options.
    pub preset: Preset,
    /// The encoding of the views.
    pub views: ViewEncoding,
    /// JPEG quality, 1 to 100; without effect on other encodings.
    pub quality: u8,
    /// Side of a view in pixels.
    pub size: u32,
    /// Largest number of matched boxes of a row.
    pub boxes: u32,
    /// Shortest side of a box in pixels of the view that magnifies it least.
    pub min_box: u32,
    /// Largest IoU of two boxes of a row; `None` for no limit.
    #[serde(serialize_with = "number_or_none", deserialize_with = "parse_number_or_none")]
    pub iou: Option<f32>,
    /// What to do if every candidate exceeds the IoU limit.
    pub iou_fallback: IouFallback,
    /// Box jitter of view 2: each side moves by up to this fraction of the box's own size; where it
    /// is infinite, the box lies anywhere in view 2.
    pub box_jitter: f32,
    /// Smallest and largest fraction of the image's area in a crop.
    pub crop_scale: [f32; 2],
    /// The kind of blur.
    pub blur: BlurKind,
    /// The sampler of the boxes.
    pub box_sampler: BoxSampler,
    /// The steps after the crop, where they are not the paper's.
    #[serde(flatten)]
    pub steps: StepOptions,
    /// Whether the EXIF orientation is applied.
    pub exif: Exif,
    /// Whether images with broken data are kept as far as they decode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lenient: bool,
    /// How samples of more than 8 bits become levels.
    #[serde(default, skip_serializing_if = "Levels::is_full")]
    pub levels: Levels,
    /// The window of [`Levels::Auto`]; `None` for other levels, and where no image has more than 8
    /// bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<[f64; 2]>,
    /// The most pixels of an image; `None` for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pixels: Option<u64>,
    /// Which columns and classes of the images are taken.
    #[serde(flatten)]
    pub sources: SourceOptions,
    /// Images of a shard, unreadable ones included.
    pub rows_per_shard: u32,
    /// Consecutive epochs made in one pass over the sources, each image decoded once. The same
    /// images are in a shard together in all of them, but shards and rows are permuted anew.
    pub epochs_per_pass: u32,
}

impl PrepOptions {
    /// The levels and their window in words, where they are not the default.
    pub fn levels_in_words(&self) -> Option<String> {
        match (self.levels, self.window) {
            (Levels::Full, _) => None,
            (Levels::Auto, Some(window)) => Some(format!("auto, {}", Levels::Window(window))),
            (levels, _) => Some(levels.to_string()),
        }
    }
}

/// What is taken of that which was given as images. Written only where it is not the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceOptions {
    /// The column of a table that holds the images; found by its type if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    /// The column of a table that holds the classes, or `none`; found by its name if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// Where the classes of images in folders come from.
    #[serde(default, skip_serializing_if = "ClassSource::is_default")]
    pub classes: ClassSource,
}

impl ClassSource {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

named_choice! {
    /// Where the classes of images come from.
    #[derive(Default)]
    pub enum ClassSource {
        /// The first folder of an image's path, or what its archive, table or list says.
        #[default]
        Folder = "folder",
        /// No image has a class.
        None = "none",
    }
}

named_choice! {
    /// Which defaults other options have.
    pub enum Preset {
        /// The paper's text.
        Paper = "paper",
        /// The authors' code, where it differs.
        Reference = "reference",
        /// Images without an up: views are flipped and turned in all directions.
        Aerial = "aerial",
        /// Images whose channels are no colors: nothing mixes them.
        Gray = "gray",
    }
}

named_choice! {
    /// How a view's pixels are stored.
    pub enum ViewEncoding {
        /// Lossless WebP.
        Webp = "webp",
        /// JPEG without chroma subsampling.
        Jpeg = "jpeg",
        /// Not at all: the trainer renders them from the source.
        Recipe = "recipe",
    }
}

named_choice! {
    /// The kind of blur.
    pub enum BlurKind {
        /// Gaussian, σ ~ U(0.1, 2).
        Gaussian = "gaussian",
        /// Bicubic down by a factor drawn from {1.1, 1.2, 1.5} and up again.
        Resize = "resize",
        /// None.
        None = "none",
    }
}

named_choice! {
    /// How box candidates are sampled.
    pub enum BoxSampler {
        /// Uniform in size and place (Eq. 1).
        Uniform = "uniform",
        /// Inside a cell of a random grid, as in the authors' code.
        Grid = "grid",
        /// A point, without size (VADeR, section 2).
        Point = "point",
    }
}

named_choice! {
    /// What happens if every candidate for another box overlaps too much.
    pub enum IouFallback {
        /// The row gets fewer boxes.
        Fewer = "fewer",
        /// The row gets the last candidate.
        KeepLast = "keep-last",
    }
}

named_choice! {
    /// Whether the EXIF orientation is applied.
    pub enum Exif {
        /// Pixels as stored.
        Ignore = "ignore",
        /// The image is turned upright first.
        Apply = "apply",
    }
}

/// TOML has no null: `iou = "none"` means no limit.
fn number_or_none<S: Serializer>(
    value: &Option<f32>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match value {
        Some(number) => serializer.serialize_f32(*number),
        None => serializer.serialize_str("none"),
    }
}

fn parse_number_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<f32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Number(f32),
        Text(String),
    }
    match Value::deserialize(deserializer)? {
        Value::Number(number) => Ok(Some(number)),
        Value::Text(text) if text == "none" => Ok(None),
        Value::Text(text) => {
            Err(serde::de::Error::custom(format!("{text:?} is neither a number nor \"none\"")))
        }
    }
}

impl Manifest {
    /// Reads `dataset.toml`.
    ///
    /// # Errors
    /// [`Error::Format`] for another format, which is checked first; otherwise [`Error::Invalid`]
    /// with the invalid line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = store::read_to_string(path).map_err(Error::io(path))?;
        let table: toml::Table = toml::from_str(&text)
            .map_err(|error| Error::invalid(path, error.to_string().trim()))?;
        let found = table.get("format").map_or("none".to_owned(), ToString::to_string);
        if found != FORMAT.to_string() {
            return Err(Error::Format { path: path.to_owned(), found, expected: FORMAT });
        }
        table
            .try_into()
            .map_err(|error: toml::de::Error| Error::invalid(path, error.to_string().trim()))
    }

    /// Writes `dataset.toml` atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        store::write(path, self.to_toml().as_bytes())
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a manifest holds only plain values")
    }

    /// The differences between this manifest and `other`, each as `name: this → other`; empty if
    /// both describe the same shards. The writer's version and the path of the images are ignored,
    /// as no row depends on them.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let flat = |manifest: &Self| -> BTreeMap<String, String> {
            // By way of the text, in which a number of single precision is the decimal given.
            let mut table: toml::Table =
                toml::from_str(&manifest.to_toml()).expect("a manifest is valid TOML");
            table.remove("writer");
            table.remove("images");
            table
                .into_iter()
                .flat_map(|(name, value)| match value {
                    toml::Value::Table(inner) => {
                        inner.into_iter().map(|(name, value)| (name, value.to_string())).collect()
                    }
                    value => vec![(name, value.to_string())],
                })
                .collect()
        };
        let (mine, theirs) = (flat(self), flat(other));
        let value = |table: &BTreeMap<String, String>, name: &String| {
            table.get(name).map_or("not set".to_owned(), String::clone)
        };
        let names: BTreeSet<_> = mine.keys().chain(theirs.keys()).collect();
        names
            .into_iter()
            .filter(|&name| mine.get(name) != theirs.get(name))
            .map(|name| format!("{name}: {} → {}", value(&mine, name), value(&theirs, name)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            writer: "scrl-prep 0.1.0".into(),
            images: "/images".into(),
            seed: 7,
            epochs: 3,
            options: PrepOptions {
                preset: Preset::Paper,
                views: ViewEncoding::Webp,
                quality: 95,
                size: 224,
                boxes: 10,
                min_box: 32,
                iou: Some(0.5),
                iou_fallback: IouFallback::Fewer,
                box_jitter: 0.0,
                crop_scale: [0.2, 1.0],
                blur: BlurKind::Gaussian,
                box_sampler: BoxSampler::Uniform,
                steps: StepOptions::PAPER,
                exif: Exif::Ignore,
                lenient: false,
                levels: Levels::Full,
                window: None,
                max_pixels: None,
                sources: SourceOptions::default(),
                rows_per_shard: 512,
                epochs_per_pass: 4,
            },
            counts: Counts { images: 10, classes: 0, shards_per_epoch: 1 },
        }
    }

    #[test]
    fn round_trip_with_and_without_an_iou_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dataset.toml");
        for (iou, box_jitter, levels) in
            [(Some(0.5), 0.0, Levels::Full), (None, f32::INFINITY, Levels::Auto)]
        {
            let mut written = manifest();
            (written.options.iou, written.options.box_jitter) = (iou, box_jitter);
            written.options.levels = levels;
            written.options.window = (levels == Levels::Auto).then_some([-0.1, 1.0 / 3.0]);
            written.write(&path).unwrap();
            assert_eq!(Manifest::read(&path).unwrap(), written);
        }
    }

    #[test]
    fn another_format_is_named_before_unknown_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dataset.toml");
        fs::write(&path, "format = 2\nnovelty = true\n").unwrap();
        let message = Manifest::read(&path).unwrap_err().to_string();
        assert!(message.contains("format 2, but this version reads format 1"), "{message}");
    }

    #[test]
    fn differences_name_the_option() {
        let mut other = manifest();
        other.writer = "scrl-prep 0.2.0".into();
        assert_eq!(manifest().differences(&other), Vec::<String>::new());
        other.options.size = 96;
        other.options.iou = None;
        assert_eq!(manifest().differences(&other), ["iou: 0.5 → \"none\"", "size: 224 → 96"]);
        // Written only where it is set, so that manifests without it stay as they are.
        let mut lenient = manifest();
        lenient.options.lenient = true;
        assert_eq!(manifest().differences(&lenient), ["lenient: not set → true"]);
        let mut turned = manifest();
        turned.options.steps.quarter_turns = 0.7;
        turned.options.crop_scale = [0.3, 1.0];
        turned.options.box_jitter = f32::INFINITY;
        assert_eq!(
            manifest().differences(&turned),
            [
                "box-jitter: 0.0 → inf",
                "crop-scale: [0.2, 1.0] → [0.3, 1.0]",
                "quarter-turns: not set → 0.7"
            ]
        );
        let mut windowed = manifest();
        windowed.options.levels = Levels::Window([0.0, 4095.0]);
        let differences = windowed.differences(&manifest());
        assert_eq!(differences, ["levels: \"0..4095\" → not set"]);
        assert!(
            ["levels", "window", "max-pixels"]
                .iter()
                .all(|key| !manifest().to_toml().contains(key))
        );
    }
}
