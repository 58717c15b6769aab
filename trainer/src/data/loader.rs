//! Batches that are read and decoded ahead of the training.
//!
//! One thread reads rows in the folder's order while a pool of threads decodes the batch before;
//! a few decoded batches wait in a channel. The rows of a batch depend on the folder and the batch
//! size alone.

use std::convert::Infallible;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rayon::{ThreadPool, ThreadPoolBuilder};
use scrl_cli::Reporter;
use scrl_schemas::{
    Epoch, PrepOptions, Row, ShardPaths, ShardReader, ShardRecord, ViewEncoding, store,
};

use super::batch::Batch;
use super::dataset::{Dataset, LOOK_INTERVAL, STOP_INTERVAL, waiting_for};
use super::pixels::fill_views;
use super::source_images::SourceImages;
use crate::{Error, Result};

/// Decoded batches that may wait. With the one being decoded and the rows of two more, they bound
/// the loader's memory.
const BATCHES_AHEAD: usize = 2;
/// Batches that may wait to be decoded; one more is being read.
const UNDECODED_AHEAD: usize = 1;

/// The batches that a [`Loader`] produces.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Pairs of a batch, of all processes.
    pub batch_size: usize,
    /// The pairs of each batch whose pixels this process decodes.
    pub own: Range<usize>,
    /// Batches of an epoch; the rows left over are dropped.
    pub batches_per_epoch: u64,
    /// The number of epochs, from epoch 0.
    pub epochs: u32,
    /// Batches at the end of epoch 0 that are not read: its first ones are read again instead.
    pub held_out: u64,
    /// Batches to skip at the beginning, counted over epochs.
    pub skip: u64,
    /// The source images of recipe shards.
    pub sources: Arc<SourceImages>,
    /// Threads that decode.
    pub threads: usize,
    /// Whether to wait for epochs that are not finished; otherwise they are an error.
    pub follow: bool,
}

/// Returns batches in order.
pub struct Loader {
    batches: Receiver<Result<Batch>>,
    /// Pixel buffers of batches that were used.
    used: Sender<Vec<u8>>,
    wait: SharedWait,
    shards: ShardPaths,
    /// Carries nothing: the reading thread notices when it is dropped, even while it waits.
    _alive: Sender<Infallible>,
}

/// The reading thread's wait for an epoch.
#[derive(Default)]
struct Wait {
    /// The epoch it waits for.
    epoch: Option<Epoch>,
    /// The last epoch whose wait was reported.
    reported: Option<Epoch>,
}

#[derive(Clone, Default)]
struct SharedWait(Arc<Mutex<Wait>>);

impl SharedWait {
    fn lock(&self) -> MutexGuard<'_, Wait> {
        // Numbers are never left half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loader {
    /// Starts the threads, which end when the loader is dropped.
    ///
    /// # Errors
    /// [`Error::Threads`] if the system refuses.
    pub fn start(dataset: &Dataset, config: LoaderConfig) -> Result<Self> {
        let (sender, batches) = bounded(BATCHES_AHEAD);
        let pool = ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .thread_name(|index| format!("decode-{index}"))
            .build()
            .map_err(|error| Error::Threads(error.to_string()))?;
        let wait = SharedWait::default();
        let (alive, listener) = bounded(0);
        let (used, buffers) = bounded(BATCHES_AHEAD);
        let decoder = Decoder {
            buffers,
            own: config.own.clone(),
            options: dataset.manifest().options.clone(),
            sources: config.sources.clone(),
            pool,
        };
        let reader = Reader { dataset: dataset.clone(), config, wait: wait.clone(), listener };
        let (row_sender, rows) = bounded(UNDECODED_AHEAD);
        spawn("read-shards", move || {
            if let Err(error) = reader.run(&row_sender) {
                // Nobody receives it if the training has stopped.
                let _ = row_sender.send(Err(error));
            }
        })?;
        spawn("decode", move || {
            for batch in rows {
                let batch =
                    batch.and_then(|(epoch, rows): (Epoch, Vec<Row>)| decoder.decode(epoch, &rows));
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(Self { batches, used, wait, shards: dataset.paths().clone(), _alive: alive })
    }

    /// Takes back a batch that was used; its buffer is reused for a later one.
    pub fn recycle(&self, batch: Batch) {
        // Where enough buffers wait already, it is freed.
        let _ = self.used.try_send(batch.pixels);
    }

    /// Waits for the next batch; `None` after the last. Reports when an unfinished epoch holds the
    /// batch up; a stop ends that wait.
    ///
    /// # Errors
    /// [`Error::Stopped`] after a stop during such a wait; otherwise the error of a shard or row.
    pub fn next_batch(&self, reporter: &Reporter) -> Result<Option<Batch>> {
        loop {
            match self.batches.recv_timeout(STOP_INTERVAL) {
                Ok(batch) => return batch.map(Some),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => self.check_wait(reporter)?,
            }
        }
    }

    fn check_wait(&self, reporter: &Reporter) -> Result<()> {
        let (epoch, is_new) = {
            let mut wait = self.wait.lock();
            let Some(epoch) = wait.epoch else { return Ok(()) };
            (epoch, wait.reported.replace(epoch) != Some(epoch))
        };
        if is_new {
            reporter.say(waiting_for(format_args!("epoch {epoch}"), self.shards.root()));
        }
        Ok(reporter.check_stop()?)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).map_err(|error| Error::Threads(error.to_string()))
}

/// The thread that reads rows.
struct Reader {
    dataset: Dataset,
    config: LoaderConfig,
    wait: SharedWait,
    /// Disconnected when the loader is dropped.
    listener: Receiver<Infallible>,
}

impl Reader {
    /// Sends the rows of one batch after another until all are sent or the loader is dropped.
    fn run(&self, sender: &Sender<Result<(Epoch, Vec<Row>)>>) -> Result<()> {
        let per_epoch = self.config.batches_per_epoch;
        let mut skip = self.config.skip % per_epoch;
        for epoch in (self.config.skip / per_epoch) as u32..self.config.epochs {
            let epoch = Epoch(epoch);
            let Some(shards) = self.shards(epoch)? else { return Ok(()) };
            let held_out = if epoch == Epoch(0) { self.config.held_out } else { 0 };
            let read = per_epoch - held_out;
            for batches in [skip.min(read)..read, skip.saturating_sub(read)..held_out] {
                if !self.send(epoch, &shards, batches, sender)? {
                    return Ok(());
                }
            }
            skip = 0;
        }
        Ok(())
    }

    /// Sends the rows of some of an epoch's batches; false if the loader was dropped meanwhile.
    fn send(
        &self,
        epoch: Epoch,
        shards: &[ShardRecord],
        batches: Range<u64>,
        sender: &Sender<Result<(Epoch, Vec<Row>)>>,
    ) -> Result<bool> {
        let is_recipe = self.dataset.manifest().options.views == ViewEncoding::Recipe;
        let (batch_size, own) = (self.config.batch_size, self.config.own.clone());
        let has_pixels = {
            let own = own.clone();
            move |row| own.contains(&((row % batch_size as u64) as usize))
        };
        let first = batches.start * batch_size as u64;
        let mut rows = rows(&self.dataset, epoch, shards.to_vec(), first, has_pixels);
        for _ in batches {
            let batch: Vec<Row> = rows.by_ref().take(batch_size).collect::<Result<_>>()?;
            if batch.len() < batch_size {
                return Err(too_few_rows(&self.dataset, epoch));
            }
            if is_recipe {
                self.config.sources.read_ahead(&batch[own.clone()])?;
            }
            if sender.send(Ok((epoch, batch))).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The shards of an epoch once it is finished; `None` if the loader was dropped meanwhile.
    fn shards(&self, epoch: Epoch) -> Result<Option<Vec<ShardRecord>>> {
        if !self.config.follow {
            return Ok(Some(self.dataset.success(epoch)?.parts));
        }
        loop {
            let success = self.dataset.finished(epoch)?;
            self.wait.lock().epoch = success.is_none().then_some(epoch);
            match success {
                Some(success) => return Ok(Some(success.parts)),
                None => match self.listener.recv_timeout(LOOK_INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(None),
                    Ok(nothing) => match nothing {},
                },
            }
        }
    }
}

/// The rows of an epoch from row `first` on, shard after shard, with pixels where `has_pixels` says
/// so of a row's number in the epoch.
pub(super) fn rows<F: Fn(u64) -> bool + Clone>(
    dataset: &Dataset,
    epoch: Epoch,
    shards: Vec<ShardRecord>,
    first: u64,
    has_pixels: F,
) -> impl Iterator<Item = Result<Row>> + use<F> {
    let folder = dataset.paths().epoch(epoch);
    let mut end = 0;
    let placed = shards.into_iter().map(move |shard| {
        end += shard.rows;
        (end - shard.rows, shard)
    });
    let needed = placed.filter(move |(begin, shard)| begin + shard.rows > first);
    needed.flat_map(move |(begin, shard)| {
        let path = folder.join(&shard.name);
        let skipped = first.saturating_sub(begin);
        let has_pixels = |row: u64| has_pixels(begin + row);
        let (reader, error) = match ShardReader::open_with_pixels(&path, skipped, has_pixels) {
            Ok(reader) => (Some(reader), None),
            Err(error) => (None, Some(Err(error))),
        };
        let rows = reader.into_iter().flatten().chain(error);
        rows.map(move |row| row.map_err(|error| unreadable(epoch, &path, error)))
    })
}

/// The error of an epoch whose shards end too early.
pub(super) fn too_few_rows(dataset: &Dataset, epoch: Epoch) -> Error {
    let reason = "its shards hold fewer rows than _SUCCESS says";
    Error::dataset(&dataset.paths().epoch(epoch), reason)
}

/// The thread that decodes, with its pool.
struct Decoder {
    buffers: Receiver<Vec<u8>>,
    own: Range<usize>,
    options: PrepOptions,
    sources: Arc<SourceImages>,
    pool: ThreadPool,
}

impl Decoder {
    fn decode(&self, epoch: Epoch, rows: &[Row]) -> Result<Batch> {
        let options = &self.options;
        let size = options.size as usize;
        let mut pixels = self.buffers.try_recv().unwrap_or_default();
        let own = &rows[self.own.clone()];
        pixels.resize(2 * own.len() * size * size * 3, 0);
        self.pool.install(|| fill_views(&self.sources, options, own, &mut pixels))?;
        Ok(Batch::new(epoch, rows, self.own.clone(), size, pixels))
    }
}

/// The reason why a shard of a finished epoch cannot be read: most often it was removed meanwhile.
fn unreadable(epoch: Epoch, shard: &Path, error: scrl_schemas::Error) -> Error {
    if !matches!(store::has_file(shard), Ok(false)) {
        return error.into();
    }
    let Epoch(number) = epoch;
    let reason = format!(
        "this shard of epoch {epoch} was removed; make the epoch again with scrl-prep --only \
         {number}..{}",
        number + 1
    );
    Error::dataset(shard, reason)
}
