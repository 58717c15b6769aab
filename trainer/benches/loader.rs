//! Pairs per second that the loader reads and decodes, without training:
//! `cargo bench --workspace --locked --bench loader`.
//!
//! By default it loads synthetic images of 500 × 375 pixels as views of 224 × 224, in each
//! encoding. `SCRL_BENCH_SHARDS` names shards folders to load from instead, separated by colons.
//! `SCRL_BENCH_THREADS` is the number of threads that decode, by default one for each core.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::{Rgb, RgbImage};
use scrl_cli::{Reporter, World};
use scrl_preprocess::prepare::{Job, Options};
use scrl_preprocess::views::rng::{Purpose, Stream};
use scrl_schemas::ViewEncoding;
use scrl_trainer::data::{Dataset, Loader, LoaderConfig, SourceImages};

/// Pairs of a batch.
const BATCH: usize = 64;
/// Batches of a measurement at most.
const MOST_BATCHES: u64 = 16;
/// Number of synthetic images.
const IMAGES: u64 = 256;
/// Width and height of a common image, in pixels.
const SIZE: (u32, u32) = (500, 375);

/// Waves of all lengths, the shorter the fainter, and a little noise: about as hard to compress as
/// a photo.
fn draw(number: u64) -> RgbImage {
    let mut random = Stream::new(number, 0, 0, Purpose::View1);
    let waves: Vec<[f64; 4]> = (0..24)
        .map(|wave| {
            let length = 300.0 / 1.25f64.powi(wave);
            let angle = random.uniform(0.0, std::f64::consts::TAU);
            let (fx, fy) = (angle.cos() / length, angle.sin() / length);
            [fx, fy, random.uniform(0.0, 1.0), length.powf(0.8)]
        })
        .collect();
    RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| {
        let at = |[fx, fy, phase, height]: &[f64; 4]| {
            height * (std::f64::consts::TAU * (fx * f64::from(x) + fy * f64::from(y) + phase)).sin()
        };
        let shape: f64 = waves.iter().map(at).sum();
        Rgb([0.9, 1.0, 1.1]
            .map(|tint| (128.0 + tint * shape / 3.0 + random.uniform(-4.0, 4.0)) as u8))
    })
}

fn prepare(images: &Path, shards: PathBuf, views: ViewEncoding) -> PathBuf {
    let given = Options {
        views: Some(views),
        threads: Some(threads() as u16),
        max_bad: Some(0.0),
        ..Options::default()
    };
    let images = images.to_owned();
    let config = given.resolve(images, shards.clone(), World::ALONE);
    let config = config.expect("the defaults are valid");
    let job = Job::plan(config).expect("a folder of images");
    job.run(&Reporter::silent()).expect("room for some shards");
    shards
}

fn threads() -> usize {
    let given = env::var("SCRL_BENCH_THREADS").ok();
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    given.map_or_else(all, |text| text.parse().expect("SCRL_BENCH_THREADS is a number"))
}

/// Reads the first batches of the first epoch.
fn bench(criterion: &mut Criterion, shards: &Path) {
    let dataset = Dataset::open(shards).unwrap_or_else(|error| panic!("{error}"));
    let options = &dataset.manifest().options;
    let batches = MOST_BATCHES.min(dataset.rows_per_epoch() / BATCH as u64);
    assert!(batches > 0, "{} has fewer than {BATCH} rows an epoch", shards.display());
    let name = format!("{} at {} px, {} threads", options.views, options.size, threads());
    let mut group = criterion.benchmark_group(format!("load {name}"));
    group.throughput(Throughput::Elements(batches * BATCH as u64));
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    let reporter = Reporter::silent();
    let file_name = shards.file_name().unwrap_or_default().to_string_lossy();
    group.bench_function(file_name, |bencher| {
        bencher.iter(|| {
            let config = LoaderConfig {
                batch_size: BATCH,
                own: 0..BATCH,
                batches_per_epoch: batches,
                epochs: 1,
                held_out: 0,
                skip: 0,
                sources: Arc::new(SourceImages::new(
                    dataset.manifest().images.clone().into(),
                    dataset.manifest().options.sources.clone(),
                )),
                threads: threads(),
                follow: false,
            };
            let loader = Loader::start(&dataset, config).expect("threads");
            while let Some(batch) = loader.next_batch(&reporter).expect("intact shards") {
                loader.recycle(batch);
            }
        });
    });
    group.finish();
}

fn loader(criterion: &mut Criterion) {
    if let Some(folders) = env::var_os("SCRL_BENCH_SHARDS") {
        env::split_paths(&folders).for_each(|shards| bench(criterion, &shards));
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let images = folder.path().join("images");
    std::fs::create_dir(&images).expect("a folder in it");
    for number in 0..IMAGES {
        draw(number).save(images.join(format!("{number:03}.jpg"))).expect("room for some images");
    }
    for encoding in ViewEncoding::ALL {
        bench(criterion, &prepare(&images, folder.path().join(encoding.name()), *encoding));
    }
}

criterion_group!(benches, loader);
criterion_main!(benches);
