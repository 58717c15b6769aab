//! Parquet files of images.

use std::collections::HashMap;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_writer::ArrowWriterOptions;
use ::parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};

use super::*;

#[test]
fn parquet_files_give_images_paths_and_classes() {
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
    let error = found[5].error.as_deref().unwrap();
    assert!(error.starts_with("no image in this row, only its path"), "{error}");
    assert_eq!(found[6].path, "6");
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

/// A Parquet file of these columns.
fn write_table(path: &Path, columns: &[(&str, ArrayRef)], properties: WriterProperties) {
    let columns = columns.iter().map(|(name, array)| (*name, array.clone(), true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn table(folder: &Path, columns: &[(&str, ArrayRef)]) -> std::path::PathBuf {
    let path = folder.join("table.parquet");
    write_table(&path, columns, WriterProperties::default());
    path
}

/// Images of these widths, as bytes.
fn images(widths: &[u32]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(widths.iter().map(|&width| png_of_width(width))))
}

fn png_of_width(width: u32) -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    image::RgbImage::new(width, 3).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// The same as structs with bytes, as Hugging Face writes them.
fn image_structs(widths: &[u32]) -> ArrayRef {
    let bytes = Arc::new(Field::new("bytes", DataType::Binary, true));
    Arc::new(StructArray::from(vec![(bytes, images(widths))]))
}

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tables").join(name)
}

fn widths(sources: &Sources) -> Vec<i32> {
    all(sources).iter().map(|source| source.width).collect()
}

fn message(result: Result<Sources>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn every_codec_of_parquet_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        let path = folder.path().join("table.parquet");
        let properties = WriterProperties::builder().set_compression(codec).build();
        write_table(&path, &[("image", images(&[7, 8]))], properties);
        let sources = find(&path).unwrap_or_else(|error| panic!("{codec:?}: {error}"));
        assert_eq!(widths(&sources), [7, 8], "{codec:?}");
        assert_eq!(sources.read(1).unwrap().1, png_of_width(8), "{codec:?}");
    }
}

#[test]
fn of_several_columns_the_first_of_images_is_taken_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![4, 5]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
    let path = table(
        folder.path(),
        &[
            ("text", text),
            ("image", image_structs(&[1, 2])),
            ("mask", image_structs(&[3, 4])),
            ("coarse_label", numbers.clone()),
            ("fine_label", numbers),
        ],
    );
    let sources = find(&path).unwrap();
    assert_eq!(widths(&sources), [1, 2]);
    assert_eq!(sources.source(0).class.unwrap(), (4, "4".into()));
    assert_eq!(
        sources.notices(),
        [
            r#"images from the column "image" (also: "mask"); --image-column chooses"#,
            r#"classes from "fine_label" (also: "coarse_label"); --label-column chooses"#,
        ]
    );
    let sources = find_with(&path, &columns(Some("mask"), Some("text"))).unwrap();
    assert_eq!((widths(&sources), sources.notices().len()), (vec![3, 4], 0));
    assert_eq!(sources.source(1).class.unwrap(), (1, "y".into()));
    let sources = find_with(&path, &columns(None, Some("none"))).unwrap();
    assert_eq!(sources.classes(), 0);
    let reader = SourceReader::open(&path, &columns(Some("mask"), None)).unwrap();
    assert_eq!(reader.read(1, "1").unwrap(), png_of_width(4));

    let all = "text, image, mask, coarse_label, fine_label";
    let said = message(find_with(&path, &columns(Some("img"), None)));
    assert!(said.contains(r#""img" for --image-column"#) && said.contains(all), "{said}");
    let said = message(find_with(&path, &columns(None, Some("label"))));
    assert!(said.contains(r#""label" for --label-column"#) && said.contains(all), "{said}");
    let said = message(find_with(&path, &columns(Some("text"), None)));
    assert!(said.contains(r#""text" holds no images"#) && said.contains("Utf8"), "{said}");
    let said = message(find_with(&path, &columns(None, Some("mask"))));
    assert!(said.contains(r#""mask" holds no classes"#), "{said}");
}

#[test]
fn of_several_columns_of_bytes_one_named_for_images_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let keys: ArrayRef = Arc::new(BinaryArray::from_iter_values([b"k1", b"k2"]));
    let [a, b] = [images(&[1, 2]), images(&[3, 4])];
    let path = table(folder.path(), &[("key", keys.clone()), ("jpg_0", a.clone()), ("jpg_1", b)]);
    let sources = find(&path).unwrap();
    assert_eq!(widths(&sources), [1, 2]);
    assert!(sources.notices()[0].contains(r#""jpg_0" (also: "key", "jpg_1")"#));
    // Without such a name it is the first.
    let path = table(folder.path(), &[("content", a), ("sum", keys)]);
    assert_eq!(widths(&find(&path).unwrap()), [1, 2]);
}

#[test]
fn a_column_of_sounds_is_no_column_of_images() {
    let folder = tempfile::tempdir().unwrap();
    let fields = ["sound", "photo"]
        .map(|name| Field::new(name, image_structs(&[1]).data_type().clone(), true));
    let features = r#"{"info":{"features":{"sound":{"_type":"Audio"},"photo":{"_type":"Image"}}}}"#;
    let metadata = HashMap::from([("huggingface".to_owned(), features.to_owned())]);
    let schema = Arc::new(Schema::new_with_metadata(fields.to_vec(), metadata));
    let columns = vec![image_structs(&[1]), image_structs(&[2])];
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let path = folder.path().join("table.parquet");
    let mut writer = ArrowWriter::try_new(fs::File::create(&path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let sources = find(&path).unwrap();
    assert_eq!((widths(&sources), sources.notices().len()), (vec![2], 0));
}

#[test]
fn lists_of_images_give_an_image_each() {
    let folder = tempfile::tempdir().unwrap();
    let lengths = OffsetBuffer::from_lengths([2, 0, 1, 3]);
    let widths_of_all: Vec<u32> = (1..=6).collect();
    let present = NullBuffer::from(vec![true, true, true, true]);
    for values in [image_structs(&widths_of_all), images(&widths_of_all)] {
        let field = Arc::new(Field::new("item", values.data_type().clone(), true));
        let list = ListArray::new(field, lengths.clone(), values, Some(present.clone()));
        let labels: ArrayRef = Arc::new(Int64Array::from(vec![5, 6, 7, 8]));
        let kinds = [DataType::List, DataType::LargeList].map(|kind| {
            let DataType::List(field) = list.data_type() else { panic!() };
            kind(field.clone())
        });
        for kind in kinds {
            let lists = cast(&list, &kind).unwrap();
            let properties = WriterProperties::builder().set_max_row_group_row_count(Some(2));
            let path = folder.path().join("table.parquet");
            let columns = [("images", lists), ("label", labels.clone())];
            write_table(&path, &columns, properties.build());
            let sources = find(&path).unwrap();
            assert_eq!(widths(&sources), [1, 2, 3, 4, 5, 6]);
            let found = classes(&sources);
            let names: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
            assert_eq!(names, ["0/0", "0/1", "2/0", "3/0", "3/1", "3/2"]);
            assert_eq!(found[1].1, Some((5, "5".to_owned())));
            assert_eq!(found[4].1, Some((8, "8".to_owned())));
            assert_eq!(sources.notices(), ["rows without images: 1"]);
            let reader = SourceReader::open(&path, &SourceOptions::default()).unwrap();
            for id in 0..6 {
                let expected = png_of_width(id + 1);
                assert_eq!(sources.read(id).unwrap().1, expected);
                assert_eq!(reader.read(id.into(), names[id as usize]).unwrap(), expected);
            }
            let known = folder.path().join("sources.list");
            sources.write(&known).unwrap();
            let known = SourcesReader::open(&known).unwrap();
            let options = SourceOptions::default();
            let again = Sources::find_again(&path, &options, folder.path(), known).unwrap();
            assert_eq!(all(&again), all(&sources));
            assert_eq!(again.read(4).unwrap().1, png_of_width(5));
        }
    }
}

#[test]
fn labels_of_every_type_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    let numbers = Int64Array::from(vec![Some(10), Some(2), None, Some(-1)]);
    let texts = StringArray::from(vec![Some("b"), Some("a"), None, Some("b")]);
    let names = |found: &Sources| -> Vec<Option<(i32, String)>> {
        classes(found).into_iter().map(|(_, class)| class).collect()
    };
    let find_label = |labels: ArrayRef| {
        find(&table(folder.path(), &[("image", images(&[1, 2, 3, 4])), ("label", labels)])).unwrap()
    };
    let class = |label: i32, name: &str| Some((label, name.to_owned()));
    let of_numbers = [class(10, "10"), class(2, "2"), None, None];
    let keyed = |value| DataType::Dictionary(DataType::Int32.into(), Box::new(value));
    for kind in [
        DataType::Int8,
        DataType::Int64,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal128(9, 2),
        keyed(DataType::Int64),
    ] {
        let found = find_label(cast(&numbers, &kind).unwrap());
        assert_eq!(names(&found), of_numbers, "{kind}");
    }
    for kind in [
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Binary,
        keyed(DataType::Utf8),
    ] {
        let found = find_label(cast(&texts, &kind).unwrap());
        assert_eq!(names(&found), [class(1, "b"), class(0, "a"), None, class(1, "b")], "{kind}");
    }
    let found = find_label(Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, None])));
    assert_eq!(names(&found), [class(1, "true"), class(0, "false"), None, None]);

    let fractions = Float32Array::from(vec![Some(0.5), Some(3.0), Some(f32::NAN), None]);
    let found = find_label(Arc::new(fractions));
    assert_eq!(names(&found), [None, class(3, "3"), None, None]);
    assert_eq!(found.notices(), ["1 image has a fraction as label and so no class"]);

    let several = [Some(vec![Some(4)]), Some(vec![Some(4), Some(5)]), Some(vec![]), None];
    let found = find_label(Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(several)));
    assert_eq!(names(&found), [class(4, "4"), None, None, None]);
    assert_eq!(found.notices(), ["1 image has several labels and so no class"]);
    // A column that can be no label is left alone.
    let found = find_label(image_structs(&[1, 2, 3, 4]));
    assert_eq!((found.classes(), widths(&found)), (0, vec![1, 2, 3, 4]));
}

#[test]
fn names_of_classes_come_from_the_metadata_of_hugging_face() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.parquet");
    for feature in [
        r#"{"names":["cat","dog"],"_type":"ClassLabel"}"#,
        r#"{"names":{"1":"dog","0":"cat"},"_type":"ClassLabel"}"#,
        r#"{"feature":{"names":["cat","dog"],"_type":"ClassLabel"},"_type":"Sequence"}"#,
        r#"[{"names":["cat","dog"],"_type":"ClassLabel"}]"#,
    ] {
        let features = format!(r#"{{"info":{{"features":{{"label":{feature}}}}}}}"#);
        let labels: ArrayRef = Arc::new(Int64Array::from(vec![1, 0, 2]));
        let columns = [("image", images(&[1, 2, 3])), ("label", labels)];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        // In the metadata of the file alone, as programs write them that know nothing of Arrow.
        let pair = KeyValue::new("huggingface".to_owned(), features);
        let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![pair]));
        let options = ArrowWriterOptions::new()
            .with_properties(properties.build())
            .with_skip_arrow_metadata(true);
        let file = fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new_with_options(file, batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let names: Vec<String> =
            classes(&find(&path).unwrap()).into_iter().map(|(_, class)| class.unwrap().1).collect();
        assert_eq!(names, ["dog", "cat", "2"], "{feature}");
    }
}

#[test]
fn files_that_hugging_face_writes_are_read() {
    let sources = find(&golden("classes.parquet")).unwrap();
    assert_eq!(widths(&sources), [1, 2, 3]);
    assert_eq!(sources.source(0).class.unwrap(), (2, "castle".into()));
    let coarse = find_with(&golden("classes.parquet"), &columns(None, Some("coarse_label")));
    assert_eq!(coarse.unwrap().source(2).class.unwrap(), (1, "animal".into()));

    let sources = find(&golden("lists.parquet")).unwrap();
    let class = Some((1, "bear".to_owned()));
    let expected = [("0/0".into(), class.clone()), ("0/1".into(), class), ("3/0".into(), None)];
    assert_eq!(classes(&sources), expected);
    assert_eq!(widths(&sources), [1, 2, 3]);
    assert_eq!(
        sources.notices(),
        ["rows without images: 2", "1 image has several labels and so no class"]
    );
}

#[test]
fn an_image_of_which_a_row_has_the_path_alone_is_read_from_there() {
    let path = golden("paths.parquet");
    let sources = find(&path).unwrap();
    assert_eq!(widths(&sources), [9, 0]);
    let error = sources.source(1).error.unwrap();
    assert!(error.contains("only its path"), "{error}");
    assert_eq!(sources.notices(), ["images read from the paths in their rows: 1"]);
    let expected = fs::read(golden("a.png")).unwrap();
    assert_eq!(sources.read(0).unwrap().1, expected);
    let reader = SourceReader::open(&path, &SourceOptions::default()).unwrap();
    assert_eq!(reader.read(0, "a.png").unwrap(), expected);

    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("paths.parquet");
    fs::copy(&path, &copy).unwrap();
    let said = message(find(&copy));
    assert!(
        said.contains("no row holds an image: a.png") && said.contains("only its path"),
        "{said}"
    );
}

#[test]
fn paths_beside_bytes_of_no_type_are_read() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("a.png"));
    let paths: ArrayRef = Arc::new(StringArray::from(vec!["a.png"]));
    let field = |name: &str, kind: DataType| Arc::new(Field::new(name, kind, true));
    let rows = StructArray::from(vec![
        (field("bytes", DataType::Null), Arc::new(NullArray::new(1)) as ArrayRef),
        (field("path", DataType::Utf8), paths),
    ]);
    let sources = find(&table(folder.path(), &[("image", Arc::new(rows))])).unwrap();
    assert_eq!(widths(&sources), [5]);
    assert!(!sources.read(0).unwrap().1.is_empty());
}

#[test]
fn files_of_other_columns_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let labels: ArrayRef = Arc::new(Int64Array::from(vec![3]));
    let write = |name: &str, columns: &[(&str, ArrayRef)]| {
        write_table(&folder.path().join(name), columns, WriterProperties::default());
    };
    write("a.parquet", &[("image", images(&[1])), ("label", labels.clone())]);
    write("b.parquet", &[("image", images(&[2])), ("label", labels)]);
    write("c.parquet", &[("jpg", images(&[3]))]);
    let sources = find(folder.path()).unwrap();
    let notices = sources.notices();
    assert!(
        notices.len() == 2
            && notices[0]
                .contains(r#"a.parquet and 1 more: images from "image", classes from "label""#)
            && notices[1].contains(r#"c.parquet: images from "jpg", no classes"#),
        "{notices:?}"
    );
    for options in [columns(Some("image"), None), columns(None, Some("label"))] {
        let said = message(find_with(folder.path(), &options));
        assert!(said.contains("c.parquet: has no column") && said.contains("it has jpg"), "{said}");
    }
}

#[test]
fn a_table_without_images_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let said = message(find(&table(folder.path(), &[("image", images(&[]))])));
    assert!(said.contains("table.parquet: no row holds an image"), "{said}");
    let nothing: ArrayRef = Arc::new(BinaryArray::from(vec![None::<&[u8]>; 2]));
    let said = message(find(&table(folder.path(), &[("image", nothing)])));
    assert!(said.contains("no row holds an image: 0: no image in this row"), "{said}");
    // Classes that no default finds are named.
    let species: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let path = table(folder.path(), &[("image", images(&[1])), ("species_label", species)]);
    let said = find(&path).unwrap().notices()[0].clone();
    assert!(said.contains(r#"--label-column chooses, such as "species_label""#), "{said}");
}
