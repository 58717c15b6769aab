//! Complete runs on a small folder of images.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use scrl_cli::{Event, Reporter, Stop, World};
use scrl_preprocess::Error;
use scrl_preprocess::prepare::{Config, Job, Options, Summary};
use scrl_schemas::{
    Consumed, Epoch, Shard, ShardPaths, ShardReader, Source, SourcesReader, Success, ViewEncoding,
};

/// Images in the folder, and how many of them cannot be read.
const IMAGES: usize = 23;
const BROKEN: usize = 2;

struct Dir {
    folder: tempfile::TempDir,
}

impl Dir {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..IMAGES - BROKEN {
            let path = folder.path().join(format!("images/class{}/{index:02}.png", index % 3));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let shade = index as u32 * 9;
            image::RgbImage::from_fn(90 + shade, 80, |x, y| {
                image::Rgb([(x * 2 + shade) as u8, (y * 3) as u8, ((x * y) >> 3) as u8])
            })
            .save(path)
            .unwrap();
        }
        fs::write(folder.path().join("images/class0/zz.jpg"), "no image at all").unwrap();
        // An intact header and truncated pixels.
        let intact = fs::read(folder.path().join("images/class0/00.png")).unwrap();
        fs::write(folder.path().join("images/class1/cut.png"), &intact[..intact.len() / 2])
            .unwrap();
        Self { folder }
    }

    fn shards(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, shards: &str) -> Config {
        let given = Options {
            size: Some(32),
            min_box: Some(8),
            rows_per_shard: Some(5),
            boxes: Some(3),
            seed: Some(4),
            epochs: Some(10),
            only: Some(0..3),
            threads: Some(2),
            max_bad: Some(1.0),
            ..Options::default()
        };
        let images = self.folder.path().join("images");
        given.resolve(images, self.shards(shards), World::ALONE).unwrap()
    }
}

fn run(config: Config) -> Result<Summary, Error> {
    Job::plan(config)?.run(&Reporter::silent())
}

/// Every file below a folder, by its path.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(root).unwrap().to_owned();
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn assert_same_files(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in a {
        assert!(bytes == b[&name], "{} differs", name.display());
    }
}

#[test]
fn every_epoch_holds_every_readable_image_once() {
    let dir = Dir::new();
    let summary = run(dir.config("s")).unwrap();
    assert_eq!(summary.pairs, 3 * (IMAGES - BROKEN) as u64);
    assert_eq!((summary.images, summary.unreadable), (IMAGES as u64, BROKEN as u64));
    let paths = ShardPaths::new(dir.shards("s"));
    for epoch in 0..3 {
        let success = Success::read(&paths.success(Epoch(epoch))).unwrap();
        assert_eq!((success.parts.len(), success.rows()), (5, (IMAGES - BROKEN) as u64));
        let mut ids: Vec<i64> = (0..5)
            .flat_map(|number| {
                ShardReader::open(&paths.shard(Epoch(epoch), Shard(number))).unwrap()
            })
            .map(|row| row.unwrap().image_id)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), IMAGES - BROKEN);
    }
    let sources: Vec<Source> =
        SourcesReader::open(&paths.sources()).unwrap().collect::<Result<_, _>>().unwrap();
    let broken: Vec<_> = sources.iter().filter(|source| source.error.is_some()).collect();
    assert_eq!(broken.len(), BROKEN);
    assert!(broken.iter().any(|source| source.path == "class1/cut.png" && source.width > 0));
}

#[test]
fn lenient_reads_what_breaks_off_and_says_so_in_the_manifest() {
    let dir = Dir::new();
    for views in [ViewEncoding::Webp, ViewEncoding::Recipe] {
        let mut config = dir.config(&format!("{views}"));
        config.options.views = views;
        config.options.lenient = true;
        let manifest = dir.shards(&format!("{views}")).join("dataset.toml");
        assert_eq!(run(config).unwrap().unreadable, BROKEN as u64 - 1);
        assert!(fs::read_to_string(manifest).unwrap().contains("lenient = true"));
    }
    run(dir.config("strict")).unwrap();
    let manifest = fs::read_to_string(dir.shards("strict").join("dataset.toml")).unwrap();
    assert!(!manifest.contains("lenient"));
}

#[test]
fn threads_restarts_and_single_epochs_give_the_same_bytes() {
    let dir = Dir::new();
    run(dir.config("expected")).unwrap();

    run(Config { threads: 1, ..dir.config("one") }).unwrap();
    assert_same_files(&dir.shards("expected"), &dir.shards("one"));

    let single = |only: Range<u32>| run(Config { only, ..dir.config("apart") }).unwrap();
    for epoch in [2, 0, 1] {
        single(epoch..epoch + 1);
    }
    assert_same_files(&dir.shards("expected"), &dir.shards("apart"));

    // As after a kill: missing shards, an epoch without its list, a damaged shard.
    let damaged = dir.shards("apart");
    fs::remove_file(damaged.join("epoch=00000/part-00003.parquet")).unwrap();
    fs::remove_file(damaged.join("epoch=00001/_SUCCESS")).unwrap();
    fs::remove_file(damaged.join("epoch=00001/part-00000.parquet")).unwrap();
    fs::write(damaged.join("epoch=00002/part-00004.parquet"), "garbage").unwrap();
    let summary = run(dir.config("apart")).unwrap();
    assert!(summary.pairs < 3 * 5);
    assert_same_files(&dir.shards("expected"), &dir.shards("apart"));
}

#[test]
fn a_stopped_run_leaves_complete_files_and_resumes() {
    let dir = Dir::new();
    run(dir.config("expected")).unwrap();
    let stop = Stop::default();
    let flag = stop.clone();
    let reporter = Reporter::observed(stop, move |event| match event {
        Event::Done(pairs) if pairs > 30 => flag.set(),
        Event::Done(_) => {}
        Event::Line(line) => panic!("{line}"),
    });
    let stopped = Job::plan(dir.config("s")).unwrap().run(&reporter);
    assert!(matches!(stopped, Err(Error::Stopped(_))));
    assert!(files(&dir.shards("s")).keys().all(|name| !name.to_string_lossy().contains(".tmp-")));
    run(dir.config("s")).unwrap();
    assert_same_files(&dir.shards("expected"), &dir.shards("s"));
}

#[test]
fn ranks_share_the_work_and_the_last_one_completes_it() {
    let dir = Dir::new();
    run(dir.config("expected")).unwrap();
    let rank =
        |rank: u32, shards: &str| Config { world: World { rank, size: 3 }, ..dir.config(shards) };
    // One after the other, in any order.
    let summaries = [2, 0, 1].map(|number| run(rank(number, "s")).unwrap());
    assert_eq!(summaries.map(|summary| summary.incomplete), [3, 3, 0]);
    assert_eq!(
        summaries.map(|summary| summary.pairs).iter().sum::<u64>(),
        3 * (IMAGES - BROKEN) as u64
    );
    assert!(summaries.iter().all(|summary| summary.pairs > 0));
    assert_same_files(&dir.shards("expected"), &dir.shards("s"));

    // All at once.
    std::thread::scope(|scope| {
        for number in 0..3 {
            let config = rank(number, "t");
            scope.spawn(move || run(config).unwrap());
        }
    });
    assert_same_files(&dir.shards("expected"), &dir.shards("t"));
}

/// Consumes epochs as training does, and checks that there are never more than two.
#[test]
fn kept_epochs_make_room_for_others() {
    let dir = Dir::new();
    run(Config { only: 0..10, ..dir.config("expected") }).unwrap();
    let paths = ShardPaths::new(dir.shards("s"));
    std::thread::scope(|scope| {
        let config = Config { only: 0..10, keep: Some(2), ..dir.config("s") };
        let prep = scope.spawn(move || run(config).unwrap());
        let consume = |epoch: Epoch| {
            // The journal is removed right after `_SUCCESS` is written.
            let journal = paths.epoch(epoch).join("_parts-0-of-1.jsonl");
            while !paths.success(epoch).exists() || journal.exists() {
                assert!(!prep.is_finished());
                std::thread::sleep(Duration::from_millis(5));
            }
            let there: Vec<u32> = (0..10).filter(|&e| paths.success(Epoch(e)).exists()).collect();
            assert!(there.len() <= 2, "{there:?}");
            let expected = ShardPaths::new(dir.shards("expected"));
            assert_same_files(&expected.epoch(epoch), &paths.epoch(epoch));
            Consumed { epochs: epoch.0 + 1 }.write(&paths.consumed()).unwrap();
        };
        let consumed = catch_unwind(AssertUnwindSafe(|| (0..10).map(Epoch).for_each(consume)));
        if let Err(panic) = consumed {
            // So that the run does not wait forever.
            Consumed { epochs: 10 }.write(&paths.consumed()).unwrap();
            resume_unwind(panic);
        }
        assert_eq!(prep.join().unwrap().pairs, 10 * (IMAGES - BROKEN) as u64);
    });

    // Started again, it has nothing to do; without --keep it makes everything.
    let keep = Config { only: 0..10, keep: Some(2), ..dir.config("s") };
    let outline = Job::plan(keep.clone()).unwrap().outline();
    assert_eq!((outline.shards_to_write, run(keep).unwrap().pairs), (0, 0));
    run(Config { only: 0..10, ..dir.config("s") }).unwrap();
    fs::remove_file(paths.consumed()).unwrap();
    assert_same_files(&dir.shards("expected"), &dir.shards("s"));
}

#[test]
fn a_second_writer_is_refused_and_harms_nothing() {
    let dir = Dir::new();
    run(dir.config("expected")).unwrap();
    // The same run starts once more while the first one is at work, on a thread of its own as it
    // would be a process of its own.
    let (config, messages) = (dir.config("s"), Arc::new(Mutex::new(Vec::new())));
    let (second, refusals) = (config.clone(), messages.clone());
    let reporter = Reporter::observed(Stop::default(), move |event| {
        assert!(matches!(event, Event::Done(_)), "{event:?}");
        let Ok(mut refusals) = refusals.try_lock() else { return };
        if refusals.is_empty() {
            let second = || run(second.clone()).unwrap_err().to_string();
            refusals.push(std::thread::scope(|scope| scope.spawn(second).join().unwrap()));
        }
    });
    Job::plan(config).unwrap().run(&reporter).unwrap();
    let messages = messages.lock().unwrap();
    assert!(messages[0].contains("another scrl-prep writes here"), "{messages:?}");
    assert_same_files(&dir.shards("expected"), &dir.shards("s"));
}

#[test]
fn a_removed_image_stops_the_run_and_restoring_it_resumes() {
    let dir = Dir::new();
    run(dir.config("expected")).unwrap();
    let job = Job::plan(dir.config("s")).unwrap();
    let image = dir.folder.path().join("images/class1/01.png");
    let content = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    let message = job.run(&Reporter::silent()).unwrap_err().to_string();
    assert!(message.contains("class1/01.png") && message.contains("restore"), "{message}");
    fs::write(image, content).unwrap();
    run(dir.config("s")).unwrap();
    assert_same_files(&dir.shards("expected"), &dir.shards("s"));
}

#[test]
fn other_options_or_images_on_the_same_folder_are_refused_unless_overwritten() {
    let dir = Dir::new();
    run(dir.config("s")).unwrap();
    let other = Config { seed: 5, ..dir.config("s") };
    let message = run(other.clone()).unwrap_err().to_string();
    assert!(message.contains("seed: 4 → 5") && message.contains("--overwrite"), "{message}");
    fs::write(dir.shards("s").join("mine.txt"), "x").unwrap();
    run(Config { overwrite: true, only: 0..1, ..other.clone() }).unwrap();
    assert!(
        dir.shards("s").join("mine.txt").exists() && !dir.shards("s").join("epoch=00001").exists()
    );

    let image = dir.folder.path().join("images/class2/02.png");
    fs::copy(dir.folder.path().join("images/class0/00.png"), image).unwrap();
    let message = run(other).unwrap_err().to_string();
    assert!(message.contains("class2/02.png"), "{message}");
}

#[test]
fn the_outline_matches_the_run() {
    let dir = Dir::new();
    let outline = Job::plan(dir.config("s")).unwrap().outline();
    assert!(!dir.shards("s").exists());
    assert_eq!((outline.images, outline.classes, outline.shards_per_epoch), (IMAGES as u64, 3, 5));
    assert_eq!((outline.shards_finished, outline.shards_to_write, outline.unreadable), (0, 15, 1));
    run(dir.config("s")).unwrap();
    let outline = Job::plan(dir.config("s")).unwrap().outline();
    assert_eq!(
        (outline.shards_finished, outline.shards_to_write, outline.bytes_to_write),
        (15, 0, 0)
    );
}

#[test]
fn jpeg_and_recipe_shards_have_the_same_recipes() {
    let dir = Dir::new();
    let rows = |views: ViewEncoding| {
        let mut config = dir.config(views.name());
        config.options.views = views;
        run(config).unwrap();
        let paths = ShardPaths::new(dir.shards(views.name()));
        ShardReader::open(&paths.shard(Epoch(1), Shard(0)))
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    let (webp, jpeg, recipe) =
        (rows(ViewEncoding::Webp), rows(ViewEncoding::Jpeg), rows(ViewEncoding::Recipe));
    assert!(!webp.is_empty());
    for ((webp, jpeg), recipe) in webp.iter().zip(&jpeg).zip(&recipe) {
        assert_eq!((webp.image_id, &webp.boxes), (recipe.image_id, &recipe.boxes));
        assert_eq!(
            (webp.view1.params, webp.view2.params),
            (recipe.view1.params, jpeg.view2.params)
        );
        assert!(recipe.view1.image.is_none());
        assert!(jpeg.view1.image.as_ref().unwrap().path.ends_with("-view1.jpg"));
        assert_eq!(
            webp.view2.image.as_ref().unwrap().path,
            format!("{:08}-view2.webp", webp.image_id)
        );
    }
}
