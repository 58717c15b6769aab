//! Shards written and read again, and files that a reader refuses.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnDescPtr;
use scrl_schemas::{
    Box2, ColorJitter, ColorStep, Crop, EncodedImage, Error, MatchedBox, Row, ShardReader,
    ShardWriter, Skipped, View, ViewParams,
};

fn row(image_id: i64) -> Row {
    let view = |index: i64| View {
        image: (image_id % 5 != 0).then(|| EncodedImage {
            bytes: vec![index as u8; 1000],
            path: format!("{image_id}-{index}.webp"),
        }),
        params: ViewParams {
            crop: Crop { x: 1, y: 2, width: 300 + image_id as i32, height: 200 },
            flip: index == 1,
            vertical_flip: image_id % 7 == index,
            turns: ((image_id + index) % 4) as i8,
            jitter: (image_id % 3 != 0).then_some(ColorJitter {
                brightness: 0.7,
                contrast: 1.3,
                saturation: 1.1,
                hue: -0.05,
                order: [
                    ColorStep::Hue,
                    ColorStep::Contrast,
                    ColorStep::Brightness,
                    ColorStep::Saturation,
                ],
            }),
            grayscale: image_id % 2 == 0,
            blur: (image_id % 4 != 0).then_some(1.5),
            solarize: index == 2,
        },
    };
    let corner = |shift: f32| Box2 { x0: shift, y0: 2.0, x1: shift + 40.5, y1: 50.25 };
    let matched = |k: i64| MatchedBox {
        source: corner(k as f32),
        view1: corner(image_id as f32),
        view2: corner(7.0),
    };
    Row {
        image_id,
        path: format!("class/{image_id}.jpg"),
        label: (image_id % 2 == 1).then_some(image_id as i32),
        source_width: 500,
        source_height: 375,
        view1: view(1),
        view2: view(2),
        boxes: (0..image_id % 4).map(matched).collect(),
    }
}

fn write(path: &Path, rows: &[Row]) -> scrl_schemas::FinishedShard {
    let mut writer = ShardWriter::create(path).unwrap();
    for row in rows {
        writer.write(row.clone()).unwrap();
    }
    writer.finish(vec![Skipped { image_id: 99, error: "empty file".into() }]).unwrap()
}

#[test]
fn rows_round_trip_from_any_position() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-00000.parquet");
    let rows: Vec<Row> = (0..150).map(row).collect();
    let finished = write(&path, &rows);

    assert_eq!(finished.record.rows, 150);
    assert_eq!(finished.record.bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(finished.record.crc32c, crc32c::crc32c(&fs::read(&path).unwrap()));
    let reader = ShardReader::open(&path).unwrap();
    assert_eq!(reader.skipped(), finished.skipped);
    assert_eq!(reader.total_rows(), 150);
    assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), rows);
    for first in [1, 64, 149, 150] {
        let tail: Result<Vec<_>, _> = ShardReader::open_at(&path, first).unwrap().collect();
        assert_eq!(tail.unwrap(), rows[first as usize..], "from row {first}");
    }
}

#[test]
fn pixels_are_read_of_the_requested_rows_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-00000.parquet");
    let rows: Vec<Row> = (0..150).map(row).collect();
    write(&path, &rows);
    let choices: [fn(u64) -> bool; 4] =
        [|row| row % 8 >= 6, |row| !(5..140).contains(&row), |_| true, |_| false];
    for (has_pixels, first) in choices.into_iter().flat_map(|choice| [(choice, 0), (choice, 77)]) {
        let expected = rows.iter().cloned().enumerate().skip(first as usize);
        let expected: Vec<Row> = expected
            .map(|(number, mut row)| {
                if !has_pixels(number as u64) {
                    (row.view1.image, row.view2.image) = (None, None);
                }
                row
            })
            .collect();
        let found: Result<Vec<Row>, _> =
            ShardReader::open_with_pixels(&path, first, has_pixels).unwrap().collect();
        assert_eq!(found.unwrap(), expected);
    }
}

#[test]
fn some_rows_lie_in_few_pages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-00000.parquet");
    let bytes = 60_000;
    let mut rows: Vec<Row> = (1..90).filter(|id| id % 5 != 0).map(row).collect();
    for row in &mut rows {
        row.view1.image.as_mut().unwrap().bytes = vec![7; bytes];
    }
    write(&path, &rows);
    let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Required);
    let file = fs::File::open(&path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).unwrap();
    let is_pixels = |column: &ColumnDescPtr| column.path().string() == "view1.image.bytes";
    let column = reader.parquet_schema().columns().iter().position(is_pixels).unwrap();
    let index = reader.metadata().page_index_for_row_group(0);
    let pages = index.offset_index(column).unwrap().page_locations();
    assert!(pages.len() * 6 >= rows.len(), "{} pages of {} rows", pages.len(), rows.len());
    let largest = pages.iter().map(|page| page.compressed_page_size).max();
    assert!(largest < Some(10 * bytes as i32), "{largest:?} bytes");
}

#[test]
fn without_pixels_everything_else_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-00000.parquet");
    let rows: Vec<Row> = (0..70).map(row).collect();
    write(&path, &rows);
    let found: Vec<Row> =
        ShardReader::open_without_pixels(&path).unwrap().map(Result::unwrap).collect();
    let without_pixels = |mut row: Row| {
        (row.view1.image, row.view2.image) = (None, None);
        row
    };
    assert_eq!(found, rows.into_iter().map(without_pixels).collect::<Vec<_>>());
}

#[test]
fn the_arrow_schema_describes_the_views_as_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-00000.parquet");
    write(&path, &[row(1)]);
    let file = fs::File::open(&path).unwrap();
    let schema = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().schema().clone();
    let features: serde_json::Value =
        serde_json::from_str(&schema.metadata()["huggingface"]).unwrap();
    let features = &features["info"]["features"];
    assert_eq!(features["view1"]["image"]["_type"], "Image");
    for field in schema.fields() {
        assert!(features.get(field.name()).is_some(), "{}", field.name());
    }
    // Otherwise `datasets` ignores the description: fields in the order of the columns, all of them
    // nullable.
    let text = &schema.metadata()["huggingface"];
    let view = &text[text.find("\"view1\"").unwrap()..];
    let DataType::Struct(fields) = schema.field_with_name("view1").unwrap().data_type() else {
        panic!()
    };
    let positions: Vec<_> =
        fields.iter().map(|field| view.find(&format!("\"{}\":", field.name()))).collect();
    assert!(positions.is_sorted() && positions[0].is_some(), "{positions:?}");
    fn all_nullable(field: &Field) -> bool {
        let DataType::Struct(inner) = field.data_type() else { return field.is_nullable() };
        field.is_nullable() && inner.iter().all(|field| all_nullable(field))
    }
    assert!(
        ["view1", "view2"].iter().all(|name| all_nullable(schema.field_with_name(name).unwrap()))
    );
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Row> = (0..70).map(row).collect();
    let [a, b] = ["a.parquet", "b.parquet"].map(|name| folder.path().join(name));
    write(&a, &rows);
    write(&b, &rows);
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap());
}

#[test]
fn an_unfinished_shard_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(&folder.path().join("part-00000.parquet")).unwrap();
    writer.write(row(1)).unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Rewrites a shard with a change to each batch.
fn rewrite(path: &Path, change: impl Fn(RecordBatch) -> RecordBatch) {
    let file = fs::File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let metadata = reader.metadata().file_metadata().key_value_metadata().cloned();
    // The Arrow schema is stored by the writer itself.
    let metadata = metadata.unwrap().into_iter().filter(|pair| pair.key != "ARROW:schema");
    let properties =
        WriterProperties::builder().set_key_value_metadata(Some(metadata.collect())).build();
    let batches: Vec<_> = reader.build().unwrap().map(|batch| change(batch.unwrap())).collect();
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
}

/// A batch whose views have other fields.
fn with_views(batch: &RecordBatch, change: impl Fn(&StructArray) -> StructArray) -> RecordBatch {
    let schema = batch.schema();
    let changed = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        if !field.name().starts_with("view") {
            return (field.clone(), column.clone());
        }
        let view: ArrayRef = Arc::new(change(column.as_struct()));
        (Arc::new(Field::new(field.name(), view.data_type().clone(), true)), view)
    });
    let (fields, columns): (Vec<_>, Vec<_>) = changed.unzip();
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

#[test]
fn shards_of_earlier_builds_have_neither_vertical_flips_nor_turns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-00000.parquet");
    let rows: Vec<Row> = (0..70).map(row).collect();
    let finished = write(&path, &rows);
    rewrite(&path, |batch| {
        with_views(&batch, |view| {
            let is_earlier = |name: &String| !["vertical_flip", "turns"].contains(&name.as_str());
            let fields = view.fields().iter().zip(view.columns());
            let (fields, columns): (Vec<_>, Vec<_>) = fields
                .filter(|(field, _)| is_earlier(field.name()))
                .map(|(field, column)| (field.clone(), column.clone()))
                .unzip();
            StructArray::new(fields.into(), columns, view.nulls().cloned())
        })
    });
    let expected = rows.into_iter().map(|mut row| {
        for view in [&mut row.view1, &mut row.view2] {
            (view.params.vertical_flip, view.params.turns) = (false, 0);
        }
        row
    });
    let expected: Vec<Row> = expected.collect();
    let reader = ShardReader::open(&path).unwrap();
    assert_eq!(reader.skipped(), finished.skipped);
    assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), expected);
    let some = ShardReader::open_with_pixels(&path, 0, |row| row % 2 == 1).unwrap();
    let some: Vec<Row> = some.collect::<Result<_, _>>().unwrap();
    assert_eq!(some[7].view2, expected[7].view2);
}

#[test]
fn turns_beyond_three_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-00000.parquet");
    for turns in [-1, 4] {
        let mut wrong = row(1);
        wrong.view2.params.turns = turns;
        write(&path, &[row(2), wrong]);
        let message = ShardReader::open(&path).unwrap().next().unwrap().unwrap_err().to_string();
        let expected = format!("part-00000.parquet: {turns} quarter turns");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn foreign_and_damaged_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-00000.parquet");
    write(&path, &[row(1)]);
    let intact = fs::read(&path).unwrap();

    fs::write(&path, &intact[..intact.len() / 2]).unwrap();
    let message = ShardReader::open(&path).err().unwrap().to_string();
    assert!(message.contains("part-00000.parquet"), "{message}");

    let sources = folder.path().join("sources.parquet");
    scrl_schemas::SourcesWriter::create(&sources).unwrap().finish().unwrap();
    let message = ShardReader::open(&sources).err().unwrap().to_string();
    assert!(message.contains("not a shard of views"), "{message}");

    // The format number is the first "1" behind its key.
    let key = b"scrl.format";
    let at = intact.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    let digit = at + intact[at..].iter().position(|byte| *byte == b'1').unwrap();
    let mut newer = intact.clone();
    newer[digit] = b'2';
    fs::write(&path, newer).unwrap();
    match ShardReader::open(&path) {
        Err(Error::Format { found, expected: 1, .. }) => assert_eq!(found, "2"),
        other => panic!("{:?}", other.err()),
    }
}
