//! Training while the epochs are still being made, and giving them away when they are used up.

mod prepared;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;

use prepared::Prepared;
use scrl_schemas::{Consumed, Epoch, ShardPaths, ViewEncoding};
use scrl_trainer::data::{Awaited, Begin, Dataset, Loader, LoaderConfig, SourceImages};
use scrl_trainer::train::{
    Checkpoint, CheckpointInfo, Options, Output, Progress, Resume, TrainConfig, train,
};
use scrl_trainer::{Error, Result};

/// Photos of each test: two steps of two batches of two an epoch, and two photos left over.
const PHOTOS: u32 = 10;

/// Three epochs in `shards`.
fn prepared() -> (Prepared, PathBuf) {
    let prepared = Prepared::photos(PHOTOS);
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
    let sources = Arc::new(SourceImages::new(PathBuf::new()));
    LoaderConfig {
        batch_size: 4,
        batches_per_epoch: 2,
        epochs: 2,
        skip: 0,
        sources,
        threads: 2,
        follow,
    }
}

fn run((config, dataset): &(TrainConfig, Dataset)) -> Result<()> {
    train(config, dataset, &Resume::Auto, &AtomicBool::new(false), &mut |_| ())
}

fn checkpoint(prepared: &Prepared, out: &str, step: u64) -> PathBuf {
    prepared.path(out).join("checkpoints").join(Checkpoint::file_name(step))
}

/// Expects the last checkpoint in `out` to be that of a run that had all epochs from the beginning.
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

/// The checkpoint from which a run in `out` goes on, and the damaged ones before it.
fn resumed(prepared: &Prepared, out: &str) -> (Result<Option<CheckpointInfo>>, Vec<String>) {
    let mut damaged = Vec::new();
    let output = Output::new(&prepared.path(out));
    let found =
        output.checkpoint_to_resume(&Resume::Auto, &mut |error| damaged.push(error.to_string()));
    (found.map(|found| found.map(|(_, info)| info)), damaged)
}

fn consumed(shards: &Path) -> u32 {
    Consumed::read(&ShardPaths::new(shards).consumed()).unwrap().epochs
}

fn remove(shards: &Path, epoch: u32) {
    fs::remove_dir_all(ShardPaths::new(shards).epoch(Epoch(epoch))).unwrap();
}

/// An epoch that lies elsewhere until it is finished.
struct Unfinished {
    hidden: PathBuf,
    place: PathBuf,
}

impl Unfinished {
    fn hide(shards: &Path, epoch: u32) -> Self {
        let hidden = shards.with_file_name(format!("hidden-{epoch}"));
        let place = ShardPaths::new(shards).epoch(Epoch(epoch));
        fs::rename(&place, &hidden).unwrap();
        Self { hidden, place }
    }

    fn finish(&self) {
        fs::rename(&self.hidden, &self.place).unwrap();
    }
}

#[test]
fn the_loader_waits_for_an_epoch_and_then_gives_the_same_batches() {
    let (_prepared, shards) = prepared();
    let dataset = Dataset::open(&shards).unwrap();
    let load = |idle: &mut dyn FnMut(Epoch) -> Result<()>| -> Result<Vec<_>> {
        let loader = Loader::start(&dataset, loader_config(true))?;
        std::iter::from_fn(|| loader.next_batch_or(idle).transpose()).collect()
    };
    let whole = load(&mut |epoch| panic!("waits for epoch {epoch}")).unwrap();

    let unfinished = Unfinished::hide(&shards, 1);
    let mut waited_for = None;
    let late = load(&mut |epoch| {
        if waited_for.replace(epoch).is_none() {
            unfinished.finish();
        }
        Ok(())
    });
    assert_eq!(waited_for, Some(Epoch(1)));
    assert!(late.unwrap() == whole);

    let _unfinished = Unfinished::hide(&shards, 1);
    let stopped = load(&mut |_| Err(Error::Interrupted { step: 7 }));
    assert!(matches!(stopped, Err(Error::Interrupted { step: 7 })));
}

#[test]
fn the_folder_is_waited_for_manifest_first() {
    let (_prepared, shards) = prepared();
    let [manifest, hidden] =
        [ShardPaths::new(&shards).manifest(), shards.with_file_name("hidden.toml")];
    fs::rename(&manifest, &hidden).unwrap();
    let unfinished = Unfinished::hide(&shards, 0);
    let mut waited_for = Vec::new();
    let dataset = Dataset::follow(&shards, Begin::default(), &mut |awaited| {
        if waited_for.last() != Some(&awaited) {
            match awaited {
                Awaited::Manifest => fs::rename(&hidden, &manifest).unwrap(),
                Awaited::Epoch(_) => unfinished.finish(),
            }
            waited_for.push(awaited);
        }
        Ok(())
    });
    assert_eq!(dataset.unwrap().rows_per_epoch(), u64::from(PHOTOS));
    assert_eq!(waited_for, [Awaited::Manifest, Awaited::Epoch(Epoch(0))]);
}

#[test]
fn an_epoch_counts_as_consumed_when_a_checkpoint_lies_behind_it() {
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
        let mut seen = Vec::new();
        let done =
            train(&config, &dataset, &Resume::Auto, &AtomicBool::new(false), &mut |progress| {
                if let Progress::Step { step, .. } = progress {
                    seen.push((step, consumed(&shards)));
                }
            });
        ended.store(true, Ordering::Relaxed);
        done.unwrap();
        assert_eq!(seen, [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)]);
    });
    assert_eq!(consumed(&shards), 3);
    assert_plain_end(&prepared, "out");
}

#[test]
fn a_run_goes_on_without_the_epochs_it_has_consumed() {
    let (prepared, shards) = prepared();
    let begin = || resumed(&prepared, "out").0.unwrap().unwrap().begin();
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

    // As if the first run had been killed between its checkpoint and its note, and another in the middle of one.
    Consumed { epochs: 0 }.write(&ShardPaths::new(&shards).consumed()).unwrap();
    let half_written = checkpoint(&prepared, "out", 4).with_extension("safetensors.tmp-1");
    fs::write(&half_written, "half").unwrap();
    let (last, _) = config(None);
    let dataset = Dataset::open_at(&shards, begin()).unwrap();
    train(&last, &dataset, &Resume::Auto, &AtomicBool::new(false), &mut |progress| {
        if let Progress::Start(_) = progress {
            assert_eq!(consumed(&shards), 1);
            assert!(!half_written.exists());
        }
    })
    .unwrap();
    assert_eq!(consumed(&shards), 3);
    assert_plain_end(&prepared, "out");

    // A finished run may be started again, with nothing left of the shards.
    remove(&shards, 1);
    remove(&shards, 2);
    let idle = &mut |awaited: Awaited| -> Result<()> { panic!("waits for {awaited}") };
    let dataset = Dataset::follow(&shards, begin(), idle).unwrap();
    assert_eq!(dataset.rows_per_epoch(), u64::from(PHOTOS));
    run(&(last, dataset)).unwrap();
}

#[test]
fn a_run_that_waits_can_be_stopped_and_leaves_a_checkpoint() {
    let (prepared, shards) = prepared();
    let unfinished = Unfinished::hide(&shards, 1);
    let stop = AtomicBool::new(false);
    let (config, dataset) = prepared.config(&shards, "out", |options| {
        plain(options);
        options.follow = true;
    });
    let mut waits = Vec::new();
    let stopped = train(&config, &dataset, &Resume::Auto, &stop, &mut |progress| {
        if let Progress::Waiting(epoch) = progress {
            waits.push(epoch);
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert!(matches!(stopped, Err(Error::Interrupted { step: 2 })));
    assert_eq!(waits, [Epoch(1)]);
    assert!(checkpoint(&prepared, "out", 2).exists());

    // Now it comes while it is waited for.
    waits.clear();
    train(
        &config,
        &dataset,
        &Resume::Auto,
        &AtomicBool::new(false),
        &mut |progress| match progress {
            Progress::Waiting(epoch) => {
                waits.push(epoch);
                unfinished.finish();
            }
            Progress::Logged(metrics) if metrics.step == 3 => {
                assert!(metrics.data_wait > 0.0, "{metrics:?}")
            }
            _ => {}
        },
    )
    .unwrap();
    assert_eq!(waits, [Epoch(1)]);
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
    let idle = &mut |awaited: Awaited| -> Result<()> { panic!("waits for {awaited}") };
    let again = Dataset::follow(&shards, Begin::default(), idle).unwrap_err().to_string();
    assert_eq!(message, again);
}

#[test]
fn a_part_that_vanishes_is_named_with_the_way_to_make_it_again() {
    let (_prepared, shards) = prepared();
    fs::remove_file(shards.join("epoch=00001/part-00001.parquet")).unwrap();
    let loader = Loader::start(&Dataset::open(&shards).unwrap(), loader_config(false)).unwrap();
    let batches: Result<Vec<_>> = std::iter::from_fn(|| loader.next_batch().transpose()).collect();
    let message = batches.unwrap_err().to_string();
    for word in ["part-00001.parquet", "epoch 1", "scrl-prep --only 1..2"] {
        assert!(message.contains(word), "no {word} in {message}");
    }
    assert_eq!(message.lines().count(), 1);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_an_older_one() {
    let (prepared, shards) = prepared();
    let (config, dataset) = prepared.config(&shards, "out", following);
    run(&(config.clone(), dataset.clone())).unwrap();
    let newest = checkpoint(&prepared, "out", 6);
    let whole = fs::read(&newest).unwrap();
    let half = &whole[..whole.len() / 2];
    let mut flipped = whole.clone();
    flipped[whole.len() - 1000] ^= 1;
    let longer = [whole.as_slice(), b"more"].concat();
    for content in [&[] as &[u8], &whole[..100], &[0xa5; 4096], &longer, half, &flipped] {
        fs::write(&newest, content).unwrap();
        let (found, damaged) = resumed(&prepared, "out");
        assert_eq!(found.unwrap().unwrap().step, 4);
        assert_eq!(damaged.len(), 1);
        assert!(damaged[0].contains("step-00000006.safetensors: damaged: "), "{damaged:?}");
    }
    let mut passed_over = 0;
    train(
        &config,
        &dataset,
        &Resume::Auto,
        &AtomicBool::new(false),
        &mut |progress| match progress {
            Progress::Damaged(_) => passed_over += 1,
            Progress::Start(plan) => assert_eq!(plan.done, 4),
            _ => {}
        },
    )
    .unwrap();
    assert_eq!(passed_over, 1);
    assert!(fs::read(&newest).unwrap() == whole);

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
    assert!(message.contains("no checkpoint here is whole"), "{message}");
}
