//! `scrl-inspect` as a program: its statistics, its images, and that it finds every fault.

use std::fs;

use scrl_schemas::{Epoch, Row, Shard, ShardPaths, ShardReader, ShardWriter, Success};
use scrl_tests::Dir;

/// Small views, so that tests are fast; shards of four images, so that there are several.
const SMALL: &str = "--size 64 --min-box 16 --rows-per-shard 4 --epochs 2";

/// Two epochs of ten images in `shards`.
fn prepared(options: &str) -> Dir {
    let dir = Dir::new().images(10);
    dir.prep(&format!("{SMALL} {options} images shards")).succeeds();
    dir
}

/// Rewrites a shard with changed rows, and its new size and checksum in `_SUCCESS`.
fn rewrite(dir: &Dir, epoch: u32, shard: u32, change: impl FnOnce(&mut Vec<Row>)) {
    let paths = ShardPaths::new(dir.path("shards"));
    let (epoch, shard) = (Epoch(epoch), Shard(shard));
    let reader = ShardReader::open(&paths.shard(epoch, shard)).unwrap();
    let skipped = reader.skipped().to_vec();
    let mut rows: Vec<Row> = reader.collect::<Result<_, _>>().unwrap();
    change(&mut rows);
    let mut writer = ShardWriter::create(&paths.shard(epoch, shard)).unwrap();
    rows.into_iter().for_each(|row| writer.write(row).unwrap());
    let written = writer.finish(skipped).unwrap();
    let mut success = Success::read(&paths.success(epoch)).unwrap();
    success.parts[shard.0 as usize] = written.record;
    success.write(&paths.success(epoch)).unwrap();
}

#[test]
fn the_summary_shows_found_and_requested_frequencies() {
    let dir = prepared("");
    let text = dir.inspect("shards").succeeds().stdout;
    for line in [
        "webp, 64 px, preset paper, seed 0",
        "10 found, 3 classes of 3 to 4",
        "2 of 2 planned",
        "blur        100.00 %",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert!(!text.contains("not as requested"), "{text}");
}

#[test]
fn flips_and_turns_are_in_the_summary_where_they_were_requested() {
    let steps = |options: &str| {
        let text = prepared(options).inspect("shards").succeeds().stdout;
        assert!(!text.contains("not as requested"), "{text}");
        let names = ["flip", "vertical_flip", "turns", "jitter", "grayscale", "blur", "solarize"];
        let line = |name: &str| {
            let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            lines.find(|words| words.first() == Some(&name) && words.contains(&"%"))
        };
        let requested = |name: &str| {
            let words = line(name)?;
            Some(format!("{name} {} {}", words[3], words[7]))
        };
        names.into_iter().filter_map(requested).collect::<Vec<_>>().join(", ")
    };
    let paper = "flip 50 50, jitter 80 80, grayscale 20 20, blur 100 10, solarize 0 20";
    assert_eq!(steps(""), paper);
    let aerial = paper.replace("jitter", "vertical_flip 50 50, turns 75 75, jitter");
    assert_eq!(steps("--preset aerial"), aerial);
    let options = "--flip 0 --jitter 0,0,0,0,0 --grayscale 1 --blur-probability 0,1 --solarize 1,0";
    let requested = "flip 0 0, jitter 0 0, grayscale 100 100, blur 0 100, solarize 100 0";
    assert_eq!(steps(options), requested);
}

#[test]
fn points_and_unmatched_boxes_are_reported_and_drawn() {
    let dir = prepared("--box-sampler point --box-jitter inf");
    let text = dir.inspect("shards").succeeds().stdout;
    assert!(text.contains("points per pair: ") && !text.contains("box in view 1"), "{text}");
    assert!(text.contains("points of view 2 lie anywhere in it, unmatched"), "{text}");
    let json = dir.inspect("--json shards").succeeds().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["manifest"]["options"]["box-jitter"], "inf");
    assert_eq!(json["manifest"]["options"]["box-sampler"], "point");
    dir.inspect("--png sheet.png shards").succeeds();
    dir.inspect("--html page.html shards").succeeds();
    let page = dir.text("page.html");
    assert!(page.contains("<path class=\"over\" d=\"M"), "no points");
    assert!(!page.contains("Box size, view 1") && page.contains("Boxes per pair"));
    // In the charts; images in base64 may have any three letters.
    let (charts, _) = page.split_once("<article").unwrap();
    assert!(!charts.contains("NaN"), "{charts}");
}

#[test]
fn the_statistics_are_printed_as_json() {
    let dir = prepared("--views recipe");
    let text = dir.inspect("--json --epoch 1 shards").succeeds().stdout;
    let numbers: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(numbers["found"]["rows"], 10);
    assert_eq!(numbers["epochs"], serde_json::json!([1]));
    assert_eq!(numbers["augmentations"]["blur"]["view1"]["found"], 1.0);
    assert_eq!(numbers["augmentations"]["blur"]["view1"]["requested"], 1.0);
    assert_eq!(numbers["manifest"]["options"]["views"], "recipe");
    let boxes: u64 = numbers["found"]["rows_by_boxes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(boxes, 10);
}

#[test]
fn shards_of_every_encoding_are_verified() {
    for (options, says) in [
        ("", "the views of 20 rows"),
        ("--views jpeg --preset reference --box-jitter 0.1", "the views of 20 rows"),
        ("--views recipe", "10 source images decode"),
        ("--preset aerial --jitter 1,1,1,1,0.5", "the views of 20 rows"),
        ("--preset gray --box-jitter inf", "the views of 20 rows"),
        ("--views recipe --box-sampler point --preset aerial", "10 source images decode"),
    ] {
        let output = prepared(options).inspect("--verify shards").succeeds();
        assert!(output.stdout.contains("20 rows are those of seed 0"), "{}", output.stdout);
        assert!(output.stdout.contains(says), "{}", output.stdout);
        assert_eq!(output.stderr, "");
    }
}

#[test]
fn a_flipped_byte_is_found_and_its_shard_named() {
    let dir = prepared("");
    let shard = "shards/epoch=00001/part-00001.parquet";
    let mut bytes = dir.read(shard);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(dir.path(shard), bytes).unwrap();
    let output = dir.inspect("--verify shards").fails(1);
    output.says(&["epoch=00001/part-00001.parquet", "checksum"]);
    output.says(&["shards: 1 fault"]);
    assert_eq!(output.stderr.lines().count(), 2, "{}", output.stderr);
}

#[test]
fn a_missing_shard_or_one_of_another_size_is_named() {
    let dir = prepared("");
    let shard = "shards/epoch=00000/part-00002.parquet";
    let bytes = dir.read(shard);
    fs::write(dir.path(shard), &bytes[..bytes.len() - 1]).unwrap();
    dir.remove("shards/epoch=00001/part-00000.parquet");
    let output = dir.inspect("--verify shards").fails(1);
    output.says(&["epoch=00000/part-00002.parquet", "bytes, _SUCCESS says"]);
    output.says(&["epoch=00001/part-00000.parquet", "No such file"]);
    output.says(&["2 faults", "remove the epochs named"]);
}

#[test]
fn a_changed_row_is_found_under_a_right_checksum() {
    type Change = fn(&mut Vec<Row>);
    let changes: [(&str, Change); 10] = [
        ("view1.vertical_flip", |rows| rows[1].view1.params.vertical_flip ^= true),
        ("view2.turns is 3, should be 0", |rows| rows[1].view2.params.turns = 3),
        ("view1.flip", |rows| rows[1].view1.params.flip ^= true),
        ("view2.crop", |rows| rows[1].view2.params.crop.x += 1),
        ("view1.blur", |rows| rows[1].view1.params.blur = None),
        ("label", |rows| rows[1].label = None),
        ("view2.image", |rows| rows[1].view2.image = rows[2].view2.image.clone()),
        ("view1.image", |rows| rows[1].view1.image = None),
        ("the seed's permutation has image", |rows| rows.swap(0, 1)),
        ("the readable sources give 4", |rows| drop(rows.pop())),
    ];
    let dir = prepared("");
    let intact = dir.read("shards/epoch=00000/part-00000.parquet");
    let success = dir.read("shards/epoch=00000/_SUCCESS");
    for (says, change) in changes {
        rewrite(&dir, 0, 0, change);
        dir.inspect("--verify shards").fails(1).says(&["epoch=00000/part-00000.parquet: ", says]);
        fs::write(dir.path("shards/epoch=00000/part-00000.parquet"), &intact).unwrap();
        fs::write(dir.path("shards/epoch=00000/_SUCCESS"), &success).unwrap();
    }
    dir.inspect("--verify shards").succeeds();
}

#[test]
fn a_changed_box_is_found() {
    let dir = prepared("");
    let mut of = None;
    for number in 0..3 {
        rewrite(&dir, 1, number, |rows| {
            if let Some(row) = rows.iter_mut().find(|row| of.is_none() && !row.boxes.is_empty()) {
                row.boxes[0].view2.x1 -= 1.0;
                of = Some(number);
            }
        });
    }
    let shard = format!("epoch=00001/part-{:05}.parquet", of.expect("a row with boxes"));
    dir.inspect("--verify --no-pixels shards").fails(1).says(&[&shard, "boxes[1]"]);
}

#[test]
fn shards_missing_in_success_are_named() {
    let dir = prepared("");
    let shard = dir.read("shards/epoch=00000/part-00000.parquet");
    let dir = dir
        .file("shards/epoch=00000/part-00007.parquet", shard)
        .file("shards/epoch=00001/_SUCCESS", "{");
    let output = dir.inspect("--verify shards").fails(1);
    output.says(&["epoch=00000/part-00007.parquet", "not in _SUCCESS"]);
    output.says(&["epoch=00001/_SUCCESS"]);
    dir.inspect("shards").fails(1).says(&["epoch=00001", "run the same scrl-prep command again"]);
}

#[test]
fn missing_epochs_are_no_fault() {
    let dir = Dir::new().images(10);
    dir.prep(&format!("{SMALL} --only 1..2 images shards")).succeeds();
    dir.inspect("--verify shards").succeeds();
    assert!(dir.inspect("shards").succeeds().stdout.contains("1 of 2 planned"));
    dir.inspect("--epoch 0 shards").fails(1).says(&["shards", "no finished epoch 0"]);
    let dir = dir.folder("shards/epoch=00000");
    dir.inspect("--verify shards").succeeds().says(&["1 unfinished"]);
    dir.remove("shards/epoch=00001/_SUCCESS");
    dir.inspect("shards").fails(1).says(&["no finished epoch yet"]);
}

#[test]
fn moved_images_are_requested_and_changed_ones_named() {
    let dir = prepared("--views recipe");
    fs::rename(dir.path("images"), dir.path("moved")).unwrap();
    let output = dir.inspect("--verify shards").succeeds();
    output.says(&["pixels not compared", "images is not there", "--images"]);
    dir.inspect("--verify --images moved shards").succeeds();
    dir.inspect("--html page.html shards").fails(1).says(&["--images"]);
    fs::copy(dir.path("moved/class1/001.png"), dir.path("moved/class0/000.jpg")).unwrap();
    dir.remove("moved/class2/002.jpg");
    let output = dir.inspect("--verify --images moved shards").fails(1);
    output.says(&["class0/000.jpg", "pixels, sources.parquet says"]);
    output.says(&["class2/002.jpg", "No such file"]);
    output.says(&["2 faults; restore the images named"]);
}

#[test]
fn lossless_shards_are_compared_with_the_images_that_are_left() {
    let dir = prepared("");
    dir.remove("images/class0/000.jpg");
    let output = dir.inspect("--verify shards").succeeds();
    output.says(&["pixels of some rows not compared", "class0/000.jpg"]);
    assert!(output.stdout.contains("the views of 18 rows"), "{}", output.stdout);
}

#[test]
fn unreadable_images_are_reported_and_are_no_fault() {
    let dir = Dir::new().images(9).file("images/class0/broken.jpg", "no image");
    dir.prep(&format!("{SMALL} --max-bad 0.1 images shards")).succeeds();
    assert!(dir.inspect("shards").succeeds().stdout.contains("1 unreadable"));
    dir.inspect("--verify shards").succeeds();
}

#[test]
fn the_contact_sheet_is_an_image_of_pairs() {
    let dir = prepared("");
    let output = dir.inspect("--png sheet.png --rows 4 shards").succeeds();
    output.says(&["sheet.png"]);
    assert_eq!(output.stdout, "");
    let sheet = image::open(dir.path("sheet.png")).unwrap().into_rgb8();
    // Two by two pairs of views of 192 pixels.
    assert!(sheet.width() > 4 * 192 && sheet.height() > 2 * 192, "{:?}", sheet.dimensions());
    dir.inspect("--png again.png --rows 4 shards").succeeds();
    dir.inspect("--png other.png --rows 4 --seed 1 shards").succeeds();
    assert!(
        dir.read("sheet.png") == dir.read("again.png")
            && dir.read("sheet.png") != dir.read("other.png")
    );
}

#[test]
fn recipes_are_drawn_as_lossless_shards_are() {
    let dir = prepared("");
    dir.prep(&format!("{SMALL} --views recipe images recipes")).succeeds();
    let line = |shards: &str| format!("--png {shards}.png --epoch 1 --rows 10 {shards}");
    dir.inspect(&line("shards")).succeeds();
    dir.inspect(&line("recipes")).succeeds();
    assert!(dir.read("shards.png") == dir.read("recipes.png"));
}

#[test]
fn the_page_is_self_contained_and_escapes_names() {
    let dir = Dir::new().images(4);
    fs::create_dir(dir.path("images/<b>&")).unwrap();
    fs::rename(dir.path("images/class0/000.jpg"), dir.path("images/<b>&/\"x'.jpg")).unwrap();
    dir.prep(&format!("{SMALL} images shards")).succeeds();
    let output = dir.inspect("--html page.html --rows 100 shards").succeeds();
    assert_eq!(output.stdout, "");
    let page = dir.text("page.html");
    assert_eq!(page.matches("<article").count(), 8);
    assert!(page.contains("&lt;b&gt;&amp;/&quot;x&#39;.jpg") && !page.contains("<b>&"));
    for outside in ["http:", "https:", "src=\"/", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    for content in [
        "prefers-color-scheme: dark",
        "Crop area, view 1",
        "data-solarized",
        "data:image/jpeg;base64,",
    ] {
        assert!(page.contains(content), "no {content}");
    }
}

#[test]
fn a_closed_output_ends_the_program_quietly() {
    let dir = prepared("--views recipe");
    for arguments in
        ["shards", "--json shards", "--verify shards", "--help", "--version", "--completions bash"]
    {
        let output = dir.inspect(arguments).with_closed_output().succeeds();
        assert_eq!(output.stderr, "", "{arguments}");
    }
}

#[test]
fn what_is_no_shards_folder_is_named() {
    let dir = Dir::new().images(1).file("shards/notes.txt", "");
    dir.inspect("nowhere").fails(1).says(&["nowhere", "scrl-prep"]);
    dir.inspect("images").fails(1).says(&["images", "dataset.toml"]);
    dir.inspect("--rows 3 shards").fails(2).says(&["--rows"]);
    dir.inspect("--verfy shards").fails(2).says(&["--verify"]);
}

#[test]
fn help_version_and_completions_answer() {
    let dir = Dir::new();
    assert!(dir.inspect("--help").succeeds().stdout.contains("Examples:"));
    assert!(dir.inspect("--version").succeeds().stdout.starts_with("scrl-inspect 0."));
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            dir.inspect(&format!("--completions {shell}")).succeeds().stdout.contains("no-pixels")
        );
    }
}
