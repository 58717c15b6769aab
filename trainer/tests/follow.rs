//! Training while the epochs are still being written, and recording which ones are consumed.

mod prepared;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use prepared::{Lines, Prepared, metrics, run, run_and_report};
use scrl_cli::{Event, Reporter, Stop};
use scrl_schemas::{Consumed, Epoch, ShardPaths, SourceOptions, ViewEncoding};
use scrl_trainer::collective::Ranks;
use scrl_trainer::data::{Dataset, Loader, LoaderConfig, SourceImages, Start};
use scrl_trainer::train::{Checkpoint, CheckpointInfo, Options, Output, Resume, train};
use scrl_trainer::{Error, Result};

/// Images of each test: an epoch has two steps of two batches of two, and two images left over.
const IMAGES: u32 = 10;

/// Three epochs in `shards`.
fn prepared() -> (Prepared, PathBuf) {
    let prepared = Prepared::images(IMAGES);
    let shards = prepared.prepare("shards", 3, ViewEncoding::Webp);
    (prepared, shards)
}

/// Steps of two accumulated batches, with both options on.
fn following(options: &mut Options) {
    plain(options);
    options.follow = true;
    options.consume = true;
}

fn plain(options: &mut Options) {
    options.batch_size = Some(2);
    options.accumulate = Some(2);
    options.checkpoint_every = Some(1000);
}

/// Two batches of four in each of two epochs.
fn loader_config(follow: bool) -> LoaderConfig {
    let sources = Arc::new(SourceImages::new(PathBuf::new(), SourceOptions::default()));
    LoaderConfig {
        batch_size: 4,
        own: 0..4,
        batches_per_epoch: 2,
        epochs: 2,
        held_out: 0,
        skip: 0,
        sources,
        threads: 2,
        follow,
    }
}

fn checkpoint(prepared: &Prepared, out: &str, step: u64) -> PathBuf {
    prepared.path(out).join("checkpoints").join(Checkpoint::file_name(step))
}

/// Expects the last checkpoint in `out` to be that of a run that had all epochs from the start.
fn assert_plain_end(prepared: &Prepared, out: &str) {
    static PLAIN: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let (prepared, shards) = self::prepared();
        run(&prepared.config(&shards, "plain", plain)).unwrap();
        assert!(!ShardPaths::new(&shards).consumed().exists());
        fs::read(checkpoint(&prepared, "plain", 6)).unwrap()
    });
    assert!(
        fs::read(checkpoint(prepared, out, 6)).unwrap() == *PLAIN,
        "the last checkpoints differ"
    );
}

/// The checkpoint from which a run in `out` resumes, and the warnings about damaged ones.
fn resumed(prepared: &Prepared, out: &str) -> (Result<Option<CheckpointInfo>>, Vec<String>) {
    let lines = Lines::default();
    let seen = lines.clone();
    let reporter = Reporter::observed(Stop::default(), move |event| seen.receive(event));
    let output = Output::new(&prepared.path(out));
    let found = output.checkpoint_to_resume(&Resume::Auto, &reporter);
    (found.map(|found| found.map(|(_, info)| info)), lines.with(""))
}

/// A reporter whose lines go to `on_line`.
fn on_lines(stop: Stop, on_line: impl Fn(&str) + Send + Sync + 'static) -> Reporter {
    Reporter::observed(stop, move |event| {
        if let Event::Line(line) = event {
            on_line(&line);
        }
    })
}

/// A reporter that accepts no wait.
fn without_waits() -> Reporter {
    on_lines(Stop::default(), |line| assert!(!line.contains("waiting"), "{line}"))
}

fn consumed(shards: &Path) -> u32 {
    Consumed::read(&ShardPaths::new(shards).consumed()).unwrap().epochs
}

fn remove(shards: &Path, epoch: u32) {
    fs::remove_dir_all(ShardPaths::new(shards).epoch(Epoch(epoch))).unwrap();
}

/// An epoch that is kept elsewhere until it is finished.
struct Unfinished {
    hidden: PathBuf,
    folder: PathBuf,
}

impl Unfinished {
    fn hide(shards: &Path, epoch: u32) -> Self {
        let hidden = shards.with_file_name(format!("hidden-{epoch}"));
        let folder = ShardPaths::new(shards).epoch(Epoch(epoch));
        fs::rename(&folder, &hidden).unwrap();
        Self { hidden, folder }
    }

    fn finish(&self) {
        fs::rename(&self.hidden, &self.folder).unwrap();
    }
}

#[test]
fn the_loader_waits_for_an_epoch_and_then_returns_the_same_batches() {
    let (_prepared, shards) = prepared();
    let dataset = Dataset::open(&shards).unwrap();
    let load = |reporter: Reporter| -> Result<Vec<_>> {
        let loader = Loader::start(&dataset, loader_config(true))?;
        std::iter::from_fn(|| loader.next_batch(&reporter).transpose()).collect()
    };
    let complete = load(without_waits()).unwrap();

    let unfinished = Unfinished::hide(&shards, 1);
    let lines = Lines::default();
    let seen = lines.clone();
    let late = load(on_lines(Stop::default(), move |line| {
        seen.receive(Event::Line(line.to_owned()));
        unfinished.finish();
    }));
    let waiting = format!("waiting for epoch 1 of {} …; is scrl-prep running?", shards.display());
    assert_eq!(lines.with(""), [waiting]);
    assert!(late.unwrap() == complete);

    let _unfinished = Unfinished::hide(&shards, 1);
    let stop = Stop::default();
    let flag = stop.clone();
    let stopped = load(on_lines(stop, move |_| flag.set()));
    assert!(matches!(stopped, Err(Error::Stopped(_))));
}

#[test]
fn the_folder_is_waited_for_manifest_first() {
    let (_prepared, shards) = prepared();
    let [manifest, hidden] =
        [ShardPaths::new(&shards).manifest(), shards.with_file_name("hidden.toml")];
    fs::rename(&manifest, &hidden).unwrap();
    let unfinished = Unfinished::hide(&shards, 0);
    let lines = Lines::default();
    let seen = lines.clone();
    let reporter = on_lines(Stop::default(), move |line| {
        if line.contains("dataset.toml") {
            fs::rename(&hidden, &manifest).unwrap();
        } else {
            unfinished.finish();
        }
        seen.receive(Event::Line(line.to_owned()));
    });
    let dataset = Dataset::follow(&shards, Start::default(), &reporter);
    assert_eq!(dataset.unwrap().rows_per_epoch(), u64::from(IMAGES));
    let waits = lines.with("waiting for ");
    assert_eq!(waits.len(), 2, "{waits:?}");
    assert!(waits[0].contains("dataset.toml") && waits[1].contains("epoch 0"), "{waits:?}");
}

#[test]
fn an_epoch_counts_as_consumed_once_a_checkpoint_follows_it() {
    let (prepared, shards) = prepared();
    let (config, dataset) = prepared.config(&shards, "out", following);
    let checkpoints = Output::new(&config.out).checkpoints();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let epochs = consumed(&shards);
                let newest =
                    Checkpoint::list(&checkpoints).unwrap().pop().map_or(0, |last| last.step);
                assert!(newest >= 2 * u64::from(epochs), "{epochs} epochs, but step {newest}");
                thread::yield_now();
            }
        });
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (steps, folder) = (seen.clone(), shards.clone());
        let reporter = Reporter::observed(Stop::default(), move |event| {
            if let Event::Done(step) = event {
                steps.lock().unwrap().push((step, consumed(&folder)));
            }
        });
        let done = train(&config, &dataset, &Resume::Auto, &Ranks::default(), &reporter);
        ended.store(true, Ordering::Relaxed);
        done.unwrap();
        assert_eq!(*seen.lock().unwrap(), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)]);
    });
    assert_eq!(consumed(&shards), 3);
    assert_plain_end(&prepared, "out");
}

#[test]
fn a_run_resumes_without_the_epochs_it_has_consumed() {
    let (prepared, shards) = prepared();
    let start = || resumed(&prepared, "out").0.unwrap().unwrap().start();
    let config = |steps: Option<u64>| {
        prepared.config(&shards, "out", |options| {
            following(options);
            options.max_steps = steps;
        })
    };
    // An epoch of which a step is left is not consumed.
    run(&config(Some(3))).unwrap();
    assert_eq!(consumed(&shards), 1);
    remove(&shards, 0);

    // As if the first run had been killed between its checkpoint and the record, and another one
    // while it wrote a checkpoint.
    Consumed { epochs: 0 }.write(&ShardPaths::new(&shards).consumed()).unwrap();
    let half_written = checkpoint(&prepared, "out", 4).with_extension("safetensors.tmp-1");
    fs::write(&half_written, "half").unwrap();
    let (last, _) = config(None);
    let dataset = Dataset::open_at(&shards, start()).unwrap();
    let lines = Lines::default();
    let (seen, folder) = (lines.clone(), shards.clone());
    let reporter = on_lines(Stop::default(), move |line| {
        seen.receive(Event::Line(line.to_owned()));
        if line.starts_with("resuming") {
            assert_eq!(consumed(&folder), 1);
            assert!(!half_written.exists());
        }
    });
    train(&last, &dataset, &Resume::Auto, &Ranks::default(), &reporter).unwrap();
    assert_eq!(lines.with("resuming"), ["resuming after step 3"]);
    assert_eq!(consumed(&shards), 3);
    assert_plain_end(&prepared, "out");

    // A finished run may be started again, with nothing left of the shards.
    remove(&shards, 1);
    remove(&shards, 2);
    let dataset = Dataset::follow(&shards, start(), &without_waits()).unwrap();
    assert_eq!(dataset.rows_per_epoch(), u64::from(IMAGES));
    run(&(last, dataset)).unwrap();
}

#[test]
fn a_run_that_waits_can_be_stopped_and_leaves_a_checkpoint() {
    let (prepared, shards) = prepared();
    let unfinished = Unfinished::hide(&shards, 1);
    let (config, dataset) = prepared.config(&shards, "out", |options| {
        plain(options);
        options.follow = true;
    });
    let (stop, lines) = (Stop::default(), Lines::default());
    let (flag, seen) = (stop.clone(), lines.clone());
    let reporter = on_lines(stop, move |line| {
        seen.receive(Event::Line(line.to_owned()));
        if line.starts_with("waiting") {
            flag.set();
        }
    });
    let stopped = train(&config, &dataset, &Resume::Auto, &Ranks::default(), &reporter);
    assert!(matches!(stopped, Err(Error::Stopped(_))));
    let waiting = format!("waiting for epoch 1 of {} …; is scrl-prep running?", shards.display());
    assert_eq!(lines.with("waiting"), [waiting.as_str()]);
    let checkpoint_2 = checkpoint(&prepared, "out", 2);
    assert_eq!(
        lines.with("stopped"),
        [format!("stopped after step 2: {}", checkpoint_2.display())]
    );
    assert!(checkpoint_2.exists());

    // Now it comes while it is waited for.
    let lines = Lines::default();
    let seen = lines.clone();
    let reporter = on_lines(Stop::default(), move |line| {
        seen.receive(Event::Line(line.to_owned()));
        if line.starts_with("waiting") {
            unfinished.finish();
        }
    });
    train(&config, &dataset, &Resume::Auto, &Ranks::default(), &reporter).unwrap();
    assert_eq!(lines.with("waiting"), [waiting]);
    let metrics = metrics(&prepared.path("out"));
    assert!(metrics[2].step == 3 && metrics[2].data_wait > 0.0, "{metrics:?}");
    assert_plain_end(&prepared, "out");
}

#[test]
fn without_follow_an_unfinished_epoch_is_an_error_before_anything_is_written() {
    let (prepared, shards) = prepared();
    let _first = Unfinished::hide(&shards, 0);
    let message = run(&prepared.config(&shards, "out", plain)).unwrap_err().to_string();
    assert!(message.contains("epoch=00000: this epoch is not finished"), "{message}");
    assert!(!prepared.path("out").exists());
    let _others = [1, 2].map(|epoch| Unfinished::hide(&shards, epoch));
    let message = Dataset::open(&shards).unwrap_err().to_string();
    assert!(message.contains("epoch=00000: this epoch is not finished"), "{message}");
}

#[test]
fn a_consumed_epoch_is_missed_only_where_it_is_missing() {
    let (prepared, shards) = prepared();
    Consumed { epochs: 2 }.write(&ShardPaths::new(&shards).consumed()).unwrap();
    let config = prepared.config(&shards, "out", |options| {
        following(options);
        options.max_steps = Some(2);
    });
    run(&config).unwrap();
    assert_eq!(consumed(&shards), 2);

    remove(&shards, 0);
    let message = run(&prepared.config(&shards, "other", plain)).unwrap_err().to_string();
    for word in ["epoch=00000", "consumed.json", "--only 0..2", "--out"] {
        assert!(message.contains(word), "no {word} in {message}");
    }
    let again = Dataset::follow(&shards, Start::default(), &without_waits());
    let again = again.unwrap_err().to_string();
    assert_eq!(message, again);
}

#[test]
fn a_shard_that_vanishes_is_named_with_the_command_that_makes_it_again() {
    let (_prepared, shards) = prepared();
    fs::remove_file(shards.join("epoch=00001/part-00001.parquet")).unwrap();
    let loader = Loader::start(&Dataset::open(&shards).unwrap(), loader_config(false)).unwrap();
    let batches: Result<Vec<_>> =
        std::iter::from_fn(|| loader.next_batch(&Reporter::silent()).transpose()).collect();
    let message = batches.unwrap_err().to_string();
    for word in ["part-00001.parquet", "epoch 1", "scrl-prep --only 1..2"] {
        assert!(message.contains(word), "no {word} in {message}");
    }
    assert_eq!(message.lines().count(), 1);
}

#[test]
fn a_damaged_checkpoint_is_skipped_for_an_older_one() {
    let (prepared, shards) = prepared();
    let (config, dataset) = prepared.config(&shards, "out", following);
    run(&(config.clone(), dataset.clone())).unwrap();
    let newest = checkpoint(&prepared, "out", 6);
    let intact = fs::read(&newest).unwrap();
    let half = &intact[..intact.len() / 2];
    let mut flipped = intact.clone();
    flipped[intact.len() - 1000] ^= 1;
    let longer = [intact.as_slice(), b"more"].concat();
    for content in [&[] as &[u8], &intact[..100], &[0xa5; 4096], &longer, half, &flipped] {
        fs::write(&newest, content).unwrap();
        let (found, damaged) = resumed(&prepared, "out");
        assert_eq!(found.unwrap().unwrap().step, 4);
        assert_eq!(damaged.len(), 1);
        assert!(damaged[0].contains("step-00000006.safetensors: damaged: "), "{damaged:?}");
    }
    let (done, lines) = run_and_report(&(config.clone(), dataset.clone()));
    done.unwrap();
    assert_eq!(lines.with("damaged").len(), 1);
    assert_eq!(lines.with("resuming"), ["resuming after step 4"]);
    assert!(fs::read(&newest).unwrap() == intact);

    // The step back may lead where nothing is left.
    fs::write(&newest, half).unwrap();
    remove(&shards, 2);
    let message = run(&(config, dataset)).unwrap_err().to_string();
    assert!(
        message.contains("epoch=00002") && message.contains("scrl-prep --only 2..3"),
        "{message}"
    );

    for step in [0, 2, 4] {
        fs::write(checkpoint(&prepared, "out", step), half).unwrap();
    }
    let message = resumed(&prepared, "out").0.unwrap_err().to_string();
    assert!(message.contains("no checkpoint here is intact"), "{message}");
}
