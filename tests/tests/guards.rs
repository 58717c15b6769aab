//! An error is one line that says what to do, and nothing that was there is lost.

use std::fs;

use scrl_tests::{Dir, Output};

const TRAIN: &str = "--device cpu --arch resnet18 --batch-size 4 --hidden 64 --projection 32 \
                     --log-every 1 --checkpoint-every 1";

/// Two epochs of eight images in `shards`, made with these options beside the usual ones.
fn prepared(options: &str) -> Dir {
    let dir = Dir::new().images(8);
    dir.prep(&format!("--size 64 --min-box 16 --epochs 2 {options} images shards")).succeeds();
    dir
}

/// Expects the last line to be the only error, with all of these words.
#[track_caller]
fn ends_with(output: &Output, words: &[&str]) {
    let lines: Vec<&str> =
        output.stderr.lines().filter(|line| line.starts_with("scrl-train: ")).collect();
    assert!(lines.len() == 1 && output.stderr.trim_end().ends_with(lines[0]), "{}", output.stderr);
    output.says(words);
}

fn checkpoints(dir: &Dir, run: &str) -> Vec<String> {
    dir.files(&format!("{run}/checkpoints")).into_keys().collect()
}

#[test]
#[cfg(unix)]
fn a_full_disk_loses_nothing_and_the_run_resumes_when_there_is_room() {
    let dir = prepared("");
    let steps = |steps: u32| format!("{TRAIN} --max-steps {steps}");
    dir.train(&format!("{} --out complete shards", steps(2))).succeeds();

    let none = dir.train(&format!("{} --out none shards", steps(1))).with_room_for(20_000).fails(1);
    ends_with(&none, &["step-00000000.safetensors: ", "there is no checkpoint yet", "make room"]);
    assert!(checkpoints(&dir, "none").is_empty());

    dir.train(&format!("{} --out run shards", steps(1))).succeeds();
    let full = dir.train(&format!("{} --out run shards", steps(2))).with_room_for(20_000).fails(1);
    ends_with(
        &full,
        &["step-00000002.safetensors: ", "step-00000001.safetensors is intact", "make room"],
    );
    assert_eq!(
        checkpoints(&dir, "run"),
        ["step-00000000.safetensors", "step-00000001.safetensors"]
    );

    dir.train(&format!("{} --out run shards", steps(2)))
        .succeeds()
        .says(&["resuming after step 1"]);
    dir.assert_same("complete/checkpoints", "run/checkpoints");
}

#[test]
fn recipe_shards_without_their_images_are_reported_before_anything_is_written() {
    let dir = prepared("--views recipe");
    for image in ["class0/000.jpg", "class1/001.png", "class2/002.jpg"] {
        dir.remove(&format!("images/{image}"));
    }
    let output = dir.train(&format!("{TRAIN} --out run shards")).fails(1);
    ends_with(
        &output,
        &["images/class0/000.jpg: ", "; 2 others are missing as well; ", "--images"],
    );
    let output = dir.train(&format!("{TRAIN} --images elsewhere --out run shards")).fails(1);
    ends_with(&output, &["elsewhere: not there; ", "--images"]);
    assert!(!dir.path("run").exists());

    // Images that scrl-prep could not read are not missed.
    let dir = Dir::new().images(8).file("images/class0/bad.jpg", "no image");
    dir.prep("--size 64 --min-box 16 --max-bad 0.5 --views recipe images shards").succeeds();
    dir.remove("images/class0/bad.jpg");
    dir.train(&format!("{TRAIN} --max-steps 1 --out run shards")).succeeds();
}

#[test]
fn shards_of_another_size_or_format_are_refused_by_name() {
    let dir = prepared("");
    let shard = "epoch=00000/part-00000.parquet";
    let train = format!("{TRAIN} --out run shards");
    dir.prep("--size 96 --min-box 16 --epochs 2 images larger").succeeds();
    fs::copy(dir.path(&format!("larger/{shard}")), dir.path(&format!("shards/{shard}"))).unwrap();
    ends_with(&dir.train(&train).fails(1), &["a view of 96×96 pixels", "prepare its epoch again"]);

    fs::copy(dir.path("shards/sources.parquet"), dir.path(&format!("shards/{shard}"))).unwrap();
    ends_with(&dir.train(&train).fails(1), &["part-00000.parquet: not a shard of views"]);

    fs::write(dir.path(&format!("shards/{shard}")), "PAR1 no more").unwrap();
    ends_with(&dir.train(&train).fails(1), &["part-00000.parquet: "]);

    let manifest = dir.text("shards/dataset.toml").replace("format = 1", "format = 2");
    fs::write(dir.path("shards/dataset.toml"), manifest).unwrap();
    ends_with(
        &dir.train(&train).fails(1),
        &["dataset.toml: format 2, but this version reads format 1"],
    );
}

#[test]
fn shards_without_rows_are_distinguished_from_a_batch_that_is_too_large() {
    let dir = Dir::new().file("images/a.jpg", "no image").file("images/b.jpg", "none either");
    dir.prep("--max-bad 1 images shards").succeeds();
    let output = dir.train(&format!("{TRAIN} --out run shards")).fails(1);
    ends_with(&output, &["shards: the shards have no rows", "sources.parquet"]);
    let output = prepared("").train(&format!("{TRAIN} --accumulate 3 --out run shards")).fails(2);
    ends_with(&output, &["--batch-size: 12 pairs a step, but an epoch has only 8"]);
}

#[test]
fn an_online_evaluation_without_classes_is_refused() {
    let dir = Dir::new().images(12);
    dir.prep("--size 64 --min-box 16 images/class0 shards").succeeds();
    let output = dir.train(&format!("{TRAIN} --online-eval on --out run shards")).fails(2);
    ends_with(
        &output,
        &["--online-eval: shards has 0 classes; prepare images in a folder for each class"],
    );
    assert!(!dir.path("run").exists());
}

#[test]
fn a_nan_or_infinite_loss_ends_the_run_with_its_step_images_and_the_last_checkpoint() {
    let dir = prepared("");
    let output =
        dir.train(&format!("{TRAIN} --lr 1e38 --warmup-epochs 1 --out run shards")).fails(1);
    let newest = checkpoints(&dir, "run").pop().unwrap();
    ends_with(&output, &["the loss of step ", "; images [", &newest, "--lr"]);
    assert!(!dir.path("run/backbone.safetensors").exists());
    let logged = dir.text("run/metrics.jsonl");
    assert!(!logged.contains("null,\"lr\"") && !logged.contains("NaN"), "{logged}");
}
