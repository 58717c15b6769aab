//! The options of scrl-embed, and the configuration that they resolve to.

use std::path::PathBuf;

use clap::Args;
use scrl_schemas::store;

use crate::Result;
use crate::error::refuse;
use crate::evaluate::options::{BackboneConfig, BackboneOptions, OF_BOXES, OF_IMAGES};
use crate::weights::Branch;

/// Every option that decides what is written.
#[derive(Args, Clone, Debug)]
pub struct EmbedOptions {
    /// Images: a folder, an archive, a table, a list, or whatever else scrl-prep reads
    pub images: PathBuf,

    /// The table to write: a .parquet file with a row for each image or box
    #[arg(value_name = "OUT.parquet", value_parser = parse_table)]
    pub out: PathBuf,

    /// A row for each of these boxes, in COCO's format, instead of each image
    #[arg(long, value_name = "FILE.json")]
    pub boxes: Option<PathBuf>,

    /// Also write a page with a map of the embeddings, nearest neighbors, and feature maps
    #[arg(long, value_name = "FILE.html", value_parser = parse_file)]
    pub html: Option<PathBuf>,

    /// Weights beside which the page shows those of --checkpoint, or random
    #[arg(long, value_name = "FILE|random", requires = "html")]
    pub against: Option<String>,

    /// Also find images that are nearly equal: with a cosine similarity of at least T, such as 0.98
    #[arg(long, value_name = "T", value_parser = parse_similarity)]
    pub duplicates: Option<f32>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub backbone: BackboneOptions,
}

fn parse_similarity(text: &str) -> std::result::Result<f32, String> {
    let similarity = text.parse().ok().filter(|t: &f32| *t > 0.0 && *t <= 1.0);
    similarity.ok_or_else(|| "give a number above 0 and at most 1, such as 0.98".to_owned())
}

fn parse_table(text: &str) -> std::result::Result<PathBuf, String> {
    match text.ends_with(".parquet") {
        true => parse_file(text),
        false => Err("the name of the table ends in .parquet".to_owned()),
    }
}

/// A local file whose folder is there, so that no work is lost.
fn parse_file(text: &str) -> std::result::Result<PathBuf, String> {
    let file = PathBuf::from(text);
    if store::is_url(&file) {
        return Err("give a local file; copy it into the object store afterwards".to_owned());
    }
    if file.is_dir() {
        return Err("is a folder; give the name of a file".to_owned());
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder.filter(|folder| !folder.is_dir()) {
        Some(folder) => Err(format!("there is no folder {}; make it first", folder.display())),
        None => Ok(file),
    }
}

/// The resolved options.
#[derive(Clone, Debug)]
pub struct EmbedConfig {
    /// The images.
    pub images: PathBuf,
    /// The table.
    pub out: PathBuf,
    /// Boxes in COCO's format.
    pub boxes: Option<PathBuf>,
    /// The page.
    pub html: Option<PathBuf>,
    /// The file of weights that the page shows beside the others, or `random`.
    pub against: Option<String>,
    /// The least similarity of duplicates.
    pub duplicates: Option<f32>,
    /// Which network of its file and of the other one, if not the usual one.
    pub network: Option<Branch>,
    /// The backbone and its inputs.
    pub backbone: BackboneConfig,
}

impl EmbedOptions {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for options that exclude each other, and for a
    /// device that cannot be used or takes less.
    pub fn resolve(self) -> Result<EmbedConfig> {
        if self.boxes.is_some() && self.duplicates.is_some() {
            return refuse("duplicates", "compares whole images; leave --boxes out");
        }
        let defaults = if self.boxes.is_some() { &OF_BOXES } else { &OF_IMAGES };
        Ok(EmbedConfig {
            images: self.images,
            out: self.out,
            boxes: self.boxes,
            html: self.html,
            against: self.against,
            duplicates: self.duplicates,
            network: self.backbone.network,
            backbone: self.backbone.resolve(defaults)?,
        })
    }
}
