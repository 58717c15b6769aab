use std::fs;
use std::io;
use std::path::Path;

use scrl_schemas::{Exif, Source, SourceOptions, SourcesReader};

use super::{Examine, SourceReader, Sources};
use crate::Result;

mod again;
mod archive;
mod folder;
mod inputs;
mod lists;
mod tables;
mod zip;

/// What is said of images.
fn notices(images: &Path) -> Vec<String> {
    find(images).unwrap().notices().to_vec()
}

/// Why images are refused.
fn refusal(images: &Path) -> String {
    find(images).unwrap_err().to_string()
}

fn paths(sources: &Sources) -> Vec<String> {
    all(sources).into_iter().map(|source| source.path).collect()
}

/// The class of each image, by its name.
fn class_names(sources: &Sources) -> Vec<Option<String>> {
    all(sources).into_iter().map(|source| source.class.map(|class| class.1.to_string())).collect()
}

fn write_image(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::new(5, 4).save(path).unwrap();
}

fn find(images: &Path) -> Result<Sources> {
    Sources::find(images, &SourceOptions::default(), Exif::Ignore, Examine::Header)
}

fn find_with(images: &Path, options: &SourceOptions) -> Result<Sources> {
    Sources::find(images, options, Exif::Ignore, Examine::Header)
}

/// Options that name columns.
fn columns(image: Option<&str>, label: Option<&str>) -> SourceOptions {
    SourceOptions {
        image_column: image.map(str::to_owned),
        label_column: label.map(str::to_owned),
        ..SourceOptions::default()
    }
}

/// The path and the class of each image.
fn classes(sources: &Sources) -> Vec<(String, Option<(i32, String)>)> {
    let class = |source: Source| source.class.map(|(label, name)| (label, name.to_string()));
    all(sources).into_iter().map(|source| (source.path.clone(), class(source))).collect()
}

fn all(sources: &Sources) -> Vec<Source> {
    (0..sources.len()).map(|id| sources.source(id)).collect()
}

fn png() -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    image::RgbImage::new(6, 3).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
