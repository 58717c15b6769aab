//! The lists of images, boxes and classes in COCO's `instances_*.json`.

use serde::Serialize;

use crate::canvas::Size;
use crate::objects::CLASSES;
use crate::scene::Visible;

/// One `instances_*.json`.
#[derive(Serialize)]
pub struct Dataset {
    info: Info,
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Serialize)]
struct Info {
    description: &'static str,
}

#[derive(Serialize)]
struct Image {
    id: u32,
    file_name: String,
    width: u32,
    height: u32,
}

#[derive(Serialize)]
struct Annotation {
    id: u32,
    image_id: u32,
    category_id: u32,
    /// x, y, width, height of the visible pixels.
    bbox: [u32; 4],
    /// The number of visible pixels.
    area: u32,
    iscrowd: u8,
}

#[derive(Serialize)]
struct Category {
    id: u32,
    name: String,
    supercategory: &'static str,
}

/// The name of an image's file: twelve digits, as in COCO, in a folder named after the class of
/// `sorted_by`, if given.
pub fn file_name(id: u32, sorted_by: Option<&Visible>) -> String {
    match sorted_by {
        Some(object) => format!("{}/{id:012}.jpg", CLASSES[object.class].name().replace(' ', "-")),
        None => format!("{id:012}.jpg"),
    }
}

impl Dataset {
    /// The lists for scenes numbered from 1, given the names of their files and their objects.
    /// Categories are also numbered from 1: 0 is the background.
    pub fn new(size: Size, scenes: &[(String, Vec<Visible>)]) -> Self {
        let mut dataset = Self {
            info: Info { description: "drawn scenes of textured shapes" },
            images: Vec::new(),
            annotations: Vec::new(),
            categories: (1..)
                .zip(CLASSES)
                .map(|(id, class)| Category {
                    id,
                    name: class.name(),
                    supercategory: class.shape.name(),
                })
                .collect(),
        };
        for (image_id, (file_name, objects)) in (1..).zip(scenes) {
            let Size { width, height } = size;
            dataset.images.push(Image {
                id: image_id,
                file_name: file_name.clone(),
                width,
                height,
            });
            for object in objects {
                dataset.annotations.push(Annotation {
                    id: dataset.annotations.len() as u32 + 1,
                    image_id,
                    category_id: object.class as u32 + 1,
                    bbox: object.bbox,
                    area: object.area,
                    iscrowd: 0,
                });
            }
        }
        dataset
    }
}
