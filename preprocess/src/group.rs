//! A group of epochs of one pass: its chunks rendered, its parts written.
//!
//! One thread renders chunk after chunk with all threads of the pool; another takes each rendered chunk, writes its
//! parts on threads of its own, and completes the group's epochs. A chunk is handed over when the one before is on the
//! disk, so two are in memory at most.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use rayon::ThreadPool;
use rayon::prelude::*;
use scrl_schemas::{Encoding, Epoch, FORMAT, FinishedPart, Layout, Part, Row, ShardWriter, Skipped, Success};

use crate::config::Config;
use crate::decode::{Unreadable, decode};
use crate::draw::ImageSize;
use crate::order::{Order, Pass};
use crate::rows::{RowMaker, recipe_row};
use crate::sources::Sources;
use crate::{Error, Result, folder, journal};

/// Consecutive epochs of one pass that are made together.
#[derive(Clone, Debug)]
pub struct Group {
    /// The pass they are of.
    pub pass: u32,
    /// The epochs.
    pub epochs: Range<u32>,
}

/// One part to write: its epoch and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    epoch: Epoch,
    part: Part,
}

/// What rendering hands over to writing.
pub enum Rendered {
    /// A chunk's rows for some epochs.
    Chunk(Chunk),
    /// No more chunks of this group follow.
    End(Group),
}

/// A chunk's rows for the epochs of `tasks`.
pub struct Chunk {
    tasks: Vec<Task>,
    /// By task and by position in the chunk; `None` where the image is unreadable.
    rows: Vec<Vec<Option<Row>>>,
    /// By task: positions in the chunk, in the epoch's order.
    orders: Vec<Vec<u32>>,
    skipped: Vec<Skipped>,
}

/// Everything that rendering and writing look at.
pub struct Context<'a> {
    /// What is asked for.
    pub config: &'a Config,
    /// The images.
    pub sources: &'a Sources,
    /// Which image lies where.
    pub order: &'a Order,
    /// The folder of shards.
    pub layout: &'a Layout,
    /// True once the run is to end.
    pub stop: &'a AtomicBool,
    /// Held by who tells `sources.parquet` of unreadable images.
    pub reporting: Mutex<()>,
}

/// The chunks of a group that this process has to make, each with its missing parts. An epoch of which parts are missing
/// is no finished epoch, so its `_SUCCESS` goes.
///
/// # Errors
/// Where the folder of shards cannot be read.
pub fn missing(context: &Context, group: &Group) -> Result<Vec<(u32, Vec<Task>)>> {
    let parts = context.order.parts();
    let mut chunks: Vec<Vec<Task>> = vec![Vec::new(); parts as usize];
    for epoch in group.epochs.clone().map(Epoch) {
        if folder::is_complete(context.layout, epoch, parts)? {
            continue;
        }
        let finished = folder::finished_parts(context.layout, epoch, parts)?;
        for (chunk, part) in (0..).zip(context.order.parts_of_chunks(epoch)) {
            let ours = context.config.share.has(group.pass, chunk, parts);
            if ours && finished[part.0 as usize].is_none() {
                chunks[chunk as usize].push(Task { epoch, part });
            }
        }
    }
    Ok((0..).zip(chunks).filter(|(_, tasks)| !tasks.is_empty()).collect())
}

/// Makes ready the folders of the epochs that `chunks` will write into.
///
/// # Errors
/// Where the system refuses.
pub fn open_epochs(context: &Context, chunks: &[(u32, Vec<Task>)]) -> Result<()> {
    let mut epochs: Vec<Epoch> = chunks.iter().flat_map(|(_, tasks)| tasks).map(|task| task.epoch).collect();
    epochs.sort_unstable();
    epochs.dedup();
    for epoch in epochs {
        let folder = context.layout.epoch(epoch);
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        match std::fs::remove_file(context.layout.success(epoch)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(&folder)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Renders a chunk, on all threads of the current pool. `progress` hears of each number of pairs.
///
/// # Errors
/// [`Error::Interrupted`] after a stop, [`Error::Source`] for an image that is gone.
pub fn render(
    context: &Context,
    pass: &Pass,
    chunk: u32,
    tasks: Vec<Task>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Chunk> {
    let images = pass.images(chunk);
    let makers: Vec<Mutex<RowMaker>> = (0..rayon::current_num_threads()).map(|_| Mutex::default()).collect();
    let made: Vec<std::result::Result<Vec<Row>, Unreadable>> = images
        .par_iter()
        .with_max_len(1)
        .map(|&image_id| {
            if context.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            // Each thread has a maker of its own, so no one ever waits for the lock.
            let thread = rayon::current_thread_index().unwrap_or(0);
            let mut maker = makers[thread].lock().unwrap_or_else(|poison| poison.into_inner());
            let rows = make_rows(context, image_id, &tasks, &mut maker);
            if let Ok(Ok(rows)) = &rows {
                progress(rows.len() as u64);
            }
            rows
        })
        .collect::<Result<_>>()?;
    let mut rows: Vec<Vec<Option<Row>>> = tasks.iter().map(|_| Vec::with_capacity(images.len())).collect();
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
    Ok(Chunk { tasks, rows, orders, skipped })
}

/// Makes an image's row for each task; where the rows hold pixels, from one decoding.
fn make_rows(
    context: &Context,
    image_id: u32,
    tasks: &[Task],
    maker: &mut RowMaker,
) -> Result<std::result::Result<Vec<Row>, Unreadable>> {
    let Config { seed, ref options, .. } = *context.config;
    if options.views == Encoding::Recipe {
        let source = context.sources.source(image_id)?;
        if let Some(reason) = source.error {
            return Ok(Err(Unreadable(reason)));
        }
        let size = ImageSize { width: source.width, height: source.height };
        let row = |task: &Task| recipe_row(image_id, &source, size, seed, task.epoch, options);
        return Ok(Ok(tasks.iter().map(row).collect()));
    }
    let (source, bytes) = context.sources.read(image_id)?;
    if let Some(reason) = source.error {
        return Ok(Err(Unreadable(reason)));
    }
    let image = match decode(&bytes, options.exif) {
        Ok(image) => image,
        Err(reason) => return Ok(Err(reason)),
    };
    if (image.size.width, image.size.height) != (source.width, source.height) {
        let reason = format!("has {}×{} pixels now", image.size.width, image.size.height);
        return Err(Error::source(&context.config.images, &source.path, reason));
    }
    tasks
        .iter()
        .map(|task| maker.make(image_id, &source, &image, seed, task.epoch, options))
        .collect::<Result<Vec<Row>>>()
        .map(Ok)
}

/// Writes what arrives, and completes each group's epochs after its last chunk. Returns the number of pairs written.
/// Stopped, it ends after the parts under way.
///
/// # Errors
/// [`Error::Interrupted`] after a stop; otherwise whatever writing raises.
pub fn write(context: &Context, threads: &ThreadPool, rendered: Receiver<Rendered>) -> Result<u64> {
    let mut pairs = 0;
    for rendered in rendered {
        match rendered {
            Rendered::Chunk(chunk) => pairs += threads.install(|| write_chunk(context, chunk))?,
            Rendered::End(group) => threads.install(|| {
                group.epochs.into_par_iter().try_for_each(|epoch| complete(context, Epoch(epoch)).map(drop))
            })?,
        }
    }
    Ok(pairs)
}

fn write_chunk(context: &Context, chunk: Chunk) -> Result<u64> {
    let Chunk { tasks, rows, orders, skipped } = chunk;
    let pairs = (tasks, rows, orders).into_par_iter().map(|(task, mut rows, order)| {
        if context.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let mut writer = ShardWriter::create(&context.layout.part(task.epoch, task.part))?;
        for position in order {
            if let Some(row) = rows[position as usize].take() {
                writer.write(row)?;
            }
        }
        let part: FinishedPart = writer.finish(skipped.clone())?;
        journal::append(context.layout, task.epoch, context.config.share, &part)?;
        Ok(part.record.rows)
    });
    pairs.sum()
}

/// Writes `_SUCCESS` where every part of the epoch is there, whoever made it. Returns whether that is so.
///
/// Before that, `sources.parquet` learns which images turned out unreadable, so that an epoch with `_SUCCESS` has
/// nothing left to tell.
///
/// # Errors
/// Where a file cannot be read or written.
pub fn complete(context: &Context, epoch: Epoch) -> Result<bool> {
    let (layout, parts) = (context.layout, context.order.parts());
    if folder::is_complete(layout, epoch, parts)? {
        journal::remove(layout, epoch)?;
        return Ok(true);
    }
    let finished: Option<Vec<FinishedPart>> =
        folder::finished_parts(layout, epoch, parts)?.into_iter().collect();
    let Some(finished) = finished else { return Ok(false) };
    let reporting = context.reporting.lock().unwrap_or_else(|poison| poison.into_inner());
    let mut news = false;
    for skipped in finished.iter().flat_map(|part| &part.skipped) {
        if let Ok(image_id) = u32::try_from(skipped.image_id) {
            news |= context.sources.note_unreadable(image_id, &skipped.error)?;
        }
    }
    if news {
        context.sources.write(&layout.sources())?;
    }
    drop(reporting);
    let success = Success { format: FORMAT, parts: finished.into_iter().map(|part| part.record).collect() };
    success.write(&layout.success(epoch))?;
    journal::remove(layout, epoch)?;
    Ok(true)
}
