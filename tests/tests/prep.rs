//! `scrl-prep` as a program: the files it writes, that they are reproducible, and its error
//! messages.

use std::time::Duration;

use scrl_schemas::{
    Consumed, Epoch, Manifest, Shard, ShardPaths, ShardReader, Source, SourcesReader, Success,
};
use scrl_tests::Dir;

/// Small views, so that tests are fast; shards of four images, so that there are several.
const SMALL: &str = "--size 64 --min-box 16 --rows-per-shard 4";

/// Two epochs of ten images in `shards`.
fn prepared() -> Dir {
    let dir = Dir::new().images(10);
    dir.prep(&format!("{SMALL} --epochs 2 images shards")).succeeds();
    dir
}

#[test]
fn writes_every_file_of_the_format() {
    let dir = prepared();
    let names: Vec<String> = dir.files("shards").into_keys().collect();
    assert_eq!(
        names,
        [
            "dataset.toml",
            "epoch=00000/_SUCCESS",
            "epoch=00000/part-00000.parquet",
            "epoch=00000/part-00001.parquet",
            "epoch=00000/part-00002.parquet",
            "epoch=00001/_SUCCESS",
            "epoch=00001/part-00000.parquet",
            "epoch=00001/part-00001.parquet",
            "epoch=00001/part-00002.parquet",
            "sources.parquet",
        ]
    );
}

#[test]
fn the_manifest_records_the_options() {
    let dir = prepared();
    let manifest = Manifest::read(&dir.path("shards/dataset.toml")).unwrap();
    assert_eq!((manifest.format, manifest.seed, manifest.epochs), (1, 0, 2));
    assert_eq!(
        (manifest.options.size, manifest.options.min_box, manifest.options.boxes),
        (64, 16, 10)
    );
    assert_eq!(
        (manifest.counts.images, manifest.counts.classes, manifest.counts.shards_per_epoch),
        (10, 3, 3)
    );
}

#[test]
fn steps_are_recorded_where_they_are_not_the_papers() {
    let dir = Dir::new().images(3);
    let manifest = |line: &str| {
        dir.prep(&format!("{SMALL} --overwrite {line} images shards")).succeeds();
        dir.text("shards/dataset.toml")
    };
    let paper = manifest("");
    let added = |line: &str| {
        let manifest = manifest(line);
        let new = manifest.lines().filter(|line| !paper.lines().any(|other| other == *line));
        new.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(added("--flip 0.5 --jitter 0.8,0.4,0.4,0.2,0.1 --solarize 0,0.2"), "");
    let aerial = "preset = \"aerial\", vertical-flip = 0.5, quarter-turns = 0.75";
    assert_eq!(added("--preset aerial"), aerial);
    let gray = "preset = \"gray\", jitter = [0.8, 0.4, 0.4, 0.0, 0.0], grayscale = 0.0";
    assert_eq!(added("--preset gray"), gray);
    assert_eq!(added("--box-jitter inf --flip 0.3"), "box-jitter = inf, flip = 0.3");
    // The same folder with another turn: the difference is named.
    dir.prep(&format!("{SMALL} --quarter-turns 0.3 --flip 0.3 --box-jitter inf images shards"))
        .fails(1)
        .says(&["quarter-turns: not set → 0.3"]);
}

#[test]
fn invalid_steps_name_their_option() {
    let dir = Dir::new().images(1);
    for (line, says) in [
        ("--vertical-flip 1.5", "--vertical-flip: give a probability from 0 to 1"),
        ("--jitter 0.8,0.4,0.4,0.2,0.6", "--jitter: give P, B, C and S from 0 to 1"),
        ("--jitter 0.8,0.4", "give 5 numbers"),
        ("--box-jitter nan", "--box-jitter"),
        ("--box-sampler point --box-jitter 0.1", "--box-jitter: a point has no size"),
    ] {
        dir.prep(&format!("{line} images shards")).fails(2).says(&[says]);
    }
}

#[test]
fn every_epoch_is_another_permutation_of_all_images() {
    let dir = prepared();
    let paths = ShardPaths::new(dir.path("shards"));
    let permutation = |epoch| -> Vec<i64> {
        (0..3)
            .flat_map(|number| {
                ShardReader::open(&paths.shard(Epoch(epoch), Shard(number))).unwrap()
            })
            .map(|row| row.unwrap().image_id)
            .collect()
    };
    let (first, second) = (permutation(0), permutation(1));
    assert_ne!(first, second);
    for mut ids in [first, second] {
        ids.sort_unstable();
        assert_eq!(ids, (0..10).collect::<Vec<_>>());
    }
    assert_eq!(Success::read(&paths.success(Epoch(1))).unwrap().rows(), 10);
}

#[test]
fn rows_hold_images_and_boxes_within_the_views() {
    let dir = prepared();
    let shard = ShardPaths::new(dir.path("shards")).shard(Epoch(0), Shard(0));
    let mut boxes = 0;
    for row in ShardReader::open(&shard).unwrap() {
        let row = row.unwrap();
        assert!(row.path.starts_with(&format!("class{}/", row.label.unwrap())));
        for view in [&row.view1, &row.view2] {
            assert!(view.image.as_ref().unwrap().bytes.starts_with(b"RIFF"));
            let crop = view.params.crop;
            assert!(crop.x >= 0 && crop.x + crop.width <= row.source_width);
            assert!(crop.y >= 0 && crop.y + crop.height <= row.source_height);
        }
        for matched in row.boxes.iter().flat_map(|matched| [matched.view1, matched.view2]) {
            boxes += 1;
            assert!(0.0 <= matched.x0 && matched.x0 < matched.x1 && matched.x1 <= 64.0);
            assert!(0.0 <= matched.y0 && matched.y0 < matched.y1 && matched.y1 <= 64.0);
        }
    }
    assert!(boxes > 0);
}

#[test]
fn threads_make_no_difference() {
    let dir = Dir::new().images(10);
    dir.prep(&format!("{SMALL} --threads 1 images one")).succeeds();
    dir.prep(&format!("{SMALL} --threads 2 images two")).succeeds();
    dir.assert_same("one", "two");
}

#[test]
fn a_single_epoch_is_that_of_the_whole_run() {
    let dir = prepared();
    dir.prep(&format!("{SMALL} --epochs 2 --only 1..2 images alone")).succeeds();
    assert!(!dir.path("alone/epoch=00000").exists());
    dir.assert_same("alone/epoch=00001", "shards/epoch=00001");
}

#[test]
fn a_restart_makes_what_is_missing_and_leaves_the_rest() {
    let dir = prepared();
    let before = dir.files("shards");
    dir.remove("shards/epoch=00000/part-00001.parquet");
    dir.remove("shards/epoch=00000/_SUCCESS");
    dir.prep(&format!("{SMALL} --epochs 2 images shards")).succeeds();
    assert!(dir.files("shards") == before);
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_complete_files_and_the_same_command_resumes() {
    let dir = Dir::new().images(10);
    let line = format!("{SMALL} --epochs 3000 images shards");
    dir.prep(&line).interrupted_once(|| dir.path("shards/epoch=00000/part-00000.parquet").exists());
    let left = dir.files("shards");
    assert!(!left.keys().any(|name| name.contains(".tmp-")), "{:?}", left.keys());
    dir.prep(&format!("{line} --only 0..16")).succeeds().says(&["of them finished"]);
    dir.prep(&format!("{SMALL} --epochs 3000 --only 0..16 images whole")).succeeds();
    for epoch in 0..16 {
        dir.assert_same(&format!("shards/epoch={epoch:05}"), &format!("whole/epoch={epoch:05}"));
    }
}

#[test]
fn ten_kills_change_nothing() {
    let line = format!("{SMALL} --epochs 24 images shards");
    let whole = Dir::new().images(10);
    whole.prep(&line).succeeds();
    let dir = Dir::new().images(10);
    let mut kills = 0;
    // Irregular times; how far the run gets in each depends on the machine.
    for moment in [35, 80, 20, 140, 60, 230, 45, 100, 170, 70] {
        kills += u32::from(dir.prep(&line).killed_after(Duration::from_millis(moment)));
    }
    assert!(kills > 0);
    dir.prep(&line).succeeds();
    let (left, expected) = (dir.files("shards"), whole.files("shards"));
    assert_eq!(left.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    // The manifest has the path of the images, which differs.
    assert!(left.iter().all(|(name, bytes)| name == "dataset.toml" || *bytes == expected[name]));
}

#[test]
fn ranks_from_the_environment_share_the_work() {
    let dir = Dir::new().images(10);
    let line = |shards: &str| format!("{SMALL} --epochs 3 images {shards}");
    dir.prep(&line("expected")).succeeds();
    let output = dir.prep(&line("shards")).variable("RANK", 1).variable("WORLD_SIZE", 2).succeeds();
    output.says(&["rank 1 of 2", "torchrun"]);
    output.says(&["3 epochs wait in shards for other ranks"]);
    assert!(!dir.path("shards/epoch=00000/_SUCCESS").exists());
    dir.prep(&line("shards"))
        .variable("OMPI_COMM_WORLD_RANK", 0)
        .variable("OMPI_COMM_WORLD_SIZE", 2)
        .succeeds()
        .says(&["shards is complete"]);
    dir.assert_same("expected", "shards");
    // A single process completes the work of a missing rank.
    dir.prep(&format!("{} --rank 2 --world-size 3", line("alone"))).succeeds();
    dir.prep(&line("alone")).succeeds();
    dir.assert_same("expected", "alone");
}

#[test]
fn inputs_that_hold_no_images_are_refused() {
    let dir = Dir::new()
        .file("video.mp4", b"\0\0\0\x20ftypisom\0\0\0\0")
        .file("images.tar.gz", b"\x1f\x8b\x08\0")
        .file("list.txt", "images/1.jpg\n");
    dir.prep("video.mp4 shards").fails(1).says(&["video.mp4", "ffmpeg"]);
    dir.prep("images.tar.gz shards").fails(1).says(&["images.tar.gz", "unpack"]);
    dir.prep("list.txt shards").fails(1).says(&["list.txt", "images/1.jpg", "was looked for in"]);
    dir.prep("--label-column label list.txt shards").fails(1).says(&["list.txt", "images/1.jpg"]);
    assert!(!dir.path("shards").exists());
}

#[test]
fn a_csv_gives_paths_and_classes_and_is_found_again() {
    let dir = Dir::new().images(3).file(
        "list.csv",
        "file_name;species;age\nimages/class0/000.jpg;cat;1\nimages/class1/001.png;dog;2\n\
         images\\class2\\002.jpg;cat;3\n",
    );
    let line = format!("{SMALL} --views recipe --label-column species list.csv shards");
    dir.prep(&line).succeeds().says(&["list.csv", "\"file_name\"", "classes from \"species\""]);
    let sources = SourcesReader::open(&dir.path("shards/sources.parquet")).unwrap();
    let classes: Vec<String> =
        sources.map(|source| source.unwrap().class.unwrap().1.to_string()).collect();
    assert_eq!(classes, ["cat", "dog", "cat"]);
    let manifest = dir.text("shards/dataset.toml");
    assert!(manifest.contains("label-column = \"species\"") && !manifest.contains("image-column"));
    dir.prep(&line).succeeds().says(&["1 of them finished"]);
    dir.inspect("--verify shards").succeeds();
    dir.prep(&line.replace("species", "age")).fails(1).says(&["label-column"]);
}

#[test]
#[cfg(unix)]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = Dir::new().images(3).file("shards", "a file where the folder should be");
    dir.prep(&format!("{SMALL} images shards")).fails(1).says(&["shards"]);
    assert_eq!(dir.text("shards"), "a file where the folder should be");
}

#[test]
fn other_options_on_the_same_folder_are_refused_by_name() {
    let dir = prepared();
    let before = dir.files("shards");
    dir.prep(&format!("{SMALL} --epochs 2 --boxes 5 --seed 3 images shards")).fails(1).says(&[
        "shards",
        "boxes: 10 → 5",
        "seed: 0 → 3",
        "--overwrite",
    ]);
    assert!(dir.files("shards") == before);
    dir.prep(&format!("{SMALL} --epochs 2 --boxes 5 --seed 3 --overwrite images shards"))
        .succeeds();
}

#[test]
fn more_epochs_go_on_in_the_folder_as_if_planned_at_once() {
    let dir = Dir::new().images(10);
    let prep =
        |options: &str, shards: &str| dir.prep(&format!("{SMALL} {options} images {shards}"));
    prep("--epochs 12", "expected").succeeds();

    // Within a pass and beyond it, after all of the first epochs, some, or an unfinished one.
    prep("--epochs 5", "complete").succeeds();
    prep("--epochs 12 --dry-run", "complete").succeeds();
    prep("--epochs 12", "complete")
        .succeeds()
        .says(&["planned epochs: 5 until now, 12 from now on"]);
    dir.assert_same("expected", "complete");
    prep("--epochs 5 --only 1..3", "partial").succeeds();
    dir.remove("partial/epoch=00001/_SUCCESS");
    dir.remove("partial/epoch=00001/part-00000.parquet");
    prep("--epochs 12 --only 8..12", "partial").succeeds();
    prep("--epochs 12", "partial").succeeds();
    dir.assert_same("expected", "partial");

    // Of two ranks the second one is still at the lower number when the first one raises it.
    prep("--epochs 5 --rank 1 --world-size 2", "ranks").succeeds();
    prep("--epochs 12 --rank 0 --world-size 2", "ranks").succeeds();
    prep("--epochs 5 --rank 1 --world-size 2", "ranks").fails(1).says(&["--epochs 12"]);
    prep("--epochs 12 --rank 1 --world-size 2", "ranks").succeeds();
    dir.assert_same("expected", "ranks");
}

#[test]
fn more_epochs_go_on_behind_those_that_are_consumed() {
    let dir = Dir::new().images(10);
    let prep =
        |options: &str, shards: &str| dir.prep(&format!("{SMALL} {options} images {shards}"));
    prep("--epochs 6", "expected").succeeds();
    prep("--epochs 4", "shards").succeeds();
    Consumed { epochs: 4 }.write(&dir.path("shards/consumed.json")).unwrap();
    prep("--epochs 6 --keep 2", "shards").succeeds();
    for epoch in 0..4 {
        assert!(!dir.path(&format!("shards/epoch={epoch:05}")).exists());
    }
    for epoch in [4, 5] {
        dir.assert_same(&format!("expected/epoch={epoch:05}"), &format!("shards/epoch={epoch:05}"));
    }
    assert_eq!(dir.text("expected/dataset.toml"), dir.text("shards/dataset.toml"));
}

#[test]
fn fewer_epochs_than_planned_are_refused_in_a_line_with_what_to_do() {
    let dir = prepared();
    let before = dir.files("shards");
    let output = dir.prep(&format!("{SMALL} images shards")).fails(1);
    output.says(&["2 planned epochs", "--epochs 1 ", "--only 0..1", "scrl-train --epochs 1"]);
    assert!(dir.files("shards") == before);
    // Other differences come first.
    let other = dir.prep(&format!("{SMALL} --seed 3 images shards")).fails(1);
    assert!(other.stderr.contains("seed: 0 → 3") && !other.stderr.contains("epochs:"));
    dir.prep(&format!("{SMALL} --overwrite images shards")).succeeds();
    assert_eq!(Manifest::read(&dir.path("shards/dataset.toml")).unwrap().epochs, 1);
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = Dir::new().images(3);
    dir.prep("--dry-run images shards").succeeds().says(&["3 pairs"]);
    assert!(!dir.path("shards").exists());
}

#[test]
fn quiet_says_nothing() {
    let dir = Dir::new().images(3);
    let output = dir.prep(&format!("{SMALL} --quiet images shards")).succeeds();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
}

#[test]
fn options_may_stand_in_a_file_and_the_command_line_wins() {
    let dir = Dir::new().images(3).file("prep.toml", "size = 64\nmin-box = 16\nseed = 5\n");
    dir.prep("--config prep.toml --seed 6 images shards").succeeds();
    let manifest = Manifest::read(&dir.path("shards/dataset.toml")).unwrap();
    assert_eq!((manifest.options.size, manifest.seed), (64, 6));
}

#[test]
fn an_unreadable_image_is_listed_with_its_reason() {
    let dir = Dir::new().images(9).file("images/class0/broken.jpg", "no image");
    dir.prep(&format!("{SMALL} --max-bad 0.1 images shards")).succeeds().says(&["1", "unreadable"]);
    let sources = SourcesReader::open(&dir.path("shards/sources.parquet")).unwrap();
    let sources: Vec<Source> = sources.collect::<Result<_, _>>().unwrap();
    let broken: Vec<_> = sources.iter().filter(|source| source.error.is_some()).collect();
    assert_eq!((sources.len(), broken.len()), (10, 1));
    assert_eq!(broken[0].path, "class0/broken.jpg");
    assert_eq!(Success::read(&dir.path("shards/epoch=00000/_SUCCESS")).unwrap().rows(), 9);
}

#[test]
fn too_many_unreadable_images_fail_the_run() {
    let dir = Dir::new().images(9).file("images/class0/broken.jpg", "no image");
    dir.prep(&format!("{SMALL} images shards")).fails(1).says(&[
        "1 of 10",
        "--max-bad",
        "sources.parquet",
    ]);
}

#[test]
fn a_folder_without_images_is_named() {
    let dir = Dir::new().folder("images");
    dir.prep("images shards").fails(1).says(&["images"]);
}

#[test]
fn a_missing_folder_is_named() {
    Dir::new().prep("nowhere shards").fails(1).says(&["nowhere"]);
}

#[test]
fn an_unknown_option_is_named() {
    Dir::new().prep("--sizes 64 images shards").fails(2).says(&["--sizes"]);
}

#[test]
fn an_invalid_option_is_named() {
    Dir::new().prep("--size 0 images shards").fails(2).says(&["--size"]);
}

#[test]
fn help_and_version_answer() {
    let dir = Dir::new();
    assert!(dir.prep("--help").succeeds().stdout.contains("Examples:"));
    assert!(dir.prep("--version").succeeds().stdout.starts_with("scrl-prep 0."));
}
