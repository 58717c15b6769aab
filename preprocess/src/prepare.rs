//! The run: what there is to do, and doing it.
//!
//! Epochs are made in groups that lie within a pass ([`crate::order`]); a group's chunks are rendered and written one
//! after the other (`group`), each image decoded once for the group. A group is a whole pass, or with
//! [`Config::keep`] a part of one, begun when training has made room for it.
//!
//! Memory, at any number of images: two chunks of encoded rows, one being rendered and one being written, so
//! 2 · `rows_per_shard` · `epochs_per_pass` rows (1.3 GB with the defaults at 160 kB a row, and in practice little more
//! than half of it, as writing is much faster than rendering); one decoded image a thread; 4 bytes an image for the
//! order of a pass, and at most 0.4 GB for what is known of the images ([`crate::sources`]).

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use scrl_schemas::{Consumed, Counts, Encoding, Epoch, FORMAT, Layout, Manifest, SourcesReader};

use crate::config::Config;
use crate::estimate::{Estimate, estimate};
use crate::group::{self, Context, Group, Rendered};
use crate::order::{Order, Pass};
use crate::sources::{Look, Sources};
use crate::writers::WriterLock;
use crate::{Error, Result, folder};

/// Threads that write parts, mostly waiting for the disk.
const WRITING_THREADS: usize = 4;
/// Time between two looks at how far training has come.
const CONSUMED_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a waiting run notices that it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// Who hears how a run is getting on.
pub trait Watch: Sync {
    /// So many more pairs are rendered.
    fn rendered(&self, pairs: u64);
    /// Something that whoever runs it should know, as a sentence.
    fn note(&self, message: &str);
}

/// Hears nothing.
impl Watch for () {
    fn rendered(&self, _pairs: u64) {}
    fn note(&self, _message: &str) {}
}

/// A run that is planned in full: nothing has been written yet.
pub struct Job {
    config: Config,
    threads: ThreadPool,
    sources: Sources,
    order: Order,
    layout: Layout,
    manifest: Manifest,
    parts: PartCounts,
    estimate: Estimate,
}

/// How many parts of the epochs asked for there are.
#[derive(Clone, Copy, Debug, Default)]
struct PartCounts {
    finished: u64,
    to_write: u64,
    /// Images in the parts to write, readable or not.
    images_to_write: u64,
}

impl PartCounts {
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
    /// Parts of each epoch.
    pub parts_per_epoch: u32,
    /// Parts that lie there already, whoever made them.
    pub parts_finished: u64,
    /// Parts for this process to write.
    pub parts_to_write: u64,
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

/// What a run has done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Pairs of views written.
    pub pairs: u64,
    /// Time from the start of [`Job::run`].
    pub time: Duration,
    /// Images found.
    pub images: u64,
    /// Images that could not be read; `sources.parquet` has the reasons.
    pub unreadable: u64,
    /// Epochs that wait for parts of other processes.
    pub incomplete: u32,
}

impl Summary {
    /// Share of the images that could not be read.
    pub fn unreadable_share(&self) -> f64 {
        self.unreadable as f64 / self.images.max(1) as f64
    }
}

impl Job {
    /// Finds the images, compares with what lies in the folder of shards, and estimates what there is to do. Writes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Images`], [`Error::Folder`], or whatever reading them raises.
    pub fn plan(config: Config) -> Result<Self> {
        let threads = pool(config.threads, "render")?;
        let layout = Layout::new(&config.shards);
        let absolute = std::path::absolute(&config.images).map_err(Error::io(&config.images))?;
        let mut manifest = Manifest {
            format: FORMAT,
            writer: concat!("scrl-prep ", env!("CARGO_PKG_VERSION")).to_owned(),
            images: absolute.to_string_lossy().into_owned(),
            seed: config.seed,
            epochs: config.epochs,
            options: config.options.clone(),
            counts: Counts { images: 0, classes: 0, parts_per_epoch: 0 },
        };
        if !config.overwrite {
            folder::check_existing(&layout, &manifest)?;
        }
        let sources = threads.install(|| find_sources(&config, &layout))?;
        let options = &config.options;
        let order = Order::new(config.seed, sources.len(), options.rows_per_shard, options.epochs_per_pass);
        manifest.counts = Counts {
            images: u64::from(sources.len()),
            classes: sources.classes(),
            parts_per_epoch: u64::from(order.parts()),
        };
        let parts = threads.install(|| count_parts(&config, &layout, &order))?;
        let estimate = threads.install(|| estimate(&sources, config.seed, order.parts(), options))?;
        Ok(Self { config, threads, sources, order, layout, manifest, parts, estimate })
    }

    /// What [`Job::run`] will do.
    pub fn outline(&self) -> Outline {
        let parts_per_epoch = u64::from(self.order.parts());
        let to_write = self.parts.to_write;
        let unreadable = self.sources.unreadable();
        let images = u64::from(self.sources.len());
        let rows = u128::from(images - unreadable);
        let epoch_bytes = self.estimate.bytes.of(self.config.options.views);
        let of_epochs = |value: u64, parts: u64| {
            (u128::from(value) * u128::from(parts) / u128::from(parts_per_epoch)) as u64
        };
        let pairs_to_write = (rows * u128::from(self.parts.images_to_write) / u128::from(images)) as u64;
        let unfinished =
            (self.config.only.len() as u64 * parts_per_epoch).saturating_sub(self.parts.finished);
        let parts_at_a_time = match self.config.keep {
            Some(keep) => unfinished.min(u64::from(keep) * parts_per_epoch),
            None => unfinished,
        };
        Outline {
            images,
            classes: self.sources.classes(),
            unreadable,
            ignored: self.sources.ignored(),
            epochs: self.config.only.len() as u32,
            parts_per_epoch: self.order.parts(),
            parts_finished: self.parts.finished,
            parts_to_write: to_write,
            pairs_to_write,
            estimate: self.estimate,
            bytes_to_write: of_epochs(epoch_bytes, to_write),
            bytes_needed: of_epochs(epoch_bytes, parts_at_a_time),
            time: self.estimate.pair_time.mul_f64(pairs_to_write as f64 / self.config.threads as f64),
            free_bytes: folder::free_bytes(&self.config.shards),
        }
    }

    /// Makes this process's share of the missing parts, and completes the epochs whose parts are all there. Once `stop`
    /// is true, the run ends soon, and leaves only whole files.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after `stop`; [`Error::Folder`] if another process does the same work; otherwise whatever
    /// reading and writing raise.
    pub fn run(self, watch: &dyn Watch, stop: &AtomicBool) -> Result<Summary> {
        let start = Instant::now();
        let lock = self.open_folder(watch)?;
        let context = self.context(stop);
        let writing = pool(WRITING_THREADS, "write")?;
        // A channel without room: a chunk is handed over when the one before is on the disk.
        let (sender, receiver) = sync_channel(0);
        let pairs = thread::scope(|scope| {
            let writer = scope.spawn(|| group::write(&context, &writing, receiver));
            let rendered = self.render_groups(&context, sender, watch);
            // Where the writer failed, rendering ended for that reason alone.
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.and_then(|pairs| rendered.map(|()| pairs))
        })?;
        let incomplete = self.complete_all(&context)?;
        folder::remove_stale_files(&self.layout, lock.is_alone()?)?;
        Ok(Summary {
            pairs,
            time: start.elapsed(),
            images: u64::from(self.sources.len()),
            unreadable: self.sources.unreadable(),
            incomplete,
        })
    }

    fn context<'a>(&'a self, stop: &'a AtomicBool) -> Context<'a> {
        let Self { config, sources, order, layout, .. } = self;
        Context { config, sources, order, layout, stop, reporting: Mutex::new(()) }
    }

    /// Makes the folder ready: locked, nothing stale in it, the manifest and the list of sources written.
    fn open_folder(&self, watch: &dyn Watch) -> Result<WriterLock> {
        let root = self.layout.root();
        std::fs::create_dir_all(root).map_err(Error::io(root))?;
        let lock = WriterLock::take(&self.layout, self.config.share)?;
        if !lock.is_sure() {
            watch.note(&format!(
                "{}: this file system knows no locks; make sure that no other scrl-prep does the same work there",
                root.display()
            ));
        }
        if self.config.overwrite {
            folder::remove_shards(&self.layout)?;
        }
        folder::remove_stale_files(&self.layout, lock.is_alone()?)?;
        if !self.layout.manifest().exists() {
            self.manifest.write(&self.layout.manifest())?;
        }
        if !self.layout.sources().exists() {
            self.sources.write(&self.layout.sources())?;
        }
        Ok(lock)
    }

    /// Renders group after group, each when there is room for it.
    fn render_groups(
        &self,
        context: &Context,
        sender: SyncSender<Rendered>,
        watch: &dyn Watch,
    ) -> Result<()> {
        let mut pass: Option<Pass> = None;
        for group in self.groups() {
            let Some(group) = self.wait_for_room(group, context, watch)? else { continue };
            let chunks = group::missing(context, &group)?;
            group::open_epochs(context, &chunks)?;
            for (chunk, tasks) in chunks {
                let pass = match &mut pass {
                    Some(pass) if pass.number() == group.pass => pass,
                    pass => pass.insert(self.order.pass(group.pass)),
                };
                let chunk = self
                    .threads
                    .install(|| group::render(context, pass, chunk, tasks, &|pairs| watch.rendered(pairs)))?;
                if sender.send(Rendered::Chunk(chunk)).is_err() {
                    // The writer has gone only where it failed; its error is the one to tell.
                    return Ok(());
                }
            }
            if sender.send(Rendered::End(group)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The groups that the epochs asked for fall into.
    fn groups(&self) -> impl Iterator<Item = Group> + '_ {
        let only = &self.config.only;
        // Half of what may be kept is made at a time, while training works on the other half.
        let length = self.config.keep.map_or(u32::MAX, |keep| (keep / 2).max(1));
        self.order.passes(only.clone()).flat_map(move |pass| {
            let epochs = self.order.epochs(pass);
            let epochs = epochs.start.max(only.start)..epochs.end.min(only.end);
            let end = epochs.end;
            epochs
                .step_by(length as usize)
                .map(move |first| Group { pass, epochs: first..first.saturating_add(length).min(end) })
        })
    }

    /// Waits until the group's epochs may lie on the disk. Returns what of the group has yet to be made; `None` if
    /// training has consumed all of it.
    fn wait_for_room(&self, group: Group, context: &Context, watch: &dyn Watch) -> Result<Option<Group>> {
        let Some(keep) = self.config.keep else { return Ok(Some(group)) };
        let mut told = false;
        loop {
            let consumed = self.consumed()?;
            for epoch in folder::epochs(&self.layout)?.into_iter().filter(|epoch| epoch.0 < consumed) {
                folder::remove_epoch(&self.layout, epoch)?;
            }
            let epochs = group.epochs.start.max(consumed)..group.epochs.end;
            if epochs.is_empty() {
                return Ok(None);
            }
            if epochs.end <= consumed.saturating_add(keep) {
                return Ok(Some(Group { epochs, ..group }));
            }
            if !told {
                watch.note(&format!(
                    "--keep {keep}: waiting for training to consume epoch {consumed} (scrl-train --consume)"
                ));
                told = true;
            }
            let look = Instant::now();
            while look.elapsed() < CONSUMED_INTERVAL {
                if context.stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                thread::sleep(STOP_INTERVAL);
            }
        }
    }

    /// The epochs below this number are used up.
    fn consumed(&self) -> Result<u32> {
        Ok(Consumed::read(&self.layout.consumed())?.epochs)
    }

    /// Completes epochs whose last parts other processes made. Returns how many are still incomplete.
    fn complete_all(&self, context: &Context) -> Result<u32> {
        let consumed = if self.config.keep.is_some() { self.consumed()? } else { 0 };
        let mut incomplete = 0;
        for epoch in self.config.only.clone().filter(|&epoch| epoch >= consumed) {
            incomplete += u32::from(!group::complete(context, Epoch(epoch))?);
        }
        Ok(incomplete)
    }
}

fn pool(threads: usize, name: &'static str) -> Result<ThreadPool> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(move |index| format!("{name}-{index}"))
        .build()
        .map_err(|error| Error::Threads(error.to_string()))
}

/// The images: those that the folder was begun with, if it was.
fn find_sources(config: &Config, layout: &Layout) -> Result<Sources> {
    let known = layout.sources();
    if known.exists() && !config.overwrite {
        return Sources::find_again(&config.images, layout.root(), SourcesReader::open(&known)?);
    }
    let look = match config.options.views {
        Encoding::Recipe => Look::Whole,
        Encoding::Webp | Encoding::Jpeg => Look::Header,
    };
    Sources::find(&config.images, config.options.exif, look)
}

/// Counts what is there and what there is to make, on all threads of the current pool.
fn count_parts(config: &Config, layout: &Layout, order: &Order) -> Result<PartCounts> {
    let parts = order.parts();
    let consumed = match config.keep {
        Some(_) if !config.overwrite => Consumed::read(&layout.consumed())?.epochs,
        _ => 0,
    };
    let counts = config.only.clone().into_par_iter().map(|epoch| {
        let epoch = Epoch(epoch);
        if epoch.0 < consumed || (!config.overwrite && folder::is_complete(layout, epoch, parts)?) {
            return Ok(PartCounts { finished: u64::from(parts), ..PartCounts::default() });
        }
        let finished = match config.overwrite {
            true => vec![None; parts as usize],
            false => folder::finished_parts(layout, epoch, parts)?,
        };
        let pass = order.passes(epoch.0..epoch.0 + 1).start;
        let start =
            PartCounts { finished: finished.iter().flatten().count() as u64, ..PartCounts::default() };
        let ours = (0..).zip(order.parts_of_chunks(epoch)).filter(|&(chunk, part)| {
            config.share.has(pass, chunk, parts) && finished[part.0 as usize].is_none()
        });
        Ok(ours.fold(start, |counts, (chunk, _)| {
            let images_to_write = u64::from(order.chunk_images(chunk));
            counts.plus(PartCounts { finished: 0, to_write: 1, images_to_write })
        }))
    });
    counts.try_reduce(PartCounts::default, |a, b| Ok(a.plus(b)))
}
