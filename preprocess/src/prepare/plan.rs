//! Planning a run: which shards exist, which are to be made, and how much space and time they take.

use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use scrl_schemas::{
    Consumed, Counts, Epoch, FORMAT, Levels, Manifest, PrepOptions, ShardPaths, SourcesReader,
    ViewEncoding, store,
};

use super::estimate::{Estimate, estimate};
use super::options::Config;
use super::resume;
use super::shuffle::Shuffle;
use crate::images::Decoding;
use crate::sources::{Examine, REQUESTS, Sources};
use crate::{Error, Result};

/// A planned run; nothing has been written yet.
pub struct Job {
    pub(super) config: Config,
    pub(super) threads: ThreadPool,
    pub(super) sources: Sources,
    pub(super) shuffle: Shuffle,
    pub(super) paths: ShardPaths,
    pub(super) manifest: Manifest,
    /// Planned epochs of the folder so far.
    planned: Option<u32>,
    shards: ShardCounts,
    estimate: Estimate,
    /// What the user should know of the images' samples, a line each.
    notices: Vec<String>,
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

/// What a job will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// Images found.
    pub images: u64,
    /// Classes found; 0 without classes.
    pub classes: u64,
    /// Unreadable images, as far as is known.
    pub unreadable: u64,
    /// Files that are no images by their name.
    pub ignored: u64,
    /// The endings of most of these files.
    pub ignored_endings: String,
    /// What the user should know of the images, a line each.
    pub notices: Vec<String>,
    /// Epochs to write or complete.
    pub epochs: u32,
    /// The planned epochs before and from now on, where they become more.
    pub more_planned: Option<[u32; 2]>,
    /// Shards of each epoch.
    pub shards_per_epoch: u32,
    /// Shards that exist already, of all processes.
    pub shards_finished: u64,
    /// Shards for this process to write.
    pub shards_to_write: u64,
    /// Pairs of views for this process to write.
    pub pairs_to_write: u64,
    /// The estimated size of an epoch and time of a pair.
    pub estimate: Estimate,
    /// Bytes that this process will write, estimated.
    pub bytes_to_write: u64,
    /// Bytes of disk space needed beyond what the finished shards take, estimated: for the shards
    /// of all processes, with `--keep` for that number of epochs at most.
    pub bytes_needed: u64,
    /// Estimated time, without waiting for training.
    pub time: Duration,
    /// Bytes free on the disk, if the system reports them.
    pub free_bytes: Option<u64>,
}

impl Job {
    /// Finds the images, compares them with the shards folder, and estimates the work. Writes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Images`], [`Error::Folder`], or the error of reading them.
    pub fn plan(mut config: Config) -> Result<Self> {
        let threads = pool(config.threads, "render")?;
        let paths = ShardPaths::new(&config.shards);
        let absolute = match store::is_url(&config.images) {
            true => config.images.clone(),
            false => std::path::absolute(&config.images).map_err(Error::io(&config.images))?,
        };
        let mut manifest = Manifest {
            format: FORMAT,
            writer: concat!("scrl-prep ", env!("CARGO_PKG_VERSION")).to_owned(),
            images: absolute.to_string_lossy().into_owned(),
            seed: config.seed,
            epochs: config.epochs,
            options: config.options.clone(),
            counts: Counts { images: 0, classes: 0, shards_per_epoch: 0 },
        };
        let existing = match config.overwrite {
            true => None,
            false => resume::existing_manifest(&paths)?,
        };
        if let Some(existing) = &existing {
            if config.options.levels == Levels::Auto {
                config.options.window = existing.options.window;
                manifest.options.window = config.options.window;
            }
            resume::check_existing(&paths, existing, &manifest)?;
        }
        let (is_new, planned) = (existing.is_none(), existing.map(|existing| existing.epochs));
        let find = || find_sources(&config, &paths, is_new);
        let sources = install(&threads, &config.images, find)?;
        let mut notices = Vec::new();
        if is_new {
            notices.extend(sources.notice_of_bands());
            let PrepOptions { levels, .. } = config.options;
            let how = Decoding::from(&config.options);
            let choose = || sources.choose_window(levels, config.seed, how);
            let (window, notice) = install(&threads, &config.images, choose)?;
            notices.extend(notice);
            (config.options.window, manifest.options.window) = (window, window);
        }
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
        let count = || count_shards(&config, &paths, &shuffle);
        let shards = install(&threads, &config.shards, count)?;
        let estimate = threads
            .install(|| estimate(&sources, config.seed, shuffle.shards_per_epoch(), options))?;
        Ok(Self {
            config,
            threads,
            sources,
            shuffle,
            paths,
            manifest,
            planned,
            shards,
            estimate,
            notices,
        })
    }

    /// Pairs of views for this process to write.
    pub(super) fn pairs_to_write(&self) -> u64 {
        let images = u64::from(self.sources.len());
        let rows = u128::from(images - self.sources.unreadable());
        (rows * u128::from(self.shards.images_to_write) / u128::from(images)) as u64
    }

    /// What [`Job::run`] will do.
    pub fn outline(&self) -> Outline {
        let shards_per_epoch = u64::from(self.shuffle.shards_per_epoch());
        let to_write = self.shards.to_write;
        let unreadable = self.sources.unreadable();
        let images = u64::from(self.sources.len());
        let epoch_bytes = self.estimate.bytes.of(self.config.options.views);
        let bytes_of = |shards: u64| {
            (u128::from(epoch_bytes) * u128::from(shards) / u128::from(shards_per_epoch)) as u64
        };
        let pairs_to_write = self.pairs_to_write();
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
            ignored_endings: self.sources.ignored_endings(),
            notices: [self.sources.notices(), &self.notices].concat(),
            epochs: self.config.only.len() as u32,
            more_planned: self
                .planned
                .filter(|&planned| planned < self.config.epochs)
                .map(|planned| [planned, self.config.epochs]),
            shards_per_epoch: self.shuffle.shards_per_epoch(),
            shards_finished: self.shards.finished,
            shards_to_write: to_write,
            pairs_to_write,
            estimate: self.estimate,
            bytes_to_write: bytes_of(to_write),
            bytes_needed: bytes_of(shards_at_a_time),
            time: self
                .estimate
                .pair_time
                .mul_f64(pairs_to_write as f64 / self.config.threads as f64),
            free_bytes: resume::free_bytes(&self.config.shards),
        }
    }
}

/// Looks at what lies in `folder` on these threads; in an object store on many more, which mostly
/// wait.
fn install<T: Send>(
    threads: &ThreadPool,
    folder: &Path,
    look: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    match store::is_url(folder) {
        true => pool(REQUESTS, "look")?.install(look),
        false => threads.install(look),
    }
}

pub(super) fn pool(threads: usize, name: &'static str) -> Result<ThreadPool> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(move |index| format!("{name}-{index}"))
        .build()
        .map_err(|error| Error::Threads(error.to_string()))
}

/// Finds the images; if the folder has been begun and has a list of them, they must be the same.
fn find_sources(config: &Config, paths: &ShardPaths, is_new: bool) -> Result<Sources> {
    let known = paths.sources();
    if !is_new && store::has_file(&known)? {
        let known = SourcesReader::open(&known)?;
        return Sources::find_again(&config.images, &config.options.sources, paths.root(), known);
    }
    let depth = match config.options.views {
        ViewEncoding::Recipe => Examine::Pixels,
        ViewEncoding::Webp | ViewEncoding::Jpeg => Examine::Header,
    };
    Sources::find(&config.images, &config.options.sources, &config.options, depth)
}

/// Counts the shards that exist and those to write, on all threads of the current pool.
fn count_shards(config: &Config, paths: &ShardPaths, shuffle: &Shuffle) -> Result<ShardCounts> {
    let per_epoch = shuffle.shards_per_epoch();
    let consumed = match config.keep {
        Some(_) if !config.overwrite => Consumed::read(&paths.consumed())?.epochs,
        _ => 0,
    };
    let counts = config.only.clone().into_par_iter().map(|epoch| {
        let epoch = Epoch(epoch);
        if epoch.0 < consumed
            || (!config.overwrite && resume::is_complete(paths, epoch, per_epoch)?)
        {
            return Ok(ShardCounts { finished: u64::from(per_epoch), ..ShardCounts::default() });
        }
        let finished = match config.overwrite {
            true => vec![None; per_epoch as usize],
            false => resume::finished_shards(paths, epoch, per_epoch)?,
        };
        let pass = shuffle.passes(epoch.0..epoch.0 + 1).start;
        let start = ShardCounts {
            finished: finished.iter().flatten().count() as u64,
            ..ShardCounts::default()
        };
        let ours = (0..).zip(shuffle.shards_of_chunks(epoch)).filter(|&(chunk, shard)| {
            shuffle.assigns(pass, chunk, config.world) && finished[shard.0 as usize].is_none()
        });
        Ok(ours.fold(start, |counts, (chunk, _)| {
            let images_to_write = u64::from(shuffle.chunk_images(chunk));
            counts.plus(ShardCounts { finished: 0, to_write: 1, images_to_write })
        }))
    });
    counts.try_reduce(ShardCounts::default, |a, b| Ok(a.plus(b)))
}
