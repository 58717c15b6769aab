//! Draws scenes of several textured objects each, with their boxes in COCO's format: data for
//! training and evaluation without photos. The same seed and size give the same bytes.
//!
//! ```text
//! cargo run --release -p scrl-preprocess --example make_scenes -- \
//!     OUT [--images 96] [--val 32] [--size 320x240] [--seed 0] [--single] [--hues]
//! OUT/train2017/000000000001.jpg …   OUT/instances_train2017.json
//! OUT/val2017/000000000001.jpg …     OUT/instances_val2017.json
//! OUT/train2017/striped-disc/000000000001.jpg …   with --single
//! ```

mod background;
mod canvas;
mod coco;
mod noise;
mod objects;
mod scene;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use scrl_preprocess::views::rng::{Purpose, Stream};

use canvas::Size;
use coco::Dataset;
use scene::{OBJECTS, Scene};

/// A common quality of photos from a camera.
const JPEG_QUALITY: u8 = 92;

/// Draws scenes of several textured objects each, with their boxes in COCO's format.
#[derive(Parser)]
#[command(name = "make_scenes", max_term_width = 100)]
struct Arguments {
    /// Folder to write, created if missing
    out: PathBuf,
    /// Number of scenes for training
    #[arg(long, value_name = "N", default_value_t = 96)]
    images: u32,
    /// Number of scenes for evaluation
    #[arg(long, value_name = "N", default_value_t = 32)]
    val: u32,
    /// Width and height of a scene in pixels
    #[arg(long, value_name = "WxH", default_value = "320x240")]
    size: Size,
    /// Seed of every random number
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// One object per scene, in a folder named after the object's class
    #[arg(long)]
    single: bool,
    /// Each class has a hue of its own; otherwise colors do not depend on the class
    #[arg(long)]
    hues: bool,
}

fn main() -> Result<()> {
    let Arguments { out, images, val, size, seed, single, hues } = Arguments::parse();
    for (number, (split, count)) in
        [("train2017", images), ("val2017", val)].into_iter().enumerate()
    {
        let folder = out.join(split);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let scenes = (1..=count)
            .into_par_iter()
            .map(|id| {
                let mut random =
                    Stream::new(seed, number as u32, u64::from(id), Purpose::SceneDrawing);
                let scene =
                    Scene::draw(size, if single { [1, 1] } else { OBJECTS }, hues, &mut random);
                let name = coco::file_name(id, scene.objects.first().filter(|_| single));
                write_jpeg(&folder.join(&name), &scene)?;
                Ok((name, scene.objects))
            })
            .collect::<Result<Vec<_>>>()?;
        let boxes: usize = scenes.iter().map(|(_, objects)| objects.len()).sum();
        let list = out.join(format!("instances_{split}.json"));
        let json = serde_json::to_string(&Dataset::new(size, &scenes))?;
        fs::write(&list, json + "\n").with_context(|| list.display().to_string())?;
        println!("{count} scenes with {boxes} objects: {}, {}", folder.display(), list.display());
    }
    Ok(())
}

fn write_jpeg(path: &Path, scene: &Scene) -> Result<()> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(&scene.to_image())?;
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, bytes).with_context(|| path.display().to_string())
}
