//! `scrl-train --follow --consume` beside a folder that is still being filled.

use std::cell::Cell;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use scrl_schemas::{Consumed, Epoch, ShardPaths};
use scrl_tests::Dir;

/// Two steps an epoch, one image left over.
const TRAIN: &str = "--device cpu --arch resnet18 --batch-size 4 --hidden 64 --projection 32 \
                     --log-every 1 --checkpoint-every 1000";

/// The longest time that the training may take to consume an epoch.
const PATIENCE: Duration = Duration::from_secs(120);

/// Three epochs of nine images in `made`.
fn made() -> Dir {
    let dir = Dir::new().images(9);
    dir.prep("--size 64 --min-box 16 --epochs 3 images made").succeeds();
    dir
}

fn hand_over(dir: &Dir, name: &str) {
    fs::rename(dir.path(&format!("made/{name}")), dir.path(&format!("shards/{name}"))).unwrap();
}

fn losses(dir: &Dir, run: &str) -> Vec<f64> {
    let text = dir.text(&format!("{run}/metrics.jsonl"));
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    text.lines().map(|text| line(text)["loss"].as_f64().unwrap()).collect()
}

#[test]
fn a_training_beside_the_preparation_ends_as_one_after_it() {
    let dir = made().folder("shards");
    dir.train(&format!("{TRAIN} --out complete made")).succeeds();
    thread::scope(|scope| {
        // Like scrl-prep --keep 1: an epoch comes when the one before it is consumed and removed.
        scope.spawn(|| {
            let paths = ShardPaths::new(dir.path("shards"));
            hand_over(&dir, "dataset.toml");
            for epoch in 0..3 {
                hand_over(&dir, &format!("epoch=0000{epoch}"));
                let start = Instant::now();
                while Consumed::read(&paths.consumed()).unwrap().epochs <= epoch {
                    assert!(start.elapsed() < PATIENCE, "epoch {epoch} is not consumed");
                    thread::sleep(Duration::from_millis(20));
                }
                fs::remove_dir_all(paths.epoch(Epoch(epoch))).unwrap();
            }
        });
        dir.train(&format!("{TRAIN} --follow --consume --out beside shards")).succeeds();
    });
    assert_eq!(losses(&dir, "complete"), losses(&dir, "beside"));
    let last = "checkpoints/step-00000006.safetensors";
    assert!(dir.read(&format!("complete/{last}")) == dir.read(&format!("beside/{last}")));
    assert!(dir.read("complete/backbone.safetensors") == dir.read("beside/backbone.safetensors"));

    // The same command again is at the end already, without any epoch left.
    dir.train(&format!("{TRAIN} --follow --consume --out beside shards"))
        .succeeds()
        .says(&["after step 6"]);
    // Another one would need them.
    dir.train(&format!("{TRAIN} --follow --out other shards")).fails(1).says(&[
        "epoch=00000",
        "consumed.json",
        "scrl-prep --only 0..3",
    ]);
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_waiting_for_a_folder() {
    let dir = Dir::new();
    let start = Instant::now();
    // Nothing on the disk shows that it waits; it reports so at once.
    dir.train(&format!("{TRAIN} --follow --out run shards"))
        .interrupted_once(|| start.elapsed() > Duration::from_secs(2))
        .says(&["waiting for dataset.toml of shards …", "is scrl-prep running?"]);
    assert!(!dir.path("run").exists());
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_waiting_for_an_epoch_and_the_run_resumes_there() {
    let dir = made().folder("shards");
    hand_over(&dir, "dataset.toml");
    hand_over(&dir, "epoch=00000");
    let line = format!("{TRAIN} --max-steps 4 --follow --config both.toml --out run shards");
    fs::write(dir.path("both.toml"), "consume = true\n").unwrap();
    // With --consume there is a checkpoint at the epoch's end; then the next one is waited for.
    let at_end = || dir.path("run/checkpoints/step-00000002.safetensors").exists();
    let waiting = "waiting for epoch 1 of shards …; is scrl-prep running?";
    let output = dir.train(&line).interrupted_once(at_end);
    output.says(&[waiting]);
    output.says(&["stopped after step 2", "step-00000002.safetensors"]);
    assert_eq!(Consumed::read(&dir.path("shards/consumed.json")).unwrap(), Consumed { epochs: 1 });
    let config = dir.text("run/config.toml");
    assert!(config.contains("follow = true") && config.contains("consume = true"), "{config}");

    let since = Cell::new(None);
    let a_while_later = || {
        let start = since.get().unwrap_or_else(Instant::now);
        since.set(Some(start));
        start.elapsed() > Duration::from_secs(2)
    };
    let quiet = dir.train(&format!("--quiet {line}")).interrupted_once(a_while_later);
    assert_eq!(quiet.stderr.lines().count(), 1, "{}", quiet.stderr);

    hand_over(&dir, "epoch=00001");
    dir.train(&line).succeeds().says(&["resuming after step 2"]);
    assert_eq!(losses(&dir, "run").len(), 4);
}
