//! Folders and archives that are the splits of a data set, such as `train` and `val`, and no
//! classes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::classes::Classes;

/// Words for a split; those for training come first.
const SPLITS: [&str; 19] = [
    "train",
    "training",
    "trainset",
    "trainval",
    "val",
    "valid",
    "validation",
    "valset",
    "dev",
    "test",
    "testing",
    "testset",
    "testdev",
    "minival",
    "holdout",
    "eval",
    "evaluation",
    "unlabeled",
    "unlabelled",
];
/// Words that may follow.
const FOLLOWING: [&str; 14] = [
    "image", "images", "img", "imgs", "photo", "photos", "set", "data", "dataset", "split", "of",
    "tar", "zip", "parquet",
];
/// Folders below a single class that are remembered.
const MOST_FOLDERS: usize = 64;

/// The folders below the first ones, as long as all images have the same class.
#[derive(Debug, Default)]
pub(super) struct Folders {
    below: BTreeSet<String>,
    unclassed: bool,
}

impl Folders {
    /// Notes the folder below that of the class in a path.
    pub fn note(&mut self, path: &str, class: Option<&str>) {
        let Some(class) = class else {
            self.unclassed = true;
            return;
        };
        let mut folders = path.rsplit_once('/').map_or("", |(folders, _)| folders).split('/');
        let below = folders.by_ref().find(|folder| *folder == class).and(folders.next());
        // Images directly in the folder of the class stand for no further folder.
        let below = below.unwrap_or("");
        if self.below.len() < MOST_FOLDERS && !self.below.contains(below) {
            self.below.insert(below.to_owned());
        }
    }

    /// What the user should know of images whose classes are folders, if anything. `files` are the
    /// archives or tables they are in.
    pub fn notice(&self, images: &Path, files: &[PathBuf], classes: &Classes) -> Option<String> {
        let names: Vec<&str> = classes.names().collect();
        if let Some(splits) = Splits::of(&names) {
            return Some(splits.notice(images, files, ""));
        }
        let mut in_files: Vec<&str> =
            files.iter().filter_map(|file| word(file.file_name()?.to_str()?)).collect();
        in_files.sort_unstable();
        in_files.dedup();
        if in_files.len() > 1
            && files
                .iter()
                .all(|file| word(&file.file_name().unwrap_or_default().to_string_lossy()).is_some())
            && let Some(splits) = Splits::of(&in_files)
        {
            let (taken, left) = (splits.taken, splits.left());
            return Some(format!(
                "files of {} are read together: give a folder of the {taken} files alone to \
                 leave {left} out",
                splits.all()
            ));
        }
        let [only] = names[..] else { return None };
        if self.unclassed || self.below.contains("") {
            return None;
        }
        let below: Vec<&str> = self.below.iter().map(String::as_str).collect();
        match Splits::of(&below) {
            Some(splits) => Some(splits.notice(images, files, only)),
            None if below.len() > 1 => Some(format!(
                "all images are in one class, {only}: to have the folders below it as classes, {}",
                give(images, files, only)
            )),
            None => None,
        }
    }
}

/// Folders that are all splits.
struct Splits<'a> {
    names: Vec<&'a str>,
    /// The one for training, or else the first.
    taken: &'a str,
}

impl<'a> Splits<'a> {
    fn of(names: &[&'a str]) -> Option<Self> {
        let ranks: Option<Vec<usize>> = names.iter().map(|name| rank(name)).collect();
        let (_, taken) = ranks?.into_iter().zip(names).min()?;
        let mut names = names.to_vec();
        names.sort_by_key(|name| (name != taken, *name));
        Some(Self { names, taken })
    }

    fn all(&self) -> String {
        and(&self.names)
    }

    fn left(&self) -> String {
        and(&self.names[1..])
    }

    fn notice(&self, images: &Path, files: &[PathBuf], above: &str) -> String {
        let Self { taken, names } = self;
        let folder =
            if above.is_empty() { (*taken).to_owned() } else { format!("{above}/{taken}") };
        let how = give(images, files, &folder);
        match names.len() {
            1 => format!(
                "{taken} looks like a split, not a class: to have the folders below it as classes, \
                 {how}, or --classes none"
            ),
            _ => format!(
                "{} look like splits, not classes: to leave {} out, {how}, or to keep all, \
                 --classes none",
                self.all(),
                self.left()
            ),
        }
    }
}

/// How to give one folder of the images alone.
fn give(images: &Path, files: &[PathBuf], folder: &str) -> String {
    match files {
        [] => format!("use scrl-prep {} SHARDS", images.join(folder).display()),
        [file, ..] => {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let command = match file.extension().is_some_and(|it| it.eq_ignore_ascii_case("zip")) {
                true => format!("unzip {name} '{folder}/*'"),
                false => format!("tar -xf {name} {folder}"),
            };
            format!("unpack it ({command}) and give that folder")
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
fn and(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// The split that a name begins with, such as `train` of `train-00001.tar`.
fn word(name: &str) -> Option<&str> {
    let end = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
    rank(&name[..end]).map(|_| &name[..end])
}

/// The place of a folder's name among the splits, if it is that of one.
fn rank(name: &str) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let mut words = lower.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    let place = |word: &str| SPLITS.iter().position(|split| *split == word);
    let first = place(words.next()?)?;
    words.all(|word| place(word).is_some() || FOLLOWING.contains(&word)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_splits_are_known_in_every_spelling() {
        for name in
            ["train", "Train", "TRAINING", "train2017", "val_images", "test-dev2017", "Validation"]
        {
            assert!(rank(name).is_some(), "{name}");
        }
        for name in ["trains", "test tubes", "training shoes", "valley", "images", "2017", ""] {
            assert_eq!(rank(name), None, "{name}");
        }
        assert!(rank("trainval") < rank("val2017"));
        assert_eq!(word("validation-00000-of-00002.parquet"), Some("validation"));
        assert_eq!(word("trainer.tar"), None);
        assert_eq!(and(&["a", "b", "c"]), "a, b and c");
    }
}
