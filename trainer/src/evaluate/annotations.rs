//! Boxes of objects, from lists in COCO's format (`instances_train2017.json`).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use scrl_preprocess::images::ImageSize;
use serde::{Deserialize, Serialize};

use super::Watch;
use super::pictures::decode_upright;
use crate::{Error, Result};

/// The shortest side of a box that is used, in pixels of the image. Lists hold boxes of no size by mistake.
const SHORTEST_SIDE: f64 = 1.0;

/// What of a list is read.
#[derive(Deserialize)]
struct List {
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
pub struct LabelledBox {
    /// x0, y0, x1, y1 in pixels of the image, within it.
    pub corners: [f64; 4],
    /// The place of its class among [`BoxedImages::classes`].
    pub class: usize,
}

/// An image with at least one box.
#[derive(Clone, Debug, PartialEq)]
pub struct BoxedImage {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Width and height in pixels.
    pub size: ImageSize,
    /// In the order of the list.
    pub boxes: Vec<LabelledBox>,
}

/// How much of a list is not used, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Boxes around crowds.
    pub crowds: usize,
    /// Boxes outside their image.
    pub outside: usize,
    /// Boxes of which less than a pixel is within their image, one way or the other, or whose numbers are none.
    pub tiny: usize,
    /// Boxes of images that the list does not have.
    pub without_image: usize,
    /// Boxes of images that are missing or cannot be read.
    pub of_unusable_images: usize,
    /// Images without any box that can be used.
    pub images_without_boxes: usize,
    /// Images that are not in the folder.
    pub images_missing: usize,
    /// Images that cannot be decoded.
    pub images_unreadable: usize,
}

impl LeftOut {
    /// Such as `3 boxes around crowds, 1 image missing`; `None` where everything is used.
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
        let told: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

/// The images of a folder that have boxes.
#[derive(Clone, Debug)]
pub struct BoxedImages {
    /// Every class of the list, by ascending id.
    pub classes: Vec<String>,
    /// In the order of the list.
    pub images: Vec<BoxedImage>,
    /// What is not used.
    pub left_out: LeftOut,
    ids: Vec<i64>,
}

/// What became of an image of a list.
enum Looked {
    Usable(BoxedImage),
    WithoutBoxes,
    Missing(String),
    Unreadable(String),
}

impl BoxedImages {
    /// Reads a list and looks at each of its images with boxes; the images lie below `folder`. Where `like` is given, the
    /// boxes are of its classes.
    ///
    /// # Errors
    /// If the list is none, if nothing of it can be used, if it has classes that `like` has not, or if an image has
    /// another size than the list says.
    pub fn read(
        list: &Path,
        folder: &Path,
        like: Option<&Self>,
        watch: &mut Watch,
    ) -> Result<Self> {
        let text = fs::read(list).map_err(Error::io(list))?;
        let List { images, annotations, mut categories } =
            serde_json::from_slice(&text).map_err(|error| {
                Error::dataset(list, format!("no list of boxes in COCO's format: {error}"))
            })?;
        categories.sort_by_key(|category| category.id);
        let (ids, classes) = match like {
            None => categories.into_iter().map(|category| (category.id, category.name)).unzip(),
            Some(like) => {
                like.check_classes(list, &categories)?;
                (like.ids.clone(), like.classes.clone())
            }
        };
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::dataset(list, format!("two categories have the id {}", twice[0])));
        }
        let mut read = Self { classes, images: Vec::new(), left_out: LeftOut::default(), ids };
        let mut boxes: HashMap<i64, Vec<Annotation>> = HashMap::new();
        for annotation in annotations {
            boxes.entry(annotation.image_id).or_default().push(annotation);
        }
        let mut wanted = Vec::new();
        for image in images {
            let of_image = boxes.remove(&image.id).unwrap_or_default();
            wanted.push((image, of_image));
        }
        read.left_out.without_image = boxes.values().map(Vec::len).sum();
        read.look(list, folder, wanted, watch)?;
        Ok(read)
    }

    fn check_classes(&self, list: &Path, categories: &[Category]) -> Result<()> {
        let mine: BTreeMap<i64, &String> = self.ids.iter().copied().zip(&self.classes).collect();
        for Category { id, name } in categories {
            if mine.get(id) != Some(&name) {
                let known =
                    mine.get(id).map_or("no such category".to_owned(), |name| format!("{name:?}"));
                let reason =
                    format!("category {id} is {name:?}, but in the training list it is {known}");
                return Err(Error::dataset(
                    list,
                    format!("{reason}; give lists of the same categories"),
                ));
            }
        }
        Ok(())
    }

    /// Looks at the images and keeps those that can be used.
    fn look(
        &mut self,
        list: &Path,
        folder: &Path,
        wanted: Vec<(ListedImage, Vec<Annotation>)>,
        watch: &mut Watch,
    ) -> Result<()> {
        watch.begin("looking at the images", wanted.len());
        for block in wanted.chunks(64) {
            let looked: Vec<(Looked, LeftOut, usize)> = block
                .par_iter()
                .map(|(image, annotations)| {
                    let mut left_out = LeftOut::default();
                    let looked = self.look_at(list, folder, image, annotations, &mut left_out)?;
                    Ok((looked, left_out, annotations.len()))
                })
                .collect::<Result<_>>()?;
            for (looked, boxes, count) in looked {
                self.take(looked, boxes, count, watch);
            }
            watch.advance(block.len())?;
        }
        if self.images.is_empty() {
            let why = self.left_out.describe().unwrap_or_else(|| "it has none".to_owned());
            let reason = format!(
                "no image with a box can be used ({why}); do they lie in {}?",
                folder.display()
            );
            return Err(Error::dataset(list, reason));
        }
        Ok(())
    }

    fn take(&mut self, looked: Looked, boxes: LeftOut, count: usize, watch: &mut Watch) {
        let all = &mut self.left_out;
        all.crowds += boxes.crowds;
        all.outside += boxes.outside;
        all.tiny += boxes.tiny;
        match looked {
            Looked::Usable(image) => self.images.push(image),
            Looked::WithoutBoxes => all.images_without_boxes += 1,
            Looked::Missing(reason) => {
                all.images_missing += 1;
                all.of_unusable_images += count;
                if all.images_missing == 1 {
                    watch.note(format!("left out: {reason}"));
                }
            }
            Looked::Unreadable(reason) => {
                all.images_unreadable += 1;
                all.of_unusable_images += count;
                watch.note(format!("left out: {reason}"));
            }
        }
    }

    fn look_at(
        &self,
        list: &Path,
        folder: &Path,
        image: &ListedImage,
        annotations: &[Annotation],
        left_out: &mut LeftOut,
    ) -> Result<Looked> {
        if annotations.is_empty() {
            return Ok(Looked::WithoutBoxes);
        }
        let path = folder.join(&image.file_name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Looked::Missing(format!("{}: {error}", path.display()))),
        };
        let size = match decode_upright(&bytes) {
            Ok(decoded) => decoded.size,
            Err(reason) => return Ok(Looked::Unreadable(format!("{}: {reason}", path.display()))),
        };
        let listed = (image.width.unwrap_or(size.width), image.height.unwrap_or(size.height));
        if listed != (size.width, size.height) {
            let reason = format!(
                "has {}×{} pixels, but {}×{} in {}; give the images that the list was made for",
                size.width,
                size.height,
                listed.0,
                listed.1,
                list.display()
            );
            return Err(Error::dataset(&path, reason));
        }
        let mut boxes = Vec::new();
        for annotation in annotations {
            let Ok(class) = self.ids.binary_search(&annotation.category_id) else {
                let reason = format!("a box of image {} is of no listed category", image.id);
                return Err(Error::dataset(list, format!("{reason}: {}", annotation.category_id)));
            };
            boxes.extend(
                annotation.usable(size, left_out).map(|corners| LabelledBox { corners, class }),
            );
        }
        if boxes.is_empty() {
            return Ok(Looked::WithoutBoxes);
        }
        Ok(Looked::Usable(BoxedImage { path, bytes: bytes.len() as u64, size, boxes }))
    }
}

impl Annotation {
    /// The corners within an image of that size, or a count of why not.
    fn usable(&self, size: ImageSize, left_out: &mut LeftOut) -> Option<[f64; 4]> {
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
        // Written so that what is no number is left out as well.
        if x1 - x0 >= SHORTEST_SIDE
            && y1 - y0 >= SHORTEST_SIDE
            && width.is_finite()
            && height.is_finite()
        {
            return Some(corners);
        }
        left_out.tiny += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn read(text: &str, folder: &Path, like: Option<&BoxedImages>) -> Result<BoxedImages> {
        let list = folder.join("list.json");
        fs::write(&list, text).unwrap();
        BoxedImages::read(
            &list,
            folder,
            like,
            &mut Watch::new(&AtomicBool::new(false), &mut |_| ()),
        )
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        image::RgbImage::new(20, 10).save(folder.path().join("a.png")).unwrap();
        fs::write(folder.path().join("broken.png"), "no picture").unwrap();
        folder
    }

    fn list(boxes: &str) -> String {
        format!(
            r#"{{"images": [{{"id": 7, "file_name": "a.png", "width": 20, "height": 10}}, {{"id": 8, "file_name": "gone.png"}},
            {{"id": 9, "file_name": "broken.png"}}, {{"id": 10, "file_name": "a.png"}}],
            "categories": [{{"id": 5, "name": "dog"}}, {{"id": 2, "name": "cat"}}], "annotations": [{boxes}]}}"#
        )
    }

    const CAT: &str = r#"{"image_id": 7, "category_id": 2, "bbox": [-2, 1, 6, 4]}"#;

    #[test]
    fn what_cannot_be_used_is_counted() {
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
        assert_eq!(boxes, [&LabelledBox { corners: [0.0, 1.0, 4.0, 5.0], class: 0 }]);
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
    fn lists_that_cannot_be_used_are_refused_with_the_reason() {
        let folder = folder();
        let train = read(&list(CAT), folder.path(), None).unwrap();
        let says = |text: &str, like: Option<&BoxedImages>, words: &[&str]| {
            let message = read(text, folder.path(), like).unwrap_err().to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        };
        says("[]", None, &["list.json", "COCO"]);
        says(&list(""), None, &["list.json", "4 images without boxes", "do they lie in"]);
        says(
            &list(CAT).replace("\"height\": 10", "\"height\": 11"),
            None,
            &["a.png", "20×10", "20×11"],
        );
        says(&list(CAT).replace("\"dog\"", "\"cow\""), Some(&train), &["category 5", "cow", "dog"]);
        says(
            &list(&CAT.replace("\"category_id\": 2", "\"category_id\": 3")),
            None,
            &["no listed category: 3"],
        );
    }
}
