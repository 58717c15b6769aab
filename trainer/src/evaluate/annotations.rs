//! Boxes of objects, from annotation files in COCO's format (`instances_train2017.json`).

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_preprocess::images::ImageSize;
use serde::Serialize;

use super::coco::{Annotation, AnnotationFile, Category, Id, ListedImage};
use super::inputs::{ResizedImages, decode_as_stored};
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
        let folder = &Folder::new(folder, listed.iter().filter_map(|(image, _)| image.name()));
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
                folder.root.display()
            ));
        }
        if self.images.is_empty() {
            let why = self.left_out.describe().unwrap_or_else(|| "none is listed".to_owned());
            let reason = format!(
                "no image with a box can be used ({why}); are they in {}?",
                folder.root.display()
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
        folder: &Folder,
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
        let decoded = match decode_as_stored(&bytes) {
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

/// The folder of the images, and what is needed to find those of which the list has other paths.
struct Folder<'a> {
    root: &'a Path,
    /// The path of each last part; `None` where several paths end in it.
    by_last_part: HashMap<&'a str, Option<&'a str>>,
}

/// An image that was found.
struct Found {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Whether only the last part of its path led to it.
    is_moved: bool,
}

impl<'a> Folder<'a> {
    fn new(root: &'a Path, names: impl Iterator<Item = &'a str>) -> Self {
        let mut by_last_part: HashMap<&str, Option<&str>> = HashMap::new();
        for name in names {
            let known = by_last_part.entry(last_part(name)).or_insert(Some(name));
            *known = known.filter(|&known| known == name);
        }
        Self { root, by_last_part }
    }

    /// Reads an image by its path in the list; else with the separators of Windows; else, if it
    /// cannot be another one, by the last part of the path.
    fn read(&self, name: &str) -> std::result::Result<Found, String> {
        let last = last_part(name);
        let is_moved_to = |last: &str| self.by_last_part.get(last).copied().flatten().is_some();
        let places = [
            Some((self.root.join(name), false)),
            name.contains('\\').then(|| (self.root.join(name.replace('\\', "/")), false)),
            (last != name && is_moved_to(last)).then(|| (self.root.join(last), true)),
        ];
        let mut missing = None;
        for (path, is_moved) in places.into_iter().flatten() {
            match fs::read(&path) {
                Ok(bytes) => return Ok(Found { path, bytes, is_moved }),
                Err(error) => {
                    let is_elsewhere =
                        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
                    let reason = format!("{}: {error}", path.display());
                    if !is_elsewhere {
                        return Err(reason);
                    }
                    missing.get_or_insert(reason);
                }
            }
        }
        Err(missing.expect("the first place is always looked at"))
    }
}

/// What follows the last separator of Linux or Windows.
fn last_part(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, folder: &Path, train: Option<&AnnotatedImages>) -> Result<AnnotatedImages> {
        let file = folder.join("list.json");
        fs::write(&file, text).unwrap();
        AnnotatedImages::read(&file, folder, train, &ResizedImages::new(8), &Reporter::silent())
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
            example: Some(
                "one of image 11, bbox [3.0, 3.0, 9.0, 9.0]: its image is not listed".into(),
            ),
            ..LeftOut::default()
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
            &["1 boxes of categories that are not listed", "; such as one of image 7, bbox"],
        );
        let twice = "{\"id\": 2, \"name\": \"cat\"}, {\"id\": 2.0, \"name\": \"cow\"}";
        says(
            &list(CAT).replace("{\"id\": 2, \"name\": \"cat\"}", twice),
            None,
            &["two categories have the id 2"],
        );
    }
    /// One image of the folder, as `image`, with annotations and categories.
    fn one_image(image: &str, annotations: &str) -> String {
        format!(
            r#"{{"images": [{image}], "categories": [{{"id": "2", "name": "cat"}}],
            "annotations": [{annotations}]}}"#
        )
    }

    fn boxes(read: &AnnotatedImages) -> Vec<[f64; 4]> {
        read.images.iter().flat_map(|image| &image.boxes).map(|labeled| labeled.corners).collect()
    }

    #[test]
    fn annotations_with_faults_are_counted_and_the_others_used() {
        let folder = folder();
        let faults = [
            r#"{"id": 31, "image_id": "7", "category_id": 2.0, "bbox": [1, NaN, 6, 4]}"#,
            r#"{"image_id": 7.0, "category_id": 2, "segmentation": {"counts": "x", "size": [1, 1]}}"#,
            r#"{"image_id": 7, "category_id": 2, "bbox": null}"#,
            r#"{"image_id": 7, "category_id": 2, "bbox": [1, 2, 3]}"#,
            r#"{"image_id": 7, "category_id": 2, "bbox": [9, 9, -20, 4]}"#,
            r#"{"image_id": 7, "category_id": 2, "bbox": [1, 1, 0, 4]}"#,
            r#"{"image_id": 7, "category_id": 3, "bbox": [1, 1, 4, 4]}"#,
            r#"{"image_id": 7, "bbox": [1, 1, 4, 4]}"#,
            r#"{"category_id": 2, "bbox": [1, 1, 4, 4]}"#,
            r#"{"image_id": 7, "category_id": "2", "bbox": [2, 1, 4, 4], "iscrowd": true}"#,
        ];
        let usable = r#"{"image_id": "007", "category_id": 2, "bbox": [3, 1, 4, 4], "area": NaN}"#;
        let image = r#"{"id": 7, "file_name": "a.png"}"#;
        let text = one_image(image, &format!("{}, {usable}", faults.join(",")));
        let read = read(&format!("\u{feff}{text}"), folder.path(), None).unwrap();
        assert_eq!(boxes(&read), [[3.0, 1.0, 7.0, 5.0]]);
        let LeftOut { without_bbox, tiny, without_category, without_image, crowds, .. } =
            read.left_out;
        assert_eq!((without_bbox, tiny, without_category), (4, 2, 2));
        assert_eq!((without_image, crowds), (1, 1));
        assert_eq!(
            read.left_out.describe().unwrap(),
            "1 boxes around crowds, 2 boxes of under a pixel, 4 annotations without a bbox of four \
             numbers, 2 boxes of categories that are not listed, 1 boxes of images that are not \
             listed; such as one, bbox [1.0, 1.0, 4.0, 4.0]: its image is not listed"
        );
    }

    #[test]
    fn images_are_found_by_the_last_part_of_paths_from_elsewhere() {
        let folder = folder();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::copy(folder.path().join("a.png"), folder.path().join("sub/b.png")).unwrap();
        let path_of = |name: &str| {
            let file = folder.path().join("list.json");
            let image = format!(r#"{{"id": 7, "file_name": {}}}"#, serde_json::json!(name));
            fs::write(&file, one_image(&image, CAT)).unwrap();
            let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
            let seen = lines.clone();
            let reporter = Reporter::observed(scrl_cli::Stop::default(), move |event| {
                if let scrl_cli::Event::Line(line) = event {
                    seen.lock().unwrap().push(line);
                }
            });
            let resized = ResizedImages::new(8);
            let read =
                AnnotatedImages::read(&file, folder.path(), None, &resized, &reporter).unwrap();
            let lines = lines.lock().unwrap().join("\n");
            (read.images[0].path.clone(), lines.contains("are not where it says"), lines)
        };
        for name in [r"C:\data\a.png", "/home/else/a.png", "http://host/a.png", r"..\x\a.png"] {
            let (path, is_moved, lines) = path_of(name);
            assert_eq!((path, is_moved), (folder.path().join("a.png"), true), "{name}");
            assert!(lines.contains("1 images of ") && lines.contains(name), "{lines}");
        }
        let there = folder.path().join("sub/b.png");
        for name in ["sub/b.png", r"sub\b.png", &there.to_string_lossy()] {
            let (path, is_moved, _) = path_of(name);
            assert_eq!((path, is_moved), (there.clone(), false), "{name}");
        }
    }

    #[test]
    fn a_last_part_of_several_images_finds_none_of_them() {
        let folder = folder();
        let images = r#"{"id": 7, "file_name": "x/a.png"}, {"id": 8, "file_name": "y/a.png"}"#;
        let message = read(&one_image(images, CAT), folder.path(), None).unwrap_err().to_string();
        assert!(message.contains("1 images missing"), "{message}");
    }

    #[test]
    fn of_images_with_the_same_id_the_last_one_counts() {
        let folder = folder();
        let images = r#"{"id": 7, "file_name": "gone.png"}, {"id": 7.0, "file_name": "a.png"}"#;
        let read = read(&one_image(images, CAT), folder.path(), None).unwrap();
        assert_eq!((read.images.len(), read.left_out.images_listed_twice), (1, 1));
        assert!(read.images[0].path.ends_with("a.png"));
    }

    #[test]
    fn boxes_and_classes_are_those_of_pycocotools() {
        // Written by scripts/make_goldens_annotations.py.
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/annotations");
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.png", "b.png", "c.png"] {
            image::RgbImage::new(40, 30).save(folder.path().join(name)).unwrap();
        }
        let resized = ResizedImages::new(8);
        let file = goldens.join("odd.json");
        let silent = Reporter::silent();
        let read = AnnotatedImages::read(&file, folder.path(), None, &resized, &silent).unwrap();
        let found: Vec<(String, [f64; 4], &str)> = read
            .images
            .iter()
            .flat_map(|image| image.boxes.iter().map(move |labeled| (image, labeled)))
            .map(|(image, labeled)| {
                let name = image.path.file_name().unwrap().to_string_lossy().into_owned();
                (name, labeled.corners, read.classes[labeled.class].as_str())
            })
            .collect();
        let expected = fs::read(goldens.join("expected.json")).unwrap();
        let expected: Vec<(String, [f64; 4], String)> = serde_json::from_slice(&expected).unwrap();
        let expected: Vec<_> =
            expected.iter().map(|(n, b, c)| (n.clone(), *b, c.as_str())).collect();
        assert_eq!(found, expected);
    }
}
