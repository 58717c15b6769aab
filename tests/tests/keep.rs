//! `scrl-prep --keep` and `scrl-train --follow --consume` on one folder at the same time.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use scrl_schemas::{Epoch, ShardPaths};
use scrl_tests::Dir;

const PREP: &str = "--size 64 --min-box 16 --rows-per-shard 4 --epochs 5";
const TRAIN: &str =
    "--device cpu --arch resnet18 --batch-size 4 --hidden 64 --projection 32 --log-every 1";

fn finished(dir: &Dir) -> Vec<u32> {
    let paths = ShardPaths::new(dir.path("shards"));
    (0..5).filter(|&epoch| paths.success(Epoch(epoch)).exists()).collect()
}

#[test]
fn both_may_be_killed_and_the_training_is_that_of_a_disk_that_holds_everything() {
    let dir = Dir::new().images(9);
    dir.prep(&format!("{PREP} images complete")).succeeds();
    dir.train(&format!("{TRAIN} --out alone complete")).succeeds();

    let prep = format!("{PREP} --keep 2 images shards");
    let train = format!("{TRAIN} --follow --consume --out beside shards");
    let most = AtomicU32::new(0);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                most.fetch_max(finished(&dir).len() as u32, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        scope.spawn(|| {
            dir.prep(&prep).killed_after(Duration::from_millis(400));
            dir.prep(&prep).killed_after(Duration::from_millis(1500));
            dir.prep(&prep).succeeds();
        });
        dir.train(&train).killed_after(Duration::from_millis(1500));
        dir.train(&train).killed_after(Duration::from_millis(2500));
        dir.train(&train).succeeds();
        ended.store(true, Ordering::Relaxed);
    });
    assert!((1..=2).contains(&most.load(Ordering::Relaxed)), "{most:?} finished epochs at a time");
    let last = "checkpoints/step-00000010.safetensors";
    assert!(dir.read(&format!("alone/{last}")) == dir.read(&format!("beside/{last}")));
    assert!(dir.text("shards/consumed.json").contains("\"epochs\": 5"));

    // Both commands again: nothing is left to do for either.
    dir.prep(&prep).succeeds().says(&["0 pairs to write"]);
    dir.train(&train).succeeds();
    assert!(finished(&dir).len() <= 2);
}
