//! What listing passes over: hidden files, links, and files that are no images by their name. They
//! are counted, so that a user learns why an image is missing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use indicatif::HumanCount;

use super::compressed;
use super::index::Location;
use crate::images::unsupported;

/// Names besides those with a leading dot that systems give to what is theirs.
const SYSTEM_NAMES: [&str; 8] = [
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "Thumbs.db",
    "desktop.ini",
];
/// Longest ending that is counted by itself.
const LONGEST_ENDING: usize = 12;
/// Most endings that are counted by themselves.
const MOST_ENDINGS: usize = 1000;
/// Endings named after the number of ignored files.
const NAMED_ENDINGS: usize = 3;
/// Files of an ending whose content may be looked at.
const SUSPECTS: usize = 3;
/// Endings before which another one counts, as in `tar.gz`.
const OUTER_ENDINGS: [&str; 4] = ["gz", "bz2", "xz", "zst"];

/// Whether a file or folder is hidden by its name, or is a system's own.
pub(super) fn is_hidden(name: &str) -> bool {
    (name.starts_with('.') && name != "." && name != "..")
        || SYSTEM_NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether a path has a hidden component, `/` between them.
pub(super) fn is_below_hidden(path: &str) -> bool {
    path.split('/').any(is_hidden)
}

/// How many there were of something, and the first of them.
#[derive(Clone, Debug, Default)]
struct Seen {
    count: u64,
    first: String,
}

impl Seen {
    fn add(&mut self, name: &str) {
        if self.count == 0 {
            name.clone_into(&mut self.first);
        }
        self.count += 1;
    }

    /// `1 hidden file … (a)`, `3 hidden files … (a, …)`, or nothing if there were none.
    fn line(&self, what: &str, then: &str) -> Option<String> {
        let Self { count, first } = self;
        match count {
            0 => None,
            1 => Some(format!("1 {what}{then} ({first})")),
            _ => Some(format!("{} {what}s{then} ({first}, …)", HumanCount(*count))),
        }
    }
}

/// A file that might be an image in spite of its name.
#[derive(Clone, Debug)]
pub(super) struct Suspect {
    pub path: String,
    pub location: Location,
    /// Its size, where listing gives it.
    pub bytes: Option<u64>,
}

/// Files of one ending.
#[derive(Clone, Debug, Default)]
struct Ending {
    files: u64,
    /// The name of the first.
    first: String,
    /// The first few, to look at their content.
    suspects: Vec<Suspect>,
}

/// What listing has passed over.
#[derive(Clone, Debug, Default)]
pub(super) struct PassedOver {
    hidden_files: Seen,
    hidden_folders: Seen,
    links: Seen,
    broken: Seen,
    endings: BTreeMap<String, Ending>,
    files: u64,
}

impl PassedOver {
    /// Counts a hidden file.
    pub fn hidden(&mut self, path: &str) {
        self.hidden_files.add(file_name(path));
    }

    /// Counts a hidden folder.
    pub fn hidden_folder(&mut self, path: &str) {
        self.hidden_folders.add(path);
    }

    /// Counts a link of an archive that is named like an image.
    pub fn link(&mut self, path: &str) {
        self.links.add(path);
    }

    /// Counts what cannot be looked at.
    pub fn broken(&mut self, path: &str) {
        self.broken.add(path);
    }

    /// Counts a file that is no image by its name, and whose content is not looked at.
    pub fn other(&mut self, path: &str) {
        self.count(path);
    }

    /// Counts a file that is no image by its name, but may be one by its content.
    pub fn suspect(&mut self, path: &str, location: Location, bytes: Option<u64>) {
        let ending = self.count(path);
        if ending.suspects.len() < SUSPECTS {
            ending.suspects.push(Suspect { path: path.to_owned(), location, bytes });
        }
    }

    fn count(&mut self, path: &str) -> &mut Ending {
        self.files += 1;
        let mut key = ending_of(path);
        if self.endings.len() >= MOST_ENDINGS && !self.endings.contains_key(&key) {
            key.clear();
        }
        let ending = self.endings.entry(key).or_default();
        if ending.files == 0 {
            file_name(path).clone_into(&mut ending.first);
        }
        ending.files += 1;
        ending
    }

    /// How many files are no images by their name.
    pub fn files(&self) -> u64 {
        self.files
    }

    /// The endings of most of these files: `3,000 heic, 4 txt and others`.
    pub fn endings(&self) -> String {
        let sorted = self.sorted();
        let named = sorted.iter().take(NAMED_ENDINGS).map(|(ending, of)| {
            let ending = if ending.is_empty() { "without an ending" } else { ending };
            format!("{} {ending}", HumanCount(of.files))
        });
        let mut text = named.collect::<Vec<_>>().join(", ");
        if sorted.len() > NAMED_ENDINGS {
            text.push_str(" and others");
        }
        text
    }

    /// The endings, the most frequent first.
    fn sorted(&self) -> Vec<(&str, &Ending)> {
        let mut sorted: Vec<(&str, &Ending)> =
            self.endings.iter().map(|(name, ending)| (&**name, ending)).collect();
        sorted.sort_by_key(|(_, ending)| std::cmp::Reverse(ending.files));
        sorted
    }

    /// What the user should know, a line each. `is_image` looks at the content of a file, and gives
    /// the ending that it should have if it is an image.
    pub fn notices(&self, is_image: impl Fn(&Suspect) -> Option<&'static str>) -> Vec<String> {
        let mut lines = self.uncounted();
        for (name, ending) in self.sorted() {
            let advice = advice(name, ending).map(|advice| format!(" ignored: {advice}"));
            let Some(advice) = advice.or_else(|| misnamed(ending, &is_image)) else { continue };
            lines.push(format!("{}{advice}", files_of(name, ending)));
        }
        lines
    }

    /// What there was instead of images: `, but 3 files ending in HEIC: convert them (…)`.
    pub fn instead_of_images(&self, is_image: impl Fn(&Suspect) -> Option<&'static str>) -> String {
        let mut seen = Vec::new();
        let mut rest = Vec::new();
        for (name, ending) in self.sorted() {
            let advice = advice(name, ending).map(|advice| format!(": {advice}"));
            match advice.or_else(|| misnamed(ending, &is_image)) {
                Some(advice) => seen.push(format!("{}{advice}", files_of(name, ending))),
                None if rest.len() < NAMED_ENDINGS => rest.push(files_of(name, ending)),
                None => {}
            }
        }
        seen.append(&mut rest);
        seen.extend(self.uncounted());
        if seen.is_empty() { String::new() } else { format!(", but {}", seen.join("; ")) }
    }

    /// Lines on what is not among the files counted by their endings.
    fn uncounted(&self) -> Vec<String> {
        let lines = [
            self.hidden_files.line("hidden file", " skipped"),
            self.hidden_folders.line("hidden folder", " skipped"),
            self.links.line("link", " skipped"),
            self.broken.line("path", " cannot be opened"),
        ];
        lines.into_iter().flatten().collect()
    }
}

/// `3 files ending in HEIC`.
fn files_of(name: &str, ending: &Ending) -> String {
    let files = match ending.files {
        1 => "1 file".to_owned(),
        count => format!("{} files", HumanCount(count)),
    };
    match name {
        "" => format!("{files} without a known ending"),
        name if unsupported::by_ending(name).is_some() => {
            format!("{files} ending in {}", name.to_ascii_uppercase())
        }
        name => format!("{files} ending in {name}"),
    }
}

/// What to do with files of this ending, where they hold images all the same.
fn advice(name: &str, ending: &Ending) -> Option<String> {
    let them = if ending.files == 1 { "it" } else { "them" };
    if let Some(kind) = unsupported::by_ending(name) {
        return Some(kind.advice(them));
    }
    if matches!(name, "tar" | "zip" | "parquet") {
        return Some(format!("give {them} alone to read {them}"));
    }
    let mut advice = compressed::by_name(&ending.first)?;
    if ending.files > 1 {
        let _ = write!(advice, "; likewise the others");
    }
    Some(advice)
}

/// What to do with files that are images by their content.
fn misnamed(
    ending: &Ending,
    is_image: impl Fn(&Suspect) -> Option<&'static str>,
) -> Option<String> {
    let mut suspects = ending.suspects.iter();
    let (right, image) =
        suspects.find_map(|file| Some((is_image(file)?, file_name(&file.path))))?;
    Some(format!(
        ", of which {image} is an image by its content: give such files the ending .{right}, or \
         list their paths in a text file"
    ))
}

/// The last component of a path.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A path's ending in lower case, empty if it has none that could be one.
fn ending_of(path: &str) -> String {
    let Some((stem, ending)) = file_name(path).rsplit_once('.') else { return String::new() };
    let ending = ending.to_ascii_lowercase();
    let ending = match stem.rsplit_once('.') {
        Some((_, inner)) if OUTER_ENDINGS.contains(&&*ending) => {
            format!("{}.{ending}", inner.to_ascii_lowercase())
        }
        _ => ending,
    };
    let is_ending = ending.len() <= LONGEST_ENDING
        && ending.bytes().any(|byte| byte.is_ascii_alphabetic())
        && ending.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    if is_ending || compressed::by_name(path).is_some() { ending } else { String::new() }
}
