//! Running a planned job.
//!
//! A pass is made in one go, or with [`Config::keep`](super::Config::keep) some epochs at a time,
//! which wait until training has made room for them. Its chunks are rendered and written one after
//! the other ([`super::epochs`]), each image decoded once.
//!
//! Memory, at any number of images: two chunks of encoded rows, one being rendered and one
//! being written, so 2 · `rows_per_shard` · `epochs_per_pass` rows (1.3 GB with the defaults
//! at 160 kB a row, and in practice little more than half of it, as writing is much faster
//! than rendering); one decoded image for each thread; for each image 4 bytes of the
//! permutation of a pass, and 40 bytes and its path in the index ([`crate::sources`]).

use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use scrl_cli::Reporter;
use scrl_schemas::{Consumed, Epoch, store};

use super::epochs::{self, Context, PassEpochs, Rendered};
use super::journal::Journals;
use super::lock::WriterLock;
use super::plan::{Job, pool};
use super::resume;
use super::shuffle::Pass;
use crate::Result;

/// Threads that write shards, mostly waiting for the disk.
const WRITING_THREADS: usize = 4;
/// Time between two reads of how far training has come.
const CONSUMED_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a waiting run notices a stop.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// The result of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Pairs of views written.
    pub pairs: u64,
    /// Time from the start of [`Job::run`].
    pub time: Duration,
    /// Images found.
    pub images: u64,
    /// Unreadable images; `sources.parquet` has the reasons.
    pub unreadable: u64,
    /// Epochs that wait for shards of other processes.
    pub incomplete: u32,
}

impl Summary {
    /// Fraction of unreadable images.
    pub fn unreadable_fraction(&self) -> f64 {
        self.unreadable as f64 / self.images.max(1) as f64
    }
}

impl Job {
    /// Makes the missing shards that are assigned to this process, and completes the epochs whose
    /// shards all exist. After a stop the run ends soon and leaves only complete files.
    ///
    /// # Errors
    /// [`Stopped`](crate::Error::Stopped) after a stop, [`Folder`](crate::Error::Folder) if another
    /// process does the same work, or the error of reading or writing.
    pub fn run(self, reporter: &Reporter) -> Result<Summary> {
        let start = Instant::now();
        let lock = self.open_folder(reporter)?;
        let journals = Journals::new(&self.paths, self.config.world);
        let context = self.context(&journals, reporter);
        let writing = pool(WRITING_THREADS, "write")?;
        reporter.begin("pairs", self.pairs_to_write(), 0);
        // A channel without room: a chunk is passed on once the one before is on the disk.
        let (sender, receiver) = sync_channel(0);
        let pairs = thread::scope(|scope| {
            let writer = scope.spawn(|| epochs::write(&context, &writing, receiver));
            let rendered = self.render_passes(&context, sender);
            // If the writer failed, rendering ended for that reason.
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.and_then(|pairs| rendered.map(|()| pairs))
        });
        reporter.end();
        let pairs = pairs?;
        let incomplete = self.complete_all(&context)?;
        resume::remove_stale_files(&self.paths, lock.is_alone()?)?;
        Ok(Summary {
            pairs,
            time: start.elapsed(),
            images: u64::from(self.sources.len()),
            unreadable: self.sources.unreadable(),
            incomplete,
        })
    }

    fn context<'a>(&'a self, journals: &'a Journals, reporter: &'a Reporter) -> Context<'a> {
        let Self { config, sources, shuffle, paths, .. } = self;
        let listing = Mutex::new(());
        Context { config, sources, shuffle, paths, reporter, journals, listing }
    }

    /// Prepares the folder: takes the lock, removes stale files, writes the manifest and the list
    /// of sources.
    fn open_folder(&self, reporter: &Reporter) -> Result<WriterLock> {
        let root = self.paths.root();
        store::create_folder(root)?;
        let lock = WriterLock::take(&self.paths, self.config.world)?;
        if !lock.is_sure() && !store::is_url(root) {
            reporter.say(format_args!(
                "{}: this file system has no locks; make sure that no other scrl-prep does the \
                 same work there",
                root.display()
            ));
        }
        if self.config.overwrite {
            resume::remove_shards(&self.paths)?;
        }
        resume::remove_stale_files(&self.paths, lock.is_alone()?)?;
        let is_new = resume::write_manifest(&self.paths, &self.manifest)?;
        if is_new || !store::has_file(&self.paths.sources())? {
            self.sources.write(&self.paths.sources())?;
        }
        Ok(lock)
    }

    /// Renders pass after pass; with `--keep` some epochs at a time, when there is room for them.
    fn render_passes(&self, context: &Context, sender: SyncSender<Rendered>) -> Result<()> {
        let mut pass: Option<Pass> = None;
        for epochs in self.pass_epochs() {
            let Some(epochs) = self.wait_for_room(epochs, context)? else { continue };
            let chunks = epochs::missing(context, &epochs)?;
            epochs::open_epochs(context, &chunks)?;
            let numbers: Vec<u32> = chunks.iter().map(|(chunk, _)| *chunk).collect();
            for (place, (chunk, shards)) in chunks.into_iter().enumerate() {
                let pass = match &mut pass {
                    Some(pass) if pass.number() == epochs.pass => pass,
                    pass => pass.insert(self.shuffle.pass(epochs.pass)),
                };
                // While a chunk is rendered, the images of the next one arrive.
                let begun = if place == 0 { 0 } else { place + 1 };
                for &chunk in numbers.iter().take(place + 2).skip(begun) {
                    epochs::read_ahead(context, pass, chunk);
                }
                let chunk =
                    self.threads.install(|| epochs::render(context, pass, chunk, shards))?;
                if sender.send(Rendered::Chunk(chunk)).is_err() {
                    // The writer is gone only if it failed; its error is the one to report.
                    return Ok(());
                }
            }
            if sender.send(Rendered::End(epochs)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The requested epochs, by pass; with `--keep` a pass is divided.
    fn pass_epochs(&self) -> impl Iterator<Item = PassEpochs> + '_ {
        let only = &self.config.only;
        // Half of the epochs kept are made at a time, while training consumes the other half.
        let length = self.config.keep.map_or(u32::MAX, |keep| (keep / 2).max(1));
        self.shuffle.passes(only.clone()).flat_map(move |pass| {
            let epochs = self.shuffle.epochs(pass);
            let epochs = epochs.start.max(only.start)..epochs.end.min(only.end);
            let end = epochs.end;
            epochs.step_by(length as usize).map(move |first| PassEpochs {
                pass,
                epochs: first..first.saturating_add(length).min(end),
            })
        })
    }

    /// Waits until there is room for the epochs. Returns those that have yet to be made; `None` if
    /// training has consumed all of them.
    fn wait_for_room(&self, wanted: PassEpochs, context: &Context) -> Result<Option<PassEpochs>> {
        let Some(keep) = self.config.keep else { return Ok(Some(wanted)) };
        let mut reported = false;
        loop {
            let consumed = self.consumed()?;
            let there = resume::epochs(&self.paths)?;
            for epoch in there.into_iter().filter(|epoch| epoch.0 < consumed) {
                resume::remove_epoch(&self.paths, epoch)?;
            }
            let epochs = wanted.epochs.start.max(consumed)..wanted.epochs.end;
            if epochs.is_empty() {
                return Ok(None);
            }
            if epochs.end <= consumed.saturating_add(keep) {
                return Ok(Some(PassEpochs { epochs, ..wanted }));
            }
            if !reported {
                context.reporter.say(format_args!(
                    "--keep {keep}: waiting for training to consume epoch {consumed} \
                     (scrl-train --consume)"
                ));
                reported = true;
            }
            let last_read = Instant::now();
            while last_read.elapsed() < CONSUMED_INTERVAL {
                context.reporter.check_stop()?;
                thread::sleep(STOP_INTERVAL);
            }
        }
    }

    /// Training has consumed every epoch below this number.
    fn consumed(&self) -> Result<u32> {
        Ok(Consumed::read(&self.paths.consumed())?.epochs)
    }

    /// Completes epochs whose last shards other processes made. Returns the number of incomplete
    /// ones.
    fn complete_all(&self, context: &Context) -> Result<u32> {
        let consumed = if self.config.keep.is_some() { self.consumed()? } else { 0 };
        let mut incomplete = 0;
        for epoch in self.config.only.clone().filter(|&epoch| epoch >= consumed) {
            incomplete += u32::from(!epochs::complete(context, Epoch(epoch))?);
        }
        Ok(incomplete)
    }
}
