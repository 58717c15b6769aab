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
use super::passed_over::{PassedOver, is_hidden};
use crate::{Error, Result};

/// Folders of an object store that are listed ahead.
const FOLDERS_AHEAD: usize = 16;

/// What a folder holds.
pub(super) enum Contents {
    /// Image files, or nothing that could hold images.
    Images,
    /// No image files but tar archives, sorted.
    Tar(Vec<PathBuf>, PassedOver),
    /// Neither of these but zip archives, sorted.
    Zip(Vec<PathBuf>, PassedOver),
    /// None of these but Parquet files, sorted.
    Parquet(Vec<PathBuf>),
}

/// Looks for image files below `root`, and if there are none, for archives and Parquet files.
///
/// # Errors
/// Where the folder itself cannot be listed.
pub(super) fn contents_of(root: &Path) -> Result<Contents> {
    let [mut tar, mut zip, mut parquet] = [(); 3].map(|()| Vec::new());
    let mut passed_over = PassedOver::default();
    for walked in walk(root) {
        let Walked::File { path, .. } = &walked? else { continue };
        if is_image_name(path) {
            return Ok(Contents::Images);
        }
        let ending = path.extension().and_then(|it| it.to_str()).unwrap_or("");
        match &*ending.to_ascii_lowercase() {
            "tar" => tar.push(path.clone()),
            "zip" => zip.push(path.clone()),
            "parquet" => parquet.push(path.clone()),
            _ => passed_over.other(&text_below(root, path)),
        }
    }
    // The kinds that are not read.
    let mut others = |files: Vec<PathBuf>| {
        for path in files {
            passed_over.other(&text_below(root, &path));
        }
    };
    Ok(match (tar.is_empty(), zip.is_empty(), parquet.is_empty()) {
        (false, _, _) => {
            others(zip);
            others(parquet);
            Contents::Tar(tar, passed_over)
        }
        (true, false, _) => {
            others(parquet);
            Contents::Zip(zip, passed_over)
        }
        (true, true, false) => Contents::Parquet(parquet),
        (true, true, true) => Contents::Images,
    })
}

/// What the walk came across.
enum Walked {
    /// A file, and its size where listing gives it.
    File { path: PathBuf, bytes: Option<u64> },
    /// A loop, a dangling link or a folder without permission.
    Broken(PathBuf),
    /// A hidden file.
    Hidden(PathBuf),
    /// A hidden folder, which is not entered.
    HiddenFolder(PathBuf),
}

/// Whether the last component of a path is hidden.
fn has_hidden_name(path: &Path) -> bool {
    path.file_name().is_some_and(|name| is_hidden(&name.to_string_lossy()))
}

/// The files below `root`, sorted by name, folder by folder; an error ends the walk. The root
/// itself may be hidden.
fn walk(root: &Path) -> Box<dyn Iterator<Item = Result<Walked>>> {
    if store::is_url(root) {
        return Box::new(RemoteWalk { folders: vec![Folder::begin(root)] });
    }
    // Links are followed; one to a folder above itself is an error of the entry instead of an
    // endless walk.
    let entries = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
    Box::new(LocalWalk { root: root.to_owned(), entries })
}

/// A walk through folders of the system.
struct LocalWalk {
    root: PathBuf,
    entries: walkdir::IntoIter,
}

impl Iterator for LocalWalk {
    type Item = Result<Walked>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            return Some(Ok(match self.entries.next()? {
                Ok(entry) if entry.depth() > 0 && has_hidden_name(entry.path()) => {
                    match entry.file_type().is_dir() {
                        true => {
                            self.entries.skip_current_dir();
                            Walked::HiddenFolder(entry.into_path())
                        }
                        false => Walked::Hidden(entry.into_path()),
                    }
                }
                Ok(entry) if entry.file_type().is_dir() => continue,
                Ok(entry) => Walked::File { path: entry.into_path(), bytes: None },
                Err(error) if error.depth() == 0 => {
                    let unlistable = || io::Error::other("cannot be listed");
                    let error = error.into_io_error().unwrap_or_else(unlistable);
                    return Some(Err(Error::io(&self.root)(error)));
                }
                Err(error) => {
                    let path = error.path().unwrap_or(Path::new("")).to_owned();
                    match has_hidden_name(&path) {
                        true => Walked::Hidden(path),
                        false => Walked::Broken(path),
                    }
                }
            }));
        }
    }
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
        let is_entered = |entry: &&Entry| entry.is_folder && !is_hidden(&entry.name);
        let next = self.entries.iter().filter(is_entered).skip(begun);
        let begin = |entry: &Entry| Self::begin(&self.path.join(&entry.name));
        self.ahead.extend(next.take(FOLDERS_AHEAD - begun).map(begin));
        Ok(())
    }
}

impl Iterator for RemoteWalk {
    type Item = Result<Walked>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let folder = self.folders.last_mut()?;
            if let Err(error) = folder.prepare() {
                self.folders.clear();
                return Some(Err(error));
            }
            let Some(entry) = folder.entries.pop_front() else {
                self.folders.pop();
                continue;
            };
            let path = folder.path.join(&entry.name);
            return Some(Ok(match (entry.is_folder, is_hidden(&entry.name)) {
                (true, true) => Walked::HiddenFolder(path),
                (false, true) => Walked::Hidden(path),
                (false, false) => Walked::File { path, bytes: Some(entry.bytes) },
                (true, false) => {
                    let next = folder.ahead.pop_front()?;
                    self.folders.push(next);
                    continue;
                }
            }));
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
        let passed_over = &mut listing.passed_over;
        let text = |path: &Path| text_below(&self.root, path);
        for walked in walk(&self.root) {
            match walked? {
                Walked::Hidden(path) => passed_over.hidden(&text(&path)),
                Walked::HiddenFolder(path) => passed_over.hidden_folder(&text(&path)),
                Walked::File { path, bytes } if is_image_name(&path) => {
                    batcher.push(found(&self.root, &path, bytes))?;
                }
                Walked::File { path, bytes } => {
                    passed_over.suspect(&text(&path), Location::default(), bytes);
                }
                // Examining it gives the reason.
                Walked::Broken(path) if is_image_name(&path) => {
                    batcher.push(found(&self.root, &path, None))?;
                }
                Walked::Broken(path) => passed_over.broken(&text(&path)),
            }
        }
        batcher.flush()?;
        Ok(listing)
    }

    fn file(&self, path: &str) -> Option<PathBuf> {
        Some(self.root.join(path))
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        store::size(&self.root.join(path)).map(Some)
    }

    fn read(&self, path: &str, _: Location, _: u64, limit: u64) -> io::Result<Vec<u8>> {
        read_file(&self.root.join(path), limit)
    }
}

/// The path of a file below `root`, with `/` between folders.
fn text_below(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    below.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/")
}

fn found(root: &Path, path: &Path, bytes: Option<u64>) -> FoundImage {
    let is_text = path.strip_prefix(root).unwrap_or(path).to_str().is_some();
    let path = text_below(root, path);
    FoundImage {
        class: first_folder(&path),
        path,
        // The path is lossy here, so that the size cannot be looked up by it.
        bytes: if is_text { bytes } else { Some(0) },
        refused: (!is_text).then(|| "the name is not UTF-8".to_owned()),
        ..FoundImage::default()
    }
}
