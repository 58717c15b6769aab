//! Programs that are killed at random moments, or stopped by the signal of a scheduler: a resumed run
//! ends as one that was never disturbed.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use scrl_tests::Dir;
use serde_json::Value;

/// Ten steps with a checkpoint after every other one.
const TRAIN: &str = "--device cpu --arch resnet18 --batch-size 4 --hidden 64 --projection 32 \
                     --log-every 1 --checkpoint-every 2";

const KILLS: usize = 4;

/// Numbers that differ from run to run, between 0 and 1.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
        Self(seed)
    }

    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The metrics of a run without those that depend on time.
fn metrics(dir: &Dir, run: &str) -> Vec<Value> {
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in ["pairs_per_s", "data_wait"] {
            line.as_object_mut().unwrap().remove(key).unwrap();
        }
        line
    };
    dir.text(&format!("{run}/metrics.jsonl")).lines().map(line).collect()
}

/// A protocol buffer's fields: number, and the bytes or the number in it.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>, u64)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let length = 1 + bytes.iter().position(|byte| byte & 0x80 == 0).unwrap();
        let (number, rest) = bytes.split_at(length);
        *bytes = rest;
        number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let number = if key & 7 == 0 { varint(&mut bytes) } else { 0 };
        let length = match key & 7 {
            0 => 0,
            1 => 8,
            2 => varint(&mut bytes) as usize,
            _ => 4,
        };
        let (content, rest) = bytes.split_at(length);
        bytes = rest;
        found.push((key >> 3, content.to_vec(), number));
    }
    found
}

/// Every scalar in a run's event files, by step and tag: the values in the order of the files.
fn scalars(dir: &Dir, run: &str) -> BTreeMap<(u64, String), Vec<f32>> {
    let mut scalars = BTreeMap::<_, Vec<f32>>::new();
    let files =
        dir.files(run).into_iter().filter(|(name, _)| name.starts_with("events.out.tfevents."));
    for (name, file) in files {
        let mut rest = file.as_slice();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let event = fields(&rest[12..12 + length]);
            rest = &rest[16 + length..];
            let step = event.iter().find(|field| field.0 == 2).map_or(0, |field| field.2);
            let Some((_, summary, _)) = event.iter().find(|field| field.0 == 5) else { continue };
            assert!(step > 0, "{name} has a summary without a step");
            for (_, value, _) in fields(summary) {
                let value = fields(&value);
                let tag = String::from_utf8(value[0].1.clone()).unwrap();
                let number = f32::from_le_bytes(value[1].1.as_slice().try_into().unwrap());
                if !tag.starts_with("speed/") {
                    scalars.entry((step, tag)).or_default().push(number);
                }
            }
        }
    }
    scalars
}

#[test]
fn a_run_killed_at_random_moments_ends_as_one_that_was_not() {
    let dir = Dir::new().images(9);
    dir.prep("--size 64 --min-box 16 --epochs 5 images shards").succeeds();
    let start = Instant::now();
    dir.train(&format!("{TRAIN} --out alone shards")).succeeds();
    let time = start.elapsed();

    let mut random = Random::new();
    println!("random numbers from {}", random.0);
    let train = format!("{TRAIN} --out killed shards");
    let kills = (0..KILLS).filter(|_| {
        // From its first moments, before there is a checkpoint, to well into the run.
        let moment = time.mul_f64(0.1 + 0.5 * random.next());
        let is_killed = dir.train(&train).killed_after(moment);
        let logged =
            dir.path("killed/metrics.jsonl").exists().then(|| dir.text("killed/metrics.jsonl"));
        println!("after {moment:?}: {} lines", logged.map_or(0, |text| text.lines().count()));
        is_killed
    });
    assert!(kills.count() >= KILLS / 2);
    dir.train(&train).succeeds();

    assert_eq!(metrics(&dir, "alone").len(), 10);
    assert_eq!(metrics(&dir, "alone"), metrics(&dir, "killed"));
    let scalars = [scalars(&dir, "alone"), scalars(&dir, "killed")];
    assert_eq!(scalars[0].keys().filter(|(_, tag)| tag == "train/loss").count(), 10);
    assert_eq!(scalars[0].keys().filter(|(_, tag)| tag == "eval/online_acc").count(), 10);
    assert_eq!(scalars[0], scalars[1]);
    assert!(scalars[1].values().all(|values| values.len() == 1));
    dir.assert_same("alone/checkpoints", "killed/checkpoints");
    assert!(dir.read("alone/backbone.safetensors") == dir.read("killed/backbone.safetensors"));
}

/// Whether a run has logged a step.
fn has_begun(dir: &Dir, run: &str) -> bool {
    let metrics = dir.path(&format!("{run}/metrics.jsonl"));
    metrics.exists() && !dir.read(&format!("{run}/metrics.jsonl")).is_empty()
}

#[test]
#[cfg(unix)]
fn a_run_stopped_by_sigusr1_has_a_checkpoint_and_ends_as_one_that_was_not() {
    let dir = Dir::new().images(9);
    dir.prep("--size 64 --min-box 16 --epochs 5 images shards").succeeds();
    let line = TRAIN.replace("--checkpoint-every 2", "--checkpoint-every 1000");
    dir.train(&format!("{line} --out alone shards")).succeeds();
    let train = format!("{line} --out stopped shards");
    let output = dir.train(&train).stopped_by("USR1", || has_begun(&dir, "stopped"));
    output.says(&["stopped after step ", "stopped/checkpoints/step-"]);
    assert!(!dir.path("stopped/backbone.safetensors").exists());
    dir.train(&train).succeeds().says(&["resuming after step "]);
    assert_eq!(metrics(&dir, "alone"), metrics(&dir, "stopped"));
    for file in ["checkpoints/step-00000010.safetensors", "backbone.safetensors"] {
        assert!(dir.read(&format!("alone/{file}")) == dir.read(&format!("stopped/{file}")));
    }
}

#[test]
#[cfg(unix)]
fn sigusr1_to_one_process_of_a_run_stops_all() {
    let dir = Dir::new().images(9);
    dir.prep("--size 64 --min-box 16 --epochs 500 images shards").succeeds();
    let train = format!("{TRAIN} --threads 1 --out run shards");
    // The first rank listens at the port after MASTER_PORT.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() - 1;
    let rank = |rank: u32| {
        let command = dir.train(&train).variable("RANK", rank).variable("WORLD_SIZE", 2);
        command.variable("MASTER_ADDR", "127.0.0.1").variable("MASTER_PORT", port)
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| rank(0).fails(130));
        rank(1).stopped_by("USR1", || has_begun(&dir, "run"));
        first.join().unwrap().says(&["stopped after step ", "run/checkpoints/step-"]);
    });
    // On another number of processes as well.
    dir.train(&format!("{train} --max-steps 1")).succeeds().says(&["resuming after step "]);
}

#[test]
#[cfg(unix)]
fn sigusr1_stops_the_preparation_and_the_evaluation() {
    let dir = Dir::new().images(10);
    let prep = "--size 64 --min-box 16 --epochs 3000 images shards";
    dir.prep(prep).stopped_by("USR1", || dir.path("shards/epoch=00000/_SUCCESS").exists());
    assert!(!dir.files("shards").keys().any(|name| name.contains(".tmp-")));
    let eval = "linear --images images --size 64 --epochs 100 --checkpoint random \
                --arch resnet18 --device cpu --out eval";
    let is_training = || dir.path("eval/features/linear-layer.safetensors").exists();
    dir.eval(eval).stopped_by("USR1", is_training);
    assert!(!dir.path("eval/results.json").exists());
}
