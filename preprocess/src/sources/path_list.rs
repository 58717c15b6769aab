//! A text file that lists images: a table with a column of paths (CSV), or a path in each line.
//! Paths are relative to the folder of the file. [`Layout`] says how it is read.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use csv::{ByteRecord, ReaderBuilder, Trim};
use scrl_cli::text::BYTE_ORDER_MARK;
use scrl_schemas::SourceOptions;
use scrl_schemas::store::{self, StoredFile};

use super::classes::{Label, Labels};
use super::columns::label_option;
use super::format::{BatchSink, Batcher, FoundImage, Listing, SourceFormat, read_file};
use super::index::Location;
use super::list_layout::{Layout, Line, image_within};
use crate::{Error, Result};

/// Longest line in bytes, and longest row of a table; a file with a longer one is no list of paths.
const MAX_LINE: u64 = 1 << 16;
const MAX_ROW: u64 = 1 << 22;
/// With which a line begins that is not read.
const COMMENT: u8 = b'#';

/// The images whose paths a file lists.
#[derive(Debug)]
pub(super) struct PathList {
    file: PathBuf,
    folder: PathBuf,
    options: SourceOptions,
    /// Whether any image was found to be there.
    has_found: AtomicBool,
}

/// What listing met.
#[derive(Default)]
struct Met {
    images: u64,
    /// The path of the first image, and of the one before the next.
    first: Option<String>,
    before: String,
    repeated: u64,
    comments: u64,
    labels: Labels,
}

impl PathList {
    /// The images listed in `file`.
    pub fn new(file: &Path, options: &SourceOptions) -> Self {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let (file, options) = (file.to_owned(), options.clone());
        Self { file, folder, options, has_found: AtomicBool::new(false) }
    }

    fn fail(&self, reason: String) -> Error {
        Error::Images { path: self.file.clone(), reason }
    }

    /// Opens the file behind its byte order mark.
    fn open(&self) -> Result<BufReader<StoredFile>> {
        let open = || {
            let mut file = BufReader::new(StoredFile::open(&self.file)?);
            if file.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
                file.consume(BYTE_ORDER_MARK.len());
            }
            Ok(file)
        };
        open().map_err(Error::io(&self.file))
    }

    /// Passes on each line without the white space behind it, until `each` returns false.
    fn lines(&self, mut each: impl FnMut(&[u8]) -> Result<bool>) -> Result<()> {
        let mut lines = self.open()?;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            match read.map_err(Error::io(&self.file))? as u64 {
                0 => return Ok(()),
                MAX_LINE => {
                    let reason = "is no list of paths: it has a line of over";
                    return Err(self.fail(format!("{reason} {MAX_LINE} bytes")));
                }
                _ => {}
            }
            if !each(line.trim_ascii_end())? {
                return Ok(());
            }
        }
    }

    fn layout(&self) -> Result<Layout> {
        let mut first = Vec::new();
        self.lines(|line| {
            if !line.is_empty() && line[0] != COMMENT {
                first.push(String::from_utf8_lossy(line).into_owned());
            }
            Ok(first.len() < 2)
        })?;
        first.resize(2, String::new());
        Layout::find(&first[0], &first[1], &self.options).map_err(|reason| self.fail(reason))
    }

    fn list_lines(&self, met: &mut Met, batcher: &mut Batcher) -> Result<()> {
        self.lines(|line| {
            match line.first() {
                None => {}
                Some(&COMMENT) => met.comments += 1,
                Some(_) => {
                    let text = String::from_utf8_lossy(line);
                    let Line { path, label } = Line::read(&text);
                    let is_text = std::str::from_utf8(line).is_ok();
                    self.push(path.into_owned(), is_text, label, met, batcher)?;
                }
            }
            Ok(true)
        })
    }

    fn list_table(
        &self,
        delimiter: u8,
        path: usize,
        label: Option<usize>,
        met: &mut Met,
        batcher: &mut Batcher,
    ) -> Result<()> {
        let mut builder = ReaderBuilder::new();
        builder.delimiter(delimiter).comment(Some(COMMENT)).flexible(true).trim(Trim::All);
        let mut table = builder.from_reader(Bounded { inner: self.open()?, left: MAX_ROW });
        let mut row = ByteRecord::new();
        loop {
            match table.read_byte_record(&mut row) {
                Ok(true) => table.get_mut().left = MAX_ROW,
                Ok(false) => return Ok(()),
                Err(error) => return Err(self.fail(error.to_string())),
            }
            if row.iter().all(<[u8]>::is_empty) {
                continue;
            }
            let path = row.get(path).unwrap_or_default();
            let is_text = std::str::from_utf8(path).is_ok();
            let label = label.and_then(|label| row.get(label)).unwrap_or_default();
            let label = Label::of_text(&String::from_utf8_lossy(label));
            let path = String::from_utf8_lossy(path).into_owned();
            self.push(path, is_text, label, met, batcher)?;
        }
    }

    fn push(
        &self,
        path: String,
        is_text: bool,
        label: Label,
        met: &mut Met,
        batcher: &mut Batcher,
    ) -> Result<()> {
        let refused = match (is_text, path.is_empty()) {
            (false, _) => Some("the name is not UTF-8".to_owned()),
            (_, true) => Some("no path in this row".to_owned()),
            _ => None,
        };
        met.images += 1;
        met.repeated += u64::from(path == met.before);
        met.before.clone_from(&path);
        if met.first.is_none() && refused.is_none() {
            met.first = Some(path.clone());
        }
        let label = match label_option(&self.options) {
            Some("none") => Label::Missing,
            _ => label,
        };
        let (class, bytes) = (met.labels.class(label), refused.is_some().then_some(0));
        batcher.push(FoundImage { path, class, bytes, refused, ..FoundImage::default() })
    }

    /// Where a path leads.
    fn locate(&self, path: &str) -> PathBuf {
        if store::is_url(Path::new(path)) { path.into() } else { self.folder.join(path) }
    }

    /// Looks at an image; where its path leads nowhere, with `/` for the `\` of Windows.
    fn look<T>(&self, path: &str, look: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
        match look(&self.locate(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound && path.contains('\\') => {
                look(&self.locate(&path.replace('\\', "/"))).map_err(|_| error)
            }
            result => result,
        }
    }

    /// The error of a list that leads to no image at all.
    fn nothing_there(&self, images: u64, first: &str) -> Error {
        let folder = match store::is_url(&self.folder) {
            true => self.folder.clone(),
            false => std::path::absolute(self.folder.join(".")).unwrap_or(self.folder.clone()),
        };
        let advice = if first.contains("://") && !store::is_url(Path::new(first)) {
            "download the images of its URLs first"
        } else if image_within(first).is_some() {
            "leave one path in each line"
        } else {
            "paths start at the folder of the list"
        };
        self.fail(format!(
            "none of its paths ({images}) leads to a file: {first:?} was looked for in {}; {advice}",
            folder.display()
        ))
    }
}

impl Met {
    /// What the user should know of a file.
    fn notices(&self, file: &Path, layout: &Layout) -> Vec<String> {
        let file = file.display();
        let comments = match self.comments {
            0 => String::new(),
            1 => "; 1 line with # left out".to_owned(),
            count => format!("; {count} lines with # left out"),
        };
        let read = match (layout.notice(), self.labels.classified) {
            (Some(table), _) => table,
            (None, 0) => format!("read as a list of {} paths, without classes", self.images),
            (None, count) => {
                format!("read as a list of paths, {count} of {} with a class", self.images)
            }
        };
        let mut notices = vec![format!("{file}: {read}{comments}")];
        if self.repeated > 0 {
            notices.push(format!(
                "{file}: {} of {} paths repeat the one before, each as an image of its own",
                self.repeated, self.images
            ));
        }
        notices.extend(self.labels.notices().map(|notice| format!("{file}: {notice}")));
        notices
    }
}

impl SourceFormat for PathList {
    fn list(&self, _contents: bool, sink: BatchSink) -> Result<Listing> {
        let layout = self.layout()?;
        let mut batcher = Batcher::new(sink);
        let mut met = Met::default();
        match &layout {
            Layout::Lines => self.list_lines(&mut met, &mut batcher)?,
            Layout::Table { delimiter, path, label } => {
                let label = label.as_ref().ok().map(|label| label.column);
                self.list_table(*delimiter, path.column, label, &mut met, &mut batcher)?;
            }
        }
        batcher.flush()?;
        match &met.first {
            Some(first) if !self.has_found.load(Ordering::Relaxed) => {
                Err(self.nothing_there(met.images, first))
            }
            _ => Ok(Listing { notices: met.notices(&self.file, &layout), ..Listing::default() }),
        }
    }

    fn file(&self, path: &str) -> Option<PathBuf> {
        self.look(path, |file| store::size(file).map(|_| file.to_owned())).ok()
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        let size = self.look(path, store::size);
        if !size.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            self.has_found.store(true, Ordering::Relaxed);
        }
        size.map(Some)
    }

    fn read(&self, path: &str, _: Location, _: u64, limit: u64) -> io::Result<Vec<u8>> {
        self.look(path, |path| read_file(path, limit))
    }
}

/// Reads so many bytes and fails: a quote that nothing closes would make a row of all that follows.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(bytes)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            let reason = format!("a row has over {MAX_ROW} bytes; a quote is not closed there");
            io::Error::new(ErrorKind::InvalidData, reason)
        })?;
        Ok(count)
    }
}
