//! Rendering and writing epochs of one pass, chunk by chunk.
//!
//! One thread renders chunk after chunk with all threads of the pool; another takes each rendered
//! chunk, writes its shards on threads of its own, and completes the epochs. A chunk is passed on
//! once the one before is on the disk, so at most two are in memory.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use rayon::ThreadPool;
use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_schemas::store;
use scrl_schemas::{
    Epoch, FORMAT, FinishedShard, Row, Shard, ShardPaths, ShardWriter, Skipped, Success,
    ViewEncoding,
};

use super::journal::{self, Journals};
use super::options::Config;
use super::resume;
use super::rows::{RowMaker, recipe_row};
use super::shuffle::{Pass, Shuffle};
use crate::images::{ImageSize, Unreadable, decode};
use crate::sources::Sources;
use crate::{Error, Result};

/// Consecutive epochs of one pass that are made together.
#[derive(Clone, Debug)]
pub(super) struct PassEpochs {
    /// The pass they belong to.
    pub pass: u32,
    /// The epochs.
    pub epochs: Range<u32>,
}

/// A shard to write.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShardId {
    epoch: Epoch,
    number: Shard,
}

/// What rendering passes on to writing.
pub(super) enum Rendered {
    /// A chunk's rows for some epochs.
    Chunk(Chunk),
    /// No more chunks of these epochs follow.
    End(PassEpochs),
}

/// A chunk's rows for the epochs of `shards`.
pub(super) struct Chunk {
    shards: Vec<ShardId>,
    /// By shard and by position in the chunk; `None` if the image is unreadable.
    rows: Vec<Vec<Option<Row>>>,
    /// By shard: positions in the chunk, permuted for the epoch.
    permutations: Vec<Vec<u32>>,
    skipped: Vec<Skipped>,
}

/// What rendering and writing share.
pub(super) struct Context<'a> {
    /// The resolved options.
    pub config: &'a Config,
    /// The images.
    pub sources: &'a Sources,
    /// The permutation of each epoch.
    pub shuffle: &'a Shuffle,
    /// The shards folder.
    pub paths: &'a ShardPaths,
    /// Receives the progress, and carries the stop flag.
    pub reporter: &'a Reporter,
    /// This process's journals.
    pub journals: &'a Journals,
    /// Held while `sources.parquet` is rewritten with unreadable images.
    pub listing: Mutex<()>,
}

/// The chunks of these epochs that this process has to make, each with its missing shards.
///
/// # Errors
/// Where the shards folder cannot be read.
pub(super) fn missing(context: &Context, wanted: &PassEpochs) -> Result<Vec<(u32, Vec<ShardId>)>> {
    let per_epoch = context.shuffle.shards_per_epoch();
    let mut chunks: Vec<Vec<ShardId>> = vec![Vec::new(); per_epoch as usize];
    for epoch in wanted.epochs.clone().map(Epoch) {
        if resume::is_complete(context.paths, epoch, per_epoch)? {
            continue;
        }
        let finished = resume::finished_shards(context.paths, epoch, per_epoch)?;
        for (chunk, number) in (0..).zip(context.shuffle.shards_of_chunks(epoch)) {
            let ours = context.shuffle.assigns(wanted.pass, chunk, context.config.world);
            if ours && finished[number.0 as usize].is_none() {
                chunks[chunk as usize].push(ShardId { epoch, number });
            }
        }
    }
    Ok((0..).zip(chunks).filter(|(_, shards)| !shards.is_empty()).collect())
}

/// Creates the folders of the epochs that `chunks` will write into. An epoch with missing shards is
/// unfinished, so its `_SUCCESS` is removed.
///
/// # Errors
/// Where the system refuses.
pub(super) fn open_epochs(context: &Context, chunks: &[(u32, Vec<ShardId>)]) -> Result<()> {
    let mut epochs: Vec<Epoch> =
        chunks.iter().flat_map(|(_, shards)| shards).map(|shard| shard.epoch).collect();
    epochs.sort_unstable();
    epochs.dedup();
    for epoch in epochs {
        let folder = context.paths.epoch(epoch);
        store::create_folder(&folder)?;
        store::remove(&context.paths.success(epoch))?;
    }
    Ok(())
}

/// Begins to read the images of a chunk that lie in an object store.
pub(super) fn read_ahead(context: &Context, pass: &Pass, chunk: u32) {
    if context.config.options.views != ViewEncoding::Recipe {
        context.sources.read_ahead(pass.images(chunk));
    }
}

/// Renders a chunk, on all threads of the current pool.
///
/// # Errors
/// [`Error::Stopped`] after a stop, [`Error::Source`] for an image that is gone or has changed.
pub(super) fn render(
    context: &Context,
    pass: &Pass,
    chunk: u32,
    shards: Vec<ShardId>,
) -> Result<Chunk> {
    let images = pass.images(chunk);
    let makers: Vec<Mutex<RowMaker>> =
        (0..rayon::current_num_threads()).map(|_| Mutex::default()).collect();
    let made: Vec<std::result::Result<Vec<Row>, Unreadable>> = images
        .par_iter()
        .with_max_len(1)
        .map(|&image_id| {
            context.reporter.check_stop()?;
            // Each thread has a maker of its own, so none ever waits for the lock.
            let thread = rayon::current_thread_index().unwrap_or(0);
            let mut maker = makers[thread].lock().unwrap_or_else(|poison| poison.into_inner());
            let rows = make_rows(context, image_id, &shards, &mut maker);
            if let Ok(Ok(rows)) = &rows {
                context.reporter.advance(rows.len() as u64);
            }
            rows
        })
        .collect::<Result<_>>()?;
    let mut rows: Vec<Vec<Option<Row>>> =
        shards.iter().map(|_| Vec::with_capacity(images.len())).collect();
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
    // Sorted, so that the list reads well.
    skipped.sort_unstable_by_key(|skipped| skipped.image_id);
    let permutations = shards.iter().map(|shard| pass.rows(chunk, shard.epoch)).collect();
    Ok(Chunk { shards, rows, permutations, skipped })
}

/// Makes an image's row for each shard; if the rows have pixels, the image is decoded once.
fn make_rows(
    context: &Context,
    image_id: u32,
    shards: &[ShardId],
    maker: &mut RowMaker,
) -> Result<std::result::Result<Vec<Row>, Unreadable>> {
    let Config { seed, ref options, .. } = *context.config;
    if options.views == ViewEncoding::Recipe {
        let source = context.sources.source(image_id);
        if let Some(reason) = source.error {
            return Ok(Err(Unreadable(reason)));
        }
        let size = ImageSize { width: source.width, height: source.height };
        let row = |shard: &ShardId| recipe_row(image_id, &source, size, seed, shard.epoch, options);
        return Ok(Ok(shards.iter().map(row).collect()));
    }
    let (source, bytes) = context.sources.read(image_id)?;
    if let Some(reason) = source.error {
        return Ok(Err(Unreadable(reason)));
    }
    let image = match decode(&bytes, options) {
        Ok(image) => image,
        Err(reason) => return Ok(Err(reason)),
    };
    if (image.size.width, image.size.height) != (source.width, source.height) {
        let reason = format!("has {}×{} pixels now", image.size.width, image.size.height);
        return Err(Error::source(&context.config.images, &source.path, reason));
    }
    shards
        .iter()
        .map(|shard| maker.make(image_id, &source, &image, seed, shard.epoch, options))
        .collect::<Result<Vec<Row>>>()
        .map(Ok)
}

/// Writes every chunk received, and completes the epochs after their last chunk. Returns the number
/// of pairs written. After a stop it ends with the shards under way.
///
/// # Errors
/// [`Error::Stopped`] after a stop; otherwise whatever writing raises.
pub(super) fn write(
    context: &Context,
    threads: &ThreadPool,
    rendered: Receiver<Rendered>,
) -> Result<u64> {
    let mut pairs = 0;
    for rendered in rendered {
        match rendered {
            Rendered::Chunk(chunk) => pairs += threads.install(|| write_chunk(context, chunk))?,
            Rendered::End(pass_epochs) => threads.install(|| {
                pass_epochs.epochs.into_par_iter().map(Epoch).try_for_each(|epoch| {
                    context.journals.publish(epoch)?;
                    complete(context, epoch).map(drop)
                })
            })?,
        }
    }
    Ok(pairs)
}

fn write_chunk(context: &Context, chunk: Chunk) -> Result<u64> {
    let Chunk { shards, rows, permutations, skipped } = chunk;
    let pairs =
        (shards, rows, permutations).into_par_iter().map(|(shard, mut rows, permutation)| {
            context.reporter.check_stop()?;
            let mut writer = ShardWriter::create(&context.paths.shard(shard.epoch, shard.number))?;
            for position in permutation {
                if let Some(row) = rows[position as usize].take() {
                    writer.write(row)?;
                }
            }
            let finished: FinishedShard = writer.finish(skipped.clone())?;
            context.journals.append(shard.epoch, &finished)?;
            Ok(finished.record.rows)
        });
    pairs.sum()
}

/// Writes `_SUCCESS` if every shard of the epoch exists, whichever process made it. Returns whether
/// the epoch is complete.
///
/// First the images that turned out unreadable are added to `sources.parquet`, so that it is up to
/// date once `_SUCCESS` exists.
///
/// # Errors
/// Where a file cannot be read or written.
pub(super) fn complete(context: &Context, epoch: Epoch) -> Result<bool> {
    let (paths, per_epoch) = (context.paths, context.shuffle.shards_per_epoch());
    if resume::is_complete(paths, epoch, per_epoch)? {
        journal::remove(paths, epoch)?;
        return Ok(true);
    }
    let finished: Option<Vec<FinishedShard>> =
        resume::finished_shards(paths, epoch, per_epoch)?.into_iter().collect();
    let Some(finished) = finished else { return Ok(false) };
    let listing = context.listing.lock().unwrap_or_else(|poison| poison.into_inner());
    let mut is_new = false;
    for skipped in finished.iter().flat_map(|shard| &shard.skipped) {
        if let Ok(image_id) = u32::try_from(skipped.image_id) {
            is_new |= context.sources.note_unreadable(image_id, &skipped.error);
        }
    }
    if is_new {
        context.sources.write(&paths.sources())?;
    }
    drop(listing);
    let success =
        Success { format: FORMAT, parts: finished.into_iter().map(|shard| shard.record).collect() };
    success.write(&paths.success(epoch))?;
    journal::remove(paths, epoch)?;
    Ok(true)
}
