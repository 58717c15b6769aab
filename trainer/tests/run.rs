//! A run and the files it leaves.

mod golden;
mod prepared;

use std::fs;
use std::path::Path;

use prepared::{Lines, Prepared, make_constant, metrics, run, run_and_report};
use scrl_cli::{Reporter, Stop};
use scrl_schemas::{Epoch, Row, ShardPaths, ShardWriter, Success, ViewEncoding};
use scrl_trainer::Error;
use scrl_trainer::collective::Ranks;
use scrl_trainer::data::Dataset;
use scrl_trainer::train::{
    Hyperparameters, Optimizer, Options, Preset, Recorded, Resume, TargetInit, TrainConfig, train,
};

/// The metrics that must not depend on time, place or number of threads.
fn computed(out: &Path) -> Vec<(u64, u32, f32, f64, f64, usize)> {
    metrics(out).into_iter().map(|m| (m.step, m.epoch, m.loss, m.lr, m.ema, m.boxes)).collect()
}

fn checkpoint(out: &Path, step: u64) -> Vec<u8> {
    fs::read(out.join(format!("checkpoints/step-{step:08}.safetensors"))).unwrap()
}

#[test]
fn an_interrupted_run_resumes_bit_for_bit() {
    let prepared = Prepared::images(10);
    let shards = prepared.prepare("shards", 3, ViewEncoding::Webp);
    run(&prepared.config(&shards, "complete", |_| ())).unwrap();

    // Stopped after one step, then after three by --max-steps, in the middle of an epoch each time.
    let first = prepared.config(&shards, "pieces", |_| ());
    let (stop, lines) = (Stop::default(), Lines::default());
    stop.set();
    let seen = lines.clone();
    let reporter = Reporter::observed(stop, move |event| seen.receive(event));
    let stopped = train(&first.0, &first.1, &Resume::Auto, &Ranks::default(), &reporter);
    assert!(matches!(stopped, Err(Error::Stopped(_))));
    let checkpoint_1 = "checkpoints/step-00000001.safetensors";
    assert!(lines.with("stopped after step 1: ")[0].ends_with(checkpoint_1));
    assert!(prepared.path("pieces/metrics.svg").exists());
    run(&prepared.config(&shards, "pieces", |options| options.max_steps = Some(3))).unwrap();
    run(&first).unwrap();

    let (complete, pieces) = (prepared.path("complete"), prepared.path("pieces"));
    assert_eq!(computed(&complete), computed(&pieces));
    assert!(checkpoint(&complete, 6) == checkpoint(&pieces, 6));
    assert_eq!(
        fs::read(complete.join("backbone.safetensors")).unwrap(),
        fs::read(pieces.join("backbone.safetensors")).unwrap()
    );
    let losses: Vec<f32> = metrics(&complete).iter().map(|m| m.loss).collect();
    assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.0 && *loss < 8.0), "{losses:?}");
    let drawing = fs::read_to_string(pieces.join("metrics.svg")).unwrap();
    assert!(drawing.starts_with("<svg ") && drawing.contains("learning rate"));
}

#[test]
fn other_options_do_not_resume_from_a_checkpoint() {
    let prepared = Prepared::images(4);
    let shards = prepared.prepare("shards", 2, ViewEncoding::Webp);
    run(&prepared.config(&shards, "out", |options| options.max_steps = Some(1))).unwrap();
    let other = prepared.config(&shards, "out", |options| options.lr = Some(0.125));
    let message = run(&other).unwrap_err().to_string();
    assert!(message.contains("made with lr = 0.45, this run has 0.125"), "{message}");
    let other = prepared.config(&shards, "out", |options| options.optimizer = Some(Optimizer::Sgd));
    let message = run(&other).unwrap_err().to_string();
    assert!(message.contains(r#"made with optimizer = "lars", this run has "sgd""#), "{message}");
    let refused = train(&other.0, &other.1, &Resume::No, &Ranks::default(), &Reporter::silent());
    assert!(refused.unwrap_err().to_string().contains("already holds a run"));
}

#[test]
fn a_preset_fills_in_what_is_not_given() {
    let prepared = Prepared::images(4);
    let shards = prepared.prepare("shards", 1, ViewEncoding::Recipe);
    let resolve = |change: fn(&mut Options)| {
        let (config, dataset) = prepared.config(&shards, "out", |options| {
            options.warmup_epochs = None;
            change(options);
        });
        assert_eq!(config.pairs(&dataset), 4);
        let Hyperparameters { optimizer, trust, target_init, warmup_epochs, .. } =
            config.hyperparameters;
        (optimizer, trust, target_init, warmup_epochs)
    };
    let paper = (Optimizer::Lars, Some(0.001), TargetInit::Random, 10);
    assert_eq!(resolve(|_| ()), paper);
    let small = (Optimizer::Sgd, None, TargetInit::Online, 1);
    assert_eq!(resolve(|options| options.preset = Some(Preset::Small)), small);
    assert_eq!(resolve(|options| options.preset = None), small);
    assert_eq!(resolve(|options| options.preset = Some(Preset::Auto)), small);
    let given = resolve(|options| {
        options.preset = Some(Preset::Small);
        options.optimizer = Some(Optimizer::Lars);
        options.trust = Some(0.02);
        options.target_init = Some(TargetInit::Random);
    });
    assert_eq!(given, (Optimizer::Lars, Some(0.02), TargetInit::Random, 1));

    let dataset = Dataset::open(&shards).unwrap();
    for (preset, trust, reason) in [(Preset::Small, 0.02, "LARS"), (Preset::Paper, -1.0, "0")] {
        let options = Options {
            preset: Some(preset),
            trust: Some(trust),
            batch_size: Some(4),
            ..Options::default()
        };
        let ranks = Ranks::default();
        let refused = TrainConfig::resolve(options, &dataset, "out".into(), &ranks, None);
        let message = refused.unwrap_err().to_string();
        assert!(message.starts_with("--trust: ") && message.contains(reason), "{message}");
    }
}

#[test]
fn what_is_recorded_takes_the_place_of_defaults_but_not_of_given_options() {
    let prepared = Prepared::images(20);
    let shards = prepared.prepare("shards", 3, ViewEncoding::Recipe);
    let dataset = Dataset::open(&shards).unwrap();
    let resolve = |given: Options, recorded| {
        TrainConfig::resolve(given, &dataset, "out".into(), &Ranks::default(), recorded)
    };
    let chosen = |given, recorded| {
        let config = resolve(given, recorded).unwrap();
        let Hyperparameters { preset, batch_size, epochs, .. } = config.hyperparameters;
        (preset, batch_size, epochs, config.chosen.len())
    };
    let recorded = Some(Recorded { preset: Preset::Paper, batch_size: 5, epochs: 2 });
    assert_eq!(chosen(Options::default(), None), (Preset::Small, 2, 3, 2));
    assert_eq!(chosen(Options::default(), recorded), (Preset::Paper, 5, 2, 2));
    let given = Options {
        preset: Some(Preset::Small),
        batch_size: Some(4),
        epochs: Some(3),
        ..Options::default()
    };
    assert_eq!(chosen(given, recorded), (Preset::Small, 4, 3, 0));
    // Shards of fewer epochs are others.
    let longer = Some(Recorded { preset: Preset::Paper, batch_size: 5, epochs: 9 });
    assert_eq!(chosen(Options::default(), longer), (Preset::Paper, 5, 3, 1));

    for (batch_size, accumulate, reason) in [
        (
            Some(21),
            None,
            "--batch-size: 21 pairs a step, but an epoch has only 20; choose at most 20",
        ),
        (
            Some(8),
            Some(3),
            "24 pairs a step, but an epoch has only 20; choose at most 6, or a smaller",
        ),
        (
            None,
            Some(30),
            "60 pairs a step, but an epoch has only 20; choose a smaller --accumulate",
        ),
        (None, Some(0), "--accumulate: must be at least 1"),
        (Some(0), None, "--batch-size: a step needs at least one pair"),
    ] {
        let given = Options { batch_size, accumulate, ..Options::default() };
        let message = resolve(given, None).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
    let given = Options { epochs: Some(4), ..Options::default() };
    let message = resolve(given, None).unwrap_err().to_string();
    assert!(message.contains("has 3 planned epochs") && message.contains("scrl-prep"), "{message}");
}

#[test]
fn the_newest_three_and_every_tenth_checkpoint_are_kept() {
    let prepared = Prepared::images(2);
    let shards = prepared.prepare("shards", 14, ViewEncoding::Webp);
    run(&prepared.config(&shards, "out", |options| options.batch_size = Some(2))).unwrap();
    let mut names: Vec<_> = fs::read_dir(prepared.path("out/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let steps = [0, 10, 12, 13, 14].map(|step| format!("step-{step:08}.safetensors"));
    assert_eq!(names, steps);
}

#[test]
fn micro_batches_add_up_to_the_mean_over_all_boxes() {
    // With frozen weights (lr 0) and batches of one step each, the accumulated loss is the mean of
    // the batches' losses, weighted by their boxes.
    let prepared = Prepared::images(8);
    let shards = prepared.prepare("shards", 1, ViewEncoding::Webp);
    let still = |out: &str, accumulate| {
        let config = prepared.config(&shards, out, |options| {
            options.lr = Some(0.0);
            options.accumulate = Some(accumulate);
            options.target_init = Some("online".parse().unwrap());
        });
        run(&config).unwrap();
        metrics(&prepared.path(out))
    };
    let (apart, together) = (still("apart", 1), still("together", 2));
    assert_eq!((apart.len(), together.len()), (2, 1));
    let boxes = (apart[0].boxes + apart[1].boxes) as f64;
    let mean: f64 = apart.iter().map(|m| f64::from(m.loss) * m.boxes as f64).sum::<f64>() / boxes;
    assert_eq!(together[0].boxes as f64, boxes);
    assert!((f64::from(together[0].loss) - mean).abs() < 1e-5, "{} {mean}", together[0].loss);
}

#[test]
fn byol_compares_entire_views() {
    let prepared = Prepared::images(4);
    let shards = prepared.prepare("shards", 1, ViewEncoding::Webp);
    run(&prepared.config(&shards, "out", |options| options.method = Some("byol".parse().unwrap())))
        .unwrap();
    assert_eq!(metrics(&prepared.path("out"))[0].boxes, 4);
}

#[test]
fn a_step_without_boxes_updates_only_the_target() {
    let prepared = Prepared::images(4);
    let shards = prepared.prepare("shards", 1, ViewEncoding::Webp);
    let paths = ShardPaths::new(&shards);
    let rows: Vec<Row> = prepared::rows(&shards, 0);
    let path = paths.shard(Epoch(0), scrl_schemas::Shard(0));
    let mut writer = ShardWriter::create(&path).unwrap();
    for row in rows {
        writer.write(Row { boxes: Vec::new(), ..row }).unwrap();
    }
    let shard = writer.finish(Vec::new()).unwrap();
    Success { format: scrl_schemas::FORMAT, parts: vec![shard.record] }
        .write(&paths.success(Epoch(0)))
        .unwrap();

    let (done, lines) = run_and_report(&prepared.config(&shards, "out", |_| ()));
    done.unwrap();
    let expected = "note: step 1 has no matched box; only the target network was updated";
    assert_eq!(lines.with("no matched box"), [expected]);
    let load = |step| {
        let path = prepared.path(&format!("out/checkpoints/step-{step:08}.safetensors"));
        candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap()
    };
    let (before, after) = (load(0), load(1));
    let moved = |name: &str| golden::numbers(&before[name]) != golden::numbers(&after[name]);
    assert!(!moved("online.backbone.conv1.weight") && moved("target.backbone.conv1.weight"));
}

#[test]
fn a_nan_or_infinite_loss_ends_the_run_with_its_step_and_images() {
    let prepared = Prepared::images(8);
    let shards = prepared.prepare("shards", 4, ViewEncoding::Webp);
    let config = prepared.config(&shards, "out", |options| options.lr = Some(1e38));
    match run(&config).unwrap_err() {
        Error::NotFinite { step, images, checkpoint, .. } => {
            assert!(step > 1 && images.len() == 4);
            assert!(checkpoint.contains("step-"), "{checkpoint}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_collapse_is_reported_once() {
    let prepared = Prepared::images(8);
    let shards = prepared.prepare("shards", 2, ViewEncoding::Webp);
    let still = |steps| {
        prepared.config(&shards, "out", |options| {
            options.lr = Some(0.0);
            options.max_steps = Some(steps);
        })
    };
    run(&still(1)).unwrap();
    make_constant(
        &prepared.path("out/checkpoints/step-00000001.safetensors"),
        "online.projector.1.",
    );
    let (done, lines) = run_and_report(&still(4));
    done.unwrap();
    let warnings = lines.with("a collapse");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("warning: after step 2 "), "{warnings:?}");
    let stds: Vec<f64> =
        metrics(&prepared.path("out")).iter().map(|line| line.projection_std.unwrap()).collect();
    assert!(stds[0] > 0.1 && stds[1..].iter().all(|std| *std < 1e-6), "{stds:?}");
}
