//! Health on held-out pairs: what a run measures, and that it changes nothing else.

mod golden;
mod prepared;

use std::fs;
use std::path::{Path, PathBuf};

use prepared::{Lines, Prepared, make_constant, metrics, rows, run, run_and_report};
use scrl_cli::{Event, Reporter, Stop};
use scrl_schemas::{Epoch, Row, ShardPaths, ShardWriter, Success, ViewEncoding};
use scrl_trainer::collective::Threads;
use scrl_trainer::data::Dataset;
use scrl_trainer::train::{Checkpoint, HealthCheck, Metrics, Options, Resume, TrainConfig, train};

/// Pairs of a step: an epoch has four steps, the last of which is held out.
const BATCH: usize = 16;

/// Images, and rows of an epoch.
const IMAGES: usize = 4 * BATCH;

fn prepared(views: ViewEncoding, size: u32) -> (Prepared, PathBuf) {
    let prepared = Prepared::images(IMAGES as u32);
    let shards = prepared.prepare_sized("shards", 2, views, size);
    (prepared, shards)
}

fn config(
    prepared: &Prepared,
    shards: &Path,
    out: &str,
    change: impl FnOnce(&mut Options),
) -> (TrainConfig, Dataset) {
    prepared.config(shards, out, |options| {
        options.batch_size = Some(BATCH);
        options.checkpoint_every = Some(3);
        change(options);
    })
}

fn off(options: &mut Options) {
    options.health = Some(HealthCheck::Off);
}

/// Step, effective rank and box retrieval where they were measured.
fn health(out: &Path) -> Vec<(u64, f64, f64)> {
    let measured = |line: Metrics| Some((line.step, line.effective_rank?, line.box_retrieval?));
    metrics(out).into_iter().filter_map(measured).collect()
}

fn losses(out: &Path) -> Vec<f32> {
    metrics(out).iter().map(|line| line.loss).collect()
}

fn checkpoint(out: &Path, step: u64) -> PathBuf {
    out.join("checkpoints").join(Checkpoint::file_name(step))
}

/// Writes `rows` as epoch 0.
fn write_epoch_0(shards: &Path, rows: Vec<Row>) {
    let paths = ShardPaths::new(shards);
    fs::remove_dir_all(paths.epoch(Epoch(0))).unwrap();
    fs::create_dir(paths.epoch(Epoch(0))).unwrap();
    let path = paths.shard(Epoch(0), scrl_schemas::Shard(0));
    let mut writer = ShardWriter::create(&path).unwrap();
    rows.into_iter().for_each(|row| writer.write(row).unwrap());
    let shard = writer.finish(Vec::new()).unwrap();
    Success { format: scrl_schemas::FORMAT, parts: vec![shard.record] }
        .write(&paths.success(Epoch(0)))
        .unwrap();
}

#[test]
fn health_is_measured_at_every_checkpoint_and_changes_no_bit_of_the_training() {
    let (prepared, shards) = prepared(ViewEncoding::Webp, 64);
    let (done, lines) = run_and_report(&config(&prepared, &shards, "auto", |options| {
        options.log_every = Some(100);
    }));
    done.unwrap();
    let out = prepared.path("auto");
    let measured = health(&out);
    assert_eq!(measured.iter().map(|line| line.0).collect::<Vec<_>>(), [3, 6, 8]);
    assert_eq!(lines.with("(step 0)").len(), 1);
    for (step, effective_rank, box_retrieval) in &measured {
        assert!((1.0..512.0).contains(effective_rank), "{measured:?}");
        assert!((0.0..=1.0).contains(box_retrieval), "{measured:?}");
        let line = format!(
            "health: effective rank {effective_rank:.1}, box retrieval {:.1} % (step {step})",
            100.0 * box_retrieval
        );
        assert_eq!(lines.with(&format!("(step {step})")), [line]);
    }
    assert_eq!(lines.with("of 16 held-out pairs").len(), 1);
    let drawing = fs::read_to_string(out.join("metrics.svg")).unwrap();
    assert!(drawing.contains("effective rank") && drawing.contains("box retrieval"));
    let config_text = fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(config_text.contains("health = \"auto\""));

    // The rows that the run trained on.
    let mut trained_on = rows(&shards, 0);
    let (first, rest) = trained_on.split_at_mut(3 * BATCH);
    rest.clone_from_slice(&first[..BATCH]);
    write_epoch_0(&shards, trained_on);
    run(&config(&prepared, &shards, "off", |options| {
        off(options);
        options.log_every = Some(1);
    }))
    .unwrap();
    let plain = prepared.path("off");
    let backbone = |out: &Path| fs::read(out.join("backbone.safetensors")).unwrap();
    assert!(backbone(&out) == backbone(&plain));
    let tensors = |out: &Path| {
        let path = checkpoint(out, 8);
        candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap()
    };
    let (found, expected) = (tensors(&out), tensors(&plain));
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in &found {
        assert!(golden::numbers(tensor) == golden::numbers(&expected[name]), "{name}");
    }
    let expected: Vec<f32> = losses(&plain);
    assert_eq!(losses(&out), [3, 6, 8].map(|step| expected[step - 1]));
    let text = fs::read_to_string(plain.join("metrics.jsonl")).unwrap();
    assert!(text.starts_with("{\"step\":1,") && !text.contains("effective_rank"));
    assert!(
        !String::from_utf8_lossy(&fs::read(checkpoint(&plain, 8)).unwrap()).contains("held_out")
    );
}

#[test]
fn a_resumed_run_measures_the_same() {
    let (prepared, shards) = prepared(ViewEncoding::Recipe, 32);
    run(&config(&prepared, &shards, "whole", |_| ())).unwrap();
    let steps = |steps| config(&prepared, &shards, "pieces", move |o| o.max_steps = Some(steps));
    run(&steps(3)).unwrap();
    run(&steps(6)).unwrap();
    // Without measuring, the run still trains on the same rows.
    run(&config(&prepared, &shards, "deaf", |options| options.max_steps = Some(3))).unwrap();
    run(&config(&prepared, &shards, "deaf", off)).unwrap();
    let (done, lines) = run_and_report(&config(&prepared, &shards, "pieces", |_| ()));
    done.unwrap();
    assert_eq!(lines.with("held-out pairs").len(), 1);
    let [whole, pieces, deaf] = ["whole", "pieces", "deaf"].map(|out| prepared.path(out));
    assert_eq!(health(&whole), health(&pieces));
    assert_eq!(losses(&whole), losses(&pieces));
    assert_eq!(losses(&whole), losses(&deaf));
    assert_eq!(health(&deaf), health(&whole)[..1]);
    for out in [&pieces, &deaf] {
        assert!(fs::read(checkpoint(&whole, 8)).unwrap() == fs::read(checkpoint(out, 8)).unwrap());
    }
}

#[test]
fn health_ends_with_one_line_where_epoch_0_is_gone() {
    let (prepared, shards) = prepared(ViewEncoding::Webp, 32);
    run(&config(&prepared, &shards, "whole", |_| ())).unwrap();
    run(&config(&prepared, &shards, "out", |options| options.max_steps = Some(4))).unwrap();
    fs::remove_dir_all(shards.join("epoch=00000")).unwrap();
    let (done, lines) = run_and_report(&config(&prepared, &shards, "out", |_| ()));
    done.unwrap();
    let said = lines.with("health");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("health: off, as the held-out pairs cannot be read: "), "{said:?}");
    let [whole, out] = ["whole", "out"].map(|out| prepared.path(out));
    assert_eq!(health(&out).last().unwrap().0, 4);
    assert!(fs::read(checkpoint(&whole, 8)).unwrap() == fs::read(checkpoint(&out, 8)).unwrap());
}

#[test]
fn collapsed_features_are_reported_once() {
    let (prepared, shards) = prepared(ViewEncoding::Recipe, 64);
    let still = |steps| {
        config(&prepared, &shards, "out", |options| {
            options.lr = Some(0.0);
            options.log_every = Some(100);
            options.checkpoint_every = Some(2);
            options.max_steps = Some(steps);
        })
    };
    let (done, lines) = run_and_report(&still(1));
    done.unwrap();
    assert_eq!(lines.with("warning"), [""; 0]);
    make_constant(&checkpoint(&prepared.path("out"), 1), "online.backbone.layer4.");
    let (done, lines) = run_and_report(&still(6));
    done.unwrap();
    let warnings = lines.with("a collapse");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let expected = "warning: after step 2 the features of all held-out boxes lie nearly on a line \
                    (effective rank 1.0)";
    assert!(warnings[0].starts_with(expected), "{warnings:?}");
    // Boxes at the edge of a view have the same feature by another factor.
    let measured = health(&prepared.path("out"));
    assert_eq!(measured[1..].iter().map(|line| line.0).collect::<Vec<_>>(), [2, 4, 6]);
    assert!(measured[1..].iter().all(|line| (line.1 - 1.0).abs() < 1e-9), "{measured:?}");
}

#[test]
fn small_datasets_and_runs_that_began_without_have_no_health() {
    let prepared = Prepared::images(10);
    let shards = prepared.prepare("shards", 2, ViewEncoding::Recipe);
    let said = |out: &str, change: fn(&mut Options)| {
        let (done, lines) = run_and_report(&prepared.config(&shards, out, change));
        done.unwrap();
        lines.with("health")
    };
    let few = "health: off, as an epoch has too few pairs to hold some out";
    assert_eq!(said("few", |options| options.max_steps = Some(1)), [few]);
    assert_eq!(
        said("off", |options| (options.max_steps, options.health) =
            (Some(1), Some(HealthCheck::Off))),
        [""; 0]
    );
    assert_eq!(
        said("off", |options| options.max_steps = Some(2)),
        ["health: off, as the run began without held-out pairs"]
    );
    assert_eq!(metrics(&prepared.path("few"))[0].step, 1);
}

#[test]
fn ranks_hold_out_the_same_pairs_and_the_first_measures_alone() {
    let (prepared, shards) = prepared(ViewEncoding::Recipe, 32);
    let byol = |options: &mut Options| {
        options.batch_size = Some(8);
        options.accumulate = Some(2);
        options.checkpoint_every = Some(4);
        options.method = Some("byol".parse().unwrap());
        (options.lr, options.ema) = (Some(0.0), Some(1.0));
    };
    run(&prepared.config(&shards, "alone", byol)).unwrap();
    let lines = Lines::default();
    Threads::run(2, |ranks| {
        let (config, dataset) = prepared.config_among(&ranks, &shards, "two", byol);
        let seen = lines.clone();
        let reporter = match ranks.is_first() {
            true => Reporter::observed(Stop::default(), move |event: Event| seen.receive(event)),
            false => Reporter::silent(),
        };
        train(&config, &dataset, &Resume::Auto, &ranks, &reporter).unwrap();
    });
    let [alone, two] = ["alone", "two"].map(|out| health(&prepared.path(out)));
    assert_eq!(alone.iter().map(|line| line.0).collect::<Vec<_>>(), [4, 8]);
    assert_eq!(lines.with("health: effective rank").len(), 3);
    // The weights do not move.
    assert!(alone == two && alone[0].1 == alone[1].1, "{alone:?} {two:?}");
    let [alone, two] = ["alone", "two"].map(|out| losses(&prepared.path(out)));
    assert_eq!(alone.len(), 8);
    for (alone, two) in alone.iter().zip(&two) {
        assert!((alone / two - 1.0).abs() < 1e-5, "{alone} {two}");
    }
}
