//! The classifier that learns beside the backbone: its accuracy, and that it changes nothing else.

mod golden;
mod prepared;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use golden::numbers;
use prepared::{Prepared, metrics, run};
use scrl_schemas::{Epoch, Row, Source, SourcesReader, SourcesWriter, ViewEncoding};
use scrl_trainer::Error;
use scrl_trainer::collective::Ranks;
use scrl_trainer::data::{Batch, Classes, Dataset};
use scrl_trainer::train::{OnlineEval, Options, TrainConfig};

/// Two steps an epoch, with two views in ten without a label.
fn prepared() -> (Prepared, PathBuf) {
    let prepared = Prepared::classes(8);
    let shards = prepared.prepare("shards", 3, ViewEncoding::Webp);
    (prepared, shards)
}

fn switch(online_eval: OnlineEval) -> impl Fn(&mut Options) {
    move |options| options.online_eval = Some(online_eval)
}

fn tensors(out: &Path, step: u64) -> BTreeMap<String, Tensor> {
    let path = out.join(format!("checkpoints/step-{step:08}.safetensors"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap().into_iter().collect()
}

#[test]
fn with_labels_it_is_on_and_the_rest_of_the_run_stays_as_it_is() {
    let (prepared, shards) = prepared();
    run(&prepared.config(&shards, "auto", |_| ())).unwrap();
    run(&prepared.config(&shards, "off", switch(OnlineEval::Off))).unwrap();
    let (auto, off) = (prepared.path("auto"), prepared.path("off"));

    let (with, without) = (metrics(&auto), metrics(&off));
    assert_eq!(with.len(), 6);
    for (with, without) in with.iter().zip(&without) {
        assert_eq!((with.loss, with.projection_std), (without.loss, without.projection_std));
        assert!(with.projection_std.is_some_and(|std| std > 0.0) && with.target_std.is_some());
        assert!(without.online_acc.is_none());
        assert!(with.online_acc.is_some_and(|accuracy| (0.0..=1.0).contains(&accuracy)));
    }

    let (with, without) = (tensors(&auto, 6), tensors(&off, 6));
    let added: Vec<&str> =
        with.keys().map(String::as_str).filter(|name| !without.contains_key(*name)).collect();
    let expected = [
        "classifier.bias",
        "classifier.weight",
        "momentum.classifier.bias",
        "momentum.classifier.weight",
    ];
    assert_eq!(added, expected);
    assert_eq!(with["classifier.weight"].dims(), [2, 512]);
    for (name, tensor) in &without {
        assert!(numbers(tensor) == numbers(&with[name]), "{name} differs");
    }
    assert!(
        numbers(&with["classifier.weight"]) != numbers(&tensors(&auto, 0)["classifier.weight"])
    );
    let backbone = |out: &Path| fs::read(out.join("backbone.safetensors")).unwrap();
    assert!(backbone(&auto) == backbone(&off));
    assert!(fs::read_to_string(auto.join("config.toml")).unwrap().contains("online-eval = \"on\""));
}

#[test]
fn an_interrupted_run_resumes_with_its_classifier() {
    let (prepared, shards) = prepared();
    let complete = prepared.config(&shards, "complete", |_| ());
    run(&complete).unwrap();
    let steps =
        |steps: u64| prepared.config(&shards, "pieces", |options| options.max_steps = Some(steps));
    run(&steps(1)).unwrap();
    run(&steps(4)).unwrap();
    run(&prepared.config(&shards, "pieces", |_| ())).unwrap();
    let checkpoint =
        |out| fs::read(prepared.path(out).join("checkpoints/step-00000006.safetensors")).unwrap();
    assert!(checkpoint("complete") == checkpoint("pieces"));
    let accuracies = |out| -> Vec<Option<f64>> {
        metrics(&prepared.path(out)).into_iter().map(|line| line.online_acc).collect()
    };
    assert_eq!(accuracies("complete"), accuracies("pieces"));

    let message = run(&prepared.config(&shards, "complete", switch(OnlineEval::Off)))
        .unwrap_err()
        .to_string();
    assert!(message.contains("made with online-eval = \"on\", this run has \"off\""), "{message}");
}

#[test]
fn gradients_add_up_over_micro_batches_to_the_mean_over_the_labeled_views() {
    // With frozen weights (lr 0), a micro-batch sees the same ones whether it is a step of its own
    // or not.
    let (prepared, shards) = prepared();
    let still = |out: &str, accumulate| {
        let config = prepared.config(&shards, out, |options| {
            options.lr = Some(0.0);
            options.ema = Some(1.0);
            options.epochs = Some(1);
            options.batch_size = Some(5);
            options.accumulate = Some(accumulate);
            options.checkpoint_every = Some(1);
        });
        run(&config).unwrap();
        metrics(&prepared.path(out))
    };
    let (apart, together) = (still("apart", 1), still("together", 2));
    assert_eq!((apart.len(), together.len()), (2, 1));
    let labeled = |rows: &[Row]| 2.0 * rows.iter().filter(|row| row.label.is_some()).count() as f64;
    let labeled: Vec<f64> = prepared::rows(&shards, 0).chunks(5).map(labeled).collect();
    assert_eq!(labeled.iter().sum::<f64>(), 16.0);
    let correct: f64 =
        apart.iter().zip(&labeled).map(|(line, views)| line.online_acc.unwrap() * views).sum();
    assert!(
        (together[0].online_acc.unwrap() - correct / 16.0).abs() < 1e-9,
        "{correct}: {together:?}"
    );

    // The bias is neither decayed nor adapted: its velocity is v ← 0.9 v + ∇.
    let velocity =
        |out, step| numbers(&tensors(&prepared.path(out), step)["momentum.classifier.bias"]);
    let (first, second, sum) =
        (velocity("apart", 1), velocity("apart", 2), velocity("together", 1));
    for class in 0..2 {
        let [first, second, sum] = [first[class], second[class], sum[class]].map(f64::from);
        let mean = (first * labeled[0] + (second - 0.9 * first) * labeled[1]) / 16.0;
        assert!(first != 0.0 && (sum - mean).abs() < 1e-6, "{first} {second} {sum} {mean}");
    }
}

#[test]
fn without_labels_it_is_off_and_refused() {
    let prepared = Prepared::images(4);
    let shards = prepared.prepare("shards", 1, ViewEncoding::Webp);
    let (config, dataset) = prepared.config(&shards, "out", |_| ());
    assert_eq!(config.hyperparameters.online_eval, OnlineEval::Off);
    let options =
        Options { online_eval: Some(OnlineEval::On), batch_size: Some(4), ..Options::default() };
    let ranks = Ranks::default();
    match TrainConfig::resolve(options, &dataset, PathBuf::new(), &ranks, None).unwrap_err() {
        Error::Option { option: "online-eval", reason } => {
            assert!(reason.contains("0 classes"), "{reason}")
        }
        other => panic!("{other}"),
    }
}

#[test]
fn labels_with_gaps_become_classes_without() {
    let (_prepared, shards) = prepared();
    // Given numbers instead of those of the folders.
    let sources = shards.join("sources.parquet");
    let all: Vec<Source> =
        SourcesReader::open(&sources).unwrap().map(|source| source.unwrap()).collect();
    let mut writer = SourcesWriter::create(&sources).unwrap();
    for source in all {
        let class = source.class.map(|(label, name)| ([900, 3][label as usize], name));
        writer.write(Source { class, ..source }).unwrap();
    }
    writer.finish().unwrap();
    let classes = Classes::read(&Dataset::open(&shards).unwrap()).unwrap();
    assert_eq!(classes.count(), 2);

    let rows = prepared::rows(&shards, 0);
    let of_views = |labels: [Option<i32>; 2]| {
        let rows: Vec<Row> =
            rows.iter().zip(labels).map(|(row, label)| Row { label, ..row.clone() }).collect();
        classes.of_views(&Batch::new(Epoch(0), &rows, 0..rows.len(), 64, Vec::new()))
    };
    assert_eq!(of_views([Some(900), None]).unwrap(), [1, -1, 1, -1]);
    assert_eq!(of_views([Some(3), Some(900)]).unwrap(), [0, 1, 0, 1]);
    let message = of_views([Some(3), Some(4)]).unwrap_err().to_string();
    assert!(message.contains("sources.parquet: no image has label 4"), "{message}");

    fs::remove_file(&sources).unwrap();
    let classes = Classes::read(&Dataset::open(&shards).unwrap()).unwrap();
    assert_eq!(classes.count(), 2);
}
