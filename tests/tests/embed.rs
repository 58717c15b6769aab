//! `scrl-embed`: tables of features, duplicates, and the page.

use std::fs::{self, File};
use std::process;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Float32Type;
use image::imageops::{FilterType, crop_imm, resize};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use safetensors::SafeTensors;
use scrl_tests::Dir;

const RANDOM: &str = "--checkpoint random --arch resnet18 --size 64 --device cpu";
const CHANNELS: usize = 512;

/// The rows of a table.
fn table(dir: &Dir, name: &str) -> RecordBatch {
    let file = File::open(dir.path(name)).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// The texts of a column; `None` for null.
fn texts(table: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let texts = table[column].as_string::<i32>();
    texts.iter().map(|text| text.map(str::to_owned)).collect()
}

fn paths(table: &RecordBatch) -> Vec<String> {
    texts(table, "path").into_iter().map(Option::unwrap).collect()
}

/// The elements of a column of lists of this length.
fn lists(table: &RecordBatch, column: &str, length: usize) -> Vec<f32> {
    let lists = table[column].as_fixed_size_list();
    assert_eq!((lists.value_length() as usize, lists.null_count()), (length, 0));
    lists.values().as_primitive::<Float32Type>().values().to_vec()
}

fn embeddings(table: &RecordBatch) -> Vec<f32> {
    lists(table, "embedding", CHANNELS)
}

/// The features in a file of scrl-eval.
fn features(dir: &Dir, name: &str) -> Vec<f32> {
    let bytes = dir.read(name);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let bytes = file.tensor("vectors").unwrap().data();
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

#[test]
fn images_have_a_row_each_on_any_number_of_threads() {
    let dir = Dir::new().images(9).file("images/class1/broken.jpg", "no image");
    let output = dir.embed(&format!("{RANDOM} --threads 1 images a.parquet")).succeeds();
    output.says(&["left out", "broken.jpg"]);
    assert!(
        output.stdout.contains("9 images, 512 elements each, by resnet18 of random: a.parquet")
    );
    let found = table(&dir, "a.parquet");
    let names = paths(&found);
    assert_eq!((names.len(), &*names[0]), (9, "class0/000.jpg"));
    for (path, class) in names.iter().zip(texts(&found, "class")) {
        assert_eq!(path.split('/').next(), class.as_deref());
    }
    assert_eq!(found["box"].null_count(), 9);
    assert!(embeddings(&found).iter().all(|x| x.is_finite()));
    // Centered, and by descending variance.
    let pca = lists(&found, "pca", 3);
    let sum = |of: &dyn Fn(&[f32; 3]) -> f32| pca.as_chunks().0.iter().map(of).sum::<f32>();
    let variances = [0, 1, 2].map(|k| sum(&|row| row[k] * row[k]));
    assert!(variances.is_sorted_by(|a, b| a > b) && variances[2] > 0.0, "{variances:?}");
    assert!((0..3).all(|k| sum(&|row| row[k]).abs() < 1e-3 * variances[0].sqrt()));

    // What was there is replaced.
    let dir = dir.file("b.parquet", "something else");
    let output = dir.embed(&format!("{RANDOM} --threads 3 --quiet images b.parquet")).succeeds();
    assert_eq!(output.stdout, "");
    assert!(dir.read("a.parquet") == dir.read("b.parquet"), "the number of threads shows");
    assert!(!dir.path("a.parquet.features").exists());
}

#[test]
fn features_of_images_are_those_of_scrl_eval() {
    let dir = Dir::new().images(9);
    dir.embed(&format!("{RANDOM} images a.parquet")).succeeds();
    dir.eval(&format!("knn {RANDOM} --images images --val images --out eval")).succeeds();
    let found = table(&dir, "a.parquet");
    assert_eq!(embeddings(&found), features(&dir, "eval/features/val-00000.safetensors"));
}

#[test]
fn boxes_have_a_row_each_with_the_features_of_scrl_eval() {
    let dir = Dir::new();
    dir.make_scenes("scenes --images 6 --val 3 --size 96x80").succeeds();
    let boxes = "--boxes scenes/instances_train2017.json scenes/train2017";
    dir.embed(&format!("{RANDOM} {boxes} out.parquet")).succeeds();
    let found = table(&dir, "out.parquet");
    let list: serde_json::Value =
        serde_json::from_str(&dir.text("scenes/instances_train2017.json")).unwrap();
    let annotations = list["annotations"].as_array().unwrap();
    assert_eq!(found.num_rows(), annotations.len());
    let sides = found["box"].as_struct();
    assert_eq!(sides.null_count(), 0);
    for (side, name) in ["x", "y", "width", "height"].iter().enumerate() {
        let column = sides.column_by_name(name).unwrap().as_primitive::<Float32Type>();
        let mut values: Vec<f32> = column.values().to_vec();
        let mut listed: Vec<f32> =
            annotations.iter().map(|of| of["bbox"][side].as_f64().unwrap() as f32).collect();
        // The table goes image by image.
        values.sort_by(f32::total_cmp);
        listed.sort_by(f32::total_cmp);
        assert_eq!(values, listed, "{name}");
    }
    let classes = texts(&found, "class");
    assert!(classes.iter().all(Option::is_some));
    dir.eval(&format!(
        "knn {RANDOM} --train-images scenes/train2017 --train-boxes scenes/instances_train2017.json \
         --val-images scenes/val2017 --val-boxes scenes/instances_val2017.json --out eval"
    ))
    .succeeds();
    let of_eval = features(&dir, "eval/features/train-upright-00000.safetensors");
    assert_eq!(embeddings(&found), of_eval);
}

#[test]
fn archives_and_lists_give_the_same_embeddings() {
    let dir = Dir::new().images(4);
    let files = dir.path("images");
    let made = process::Command::new("tar")
        .args(["--sort=name", "-cf"])
        .arg(dir.path("images.tar"))
        .arg("-C")
        .arg(&files)
        .args(["class0", "class1", "class2"])
        .status();
    assert!(made.unwrap().success());
    let dir = dir.file("list.txt", "images/class0/000.jpg\nimages/class1/001.png\n");
    for (images, out) in [("images", "a"), ("images.tar", "b")] {
        dir.embed(&format!("{RANDOM} --duplicates 1 {images} {out}.parquet")).succeeds();
    }
    let [folder, archive] = ["a.parquet", "b.parquet"].map(|name| table(&dir, name));
    assert_eq!(paths(&folder), paths(&archive));
    assert_eq!(texts(&folder, "class"), texts(&archive, "class"));
    assert_eq!(embeddings(&folder), embeddings(&archive));
    // Images within an archive cannot be listed.
    assert!(dir.path("a.keep.csv").exists() && !dir.path("b.keep.csv").exists());
    dir.embed(&format!("{RANDOM} list.txt c.parquet")).succeeds();
    assert_eq!(texts(&table(&dir, "c.parquet"), "class"), [None, None]);
}

#[test]
fn near_equal_images_are_left_out_of_the_list() {
    let dir = Dir::new().images(9);
    let original = image::open(dir.path("images/class0/000.jpg")).unwrap().to_rgb8();
    let (width, height) = original.dimensions();
    original.save(dir.path("images/class0/again.jpg")).unwrap();
    let cropped = crop_imm(&original, 2, 2, width - 4, height - 4).to_image();
    cropped.save(dir.path("images/class0/cropped.png")).unwrap();
    resize(&original, width + 6, height + 5, FilterType::CatmullRom)
        .save(dir.path("images/class0/resized.png"))
        .unwrap();
    fs::copy(dir.path("images/class1/001.png"), dir.path("images/class1/copy, \"1\".png")).unwrap();
    let output =
        dir.embed(&format!("{RANDOM} --duplicates 0.998 images out.parquet")).succeeds().stdout;
    let pairs = dir.text("out.duplicates.csv");
    let found: Vec<&str> = pairs.lines().skip(1).collect();
    let planted = ["again.jpg", "cropped.png", "resized.png"];
    for planted in planted {
        let pair = format!("class0/000.jpg,class0/{planted},0.99");
        assert!(found.iter().any(|line| line.starts_with(&pair)), "{planted}: {pairs}");
    }
    assert!(pairs.contains("class1/001.png,\"class1/copy, \"\"1\"\".png\",1.000000"), "{pairs}");
    assert_eq!(found.len(), 7, "{pairs}");
    assert!(output.contains("7 pairs of duplicates in 2 groups, 4 images besides the first ones"));
    dir.prep("--epochs 1 --size 64 out.keep.csv shards").succeeds();
    let sources = table(&dir, "shards/sources.parquet");
    let kept = paths(&sources);
    assert_eq!(kept.len(), 9);
    assert!(kept.iter().all(|path| planted.iter().all(|name| !path.ends_with(name))), "{kept:?}");
    let mut classes = texts(&sources, "class");
    classes.dedup();
    assert_eq!(classes, ["class0", "class1", "class2"].map(|name| Some(name.to_owned())));
}

#[test]
fn a_page_is_written_for_two_backbones() {
    let dir = Dir::new().images(9);
    dir.embed(&format!(
        "{RANDOM} --against random --html page.html --duplicates 1 images out.parquet"
    ))
    .succeeds();
    assert!(dir.path("page.html").exists());
}

#[test]
fn wrong_arguments_are_refused_in_one_line() {
    let dir = Dir::new().images(3).folder("empty").file("images.tar", "x");
    for (arguments, code, words) in [
        ("images none/out.parquet", 2, "there is no folder none; make it first"),
        ("images out.csv", 2, "the name of the table ends in .parquet"),
        ("images s3://bucket/out.parquet", 2, "give a local file"),
        ("--html empty images out.parquet", 2, "is a folder; give the name of a file"),
        ("--against random images out.parquet", 2, "--html"),
        ("--duplicates 1.5 images out.parquet", 2, "above 0 and at most 1"),
        ("--boxes b.json --duplicates 1 images out.parquet", 2, "compares whole images"),
        ("--boxes b.json images.tar out.parquet", 2, "needs the folder of the images"),
        ("empty out.parquet", 1, "holds no images"),
        ("nothing out.parquet", 1, "nothing"),
    ] {
        dir.embed(&format!("{RANDOM} {arguments}")).fails(code).says(&[words]);
        assert!(!dir.path("out.parquet").exists(), "{arguments}");
    }
}
