//! Boxes of objects, from annotation files in COCO's format (`instances_train2017.json`).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_preprocess::images::ImageSize;
use serde::{Deserialize, Serialize};

use super::inputs::ResizedImages;
use crate::{Error, Result};

/// The shortest side of a box that is used, in pixels of the image. COCO has boxes of no width.
const MIN_SIDE: f64 = 1.0;

/// Images that are checked at a time, by all threads together.
const BLOCK: usize = 64;

/// The fields of an annotation file that are read.
#[derive(Deserialize)]
struct AnnotationFile {
    images: Vec<ListedImage>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct ListedImage {
    id: i64,
    file_name: String,
    width: Option<i32>,
    height: Option<i32>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: i64,
    category_id: i64,
    /// x, y, width, height in pixels.
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
}

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
    /// Boxes under a pixel wide or high within their image, and boxes with NaN or infinite numbers.
    pub tiny: usize,
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
}

impl LeftOut {
    /// Such as `3 boxes around crowds, 1 images missing`; `None` where nothing is left out.
    pub fn describe(&self) -> Option<String> {
        let counts = [
            (self.crowds, "boxes around crowds"),
            (self.outside, "boxes outside their images"),
            (self.tiny, "boxes of under a pixel"),
            (self.without_image, "boxes of images that are not listed"),
            (self.of_unusable_images, "boxes of unusable images"),
            (self.images_without_boxes, "images without boxes"),
            (self.images_missing, "images missing"),
            (self.images_unreadable, "images unreadable"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let reasons: Vec<String> = counts.map(|(n, reason)| format!("{n} {reason}")).collect();
        (!reasons.is_empty()).then(|| reasons.join(", "))
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
    ids: Vec<i64>,
}

/// The outcome of checking a listed image.
enum Checked {
    Usable(AnnotatedImage),
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
        let text = fs::read(file).map_err(Error::io(file))?;
        let AnnotationFile { images, annotations, mut categories } = serde_json::from_slice(&text)
            .map_err(|error| {
                Error::dataset(file, format!("not an annotation file in COCO's format: {error}"))
            })?;
        categories.sort_by_key(|category| category.id);
        let (ids, classes) = match train {
            None => categories.into_iter().map(|category| (category.id, category.name)).unzip(),
            Some(train) => {
                train.check_classes(file, &categories)?;
                (train.ids.clone(), train.classes.clone())
            }
        };
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::dataset(file, format!("two categories have the id {}", twice[0])));
        }
        let mut found = Self { classes, images: Vec::new(), left_out: LeftOut::default(), ids };
        let mut by_image: HashMap<i64, Vec<Annotation>> = HashMap::new();
        for annotation in annotations {
            by_image.entry(annotation.image_id).or_default().push(annotation);
        }
        let mut listed = Vec::new();
        for image in images {
            let of_image = by_image.remove(&image.id).unwrap_or_default();
            listed.push((image, of_image));
        }
        found.left_out.without_image = by_image.values().map(Vec::len).sum();
        found.check_images(file, folder, listed, resized, reporter)?;
        Ok(found)
    }

    fn check_classes(&self, file: &Path, categories: &[Category]) -> Result<()> {
        let trained: BTreeMap<i64, &String> = self.ids.iter().copied().zip(&self.classes).collect();
        for Category { id, name } in categories {
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
            for (checked, left_out, boxes) in checked {
                self.add(checked, &left_out, boxes, reporter);
            }
            reporter.step(block.len() as u64)?;
        }
        reporter.log();
        if self.images.is_empty() {
            let why = self.left_out.describe().unwrap_or_else(|| "none is listed".to_owned());
            let reason = format!(
                "no image with a box can be used ({why}); are they in {}?",
                folder.display()
            );
            return Err(Error::dataset(file, reason));
        }
        Ok(())
    }

    /// Adds an image that had `boxes` annotations, or counts why it is left out.
    fn add(&mut self, checked: Checked, left_out: &LeftOut, boxes: usize, reporter: &Reporter) {
        let all = &mut self.left_out;
        all.crowds += left_out.crowds;
        all.outside += left_out.outside;
        all.tiny += left_out.tiny;
        match checked {
            Checked::Usable(image) => self.images.push(image),
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
        folder: &Path,
        (image, annotations): (&ListedImage, &[Annotation]),
        resized: &ResizedImages,
        left_out: &mut LeftOut,
    ) -> Result<Checked> {
        if annotations.is_empty() {
            return Ok(Checked::WithoutBoxes);
        }
        let path = folder.join(&image.file_name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Checked::Missing(format!("{}: {error}", path.display()))),
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
            let Ok(class) = self.ids.binary_search(&annotation.category_id) else {
                let reason = format!("a box of image {} is of no listed category", image.id);
                return Err(Error::dataset(file, format!("{reason}: {}", annotation.category_id)));
            };
            let corners = annotation.clip(size, left_out);
            boxes.extend(corners.map(|corners| LabeledBox { corners, class }));
        }
        if boxes.is_empty() {
            return Ok(Checked::WithoutBoxes);
        }
        resized.keep(&path, &decoded);
        Ok(Checked::Usable(AnnotatedImage { path, bytes: bytes.len() as u64, size, boxes }))
    }
}

impl Annotation {
    /// The corners, clipped to an image of this size; `None` where the box is left out, which is
    /// counted.
    fn clip(&self, size: ImageSize, left_out: &mut LeftOut) -> Option<[f64; 4]> {
        let [x, y, width, height] = self.bbox;
        let (w, h) = (f64::from(size.width), f64::from(size.height));
        if self.iscrowd != 0 {
            left_out.crowds += 1;
            return None;
        }
        if x >= w || y >= h || x + width <= 0.0 || y + height <= 0.0 {
            left_out.outside += 1;
            return None;
        }
        let corners = [x.max(0.0), y.max(0.0), (x + width).min(w), (y + height).min(h)];
        let [x0, y0, x1, y1] = corners;
        // The comparisons are false for NaN.
        if x1 - x0 >= MIN_SIDE && y1 - y0 >= MIN_SIDE && width.is_finite() && height.is_finite() {
            return Some(corners);
        }
        left_out.tiny += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use scrl_preprocess::images::PixelOptions;

    use super::super::inputs::decoding;
    use super::*;

    fn read(text: &str, folder: &Path, train: Option<&AnnotatedImages>) -> Result<AnnotatedImages> {
        let file = folder.join("list.json");
        fs::write(&file, text).unwrap();
        AnnotatedImages::read(
            &file,
            folder,
            train,
            &ResizedImages::new(8, decoding(PixelOptions::default())),
            &Reporter::silent(),
        )
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        image::RgbImage::new(20, 10).save(folder.path().join("a.png")).unwrap();
        fs::write(folder.path().join("broken.png"), "not an image").unwrap();
        folder
    }

    fn list(boxes: &str) -> String {
        format!(
            r#"{{"images": [{{"id": 7, "file_name": "a.png", "width": 20, "height": 10}},
            {{"id": 8, "file_name": "gone.png"}}, {{"id": 9, "file_name": "broken.png"}},
            {{"id": 10, "file_name": "a.png"}}],
            "categories": [{{"id": 5, "name": "dog"}}, {{"id": 2, "name": "cat"}}],
            "annotations": [{boxes}]}}"#
        )
    }

    const CAT: &str = r#"{"image_id": 7, "category_id": 2, "bbox": [-2, 1, 6, 4]}"#;

    #[test]
    fn unusable_boxes_and_images_are_counted() {
        let folder = folder();
        let others = [
            r#"{"image_id": 7, "category_id": 5, "bbox": [3, 3, 9, 9], "iscrowd": 1}"#,
            r#"{"image_id": 7, "category_id": 5, "bbox": [20, 3, 9, 9], "iscrowd": 0}"#,
            r#"{"image_id": 7, "category_id": 5, "bbox": [19.5, 3, 9, 9]}"#,
            r#"{"image_id": 8, "category_id": 5, "bbox": [3, 3, 9, 9]}"#,
            r#"{"image_id": 9, "category_id": 5, "bbox": [3, 3, 9, 9]}"#,
            r#"{"image_id": 11, "category_id": 5, "bbox": [3, 3, 9, 9]}"#,
        ];
        let read =
            read(&list(&format!("{CAT}, {}", others.join(","))), folder.path(), None).unwrap();
        assert_eq!(read.classes, ["cat", "dog"]);
        let boxes: Vec<_> = read.images.iter().flat_map(|image| &image.boxes).collect();
        assert_eq!(boxes, [&LabeledBox { corners: [0.0, 1.0, 4.0, 5.0], class: 0 }]);
        let expected = LeftOut {
            crowds: 1,
            outside: 1,
            tiny: 1,
            without_image: 1,
            of_unusable_images: 2,
            images_without_boxes: 1,
            images_missing: 1,
            images_unreadable: 1,
        };
        assert_eq!(read.left_out, expected);
    }

    #[test]
    fn unusable_annotation_files_are_refused_with_the_reason() {
        let folder = folder();
        let trained = read(&list(CAT), folder.path(), None).unwrap();
        let says = |text: &str, train: Option<&AnnotatedImages>, words: &[&str]| {
            let message = read(text, folder.path(), train).unwrap_err().to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        };
        says("[]", None, &["list.json", "COCO"]);
        says(&list(""), None, &["list.json", "4 images without boxes", "are they in"]);
        says(
            &list(CAT).replace("\"height\": 10", "\"height\": 11"),
            None,
            &["a.png", "20×10", "20×11"],
        );
        says(
            &list(CAT).replace("\"dog\"", "\"cow\""),
            Some(&trained),
            &["category 5", "cow", "dog"],
        );
        says(
            &list(&CAT.replace("\"category_id\": 2", "\"category_id\": 3")),
            None,
            &["no listed category: 3"],
        );
    }
}
