//! Embeddings of images or boxes as a table, and a page to look at (`scrl-embed`).
//!
//! ```text
//! options ─ examples (images, or boxes in them) ─ embeddings ─┬─ pca ─ table ─ OUT.parquet
//!                                                             ├─ duplicates ── pairs and a list
//!                                                             └─ page ──────── FILE.html
//! ```

mod duplicates;
mod examples;
mod options;
mod page;
mod pca;
mod table;

use std::fs;
use std::path::PathBuf;

use scrl_cli::Reporter;
use scrl_schemas::store;

pub use duplicates::Duplicates;
pub use options::{EmbedConfig, EmbedOptions};

use super::features::explain_out_of_memory;
use super::frozen_backbone::{BackboneSource, FrozenBackbone};
use super::options::BackboneConfig;
use crate::model::Arch;
use crate::{Error, Result};
use examples::Examples;
use page::{FeatureMap, PageArm, PageInput};

/// Principal components in the table.
const COMPONENTS: usize = 3;

/// Images whose feature maps the page shows.
const MAPS: usize = 20;

/// An image or box of the table.
#[derive(Clone, Debug, PartialEq)]
struct EmbeddedRow {
    /// Below the folder of the images.
    path: String,
    /// x0, y0, x1, y1 in pixels of the image; `None` for images.
    corners: Option<[f32; 4]>,
    /// The name of its class.
    class: Option<String>,
    /// The number of its image among the examples; boxes of one image share it.
    image: u32,
}

/// What was written.
pub struct Embedded {
    /// The backbone's architecture.
    pub arch: Arch,
    /// Rows of the table.
    pub rows: usize,
    /// Elements of an embedding.
    pub channels: usize,
    /// The duplicates, if they were looked for.
    pub duplicates: Option<Duplicates>,
}

/// Embeds images or boxes, and writes what `config` asks for. A stopped run resumes from the
/// features in `OUT.features`, a folder that is removed at the end.
///
/// # Errors
/// If a file cannot be read or written, or the images or annotations are unusable;
/// [`Error::Stopped`] if the program is asked to stop.
pub fn embed(config: &EmbedConfig, reporter: &Reporter) -> Result<Embedded> {
    run(config, reporter).map_err(explain_out_of_memory)
}

fn run(config: &EmbedConfig, reporter: &Reporter) -> Result<Embedded> {
    let cache = features_folder(config);
    // Weights that cannot be read are refused before all images are decoded.
    let backbone = load(&config.backbone, reporter)?;
    let (arch, channels) = (backbone.arch(), backbone.arch().channels());
    let beside = config.against.as_ref().map(|against| {
        let source = match &**against {
            "random" => BackboneSource::Random(arch, config.backbone.seed),
            path => BackboneSource::File(path.into(), config.network),
        };
        let beside = BackboneConfig { source, ..config.backbone.clone() };
        Ok::<_, Error>((load(&beside, reporter)?, beside))
    });
    let beside = beside.transpose()?;
    let examples = Examples::find(config, reporter)?;
    let rows = examples.rows();
    let embed = |backbone: &FrozenBackbone, config: &BackboneConfig, folder: &str| {
        examples.embed(backbone, config, &cache.join(folder), reporter)
    };
    let embeddings = embed(&backbone, &config.backbone, "0")?;
    let zeros = embeddings.chunks(channels).filter(|row| row.iter().all(|x| *x == 0.0)).count();
    if zeros > 0 && config.boxes.is_some() {
        reporter.say(format_args!(
            "note: {zeros} of {} boxes have embeddings of zeros, as RoIAlign gives smaller boxes \
             than a cell of the last map at the right or lower edge; a larger --size has fewer",
            rows.len()
        ));
    }
    let pca = pca::components(&embeddings, channels, COMPONENTS)?.project(&embeddings);
    let metadata = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("checkpoint", config.backbone.source.to_string()),
        ("weights_crc32c", format!("{:08x}", backbone.checksum()?)),
        ("arch", arch.to_string()),
        ("size", config.backbone.size.to_string()),
    ];
    table::write(&config.out, &rows, (&embeddings, channels), &pca, &metadata)?;
    let duplicates = config.duplicates.map(|least| {
        let to = (&*config.out, |row: &EmbeddedRow| examples.file(row));
        duplicates::write(&rows, (&embeddings, channels), least, to, reporter)
    });
    let duplicates = duplicates.transpose()?;
    if let Some(html) = &config.html {
        let mut arms = vec![(backbone, embeddings)];
        if let Some((backbone, config)) = beside {
            let embeddings = embed(&backbone, &config, "1")?;
            arms.push((backbone, embeddings));
        }
        let names = [Some(config.backbone.source.to_string()), config.against.clone()];
        let names = names.into_iter().flatten().map(|name| short_name(&name));
        let text = draw(config, &examples, &rows, arms.into_iter().zip(names), reporter)?;
        store::write(html, text.as_bytes())?;
    }
    fs::remove_dir_all(&cache).map_err(Error::io(&cache))?;
    Ok(Embedded { arch, rows: rows.len(), channels, duplicates })
}

fn load(config: &BackboneConfig, reporter: &Reporter) -> Result<FrozenBackbone> {
    FrozenBackbone::new(&config.source, &config.device, reporter)
}

/// The folder of features on the way.
fn features_folder(config: &EmbedConfig) -> PathBuf {
    let mut name = config.out.clone().into_os_string();
    name.push(".features");
    name.into()
}

/// The end of a path: the file, and the folder that tells it from others of its name.
fn short_name(path: &str) -> String {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    parts[parts.len().saturating_sub(2)..].join("/")
}

/// The page.
fn draw(
    config: &EmbedConfig,
    examples: &Examples,
    rows: &[EmbeddedRow],
    arms: impl Iterator<Item = ((FrozenBackbone, Vec<f32>), String)>,
    reporter: &Reporter,
) -> Result<String> {
    let mut maps: Vec<FeatureMap> = Vec::new();
    let images = examples.images();
    let shown: Vec<u32> =
        (0..MAPS.min(images)).map(|i| (i * images / MAPS.min(images)) as u32).collect();
    let mut page_arms = Vec::new();
    for ((backbone, embeddings), name) in arms {
        for (number, &image) in shown.iter().enumerate() {
            let input = examples.input(image)?;
            let map = backbone.map(&input)?;
            if maps.len() <= number {
                maps.push(FeatureMap { image: input, arms: Vec::new() });
            }
            maps[number].arms.push(map);
        }
        page_arms.push(PageArm { name, embeddings, channels: backbone.arch().channels() });
    }
    let input = PageInput {
        title: config.images.display().to_string(),
        rows,
        arms: &page_arms,
        thumbnails: &|row| examples.thumbnail(&rows[row]),
        maps: &maps,
    };
    page::write_page(&input, reporter)
}
