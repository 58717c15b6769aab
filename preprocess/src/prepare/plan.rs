//! The plan of a run: what is there, what there is to make, and what that takes.

use std::time::Duration;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use scrl_schemas::{
    Consumed, Counts, Epoch, FORMAT, Manifest, ShardPaths, SourcesReader, ViewEncoding,
};

use super::estimate::{Estimate, estimate};
use super::options::Config;
use super::resume;
use super::shuffle::Shuffle;
use crate::sources::{Examine, Sources};
use crate::{Error, Result};

/// A run that is planned in full: nothing has been written yet.
pub struct Job {
    pub(super) config: Config,
    pub(super) threads: ThreadPool,
    pub(super) sources: Sources,
    pub(super) shuffle: Shuffle,
    pub(super) paths: ShardPaths,
    pub(super) manifest: Manifest,
    shards: ShardCounts,
    estimate: Estimate,
}

/// How many shards of the requested epochs there are.
#[derive(Clone, Copy, Debug, Default)]
struct ShardCounts {
    finished: u64,
    to_write: u64,
    /// Images in the shards to write, readable or not.
    images_to_write: u64,
}

impl ShardCounts {
    fn plus(self, other: Self) -> Self {
        Self {
            finished: self.finished + other.finished,
            to_write: self.to_write + other.to_write,
            images_to_write: self.images_to_write + other.images_to_write,
        }
    }
}

/// What a job is about to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outline {
    /// Images found.
    pub images: u64,
    /// Classes found; 0 without classes.
    pub classes: u64,
    /// Images that are known to be unreadable.
    pub unreadable: u64,
    /// Files that are no images by their name.
    pub ignored: u64,
    /// Epochs to write or complete.
    pub epochs: u32,
    /// Shards of each epoch.
    pub shards_per_epoch: u32,
    /// Shards that lie there already, whoever made them.
    pub shards_finished: u64,
    /// Shards for this process to write.
    pub shards_to_write: u64,
    /// Pairs of views for this process to write.
    pub pairs_to_write: u64,
    /// What an epoch takes, estimated.
    pub estimate: Estimate,
    /// Bytes that this process will write, estimated.
    pub bytes_to_write: u64,
    /// Bytes that will lie on the disk at a time beyond those that lie there, estimated: those of all processes, but
    /// with `--keep` of no more epochs than that.
    pub bytes_needed: u64,
    /// Time it will take, estimated, waiting for training not counted.
    pub time: Duration,
    /// Bytes free on the disk, where the system says.
    pub free_bytes: Option<u64>,
}

impl Job {
    /// Finds the images, compares with what lies in the folder of shards, and estimates what there is to do. Writes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Images`], [`Error::Folder`], or whatever reading them raises.
    pub fn plan(config: Config) -> Result<Self> {
        let threads = pool(config.threads, "render")?;
        let paths = ShardPaths::new(&config.shards);
        let absolute = std::path::absolute(&config.images).map_err(Error::io(&config.images))?;
        let mut manifest = Manifest {
            format: FORMAT,
            writer: concat!("scrl-prep ", env!("CARGO_PKG_VERSION")).to_owned(),
            images: absolute.to_string_lossy().into_owned(),
            seed: config.seed,
            epochs: config.epochs,
            options: config.options.clone(),
            counts: Counts { images: 0, classes: 0, shards_per_epoch: 0 },
        };
        if !config.overwrite {
            resume::check_existing(&paths, &manifest)?;
        }
        let sources = threads.install(|| find_sources(&config, &paths))?;
        let options = &config.options;
        let shuffle = Shuffle::new(
            config.seed,
            sources.len(),
            options.rows_per_shard,
            options.epochs_per_pass,
        );
        manifest.counts = Counts {
            images: u64::from(sources.len()),
            classes: sources.classes(),
            shards_per_epoch: u64::from(shuffle.shards_per_epoch()),
        };
        let shards = threads.install(|| count_shards(&config, &paths, &shuffle))?;
        let estimate = threads
            .install(|| estimate(&sources, config.seed, shuffle.shards_per_epoch(), options))?;
        Ok(Self { config, threads, sources, shuffle, paths, manifest, shards, estimate })
    }

    /// What [`Job::run`] will do.
    pub fn outline(&self) -> Outline {
        let shards_per_epoch = u64::from(self.shuffle.shards_per_epoch());
        let to_write = self.shards.to_write;
        let unreadable = self.sources.unreadable();
        let images = u64::from(self.sources.len());
        let rows = u128::from(images - unreadable);
        let epoch_bytes = self.estimate.bytes.of(self.config.options.views);
        let of_epochs = |value: u64, parts: u64| {
            (u128::from(value) * u128::from(parts) / u128::from(shards_per_epoch)) as u64
        };
        let pairs_to_write =
            (rows * u128::from(self.shards.images_to_write) / u128::from(images)) as u64;
        let unfinished =
            (self.config.only.len() as u64 * shards_per_epoch).saturating_sub(self.shards.finished);
        let shards_at_a_time = match self.config.keep {
            Some(keep) => unfinished.min(u64::from(keep) * shards_per_epoch),
            None => unfinished,
        };
        Outline {
            images,
            classes: self.sources.classes(),
            unreadable,
            ignored: self.sources.ignored(),
            epochs: self.config.only.len() as u32,
            shards_per_epoch: self.shuffle.shards_per_epoch(),
            shards_finished: self.shards.finished,
            shards_to_write: to_write,
            pairs_to_write,
            estimate: self.estimate,
            bytes_to_write: of_epochs(epoch_bytes, to_write),
            bytes_needed: of_epochs(epoch_bytes, shards_at_a_time),
            time: self
                .estimate
                .pair_time
                .mul_f64(pairs_to_write as f64 / self.config.threads as f64),
            free_bytes: resume::free_bytes(&self.config.shards),
        }
    }
}

pub(super) fn pool(threads: usize, name: &'static str) -> Result<ThreadPool> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(move |index| format!("{name}-{index}"))
        .build()
        .map_err(|error| Error::Threads(error.to_string()))
}

/// The images: those that the folder was begun with, if it was.
fn find_sources(config: &Config, paths: &ShardPaths) -> Result<Sources> {
    let known = paths.sources();
    if known.exists() && !config.overwrite {
        return Sources::find_again(&config.images, paths.root(), SourcesReader::open(&known)?);
    }
    let depth = match config.options.views {
        ViewEncoding::Recipe => Examine::Pixels,
        ViewEncoding::Webp | ViewEncoding::Jpeg => Examine::Header,
    };
    Sources::find(&config.images, config.options.exif, depth)
}

/// Counts what is there and what there is to make, on all threads of the current pool.
fn count_shards(config: &Config, paths: &ShardPaths, shuffle: &Shuffle) -> Result<ShardCounts> {
    let parts = shuffle.shards_per_epoch();
    let consumed = match config.keep {
        Some(_) if !config.overwrite => Consumed::read(&paths.consumed())?.epochs,
        _ => 0,
    };
    let counts = config.only.clone().into_par_iter().map(|epoch| {
        let epoch = Epoch(epoch);
        if epoch.0 < consumed || (!config.overwrite && resume::is_complete(paths, epoch, parts)?) {
            return Ok(ShardCounts { finished: u64::from(parts), ..ShardCounts::default() });
        }
        let finished = match config.overwrite {
            true => vec![None; parts as usize],
            false => resume::finished_shards(paths, epoch, parts)?,
        };
        let pass = shuffle.passes(epoch.0..epoch.0 + 1).start;
        let start = ShardCounts {
            finished: finished.iter().flatten().count() as u64,
            ..ShardCounts::default()
        };
        let ours = (0..).zip(shuffle.shards_of_chunks(epoch)).filter(|&(chunk, part)| {
            shuffle.assigns(pass, chunk, config.world) && finished[part.0 as usize].is_none()
        });
        Ok(ours.fold(start, |counts, (chunk, _)| {
            let images_to_write = u64::from(shuffle.chunk_images(chunk));
            counts.plus(ShardCounts { finished: 0, to_write: 1, images_to_write })
        }))
    });
    counts.try_reduce(ShardCounts::default, |a, b| Ok(a.plus(b)))
}
