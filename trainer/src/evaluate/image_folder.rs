//! Finding the images of an annotation file, whose paths may be those of another machine.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The folder of the images, and what is needed to find those of which the list has other paths.
pub(super) struct ImageFolder<'a> {
    root: &'a Path,
    /// The path of each last part; `None` where several paths end in it.
    by_last_part: HashMap<&'a str, Option<&'a str>>,
}

/// An image that was found.
pub(super) struct Found {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// Whether only the last part of its path led to it.
    pub is_moved: bool,
}

impl<'a> ImageFolder<'a> {
    /// The folder `root` and the paths in the list.
    pub fn new(root: &'a Path, names: impl Iterator<Item = &'a str>) -> Self {
        let mut by_last_part: HashMap<&str, Option<&str>> = HashMap::new();
        for name in names {
            let known = by_last_part.entry(last_part(name)).or_insert(Some(name));
            *known = known.filter(|&known| known == name);
        }
        Self { root, by_last_part }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        self.root
    }

    /// Reads an image by its path in the list; else with the separators of Windows; else, if it
    /// cannot be another one, by the last part of the path.
    pub fn read(&self, name: &str) -> std::result::Result<Found, String> {
        let last = last_part(name);
        let is_moved_to = |last: &str| self.by_last_part.get(last).copied().flatten().is_some();
        let places = [
            Some((self.root.join(name), false)),
            name.contains('\\').then(|| (self.root.join(name.replace('\\', "/")), false)),
            (last != name && is_moved_to(last)).then(|| (self.root.join(last), true)),
        ];
        let mut missing = None;
        for (path, is_moved) in places.into_iter().flatten() {
            match fs::read(&path) {
                Ok(bytes) => return Ok(Found { path, bytes, is_moved }),
                Err(error) => {
                    let is_elsewhere =
                        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
                    let reason = format!("{}: {error}", path.display());
                    if !is_elsewhere {
                        return Err(reason);
                    }
                    missing.get_or_insert(reason);
                }
            }
        }
        Err(missing.expect("the first place is always looked at"))
    }
}

/// What follows the last separator of Linux or Windows.
fn last_part(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}
