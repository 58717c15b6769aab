//! The run: what there is to do, and doing it.
//!
//! The unit of work is a chunk of a pass ([`crate::order`]): its images are decoded once each, on all threads, and
//! rendered for every epoch of the pass whose part is missing; then the parts are written, while the next chunk is
//! rendered.
//!
//! Memory: two chunks of encoded rows at most, one being rendered and one being written, so
//! 2 · `rows_per_shard` · `epochs_per_pass` rows (1.3 GB with the defaults at 160 kB a row, and in practice little more than
//! half of it, as writing is much faster than rendering), and one decoded image a thread.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use scrl_schemas::{
    Counts, Epoch, FORMAT, FinishedPart, Layout, Manifest, Part, Row, ShardWriter, Skipped, Success,
    write_sources,
};

use crate::config::Config;
use crate::decode::{Unreadable, decode};
use crate::estimate::{EpochBytes, epoch_bytes};
use crate::order::{Order, Pass};
use crate::rows::RowMaker;
use crate::sources::Sources;
use crate::{Error, Result, folder};

/// A run that is planned in full: nothing has been written yet.
pub struct Job {
    config: Config,
    threads: ThreadPool,
    sources: Sources,
    order: Order,
    layout: Layout,
    manifest: Manifest,
    /// The finished parts of each epoch of `config.only`, by part number.
    finished: Vec<Vec<Option<FinishedPart>>>,
    bytes: EpochBytes,
}

/// What a job is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Images found.
    pub images: u64,
    /// Classes found; 0 without class folders.
    pub classes: u64,
    /// Images whose header is unreadable.
    pub unreadable: u64,
    /// Files that are no images by their name.
    pub ignored: u64,
    /// Epochs to write or complete.
    pub epochs: u32,
    /// Parts of each epoch.
    pub parts_per_epoch: u32,
    /// Parts that lie there already.
    pub parts_finished: u64,
    /// Parts to write.
    pub parts_to_write: u64,
    /// Pairs of views to write.
    pub pairs_to_write: u64,
    /// Bytes of a whole epoch, estimated, for each encoding.
    pub epoch_bytes: EpochBytes,
    /// Bytes to write, estimated.
    pub bytes_to_write: u64,
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
}

impl Summary {
    /// Share of the images that could not be read.
    pub fn unreadable_share(&self) -> f64 {
        self.unreadable as f64 / self.images.max(1) as f64
    }
}

/// One part to write: its epoch and where it goes.
#[derive(Clone, Copy, Debug)]
struct Task {
    epoch: Epoch,
    part: Part,
}

/// A chunk's rows for the epochs of `tasks`.
struct RenderedChunk {
    tasks: Vec<Task>,
    /// By task and by position in the chunk; `None` where the image is unreadable.
    rows: Vec<Vec<Option<Row>>>,
    /// By task: positions in the chunk, in the epoch's order.
    orders: Vec<Vec<u32>>,
    skipped: Vec<Skipped>,
}

impl Job {
    /// Finds the images, compares with what lies in the folder of shards, and estimates what there is to do. Writes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Images`], [`Error::Folder`], or whatever reading them raises.
    pub fn plan(config: Config) -> Result<Self> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .build()
            .map_err(|error| Error::Threads(error.to_string()))?;
        let sources = threads.install(|| Sources::find(&config.images, config.options.exif))?;
        let images = sources.list.len() as u32;
        let order =
            Order::new(config.seed, images, config.options.rows_per_shard, config.options.epochs_per_pass);
        let absolute = std::path::absolute(&config.images).map_err(Error::io(&config.images))?;
        let manifest = Manifest {
            format: FORMAT,
            writer: concat!("scrl-prep ", env!("CARGO_PKG_VERSION")).to_owned(),
            images: absolute.to_string_lossy().into_owned(),
            seed: config.seed,
            epochs: config.epochs,
            options: config.options.clone(),
            counts: Counts {
                images: u64::from(images),
                classes: sources.classes.len() as u64,
                parts_per_epoch: u64::from(order.parts()),
            },
        };
        let layout = Layout::new(&config.shards);
        let finished = if config.overwrite {
            config.only.clone().map(|_| vec![None; order.parts() as usize]).collect()
        } else {
            folder::check_existing(&layout, &manifest, &sources.list)?;
            let epochs: Vec<u32> = config.only.clone().collect();
            threads.install(|| {
                epochs
                    .into_par_iter()
                    .map(|epoch| folder::finished_parts(&layout, Epoch(epoch), order.parts()))
                    .collect::<Result<Vec<_>>>()
            })?
        };
        let bytes = threads
            .install(|| epoch_bytes(&sources, config.seed, u64::from(order.parts()), &config.options))?;
        Ok(Self { config, threads, sources, order, layout, manifest, finished, bytes })
    }

    /// What [`Job::run`] will do.
    pub fn outline(&self) -> Outline {
        let parts = u64::from(self.order.parts());
        let finished = self.finished.iter().flatten().flatten().count() as u64;
        let to_write = self.finished.len() as u64 * parts - finished;
        let unreadable = self.sources.unreadable();
        let images = self.sources.list.len() as u64;
        let rows = (images - unreadable) as u128;
        Outline {
            images,
            classes: self.sources.classes.len() as u64,
            unreadable,
            ignored: self.sources.ignored,
            epochs: self.config.only.len() as u32,
            parts_per_epoch: self.order.parts(),
            parts_finished: finished,
            parts_to_write: to_write,
            pairs_to_write: (rows * u128::from(to_write) / u128::from(parts)) as u64,
            epoch_bytes: self.bytes,
            bytes_to_write: (u128::from(self.bytes.of(self.config.options.views)) * u128::from(to_write)
                / u128::from(parts)) as u64,
            free_bytes: folder::free_bytes(&self.config.shards),
        }
    }

    /// Makes every missing part and completes every epoch. `progress` hears of each number of pairs as it is rendered;
    /// once `stop` is true, the run ends soon, and leaves only whole files.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after `stop`; otherwise whatever writing raises.
    pub fn run(mut self, progress: &(dyn Fn(u64) + Sync), stop: &AtomicBool) -> Result<Summary> {
        let start = Instant::now();
        self.open_folder()?;
        let mut pairs = 0;
        for number in self.order.passes(self.config.only.clone()) {
            let epochs = self.order.epochs(number);
            let only = &self.config.only;
            let epochs = epochs.start.max(only.start)..epochs.end.min(only.end);
            pairs += self.make_pass(number, epochs, progress, stop)?;
        }
        self.record_unreadable()?;
        Ok(Summary {
            pairs,
            time: start.elapsed(),
            images: self.sources.list.len() as u64,
            unreadable: self.sources.unreadable(),
        })
    }

    /// Makes the folder ready: nothing stale in it, the manifest and the list of sources written.
    fn open_folder(&self) -> Result<()> {
        let root = self.layout.root();
        if self.config.overwrite {
            folder::remove_shards(&self.layout)?;
        }
        std::fs::create_dir_all(root).map_err(Error::io(root))?;
        folder::remove_stale_files(&self.layout)?;
        if !self.layout.manifest().exists() {
            self.manifest.write(&self.layout.manifest())?;
        }
        if !self.layout.sources().exists() {
            write_sources(&self.layout.sources(), &self.sources.list)?;
        }
        Ok(())
    }

    /// Makes the missing parts of `epochs`, all of one pass. Returns the number of pairs written.
    fn make_pass(
        &mut self,
        number: u32,
        epochs: Range<u32>,
        progress: &(dyn Fn(u64) + Sync),
        stop: &AtomicBool,
    ) -> Result<u64> {
        let parts: Vec<(Epoch, Vec<Part>)> =
            epochs.clone().map(|e| (Epoch(e), self.order.parts_of_chunks(Epoch(e)))).collect();
        let chunks: Vec<(u32, Vec<Task>)> = (0..self.order.parts())
            .map(|chunk| (chunk, self.missing(chunk, &parts)))
            .filter(|(_, tasks)| !tasks.is_empty())
            .collect();
        let written = if chunks.is_empty() {
            Vec::new()
        } else {
            for &(epoch, _) in &parts {
                let folder = self.layout.epoch(epoch);
                std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            }
            let pass = self.order.pass(number);
            self.make_chunks(&pass, chunks, progress, stop)?
        };
        let pairs = written.iter().map(|(_, part)| part.record.rows).sum();
        for (task, part) in written {
            let epoch = (task.epoch.0 - self.config.only.start) as usize;
            self.finished[epoch][task.part.0 as usize] = Some(part);
        }
        for epoch in epochs {
            self.complete_epoch(Epoch(epoch))?;
        }
        Ok(pairs)
    }

    /// The parts of a chunk that have yet to be written.
    fn missing(&self, chunk: u32, parts: &[(Epoch, Vec<Part>)]) -> Vec<Task> {
        parts
            .iter()
            .map(|(epoch, parts)| Task { epoch: *epoch, part: parts[chunk as usize] })
            .filter(|task| {
                let epoch = (task.epoch.0 - self.config.only.start) as usize;
                self.finished[epoch][task.part.0 as usize].is_none()
            })
            .collect()
    }

    /// Renders chunk after chunk here and writes them on a thread of their own.
    fn make_chunks(
        &self,
        pass: &Pass,
        chunks: Vec<(u32, Vec<Task>)>,
        progress: &(dyn Fn(u64) + Sync),
        stop: &AtomicBool,
    ) -> Result<Vec<(Task, FinishedPart)>> {
        // A channel without room: a chunk is handed over when the one before is on the disk.
        let (sender, receiver) = sync_channel::<RenderedChunk>(0);
        thread::scope(|scope| {
            let writer = scope.spawn(move || write_chunks(&self.layout, receiver, stop));
            let mut rendered = Ok(());
            for (chunk, tasks) in chunks {
                let chunk = match self.render_chunk(pass, chunk, tasks, progress, stop) {
                    Ok(chunk) => chunk,
                    Err(error) => {
                        rendered = Err(error);
                        break;
                    }
                };
                if sender.send(chunk).is_err() {
                    // The writer has gone only where it failed; its error is the one to tell.
                    break;
                }
            }
            drop(sender);
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            rendered.map(|()| written)
        })
    }

    fn render_chunk(
        &self,
        pass: &Pass,
        chunk: u32,
        tasks: Vec<Task>,
        progress: &(dyn Fn(u64) + Sync),
        stop: &AtomicBool,
    ) -> Result<RenderedChunk> {
        let images = pass.images(chunk);
        let makers: Vec<Mutex<RowMaker>> =
            (0..self.threads.current_num_threads()).map(|_| Mutex::default()).collect();
        let made: Vec<std::result::Result<Vec<Row>, Unreadable>> = self.threads.install(|| {
            images
                .par_iter()
                .with_max_len(1)
                .map(|&image_id| {
                    if stop.load(Ordering::Relaxed) {
                        return Err(Error::Interrupted);
                    }
                    // Each thread has a maker of its own, so no one ever waits for the lock.
                    let thread = rayon::current_thread_index().unwrap_or(0);
                    let mut maker = makers[thread].lock().unwrap_or_else(|poison| poison.into_inner());
                    let rows = self.make_rows(image_id, &tasks, &mut maker);
                    if let Ok(Ok(rows)) = &rows {
                        progress(rows.len() as u64);
                    }
                    rows
                })
                .collect::<Result<_>>()
        })?;
        let mut rows: Vec<Vec<Option<Row>>> =
            tasks.iter().map(|_| Vec::with_capacity(images.len())).collect();
        let mut skipped = Vec::new();
        for (&image_id, made) in images.iter().zip(made) {
            match made {
                Ok(made) => rows.iter_mut().zip(made).for_each(|(rows, row)| rows.push(Some(row))),
                Err(reason) => {
                    skipped.push(Skipped { image_id: i64::from(image_id), error: reason.0 });
                    rows.iter_mut().for_each(|rows| rows.push(None));
                }
            }
        }
        // In the order of the sources, so that the list reads well.
        skipped.sort_unstable_by_key(|skipped| skipped.image_id);
        let orders = tasks.iter().map(|task| pass.rows(chunk, task.epoch)).collect();
        Ok(RenderedChunk { tasks, rows, orders, skipped })
    }

    /// Decodes an image once and makes its row for each task.
    fn make_rows(
        &self,
        image_id: u32,
        tasks: &[Task],
        maker: &mut RowMaker,
    ) -> Result<std::result::Result<Vec<Row>, Unreadable>> {
        let options = &self.config.options;
        let source = &self.sources.list[image_id as usize];
        let image = match self.sources.read(image_id).and_then(|bytes| decode(&bytes, options.exif)) {
            Ok(image) => image,
            Err(reason) => return Ok(Err(reason)),
        };
        tasks
            .iter()
            .map(|task| maker.make(image_id, source, &image, self.config.seed, task.epoch, options))
            .collect::<Result<Vec<Row>>>()
            .map(Ok)
    }

    /// Writes `_SUCCESS` where every part of the epoch is there.
    fn complete_epoch(&self, epoch: Epoch) -> Result<()> {
        let parts = &self.finished[(epoch.0 - self.config.only.start) as usize];
        let Some(parts) =
            parts.iter().map(|part| part.as_ref().map(|p| p.record.clone())).collect::<Option<Vec<_>>>()
        else {
            return Ok(());
        };
        let success = Success { format: FORMAT, parts };
        let path = self.layout.success(epoch);
        if path.exists() && Success::read(&path).is_ok_and(|found| found == success) {
            return Ok(());
        }
        Ok(success.write(&path)?)
    }

    /// Adds to `sources.parquet` the images that turned out unreadable while decoding, in this run or an earlier one.
    fn record_unreadable(&mut self) -> Result<()> {
        let mut news = false;
        for skipped in self.finished.iter().flatten().flatten().flat_map(|part| &part.skipped) {
            let Some(source) = self.sources.list.get_mut(skipped.image_id as usize) else { continue };
            if source.error.is_none() {
                source.error = Some(skipped.error.clone());
                news = true;
            }
        }
        if news { Ok(write_sources(&self.layout.sources(), &self.sources.list)?) } else { Ok(()) }
    }
}

/// Writes the parts of each chunk that arrives. Stopped, it ends after the part under way.
fn write_chunks(
    layout: &Layout,
    chunks: Receiver<RenderedChunk>,
    stop: &AtomicBool,
) -> Result<Vec<(Task, FinishedPart)>> {
    let mut written = Vec::new();
    for chunk in chunks {
        let RenderedChunk { tasks, rows, orders, skipped } = chunk;
        for ((task, mut rows), order) in tasks.into_iter().zip(rows).zip(orders) {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let mut writer = ShardWriter::create(&layout.part(task.epoch, task.part))?;
            for position in order {
                if let Some(row) = rows[position as usize].take() {
                    writer.write(row)?;
                }
            }
            written.push((task, writer.finish(skipped.clone())?));
        }
    }
    Ok(written)
}
