//! A folder tree: every file that is an image by its name, sorted by name, folder by folder.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use scrl_schemas::store::{self, Entry};
use walkdir::WalkDir;

use super::format::{
    BatchSink, Batcher, FoundImage, Listing, SourceFormat, first_folder, is_image_name, read_file,
};
use super::index::Location;
use crate::{Error, Result};

/// Folders of an object store that are listed ahead.
const FOLDERS_AHEAD: usize = 16;

/// What a folder holds.
pub(super) enum Contents {
    /// Image files, or nothing that could hold images.
    Images,
    /// No image files but tar archives, sorted.
    Archives(Vec<PathBuf>),
    /// Neither of these but Parquet files, sorted.
    Parquet(Vec<PathBuf>),
}

/// Looks for image files below `root`, and if there are none, for archives and Parquet files.
///
/// # Errors
/// Where the folder itself cannot be listed.
pub(super) fn contents_of(root: &Path) -> Result<Contents> {
    let (mut archives, mut parquet) = (Vec::new(), Vec::new());
    for file in walk(root) {
        let WalkedFile { path, is_broken, .. } = file?;
        if is_broken {
            continue;
        }
        if is_image_name(&path) {
            return Ok(Contents::Images);
        }
        let has_ending =
            |wanted: &str| path.extension().is_some_and(|it| it.eq_ignore_ascii_case(wanted));
        if has_ending("tar") {
            archives.push(path);
        } else if has_ending("parquet") {
            parquet.push(path);
        }
    }
    Ok(match (archives.is_empty(), parquet.is_empty()) {
        (false, _) => Contents::Archives(archives),
        (true, false) => Contents::Parquet(parquet),
        (true, true) => Contents::Images,
    })
}

/// A file that the walk came across.
struct WalkedFile {
    path: PathBuf,
    /// Its size, where listing gives it.
    bytes: Option<u64>,
    /// Whether it is a loop, a dangling link or a folder without permission.
    is_broken: bool,
}

/// The files below `root`, sorted by name, folder by folder; an error ends the walk.
fn walk(root: &Path) -> Box<dyn Iterator<Item = Result<WalkedFile>>> {
    if store::is_url(root) {
        return Box::new(RemoteWalk { folders: vec![Folder::begin(root)] });
    }
    let root = root.to_owned();
    // Links are followed; one to a folder above itself is an error of the entry instead of an
    // endless walk.
    let entries = WalkDir::new(&root).follow_links(true).sort_by_file_name().into_iter();
    Box::new(entries.filter_map(move |entry| match entry {
        Ok(entry) if entry.file_type().is_dir() => None,
        Ok(entry) => {
            Some(Ok(WalkedFile { path: entry.into_path(), bytes: None, is_broken: false }))
        }
        Err(error) if error.depth() == 0 => {
            let unlistable = || io::Error::other("cannot be listed");
            Some(Err(Error::io(&root)(error.into_io_error().unwrap_or_else(unlistable))))
        }
        Err(error) => {
            let path = error.path().unwrap_or(Path::new("")).to_owned();
            Some(Ok(WalkedFile { path, bytes: None, is_broken: true }))
        }
    }))
}

/// A walk through folders of an object store.
struct RemoteWalk {
    /// From the root to the current folder.
    folders: Vec<Folder>,
}

/// A folder of the walk.
struct Folder {
    path: PathBuf,
    /// Becomes its entries; `None` once it has.
    listing: Option<JoinHandle<io::Result<Vec<Entry>>>>,
    entries: VecDeque<Entry>,
    /// The listings of its next folders, so that not each request waits for the one before.
    ahead: VecDeque<Folder>,
}

impl Folder {
    /// A folder that is listed by a thread.
    fn begin(path: &Path) -> Self {
        let (path, listed) = (path.to_owned(), path.to_owned());
        let listing = Some(thread::spawn(move || store::list(&listed)));
        Self { path, listing, entries: VecDeque::new(), ahead: VecDeque::new() }
    }

    /// Waits for the listing, and lists folders ahead.
    fn prepare(&mut self) -> Result<()> {
        if let Some(listing) = self.listing.take() {
            let entries = listing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            self.entries = entries.map_err(Error::io(&self.path))?.into();
        }
        let begun = self.ahead.len();
        let next = self.entries.iter().filter(|entry| entry.is_folder).skip(begun);
        let begin = |entry: &Entry| Self::begin(&self.path.join(&entry.name));
        self.ahead.extend(next.take(FOLDERS_AHEAD - begun).map(begin));
        Ok(())
    }
}

impl Iterator for RemoteWalk {
    type Item = Result<WalkedFile>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let folder = self.folders.last_mut()?;
            if let Err(error) = folder.prepare() {
                self.folders.clear();
                return Some(Err(error));
            }
            match folder.entries.pop_front() {
                None => drop(self.folders.pop()),
                Some(entry) if entry.is_folder => {
                    let next = folder.ahead.pop_front()?;
                    self.folders.push(next);
                }
                Some(entry) => {
                    let path = folder.path.join(&entry.name);
                    return Some(Ok(WalkedFile {
                        path,
                        bytes: Some(entry.bytes),
                        is_broken: false,
                    }));
                }
            }
        }
    }
}

/// A folder tree of images.
#[derive(Debug)]
pub(super) struct FolderTree {
    root: PathBuf,
}

impl FolderTree {
    /// The images below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl SourceFormat for FolderTree {
    fn list(&self, _contents: bool, sink: BatchSink) -> Result<Listing> {
        let mut batcher = Batcher::new(sink);
        let mut listing = Listing::default();
        for file in walk(&self.root) {
            // A broken one is listed if it is named like an image: examining it gives the reason.
            let WalkedFile { path, bytes, .. } = file?;
            match path.strip_prefix(&self.root) {
                Ok(below) if is_image_name(below) => batcher.push(found(below, bytes))?,
                _ => listing.ignored += 1,
            }
        }
        batcher.flush()?;
        Ok(listing)
    }

    fn reads_by_path(&self) -> bool {
        true
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        store::size(&self.root.join(path)).map(Some)
    }

    fn read(&self, path: &str, _: Location, _: u64, limit: u64) -> io::Result<Vec<u8>> {
        read_file(&self.root.join(path), limit)
    }
}

fn found(below: &Path, bytes: Option<u64>) -> FoundImage {
    let path = below.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
    let is_text = below.to_str().is_some();
    FoundImage {
        class: first_folder(&path),
        path,
        // The path is lossy here, so that the size cannot be looked up by it.
        bytes: if is_text { bytes } else { Some(0) },
        refused: (!is_text).then(|| "the name is not UTF-8".to_owned()),
        ..FoundImage::default()
    }
}
