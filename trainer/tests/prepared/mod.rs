//! Small prepared folders, made from small photos by scrl-prep's own library.

// Each test program includes this file and uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use scrl_cli::{Reporter, World};
use scrl_preprocess::prepare::{self, Job};
use scrl_schemas::{Epoch, Row, ShardPaths, ShardReader, Success, ViewEncoding};
use scrl_trainer::data::Dataset;
use scrl_trainer::train::{Options, TrainConfig};
use tempfile::TempDir;

/// A folder of photos and what was prepared from it.
pub struct Prepared {
    folder: TempDir,
}

impl Prepared {
    /// `count` photos, not prepared yet.
    pub fn photos(count: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        std::fs::create_dir(&images).unwrap();
        for index in 0..count {
            let photo = RgbImage::from_fn(120, 90, |x, y| {
                let wave = |a: u32, b: u32| {
                    (128.0 + 120.0 * ((a * x + b * y + 40 * index) as f32 / 17.0).sin()) as u8
                };
                Rgb([wave(1, 2), wave(2, 1 + index % 3), wave(1 + index % 5, 0)])
            });
            photo.save(images.join(format!("{index:03}.png"))).unwrap();
        }
        Self { folder }
    }

    /// `count` photos in folders of two classes, and two more outside of them.
    pub fn classes(count: u32) -> Self {
        let prepared = Self::photos(count + 2);
        for index in 0..count {
            let (name, class) = (format!("{index:03}.png"), format!("images/class{}", index % 2));
            std::fs::create_dir_all(prepared.path(&class)).unwrap();
            std::fs::rename(prepared.path("images").join(&name), prepared.path(&class).join(&name))
                .unwrap();
        }
        prepared
    }

    /// Views of 64 pixels, parts of 5 rows.
    pub fn prepare(&self, name: &str, epochs: u32, views: ViewEncoding) -> PathBuf {
        let given = prepare::Options {
            views: Some(views),
            size: Some(64),
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

    /// A small, fast run on prepared shards.
    pub fn config(
        &self,
        shards: &Path,
        out: &str,
        change: impl FnOnce(&mut Options),
    ) -> (TrainConfig, Dataset) {
        let mut options = Options {
            out: Some(self.path(out)),
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
        let config = TrainConfig::resolve(options, &dataset, PathBuf::new()).unwrap();
        (config, dataset)
    }
}

/// The rows of an epoch in the folder's order.
pub fn rows(shards: &Path, epoch: u32) -> Vec<Row> {
    let layout = ShardPaths::new(shards);
    let success = Success::read(&layout.success(Epoch(epoch))).unwrap();
    let parts = success.parts.iter().map(|part| layout.epoch(Epoch(epoch)).join(&part.name));
    parts.flat_map(|part| ShardReader::open(&part).unwrap().map(Result::unwrap)).collect()
}
