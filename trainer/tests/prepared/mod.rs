//! Small folders of shards, made from small images by scrl-prep's own library.

// Each test program includes this file and uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use image::{Rgb, RgbImage};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use scrl_cli::{Event, Reporter, Stop, World};
use scrl_preprocess::prepare::{self, Job};
use scrl_schemas::{Epoch, Row, ShardPaths, ShardReader, Success, ViewEncoding};
use scrl_trainer::Result;
use scrl_trainer::collective::Ranks;
use scrl_trainer::data::Dataset;
use scrl_trainer::train::{Metrics, Options, Preset, Resume, Summary, TrainConfig, train};
use tempfile::TempDir;

/// A folder of images and the shards made from it.
pub struct Prepared {
    folder: TempDir,
}

impl Prepared {
    /// `count` images, without shards yet.
    pub fn images(count: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        std::fs::create_dir(&images).unwrap();
        for index in 0..count {
            let image = RgbImage::from_fn(120, 90, |x, y| {
                let wave = |a: u32, b: u32| {
                    (128.0 + 120.0 * ((a * x + b * y + 40 * index) as f32 / 17.0).sin()) as u8
                };
                Rgb([wave(1, 2), wave(2, 1 + index % 3), wave(1 + index % 5, 0)])
            });
            image.save(images.join(format!("{index:03}.png"))).unwrap();
        }
        Self { folder }
    }

    /// `count` images in folders of two classes, and two more outside of them.
    pub fn classes(count: u32) -> Self {
        let prepared = Self::images(count + 2);
        for index in 0..count {
            let (name, class) = (format!("{index:03}.png"), format!("images/class{}", index % 2));
            std::fs::create_dir_all(prepared.path(&class)).unwrap();
            std::fs::rename(prepared.path("images").join(&name), prepared.path(&class).join(&name))
                .unwrap();
        }
        prepared
    }

    /// Makes shards of 5 rows, with views of 64 pixels.
    pub fn prepare(&self, name: &str, epochs: u32, views: ViewEncoding) -> PathBuf {
        self.prepare_sized(name, epochs, views, 64)
    }

    /// The same with views of `size` pixels.
    pub fn prepare_sized(
        &self,
        name: &str,
        epochs: u32,
        views: ViewEncoding,
        size: u32,
    ) -> PathBuf {
        let given = prepare::Options {
            views: Some(views),
            size: Some(size),
            min_box: Some(10),
            rows_per_shard: Some(5),
            seed: Some(3),
            epochs: Some(epochs),
            threads: Some(2),
            max_bad: Some(0.0),
            ..prepare::Options::default()
        };
        let shards = self.path(name);
        let config = given.resolve(self.path("images"), shards.clone(), World::ALONE).unwrap();
        Job::plan(config).unwrap().run(&Reporter::silent()).unwrap();
        shards
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A small, fast run.
    pub fn config(
        &self,
        shards: &Path,
        out: &str,
        change: impl FnOnce(&mut Options),
    ) -> (TrainConfig, Dataset) {
        self.config_among(&Ranks::default(), shards, out, change)
    }

    /// The same for one of several ranks.
    pub fn config_among(
        &self,
        ranks: &Ranks,
        shards: &Path,
        out: &str,
        change: impl FnOnce(&mut Options),
    ) -> (TrainConfig, Dataset) {
        let mut options = Options {
            out: Some(self.path(out)),
            preset: Some(Preset::Paper),
            arch: Some("resnet18".parse().unwrap()),
            batch_size: Some(4),
            hidden: Some(16),
            projection: Some(8),
            warmup_epochs: Some(1),
            log_every: Some(1),
            threads: Some(2),
            ..Options::default()
        };
        change(&mut options);
        let dataset = Dataset::open(shards).unwrap();
        let config = TrainConfig::resolve(options, &dataset, PathBuf::new(), ranks, None).unwrap();
        (config, dataset)
    }
}

/// Trains without reporting.
pub fn run((config, dataset): &(TrainConfig, Dataset)) -> Result<Summary> {
    train(config, dataset, &Resume::Auto, &Ranks::default(), &Reporter::silent())
}

/// Trains as `config` says and returns the lines that were reported.
pub fn run_and_report((config, dataset): &(TrainConfig, Dataset)) -> (Result<Summary>, Lines) {
    let lines = Lines::default();
    let seen = lines.clone();
    let reporter = Reporter::observed(Stop::default(), move |event| seen.receive(event));
    (train(config, dataset, &Resume::Auto, &Ranks::default(), &reporter), lines)
}

/// The lines that an observed reporter received.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Keeps the line of an event.
    pub fn receive(&self, event: Event) {
        if let Event::Line(line) = event {
            self.0.lock().unwrap().push(line);
        }
    }

    /// The lines with this text in them.
    pub fn with(&self, text: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

/// The lines of `metrics.jsonl` in an output folder.
pub fn metrics(out: &Path) -> Vec<Metrics> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The rows of an epoch in the folder's order.
pub fn rows(shards: &Path, epoch: u32) -> Vec<Row> {
    let paths = ShardPaths::new(shards);
    let success = Success::read(&paths.success(Epoch(epoch))).unwrap();
    let shards = success.parts.iter().map(|shard| paths.epoch(Epoch(epoch)).join(&shard.name));
    shards.flat_map(|shard| ShardReader::open(&shard).unwrap().map(|row| row.unwrap())).collect()
}

/// Changes a checkpoint so that the batch norms whose names begin with `prefix` give 1 for every
/// input.
pub fn make_constant(path: &Path, prefix: &str) {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let constant = |name: &str, shape: &[usize]| {
        let value = match (name.strip_prefix(prefix)?.rsplit('.').next(), shape) {
            (Some("weight"), [_]) => 0.0f32,
            (Some("bias"), [_]) => 1.0,
            _ => return None,
        };
        Some(value.to_le_bytes().repeat(shape[0]))
    };
    let changed: Vec<(String, Option<Vec<u8>>)> = tensors
        .iter()
        .map(|(name, tensor)| (name.to_owned(), constant(name, tensor.shape())))
        .collect();
    let views = changed.iter().map(|(name, changed)| {
        let tensor = tensors.tensor(name).unwrap();
        let data = changed.as_deref().unwrap_or(tensor.data());
        (name, TensorView::new(Dtype::F32, tensor.shape().to_vec(), data).unwrap())
    });
    let views: Vec<_> = views.collect();
    let mut metadata = header.metadata().clone().unwrap();
    let with = |metadata| safetensors::serialize(views.clone(), Some(metadata)).unwrap();
    let unchecked = with(metadata.clone());
    let (header_length, _) = SafeTensors::read_metadata(&unchecked).unwrap();
    let checksum = crc32c::crc32c(&unchecked[8 + header_length..]);
    metadata.insert("crc32c".to_owned(), format!("{checksum:08x}")).unwrap();
    std::fs::write(path, with(metadata)).unwrap();
}
