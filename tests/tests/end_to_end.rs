//! From images to a backbone: `scrl-prep`, then `scrl-train`, and the files that they write.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::{Dtype, SafeTensors};
use scrl_tests::Dir;
use serde_json::Value;

/// The smallest run that goes through everything: maps of 2×2 cells, heads of 64 and 32.
const TRAIN: &str = "--device cpu --preset paper --arch resnet18 --batch-size 4 --hidden 64 \
                     --projection 32 --max-steps 3 --log-every 1";

/// The same with the preset and the batch that fit the shards.
const AUTO: &str = "--device cpu --arch resnet18 --hidden 64 --projection 32 --log-every 1";

/// Two epochs of sixteen images in `shards`.
fn prepared() -> Dir {
    let dir = Dir::new().images(16);
    dir.prep("--size 64 --min-box 16 --epochs 2 images shards").succeeds();
    dir
}

#[test]
fn points_train_as_boxes_do() {
    let dir = Dir::new().images(16);
    for (shards, options) in [("points", ""), ("unmatched", "--box-jitter inf --preset aerial")] {
        let prep = "--size 64 --epochs 2 --box-sampler point";
        dir.prep(&format!("{prep} {options} images {shards}")).succeeds();
        dir.train(&format!("{TRAIN} --out {shards}-run {shards}")).succeeds();
        let losses = losses(&dir, &format!("{shards}-run"));
        assert!(losses.len() == 3 && losses.iter().all(|loss| *loss > 0.0), "{losses:?}");
    }
}

fn metrics(dir: &Dir, run: &str) -> Vec<Value> {
    let text = dir.text(&format!("{run}/metrics.jsonl"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn losses(dir: &Dir, run: &str) -> Vec<f64> {
    metrics(dir, run).iter().map(|line| line["loss"].as_f64().unwrap()).collect()
}

/// The shapes of a safetensors file by name; all of it must be float32.
fn shapes(dir: &Dir, name: &str) -> BTreeMap<String, Vec<usize>> {
    let bytes = dir.read(name);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
            (name.to_owned(), tensor.shape().to_vec())
        })
        .collect()
}

type Shapes = BTreeMap<String, Vec<usize>>;

fn add_norm(shapes: &mut Shapes, name: &str, channels: usize) {
    for part in ["weight", "bias", "running_mean", "running_var"] {
        shapes.insert(format!("{name}.{part}"), vec![channels]);
    }
}

/// torchvision's resnet18 without `fc`.
fn resnet18() -> Shapes {
    let mut shapes = Shapes::from([("conv1.weight".to_owned(), vec![64, 3, 7, 7])]);
    add_norm(&mut shapes, "bn1", 64);
    let mut inputs = 64;
    for stage in 0..4 {
        let outputs = 64 << stage;
        for block in 0..2 {
            let name = format!("layer{}.{block}", stage + 1);
            shapes.insert(format!("{name}.conv1.weight"), vec![outputs, inputs, 3, 3]);
            shapes.insert(format!("{name}.conv2.weight"), vec![outputs, outputs, 3, 3]);
            add_norm(&mut shapes, &format!("{name}.bn1"), outputs);
            add_norm(&mut shapes, &format!("{name}.bn2"), outputs);
            if inputs != outputs {
                shapes.insert(format!("{name}.downsample.0.weight"), vec![outputs, inputs, 1, 1]);
                add_norm(&mut shapes, &format!("{name}.downsample.1"), outputs);
            }
            inputs = outputs;
        }
    }
    shapes
}

/// A projector or predictor with the widths of [`TRAIN`].
fn head(inputs: usize) -> Shapes {
    let mut shapes = Shapes::from([
        ("0.weight".to_owned(), vec![64, inputs]),
        ("0.bias".to_owned(), vec![64]),
        ("3.weight".to_owned(), vec![32, 64]),
    ]);
    add_norm(&mut shapes, "1", 64);
    shapes
}

/// Every tensor that a checkpoint must hold.
fn checkpoint() -> Shapes {
    let below = |prefix: &str, shapes: Shapes| -> Shapes {
        shapes.into_iter().map(|(name, shape)| (format!("{prefix}.{name}"), shape)).collect()
    };
    let mut all = below("predictor", head(32));
    for network in ["online", "target"] {
        all.extend(below(&format!("{network}.backbone"), resnet18()));
        all.extend(below(&format!("{network}.projector"), head(512)));
    }
    // One for each folder of images.
    all.insert("classifier.weight".to_owned(), vec![3, 512]);
    all.insert("classifier.bias".to_owned(), vec![3]);
    let trained = |name: &&String| !name.starts_with("target.") && !name.contains(".running_");
    let names: Vec<String> = all.keys().filter(trained).cloned().collect();
    for name in names {
        all.insert(format!("momentum.{name}"), all[&name].clone());
    }
    all
}

#[test]
fn a_run_writes_every_promised_file() {
    let dir = prepared();
    let output = dir.train(&format!("{TRAIN} --out run shards")).succeeds();
    output.says(&["16 pairs an epoch, 4 a step, 12 in all; "]);
    assert!(!output.stderr.contains("preset"), "{}", output.stderr);
    every_file_is_there(&dir);
    every_step_is_logged_with_a_finite_loss(&dir);
    the_configuration_records_options_given_and_defaults(&dir);
    checkpoints_hold_pytorchs_names_and_layouts(&dir);
    the_backbone_is_the_last_checkpoints_online_one_under_torchvisions_names(&dir);
}

fn every_file_is_there(dir: &Dir) {
    let names: BTreeSet<String> = dir.files("run").into_keys().collect();
    for name in [
        "backbone.safetensors",
        "checkpoints/step-00000000.safetensors",
        "checkpoints/step-00000003.safetensors",
        "config.toml",
        "metrics.jsonl",
        "metrics.svg",
    ] {
        assert!(names.contains(name), "{name} is missing among {names:?}");
    }
    assert_eq!(names.iter().filter(|name| name.starts_with("events.out.tfevents.")).count(), 1);
    assert!(!names.iter().any(|name| name.contains(".tmp-")), "{names:?}");
}

fn every_step_is_logged_with_a_finite_loss(dir: &Dir) {
    let lines = metrics(dir, "run");
    assert_eq!(lines.len(), 3);
    for (step, line) in (1..).zip(&lines) {
        let keys: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "step",
            "epoch",
            "loss",
            "lr",
            "ema",
            "boxes",
            "pairs_per_s",
            "data_wait",
            "online_acc",
            "projection_std",
            "target_std",
        ];
        assert_eq!(keys, BTreeSet::from(expected));
        assert!((0.0..=1.0).contains(&line["online_acc"].as_f64().unwrap()), "{line}");
        assert_eq!(line["step"], step);
        // Twice 2 − 2 cos: 8 at most, and about 4 for networks that agree on nothing.
        assert!((0.01..8.0).contains(&line["loss"].as_f64().unwrap()), "{line}");
        assert!(line["boxes"].as_u64().unwrap() > 0 && line["lr"].as_f64().unwrap() > 0.0);
    }
}

fn the_configuration_records_options_given_and_defaults(dir: &Dir) {
    let config = dir.text("run/config.toml");
    for line in [
        "arch = \"resnet18\"",
        "optimizer = \"lars\"",
        "trust = 0.001",
        "batch-size = 4",
        "hidden = 64",
        "ema = 0.97",
        "epochs = 2",
        "seed = 0",
    ] {
        assert!(config.lines().any(|found| found == line), "{line} is not in\n{config}");
    }
}

fn checkpoints_hold_pytorchs_names_and_layouts(dir: &Dir) {
    assert_eq!(shapes(dir, "run/checkpoints/step-00000000.safetensors"), checkpoint());
    assert_eq!(shapes(dir, "run/checkpoints/step-00000003.safetensors"), checkpoint());
}

fn the_backbone_is_the_last_checkpoints_online_one_under_torchvisions_names(dir: &Dir) {
    assert_eq!(shapes(dir, "run/backbone.safetensors"), resnet18());
    let (backbone, last) = (
        dir.read("run/backbone.safetensors"),
        dir.read("run/checkpoints/step-00000003.safetensors"),
    );
    let (backbone, last) =
        (SafeTensors::deserialize(&backbone).unwrap(), SafeTensors::deserialize(&last).unwrap());
    for (name, tensor) in backbone.iter() {
        assert_eq!(
            tensor.data(),
            last.tensor(&format!("online.backbone.{name}")).unwrap().data(),
            "{name}"
        );
    }
}

#[test]
fn the_small_preset_trains_with_sgd() {
    let dir = prepared();
    let small = TRAIN.replace("--preset paper", "--preset small");
    dir.train(&format!("{small} --out run shards")).succeeds();
    let config = dir.text("run/config.toml");
    assert!(config.contains("optimizer = \"sgd\"") && !config.contains("trust"), "{config}");
    let refused = dir.train(&format!("{TRAIN} --optimizer sgd --trust 0.02 --out b shards"));
    refused.fails(2).says(&["--trust", "--optimizer lars"]);
}

#[test]
fn preset_and_batch_fit_the_shards_and_are_reported_and_recorded() {
    let dir = prepared();
    let output = dir.train(&format!("{AUTO} --max-steps 1 --out run shards")).succeeds();
    let lines: Vec<&str> = output.stderr.lines().take(2).collect();
    let expected = [
        "preset small: 32 pairs in the schedule, 2 a step",
        "batch size 2: an epoch of 16 pairs has 8 steps",
    ];
    assert_eq!(lines, expected);
    let config = dir.text("run/config.toml");
    for line in ["preset = \"small\"", "batch-size = 2", "optimizer = \"sgd\"", "epochs = 2"] {
        assert!(config.lines().any(|found| found == line), "{line} is not in\n{config}");
    }
    let given = "--preset small --batch-size 2 --epochs 2";
    let line = format!("{AUTO} {given} --max-steps 1 --out given shards");
    let output = dir.train(&line).succeeds();
    assert!(!output.stderr.contains("preset"), "{}", output.stderr);
    dir.assert_same("run/checkpoints", "given/checkpoints");
    // A step that no epoch can make.
    dir.train(&format!("{AUTO} --accumulate 9 --out none shards"))
        .fails(2)
        .says(&["18 pairs a step, but an epoch has only 16; ", "--accumulate"]);
}

#[test]
fn a_resumed_run_keeps_preset_batch_and_schedule_when_the_shards_have_more_epochs() {
    let dir = prepared();
    let prep = "--size 64 --min-box 16 --epochs 6 images shards";
    let line = |steps: u32, out: &str| format!("{AUTO} --max-steps {steps} --out {out} shards");
    for out in ["paper", "begun"] {
        let preset = if out == "paper" { "--preset paper --batch-size 4 " } else { "" };
        dir.train(&format!("{preset}{}", line(2, out))).succeeds();
    }
    dir.train(&line(3, "before")).succeeds();
    dir.prep(prep).succeeds();
    let output = dir.train(&line(3, "begun")).succeeds();
    output.says(&["preset small: the one with which the run began"]);
    output.says(&["epochs 2: the schedule with which the run began; the shards have 6 planned"]);
    let last = "checkpoints/step-00000003.safetensors";
    assert!(dir.read(&format!("before/{last}")) == dir.read(&format!("begun/{last}")));
    // What was given keeps as well, where it is given no more.
    dir.train(&line(3, "paper")).succeeds().says(&["preset paper: the one with"]);
    assert!(dir.text("paper/config.toml").contains("batch-size = 4"));
    // A schedule cannot become longer on the way, but a new run has all epochs.
    let longer = dir.train(&format!("--epochs 6 {}", line(3, "begun"))).fails(1);
    longer.says(&["made with epochs = 2, this run has 6", "another --out"]);
    dir.train(&line(1, "new")).succeeds().says(&["preset small: 96 pairs in the schedule"]);
}

#[test]
fn a_running_training_keeps_its_schedule_while_the_shards_grow() {
    let dir = Dir::new().images(9);
    let prep = |options: &str, shards: &str| {
        dir.prep(&format!("--size 64 --min-box 16 {options} images {shards}"))
    };
    prep("--epochs 2", "whole").succeeds();
    dir.train(&format!("{AUTO} --batch-size 4 --out expected whole")).succeeds();
    prep("--epochs 2 --only 0..1", "shards").succeeds();
    let train = format!("{AUTO} --batch-size 4 --follow --consume --out run shards");
    std::thread::scope(|scope| {
        let training = scope.spawn(|| dir.train(&train).succeeds());
        // It has begun; the second epoch is what it waits for.
        while !training.is_finished() && !dir.path("shards/consumed.json").exists() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        prep("--epochs 4", "shards").succeeds();
        training.join().unwrap();
    });
    for file in ["checkpoints/step-00000004.safetensors", "backbone.safetensors"] {
        assert!(dir.read(&format!("expected/{file}")) == dir.read(&format!("run/{file}")));
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads_and_another_seed_others() {
    let dir = prepared();
    for (run, options) in
        [("a", "--threads 2"), ("b", "--threads 2"), ("one", "--threads 1"), ("c", "--seed 1")]
    {
        dir.train(&format!("{TRAIN} {options} --out {run} shards")).succeeds();
    }
    assert_ne!(losses(&dir, "a"), losses(&dir, "c"));
    for other in ["b", "one"] {
        assert_eq!(losses(&dir, "a"), losses(&dir, other));
        dir.assert_same("a/checkpoints", &format!("{other}/checkpoints"));
    }
}

#[test]
fn a_run_resumes_as_if_it_had_not_stopped() {
    let dir = prepared();
    let steps = |count: u32| TRAIN.replace("--max-steps 3", &format!("--max-steps {count}"));
    dir.train(&format!("{} --out complete shards", steps(6))).succeeds();
    dir.train(&format!("{} --out pieces shards", steps(3))).succeeds();
    dir.train(&format!("{} --out pieces shards", steps(6))).succeeds().says(&["after step 3"]);
    assert_eq!(losses(&dir, "complete"), losses(&dir, "pieces"));
    let last = "checkpoints/step-00000006.safetensors";
    assert!(dir.read(&format!("complete/{last}")) == dir.read(&format!("pieces/{last}")));
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_a_checkpoint_to_resume_from() {
    let dir = Dir::new().images(4);
    dir.prep("--size 64 --min-box 16 --epochs 500 images shards").succeeds();
    let line = TRAIN.replace("--max-steps 3", "--checkpoint-every 1000 --out run shards");
    let is_logged =
        || dir.path("run/metrics.jsonl").exists() && !dir.read("run/metrics.jsonl").is_empty();
    let output = dir.train(&line).interrupted_once(is_logged);
    output.says(&["stopped after step ", "run/checkpoints/step-"]);
    output.says(&["scrl-train: stopped; run the same command again"]);
    assert!(dir.text("run/metrics.svg").contains(">\nloss\n<"), "{}", dir.text("run/metrics.svg"));
    let names: Vec<String> = dir.files("run/checkpoints").into_keys().collect();
    assert!(
        names.len() == 2 && names.iter().all(|name| name.ends_with(".safetensors")),
        "{names:?}"
    );
    dir.train(&line.replace("--out", "--max-steps 1 --out"))
        .succeeds()
        .says(&["resuming after step"]);
}

#[test]
fn byol_compares_entire_views() {
    let dir = prepared();
    dir.train(&format!("{TRAIN} --method byol --out run shards")).succeeds();
    let lines = metrics(&dir, "run");
    assert!(lines.iter().all(|line| line["boxes"] == 4), "{lines:?}");
}

#[test]
fn a_missing_folder_is_named() {
    Dir::new().train("--out run nowhere").fails(1).says(&["nowhere"]);
}

#[test]
fn a_batch_larger_than_an_epoch_is_refused() {
    prepared().train("--batch-size 17 --out run shards").fails(2).says(&["--batch-size", "16"]);
}

#[test]
fn an_unknown_option_is_named() {
    Dir::new().train("--archi resnet18 shards").fails(2).says(&["--archi"]);
}

#[test]
fn help_and_version_answer() {
    let dir = Dir::new();
    assert!(dir.train("--help").succeeds().stdout.contains("Examples:"));
    assert!(dir.train("--version").succeeds().stdout.starts_with("scrl-train 0."));
}

#[test]
fn every_program_completes_its_options_in_a_shell() {
    let dir = Dir::new();
    let programs = [Dir::prep, Dir::inspect, Dir::train, Dir::eval, Dir::export];
    for program in programs {
        let output = program(&dir, "--completions bash").succeeds();
        assert!(
            output.stdout.starts_with("_scrl") && output.stdout.contains("--config"),
            "{}",
            output.stdout
        );
        assert_eq!(output.stderr, "");
    }
}
