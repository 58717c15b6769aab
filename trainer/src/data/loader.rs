//! Batches read and decoded ahead of the training.
//!
//! One thread walks the rows in the folder's order and a pool of threads decodes each batch; a few finished batches wait
//! in a channel. Which rows a batch holds depends on the folder and the batch size alone.

use std::path::PathBuf;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use scrl_schemas::{Epoch, PrepOptions, Row, ShardReader};

use super::pixels::PixelSource;
use super::{Batch, Dataset};
use crate::{Error, Result};

/// Finished batches that may wait; with the one being decoded they bound the loader's memory.
const BATCHES_AHEAD: usize = 2;

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
    /// Where the sources of recipe shards lie.
    pub images: PathBuf,
    /// Threads that decode.
    pub threads: usize,
}

/// Hands over batches in order.
pub struct Loader {
    batches: Receiver<Result<Batch>>,
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
        let reader = Reader { dataset: dataset.clone(), config, pool };
        thread::Builder::new()
            .name("read-shards".into())
            .spawn(move || {
                if let Err(error) = reader.run(&sender) {
                    // Nobody listens any more if the training has stopped.
                    let _ = sender.send(Err(error));
                }
            })
            .map_err(|error| Error::Threads(error.to_string()))?;
        Ok(Self { batches })
    }

    /// Waits for the next batch; `None` after the last.
    pub fn next_batch(&self) -> Result<Option<Batch>> {
        self.batches.recv().ok().transpose()
    }
}

struct Reader {
    dataset: Dataset,
    config: LoaderConfig,
    pool: ThreadPool,
}

impl Reader {
    /// Sends batch after batch until all are sent or nobody listens.
    fn run(&self, sender: &Sender<Result<Batch>>) -> Result<()> {
        let per_epoch = self.config.batches_per_epoch;
        let mut skip = self.config.skip % per_epoch;
        for epoch in (self.config.skip / per_epoch) as u32..self.config.epochs {
            let epoch = Epoch(epoch);
            let mut rows = self.rows(epoch, skip * self.config.batch_size as u64)?;
            for _ in skip..per_epoch {
                let batch: Vec<Row> =
                    rows.by_ref().take(self.config.batch_size).collect::<std::result::Result<_, _>>()?;
                if batch.len() < self.config.batch_size {
                    let folder = self.dataset.layout().epoch(epoch);
                    return Err(Error::dataset(&folder, "parts hold fewer rows than _SUCCESS says"));
                }
                if sender.send(Ok(self.decode(epoch, &batch)?)).is_err() {
                    return Ok(());
                }
            }
            skip = 0;
        }
        Ok(())
    }

    /// The rows of an epoch from row `first` on, part after part.
    fn rows(&self, epoch: Epoch, mut first: u64) -> Result<impl Iterator<Item = scrl_schemas::Result<Row>>> {
        let folder = self.dataset.layout().epoch(epoch);
        let mut parts = self.dataset.success(epoch)?.parts;
        let passed = parts
            .iter()
            .take_while(|part| {
                let whole = part.rows <= first;
                first -= if whole { part.rows } else { 0 };
                whole
            })
            .count();
        parts.drain(..passed);
        Ok(parts.into_iter().enumerate().flat_map(move |(index, part)| {
            let reader = ShardReader::open_at(&folder.join(&part.name), if index == 0 { first } else { 0 });
            let (reader, error) = match reader {
                Ok(reader) => (Some(reader), None),
                Err(error) => (None, Some(Err(error))),
            };
            reader.into_iter().flatten().chain(error)
        }))
    }

    fn decode(&self, epoch: Epoch, rows: &[Row]) -> Result<Batch> {
        let options: &PrepOptions = &self.dataset.manifest().options;
        let size = options.size as usize;
        let view = size * size * 3;
        let mut pixels = vec![0; 2 * rows.len() * view];
        let (first, second) = pixels.split_at_mut(rows.len() * view);
        self.pool.install(|| {
            rows.par_iter()
                .zip(first.par_chunks_mut(view))
                .zip(second.par_chunks_mut(view))
                .try_for_each_init(
                    || PixelSource::new(self.config.images.clone(), options),
                    |source, ((row, view1), view2)| source.fill(row, view1, view2),
                )
        })?;
        Ok(Batch::new(epoch, rows, size, pixels))
    }
}
