//! What is read of annotation files, and what is said of the rest.

use std::fs;

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
    let read = read(&list(&format!("{CAT}, {}", others.join(","))), folder.path(), None).unwrap();
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
        example: Some("one of image 11, bbox [3.0, 3.0, 9.0, 9.0]: its image is not listed".into()),
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
    says(&list(CAT).replace("\"dog\"", "\"cow\""), Some(&trained), &["category 5", "cow", "dog"]);
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
    let LeftOut { without_bbox, tiny, without_category, without_image, crowds, .. } = read.left_out;
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
        let resized = ResizedImages::new(8, decoding(PixelOptions::default()));
        let read = AnnotatedImages::read(&file, folder.path(), None, &resized, &reporter).unwrap();
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
    let resized = ResizedImages::new(8, decoding(PixelOptions::default()));
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
    let expected: Vec<_> = expected.iter().map(|(n, b, c)| (n.clone(), *b, c.as_str())).collect();
    assert_eq!(found, expected);
}
