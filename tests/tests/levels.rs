//! Images of 16 bits and floats, from the folder to views: `--levels` and `--max-pixels`.

use image::{ImageBuffer, Luma, Rgb};
use scrl_schemas::{Epoch, Levels, Manifest, Shard, ShardPaths, ShardReader};
use scrl_tests::Dir;

/// Small views, so that tests are fast; shards of four images, so that there are several.
const SMALL: &str = "--size 64 --min-box 16 --rows-per-shard 4 --epochs 2";

/// With `thermal/`: images of 16 bits that hold values of 51,200 to 52,223 alone, in two classes.
fn thermal(dir: Dir, count: u32) -> Dir {
    for index in 0..count {
        let name = format!("thermal/class{}/{index:02}.png", index % 2);
        let dir_of_class = dir.path(&name);
        std::fs::create_dir_all(dir_of_class.parent().unwrap()).unwrap();
        let level = |x: u32, y: u32| Luma([51_200 + ((x * x + y * (9 + index)) & 1023) as u16]);
        ImageBuffer::from_fn(90 + index, 80, level).save(dir_of_class).unwrap();
    }
    dir
}

/// With `floats/`: TIFFs of 32-bit floats from −1 to 1.
fn floats(dir: Dir) -> Dir {
    std::fs::create_dir_all(dir.path("floats")).unwrap();
    for index in 0..5u32 {
        let value = |x: u32, y: u32| ((x * (3 + index) + y * 5) & 63) as f32 / 31.5 - 1.0;
        let pixel = |x, y| Rgb([value(x, y), value(y, x), value(x + y, x)]);
        let image = ImageBuffer::from_fn(80, 70 + index, pixel);
        image.save(dir.path(&format!("floats/{index}.tif"))).unwrap();
    }
    dir
}

fn manifest(dir: &Dir, shards: &str) -> Manifest {
    Manifest::read(&dir.path(&format!("{shards}/dataset.toml"))).unwrap()
}

/// The bytes of the first view in a shard.
fn first_view(dir: &Dir, shards: &str) -> Vec<u8> {
    let path = ShardPaths::new(dir.path(shards)).shard(Epoch(0), Shard(0));
    let row = ShardReader::open(&path).unwrap().next().unwrap().unwrap();
    row.view1.image.unwrap().bytes
}

#[test]
fn a_narrow_range_is_noticed_once_and_auto_spreads_it() {
    let dir = thermal(Dir::new(), 10);
    let full = dir.prep(&format!("{SMALL} thermal full")).succeeds();
    full.says(&["16-bit images use 51,2", " of 0..65,535", "--levels 512", "(or --levels auto)"]);
    let text = dir.text("full/dataset.toml");
    assert!(!text.contains("levels") && !text.contains("window"), "{text}");
    let again = dir.prep(&format!("{SMALL} thermal full")).succeeds();
    assert!(!again.stderr.contains("16-bit"), "{}", again.stderr);

    let auto = dir.prep(&format!("{SMALL} --levels auto thermal auto")).succeeds();
    auto.says(&["--levels auto: 51,2", "become 0 to 255, of a sample of 10 images"]);
    let options = manifest(&dir, "auto").options;
    let [low, high] = options.window.unwrap();
    assert_eq!(options.levels, Levels::Auto);
    assert!((51_200.0..51_215.0).contains(&low) && (52_208.0..52_224.0).contains(&high));

    // The same window given gives the same views, and others than the whole range.
    dir.prep(&format!("{SMALL} --levels {low}..{high} thermal given")).succeeds();
    assert_eq!(manifest(&dir, "given").options.window, None);
    assert!(first_view(&dir, "auto") == first_view(&dir, "given"));
    assert!(first_view(&dir, "auto") != first_view(&dir, "full"));

    for shards in ["full", "auto", "given"] {
        dir.inspect(&format!("--verify {shards}")).succeeds();
    }
    let inspected = dir.inspect("auto").succeeds().stdout;
    assert!(inspected.contains(&format!("levels   auto, {low}..{high}")), "{inspected}");
    dir.inspect("--html page.html auto").succeeds();
    assert!(dir.text("page.html").contains(&format!("auto, {low}..{high}")));
    assert!(!dir.inspect("full").succeeds().stdout.contains("levels"));
}

#[test]
fn auto_is_the_same_on_threads_ranks_and_restarts() {
    let dir = thermal(Dir::new(), 10);
    let auto = format!("{SMALL} --levels auto");
    dir.prep(&format!("{auto} --threads 1 thermal expected")).succeeds();
    dir.prep(&format!("{auto} --threads 4 thermal threads")).succeeds();
    dir.assert_same("expected", "threads");
    for rank in [1, 0] {
        dir.prep(&format!("{auto} --rank {rank} --world-size 2 thermal ranks")).succeeds();
    }
    dir.assert_same("expected", "ranks");
    dir.remove("ranks/epoch=00001/part-00001.parquet");
    let again = dir.prep(&format!("{auto} thermal ranks")).succeeds();
    assert!(!again.stderr.contains("--levels"), "{}", again.stderr);
    dir.assert_same("expected", "ranks");

    let other = dir.prep(&format!("{SMALL} --levels 0..100 thermal ranks")).fails(1);
    other.says(&["was made with other options", "levels: \"auto\" → \"0..100\"", "window: [512"]);
    dir.prep(&format!("{SMALL} thermal ranks")).fails(1).says(&["levels: \"auto\" → not set"]);
}

#[test]
fn recipes_render_the_pixels_of_the_window() {
    let dir = thermal(Dir::new(), 6);
    let options = "--size 64 --min-box 16 --levels auto";
    dir.prep(&format!("{options} thermal webp")).succeeds();
    dir.prep(&format!("{options} --views recipe thermal recipe")).succeeds();
    dir.inspect("--verify recipe").succeeds();
    let train = "--max-steps 1 --batch-size 4 --arch resnet18 --hidden 32 --projection 16 \
                 --warmup-epochs 0 --device cpu";
    for shards in ["webp", "recipe"] {
        dir.train(&format!("{train} --out run-{shards} {shards}")).succeeds();
    }
    let loss = |run: &str| dir.text(&format!("run-{run}/metrics.jsonl"));
    let value = |text: String| text.split("\"loss\":").nth(1).unwrap()[..8].to_owned();
    assert_eq!(value(loss("webp")), value(loss("recipe")));
}

#[test]
fn floats_need_a_window_and_say_so() {
    let dir = floats(Dir::new());
    let refused = dir.prep(&format!("{SMALL} floats full")).fails(1);
    let reason = "TIFF: float32 samples need --levels MIN..MAX or auto";
    refused.says(&["unreadable: 0.tif and 4 more: ", reason]);
    let given = dir.prep(&format!("{SMALL} --levels -1..1 floats given")).succeeds();
    assert!(!given.stderr.contains("unreadable"), "{}", given.stderr);
    assert!(dir.text("given/dataset.toml").contains("levels = \"-1..1\""));
    dir.prep(&format!("{SMALL} --levels auto floats auto")).succeeds().says(&["--levels auto: -"]);
    dir.inspect("--verify auto").succeeds();
    let wrong = dir.prep("--levels 1..-1 floats wrong").fails(2);
    wrong.says(&["--levels", "two ascending values"]);
}

#[test]
fn eight_bits_are_as_they_are_whatever_the_levels() {
    let dir = Dir::new().images(10);
    dir.prep(&format!("{SMALL} images full")).succeeds();
    for levels in ["auto", "10..20"] {
        let other = dir.prep(&format!("{SMALL} --levels {levels} images {levels}")).succeeds();
        other.says(&["no image has samples of more than 8 bits"]);
        assert_eq!(manifest(&dir, levels).options.window, None);
        dir.assert_same("full/epoch=00000", &format!("{levels}/epoch=00000"));
        let again = dir.prep(&format!("{SMALL} --levels {levels} images {levels}")).succeeds();
        assert!(!again.stderr.contains("more than 8 bits"), "{}", again.stderr);
    }
    // Among images of 16 bits as well.
    let mixed = thermal(Dir::new().images(10), 4);
    std::fs::rename(mixed.path("thermal"), mixed.path("images/thermal")).unwrap();
    mixed.prep(&format!("{SMALL} --levels auto images mixed")).succeeds().says(&["4 images"]);
    let views = |dir: &Dir, shards: &str| {
        let paths = ShardPaths::new(dir.path(shards));
        let rows = (0..8)
            .map_while(|number| ShardReader::open(&paths.shard(Epoch(1), Shard(number))).ok());
        let mut views: Vec<(i64, Vec<u8>)> = rows
            .flatten()
            .map(Result::unwrap)
            .filter(|row| row.image_id < 10)
            .map(|row| (row.image_id, row.view2.image.unwrap().bytes))
            .collect();
        views.sort();
        views
    };
    assert!(views(&dir, "full") == views(&mixed, "mixed"));
}

#[test]
fn the_most_pixels_are_an_option() {
    let dir = Dir::new().images(6);
    let small = dir.prep(&format!("{SMALL} --max-pixels 6000 images small")).fails(1);
    small.says(&["unreadable: class", "pixels: more than 6000; see --max-pixels"]);
    assert!(dir.text("small/dataset.toml").contains("max-pixels = 6000"));
    dir.prep(&format!("{SMALL} --max-pixels 178956970 images same")).succeeds();
    assert!(!dir.text("same/dataset.toml").contains("max-pixels"));
    dir.prep("--max-pixels 3G images x").fails(2).says(&["--max-pixels", "such as 300M"]);
    // Recorded like any option.
    let other = dir.prep(&format!("{SMALL} --max-pixels 7000 images small")).fails(1);
    other.says(&["max-pixels: 6000 → 7000"]);
}

#[test]
fn evaluations_take_the_same_levels_and_keep_their_features_apart() {
    let dir = thermal(Dir::new(), 20);
    let linear = "linear --images thermal --size 32 --epochs 3 --crops 1 --checkpoint random \
                  --arch resnet18 --images-per-batch 4 --device cpu --out out";
    dir.eval(linear).succeeds().says(&["16-bit images use 51,2", "--levels auto"]);
    let results = |name: &str| dir.text(name);
    let full = results("out/results.json");
    let auto = dir.eval(&format!("{linear} --levels auto")).succeeds();
    auto.says(&["--levels auto: 51,2", "of a sample of 20 images"]);
    assert_ne!(results("out/results.json"), full);
    dir.eval(linear).succeeds();
    assert_eq!(results("out/results.json"), full);
    let refused = dir.eval(&format!("{linear} --max-pixels 100")).fails(1);
    refused.says(&["left out: thermal/class0/00.png", "more than 100; see --max-pixels"]);
}

#[test]
fn bands_beyond_the_third_are_said_to_be_left_out() {
    let bands = include_bytes!("../../preprocess/tests/goldens/decode/bands.tif");
    let dir = Dir::new().file("images/a.tif", bands).file("images/b.tif", bands);
    let prep = "--size 8 --min-box 4 --levels 0..100 --dry-run images shards";
    let output = dir.prep(prep).succeeds();
    output.says(&["images of more than 3 bands: 2 (a.tif has ", "the first three become red"]);
}
