//! Boxes of objects, from annotation files in COCO's format (`instances_train2017.json`).

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_preprocess::images::ImageSize;
use serde::Serialize;

use super::coco::{Annotation, AnnotationFile, Category, Id, ListedImage};
use super::image_folder::{Found, ImageFolder};
use super::inputs::ResizedImages;
use crate::{Error, Result};

/// The shortest side of a box that is used, in pixels of the image. COCO has boxes of no width.
const MIN_SIDE: f64 = 1.0;

/// Images that are checked at a time, by all threads together.
const BLOCK: usize = 64;

/// A box around an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabeledBox {
    /// x0, y0, x1, y1 in pixels of the image, clipped to it.
    pub corners: [f64; 4],
    /// The index of its class in [`AnnotatedImages::classes`].
    pub class: usize,
}

/// An image with at least one box.
#[derive(Clone, Debug, PartialEq)]
pub struct AnnotatedImage {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Width and height in pixels.
    pub size: ImageSize,
    /// In the order of the annotation file.
    pub boxes: Vec<LabeledBox>,
}

/// Counts of boxes and images that are left out, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Boxes around crowds.
    pub crowds: usize,
    /// Boxes outside their image.
    pub outside: usize,
    /// Boxes under a pixel wide or high within their image, also by a size of 0 or less.
    pub tiny: usize,
    /// Annotations without four finite numbers as `bbox`.
    pub without_bbox: usize,
    /// Boxes of categories that are not listed.
    pub without_category: usize,
    /// Boxes of images that are not listed.
    pub without_image: usize,
    /// Boxes of images that are missing or unreadable.
    pub of_unusable_images: usize,
    /// Images without any usable box.
    pub images_without_boxes: usize,
    /// Images that are not in the folder.
    pub images_missing: usize,
    /// Images that cannot be decoded.
    pub images_unreadable: usize,
    /// Images whose id is listed again further down; the last one counts.
    pub images_listed_twice: usize,
    /// The first annotation that is left out for a fault of its own.
    #[serde(skip)]
    pub example: Option<String>,
}

impl LeftOut {
    /// Such as `3 boxes around crowds, 1 images missing`; `None` where nothing is left out.
    pub fn describe(&self) -> Option<String> {
        let counts = [
            (self.crowds, "boxes around crowds"),
            (self.outside, "boxes outside their images"),
            (self.tiny, "boxes of under a pixel"),
            (self.without_bbox, "annotations without a bbox of four numbers"),
            (self.without_category, "boxes of categories that are not listed"),
            (self.without_image, "boxes of images that are not listed"),
            (self.of_unusable_images, "boxes of unusable images"),
            (self.images_without_boxes, "images without boxes"),
            (self.images_missing, "images missing"),
            (self.images_unreadable, "images unreadable"),
            (self.images_listed_twice, "images listed again under the same id"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let reasons: Vec<String> = counts.map(|(n, reason)| format!("{n} {reason}")).collect();
        let example = self.example.as_ref().map(|example| format!("; such as {example}"));
        (!reasons.is_empty()).then(|| reasons.join(", ") + &example.unwrap_or_default())
    }

    /// Adds the counts of an image.
    fn add(&mut self, other: Self) {
        self.crowds += other.crowds;
        self.outside += other.outside;
        self.tiny += other.tiny;
        self.without_bbox += other.without_bbox;
        self.without_category += other.without_category;
        self.example = self.example.take().or(other.example);
    }

    /// Keeps an annotation as the example, if it is the first one.
    fn keep_example(&mut self, annotation: &Annotation, fault: &str) {
        let Annotation { id, image_id, bbox, .. } = annotation;
        self.example.get_or_insert_with(|| {
            let number = id.as_ref().map_or("one".to_owned(), |id| format!("annotation {id}"));
            let image = image_id.as_ref().map(|id| format!(" of image {id}")).unwrap_or_default();
            let bbox = bbox.map(|bbox| format!(", bbox {bbox:?}")).unwrap_or_default();
            format!("{number}{image}{bbox}: {fault}")
        });
    }
}

/// The images of a folder that have boxes.
#[derive(Clone, Debug)]
pub struct AnnotatedImages {
    /// Every class of the annotation file, by ascending id.
    pub classes: Vec<String>,
    /// In the order of the annotation file.
    pub images: Vec<AnnotatedImage>,
    /// Boxes and images that are not used.
    pub left_out: LeftOut,
    ids: Vec<Id>,
}

/// The outcome of checking a listed image.
enum Checked {
    Usable { image: AnnotatedImage, is_moved: bool },
    WithoutBoxes,
    Missing(String),
    Unreadable(String),
}

impl AnnotatedImages {
    /// Reads an annotation file and decodes each of its images with boxes, which `resized` keeps if
    /// it has room; their files are looked for below `folder`. For validation, `train` has the
    /// classes.
    ///
    /// # Errors
    /// If the file is not in COCO's format, if none of its images can be used, if it has classes
    /// that `train` lacks, or if the size of an image differs from the listed one.
    pub fn read(
        file: &Path,
        folder: &Path,
        train: Option<&Self>,
        resized: &ResizedImages,
        reporter: &Reporter,
    ) -> Result<Self> {
        let AnnotationFile { images, annotations, categories } = AnnotationFile::read(file)?;
        let mut named = named(file, categories)?;
        if let Some(train) = train {
            train.check_classes(file, &named)?;
            named = train.ids.iter().cloned().zip(train.classes.iter().cloned()).collect();
        }
        let (ids, classes) = named.into_iter().unzip();
        let mut found = Self { classes, images: Vec::new(), left_out: LeftOut::default(), ids };
        let listed = found.sort_by_image(images, annotations);
        found.check_images(file, folder, listed, resized, reporter)?;
        Ok(found)
    }

    /// The images, each with its annotations. As in pycocotools, the last one of an id counts, in
    /// the place of the first.
    fn sort_by_image(
        &mut self,
        images: Vec<ListedImage>,
        annotations: Vec<Annotation>,
    ) -> Vec<(ListedImage, Vec<Annotation>)> {
        let mut listed: Vec<(ListedImage, Vec<Annotation>)> = Vec::with_capacity(images.len());
        let mut places: HashMap<Id, usize> = HashMap::new();
        for image in images {
            match image.id.clone().map(|id| places.entry(id)) {
                Some(Occupied(place)) => {
                    self.left_out.images_listed_twice += 1;
                    listed[*place.get()].0 = image;
                    continue;
                }
                Some(Vacant(place)) => _ = place.insert(listed.len()),
                None => {}
            }
            listed.push((image, Vec::new()));
        }
        for annotation in annotations {
            match annotation.image_id.as_ref().and_then(|id| places.get(id)) {
                Some(&place) => listed[place].1.push(annotation),
                None => {
                    self.left_out.without_image += 1;
                    self.left_out.keep_example(&annotation, "its image is not listed");
                }
            }
        }
        listed
    }

    fn check_classes(&self, file: &Path, named: &BTreeMap<Id, String>) -> Result<()> {
        let trained: BTreeMap<&Id, &String> = self.ids.iter().zip(&self.classes).collect();
        for (id, name) in named {
            if trained.get(id) != Some(&name) {
                let known = trained
                    .get(id)
                    .map_or("no such category".to_owned(), |name| format!("{name:?}"));
                let reason = format!("category {id} is {name:?}, but for training it is {known}");
                return Err(Error::dataset(
                    file,
                    format!("{reason}; give annotation files with the same categories"),
                ));
            }
        }
        Ok(())
    }

    /// Checks the listed images and keeps those that can be used.
    fn check_images(
        &mut self,
        file: &Path,
        folder: &Path,
        listed: Vec<(ListedImage, Vec<Annotation>)>,
        resized: &ResizedImages,
        reporter: &Reporter,
    ) -> Result<()> {
        let folder = &ImageFolder::new(folder, listed.iter().filter_map(|(image, _)| image.name()));
        let mut moved = Vec::new();
        reporter.begin("images", listed.len() as u64, 0);
        reporter.set_status("checked");
        for block in listed.chunks(BLOCK) {
            let checked: Vec<(Checked, LeftOut, usize)> = block
                .par_iter()
                .map(|(image, annotations)| {
                    let mut left_out = LeftOut::default();
                    let of_image = (image, &annotations[..]);
                    let checked =
                        self.check_image(file, folder, of_image, resized, &mut left_out)?;
                    Ok((checked, left_out, annotations.len()))
                })
                .collect::<Result<_>>()?;
            for ((image, _), (checked, left_out, boxes)) in block.iter().zip(checked) {
                if let Checked::Usable { is_moved: true, .. } = checked {
                    moved.extend(image.name());
                }
                self.left_out.add(left_out);
                self.add(checked, boxes, reporter);
            }
            reporter.step(block.len() as u64)?;
        }
        reporter.log();
        if let [first, ..] = moved[..] {
            reporter.say(format_args!(
                "{} images of {} are not where it says; taken from {} by the last part of their \
                 paths, such as {first}",
                moved.len(),
                file.display(),
                folder.root().display()
            ));
        }
        if self.images.is_empty() {
            let why = self.left_out.describe().unwrap_or_else(|| "none is listed".to_owned());
            let reason = format!(
                "no image with a box can be used ({why}); are they in {}?",
                folder.root().display()
            );
            return Err(Error::dataset(file, reason));
        }
        Ok(())
    }

    /// Adds an image that had `boxes` annotations, or counts why it is left out.
    fn add(&mut self, checked: Checked, boxes: usize, reporter: &Reporter) {
        let all = &mut self.left_out;
        match checked {
            Checked::Usable { image, .. } => self.images.push(image),
            Checked::WithoutBoxes => all.images_without_boxes += 1,
            Checked::Missing(reason) => {
                all.images_missing += 1;
                all.of_unusable_images += boxes;
                // With a wrong folder all of them are missing.
                if all.images_missing == 1 {
                    reporter.say(format_args!("left out: {reason}"));
                }
            }
            Checked::Unreadable(reason) => {
                all.images_unreadable += 1;
                all.of_unusable_images += boxes;
                reporter.say(format_args!("left out: {reason}"));
            }
        }
    }

    fn check_image(
        &self,
        file: &Path,
        folder: &ImageFolder,
        (image, annotations): (&ListedImage, &[Annotation]),
        resized: &ResizedImages,
        left_out: &mut LeftOut,
    ) -> Result<Checked> {
        if annotations.is_empty() {
            return Ok(Checked::WithoutBoxes);
        }
        let Some(name) = image.name() else {
            let id = image.id.as_ref().map_or("an image".to_owned(), |id| format!("image {id}"));
            return Ok(Checked::Missing(format!("{}: {id} has no file_name", file.display())));
        };
        let Found { path, bytes, is_moved } = match folder.read(name) {
            Ok(found) => found,
            Err(reason) => return Ok(Checked::Missing(reason)),
        };
        let decoded = match resized.decode(&bytes) {
            Ok(decoded) => decoded,
            Err(reason) => return Ok(Checked::Unreadable(format!("{}: {reason}", path.display()))),
        };
        let size = decoded.size;
        let listed = (image.width.unwrap_or(size.width), image.height.unwrap_or(size.height));
        if listed != (size.width, size.height) {
            let reason = format!(
                "has {}×{} pixels, but {}×{} in {}; give the images that were annotated",
                size.width,
                size.height,
                listed.0,
                listed.1,
                file.display()
            );
            return Err(Error::dataset(&path, reason));
        }
        let mut boxes = Vec::new();
        for annotation in annotations {
            boxes.extend(self.place(annotation, size, left_out));
        }
        if boxes.is_empty() {
            return Ok(Checked::WithoutBoxes);
        }
        resized.keep(&path, &decoded);
        let image = AnnotatedImage { path, bytes: bytes.len() as u64, size, boxes };
        Ok(Checked::Usable { image, is_moved })
    }

    /// The box, clipped to an image of this size; `None` where it is left out, which is counted.
    fn place(
        &self,
        annotation: &Annotation,
        size: ImageSize,
        left_out: &mut LeftOut,
    ) -> Option<LabeledBox> {
        if annotation.is_crowd {
            left_out.crowds += 1;
            return None;
        }
        let Some([x, y, width, height]) = annotation.bbox else {
            left_out.without_bbox += 1;
            left_out.keep_example(annotation, "no bbox of four numbers");
            return None;
        };
        let class = annotation.category_id.as_ref().map(|id| self.ids.binary_search(id));
        let Some(Ok(class)) = class else {
            left_out.without_category += 1;
            left_out.keep_example(annotation, "its category is not listed");
            return None;
        };
        let (w, h) = (f64::from(size.width), f64::from(size.height));
        let is_empty = width <= 0.0 || height <= 0.0;
        if !is_empty && (x >= w || y >= h || x + width <= 0.0 || y + height <= 0.0) {
            left_out.outside += 1;
            left_out.keep_example(annotation, "outside its image");
            return None;
        }
        let corners = [x.max(0.0), y.max(0.0), (x + width).min(w), (y + height).min(h)];
        let [x0, y0, x1, y1] = corners;
        if x1 - x0 < MIN_SIDE || y1 - y0 < MIN_SIDE {
            left_out.tiny += 1;
            left_out.keep_example(annotation, "under a pixel wide or high in its image");
            return None;
        }
        Some(LabeledBox { corners, class })
    }
}

/// The names of the categories by id: those without a name have their id.
fn named(file: &Path, categories: Vec<Category>) -> Result<BTreeMap<Id, String>> {
    let mut named = BTreeMap::new();
    for Category { id, name } in categories {
        // Nothing can refer to a category without an id.
        let Some(id) = id else { continue };
        let name = name.unwrap_or_else(|| id.to_string());
        if named.get(&id).is_some_and(|before| *before != name) {
            return Err(Error::dataset(file, format!("two categories have the id {id}")));
        }
        named.insert(id, name);
    }
    Ok(named)
}

#[cfg(test)]
#[path = "annotations_tests.rs"]
mod tests;
