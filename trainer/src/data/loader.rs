//! Batches read and decoded ahead of the training.
//!
//! One thread walks the rows in the folder's order; meanwhile a pool of threads decodes the batch before; a few finished
//! batches wait in a channel. Which rows a batch holds depends on the folder and the batch size alone.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use scrl_schemas::{Epoch, PrepOptions, Row, ShardReader, ShardRecord};

use super::awaited::{IDLE_EVERY, LOOK_EVERY};
use super::pixels::PixelSource;
use super::{Batch, Dataset, SourceImages};
use crate::{Error, Result};

/// Finished batches that may wait; with the one being decoded, and the rows of two more, they bound the loader's memory.
const BATCHES_AHEAD: usize = 2;
/// Batches that may wait to be decoded; one more is being read.
const UNDECODED_AHEAD: usize = 1;

/// What to load.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Pairs a batch.
    pub batch_size: usize,
    /// Batches an epoch; the rows left over are dropped.
    pub batches_per_epoch: u64,
    /// Epochs, from the first one on.
    pub epochs: u32,
    /// Batches to pass over at the beginning, counted over epochs.
    pub skip: u64,
    /// The sources of recipe shards.
    pub sources: Arc<SourceImages>,
    /// Threads that decode.
    pub threads: usize,
    /// Whether to wait for epochs that are not finished; otherwise they are an error.
    pub follow: bool,
}

/// Hands over batches in order.
pub struct Loader {
    batches: Receiver<Result<Batch>>,
    /// The memory of batches that were used.
    used: Sender<Vec<u8>>,
    awaited: AwaitedEpoch,
    /// Carries nothing: the reading thread notices when it is dropped, even while it waits.
    _alive: Sender<Infallible>,
}

/// The epoch for which the reading thread waits, if it does.
#[derive(Clone, Default)]
struct AwaitedEpoch(Arc<Mutex<Option<Epoch>>>);

impl AwaitedEpoch {
    fn lock(&self) -> MutexGuard<'_, Option<Epoch>> {
        // A number cannot be left half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loader {
    /// Starts the threads, which stop when the loader is dropped.
    pub fn start(dataset: &Dataset, config: LoaderConfig) -> Result<Self> {
        let (sender, batches) = bounded(BATCHES_AHEAD);
        let pool = ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .thread_name(|index| format!("decode-{index}"))
            .build()
            .map_err(|error| Error::Threads(error.to_string()))?;
        let awaited = AwaitedEpoch::default();
        let (alive, listener) = bounded(0);
        let (used, memory) = bounded(BATCHES_AHEAD);
        let decoder = Decoder {
            memory,
            options: dataset.manifest().options.clone(),
            sources: config.sources.clone(),
            pool,
        };
        let reader =
            Reader { dataset: dataset.clone(), config, awaited: awaited.clone(), listener };
        let (row_sender, rows) = bounded(UNDECODED_AHEAD);
        spawn("read-shards", move || {
            if let Err(error) = reader.run(&row_sender) {
                // Nobody listens any more if the training has stopped.
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
        Ok(Self { batches, used, awaited, _alive: alive })
    }

    /// Takes a batch that was used, whose memory serves for a later one.
    pub fn recycle(&self, batch: Batch) {
        // Where enough of it waits already, it is freed.
        let _ = self.used.try_send(batch.pixels);
    }

    /// Waits for the next batch; `None` after the last.
    pub fn next_batch(&self) -> Result<Option<Batch>> {
        self.next_batch_or(&mut |_| Ok(()))
    }

    /// Like [`Loader::next_batch`]. `idle` is called several times a second while an unfinished epoch holds the batch
    /// up; an error of it ends the waiting.
    pub fn next_batch_or(
        &self,
        idle: &mut dyn FnMut(Epoch) -> Result<()>,
    ) -> Result<Option<Batch>> {
        loop {
            match self.batches.recv_timeout(IDLE_EVERY) {
                Ok(batch) => return batch.map(Some),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {
                    let awaited = *self.awaited.lock();
                    awaited.map_or(Ok(()), &mut *idle)?;
                }
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).map_err(|error| Error::Threads(error.to_string()))
}

struct Reader {
    dataset: Dataset,
    config: LoaderConfig,
    awaited: AwaitedEpoch,
    listener: Receiver<Infallible>,
}

impl Reader {
    /// Sends the rows of batch after batch until all are sent or nobody listens.
    fn run(&self, sender: &Sender<Result<(Epoch, Vec<Row>)>>) -> Result<()> {
        let per_epoch = self.config.batches_per_epoch;
        let mut skip = self.config.skip % per_epoch;
        for epoch in (self.config.skip / per_epoch) as u32..self.config.epochs {
            let epoch = Epoch(epoch);
            let Some(parts) = self.parts(epoch)? else { return Ok(()) };
            let mut rows = self.rows(epoch, parts, skip * self.config.batch_size as u64);
            for _ in skip..per_epoch {
                let batch: Vec<Row> =
                    rows.by_ref().take(self.config.batch_size).collect::<Result<_>>()?;
                if batch.len() < self.config.batch_size {
                    let folder = self.dataset.layout().epoch(epoch);
                    return Err(Error::dataset(
                        &folder,
                        "parts hold fewer rows than _SUCCESS says",
                    ));
                }
                if sender.send(Ok((epoch, batch))).is_err() {
                    return Ok(());
                }
            }
            skip = 0;
        }
        Ok(())
    }

    /// The parts of an epoch, once it is finished; `None` if nobody listens any more.
    fn parts(&self, epoch: Epoch) -> Result<Option<Vec<ShardRecord>>> {
        if !self.config.follow {
            return Ok(Some(self.dataset.success(epoch)?.parts));
        }
        loop {
            let success = self.dataset.finished(epoch)?;
            *self.awaited.lock() = success.is_none().then_some(epoch);
            match success {
                Some(success) => return Ok(Some(success.parts)),
                None => match self.listener.recv_timeout(LOOK_EVERY) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(None),
                    Ok(nothing) => match nothing {},
                },
            }
        }
    }

    /// The rows of an epoch from row `first` on, part after part.
    fn rows(
        &self,
        epoch: Epoch,
        mut parts: Vec<ShardRecord>,
        mut first: u64,
    ) -> impl Iterator<Item = Result<Row>> + use<> {
        let folder = self.dataset.layout().epoch(epoch);
        let passed = parts
            .iter()
            .take_while(|part| {
                let whole = part.rows <= first;
                first -= if whole { part.rows } else { 0 };
                whole
            })
            .count();
        parts.drain(..passed);
        parts.into_iter().enumerate().flat_map(move |(index, part)| {
            let path = folder.join(&part.name);
            let reader = ShardReader::open_at(&path, if index == 0 { first } else { 0 });
            let (reader, error) = match reader {
                Ok(reader) => (Some(reader), None),
                Err(error) => (None, Some(Err(error))),
            };
            let rows = reader.into_iter().flatten().chain(error);
            rows.map(move |row| row.map_err(|error| unreadable(epoch, &path, error)))
        })
    }
}

struct Decoder {
    memory: Receiver<Vec<u8>>,
    options: PrepOptions,
    sources: Arc<SourceImages>,
    pool: ThreadPool,
}

impl Decoder {
    fn decode(&self, epoch: Epoch, rows: &[Row]) -> Result<Batch> {
        let options = &self.options;
        let size = options.size as usize;
        let view = size * size * 3;
        let mut pixels = self.memory.try_recv().unwrap_or_default();
        pixels.resize(2 * rows.len() * view, 0);
        let (first, second) = pixels.split_at_mut(rows.len() * view);
        self.pool.install(|| {
            rows.par_iter()
                .zip(first.par_chunks_mut(view))
                .zip(second.par_chunks_mut(view))
                .try_for_each_init(
                    || PixelSource::new(&self.sources, options),
                    |source, ((row, view1), view2)| source.fill(row, view1, view2),
                )
        })?;
        Ok(Batch::new(epoch, rows, size, pixels))
    }
}

/// Why a part of a finished epoch cannot be read: most often because it was removed meanwhile.
fn unreadable(epoch: Epoch, part: &Path, error: scrl_schemas::Error) -> Error {
    if part.exists() {
        return error.into();
    }
    let Epoch(number) = epoch;
    let reason = format!(
        "this part of epoch {epoch} was removed; make the epoch again with scrl-prep --only {number}..{}",
        number + 1
    );
    Error::dataset(part, reason)
}
