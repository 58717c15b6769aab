use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use scrl_schemas::{Exif, Source, SourceOptions, SourcesReader};

use super::{Examine, SourceReader, Sources};
use crate::Result;

mod again;
mod archive;
mod folder;
mod inputs;
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

fn all(sources: &Sources) -> Vec<Source> {
    (0..sources.len()).map(|id| sources.source(id)).collect()
}

fn png() -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    image::RgbImage::new(6, 3).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn a_list_names_paths_and_classes() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("deep/ü 1.png"));
    let outside = tempfile::tempdir().unwrap();
    write_image(&outside.path().join("2.bmp"));
    let list = folder.path().join("list.txt");
    let text = format!(
        "deep/ü 1.png\tcat\r\n\n{}\tant\nmissing.png\n",
        outside.path().join("2.bmp").display()
    );
    fs::write(&list, text).unwrap();
    let sources = find(&list).unwrap();
    let found = all(&sources);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].class, Some((1, "cat".into())));
    assert_eq!(found[1].class, Some((0, "ant".into())));
    assert_eq!((found[2].class.clone(), found[2].error.is_some()), (None, true));
    assert!(!sources.read(0).unwrap().1.is_empty() && !sources.read(1).unwrap().1.is_empty());
}

#[test]
fn parquet_files_give_images_paths_and_classes() {
    use std::collections::HashMap;

    use ::parquet::arrow::ArrowWriter;
    use ::parquet::file::properties::WriterProperties;
    use arrow::array::{
        Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray,
    };
    use arrow::datatypes::{DataType, Field, Schema};

    let folder = tempfile::tempdir().unwrap();
    let png = png();
    let images: Vec<Option<&[u8]>> = (0..40).map(|i| (i != 5).then_some(&png[..])).collect();
    let bytes: ArrayRef = Arc::new(BinaryArray::from(images));
    let names: Vec<Option<String>> =
        (0..40).map(|i| (i != 6).then(|| format!("{i}.png"))).collect();
    let paths: ArrayRef = Arc::new(StringArray::from(names));
    let field = |name: &str, kind: DataType| Arc::new(Field::new(name, kind, true));
    let image = StructArray::from(vec![
        (field("bytes", DataType::Binary), bytes.clone()),
        (field("path", DataType::Utf8), paths),
    ]);
    let labels: ArrayRef = Arc::new(Int64Array::from_iter_values((0..40).map(|i| i % 3 - 1)));
    let described =
        r#"{"info":{"features":{"label":{"names":["cat","dog"],"_type":"ClassLabel"}}}}"#;
    let schema = Schema::new(vec![
        Field::new("image", image.data_type().clone(), true),
        Field::new("label", DataType::Int64, true),
    ])
    .with_metadata(HashMap::from([("huggingface".to_owned(), described.to_owned())]));
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(image), labels]).unwrap();
    let write = |name: &str, batch: &RecordBatch| {
        let file = fs::File::create(folder.path().join(name)).unwrap();
        let small = WriterProperties::builder().set_max_row_group_row_count(Some(16)).build();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(small)).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
    };
    write("a.parquet", &batch);
    let sources = find(&folder.path().join("a.parquet")).unwrap();
    let found = all(&sources);
    assert_eq!(found.len(), 40);
    assert_eq!(
        (found[5].error.as_deref(), found[6].path.as_str()),
        (Some("no image in this row"), "6")
    );
    assert_eq!((&found[0].class, &found[2].class), (&None, &Some((1, "dog".into()))));
    assert_eq!((found[39].width, found[39].bytes), (6, png.len() as i64));
    for id in [0, 15, 16, 39] {
        assert_eq!(sources.read(id).unwrap().1, png, "row {id}");
    }
    let list = folder.path().join("sources.parquet.list");
    sources.write(&list).unwrap();
    let again = Sources::find_again(
        &folder.path().join("a.parquet"),
        &SourceOptions::default(),
        folder.path(),
        SourcesReader::open(&list).unwrap(),
    );
    assert_eq!(all(&again.unwrap()), found);
    fs::remove_file(list).unwrap();
    let reader =
        SourceReader::open(&folder.path().join("a.parquet"), &SourceOptions::default()).unwrap();
    assert_eq!(reader.read(39, &found[39].path).unwrap(), png);

    // A folder of files, the other with a plain column.
    let plain = Arc::new(Schema::new(vec![Field::new("jpg", DataType::Binary, true)]));
    write("b.parquet", &RecordBatch::try_new(plain, vec![bytes]).unwrap());
    let sources = find(folder.path()).unwrap();
    assert_eq!(sources.len(), 80);
    assert_eq!(sources.source(41).path, "b.parquet/1");
    assert_eq!(sources.read(41).unwrap().1, png);

    let text = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, true)]));
    let none: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    write("c.parquet", &RecordBatch::try_new(text, vec![none]).unwrap());
    let message = find(&folder.path().join("c.parquet")).unwrap_err().to_string();
    assert!(message.contains("no column of images") && message.contains("text"), "{message}");
}
