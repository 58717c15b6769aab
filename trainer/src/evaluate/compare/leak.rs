//! Validation images that a backbone was pretrained on, or that the linear layer learns from: the
//! same files, byte for byte, under whatever names.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};
use std::{fs, iter};

use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_preprocess::sources::SourceReader;
use scrl_schemas::{Manifest, ShardPaths, SourcesReader, store};
use serde::Deserialize;

use crate::evaluate::annotations::AnnotatedImage;

/// Runs that may begin with the weights of one another; a circle ends here.
const MOST_RUNS: usize = 16;

/// An image that is elsewhere as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// The validation image.
    pub image: PathBuf,
    /// Its copy.
    pub other: PathBuf,
}

/// Results that are an obstacle in a line.
type Checked<T> = std::result::Result<T, String>;

/// The validation images that are training images of the same evaluation.
pub(super) fn in_training(
    val: &[AnnotatedImage],
    train: &[AnnotatedImage],
    reporter: &Reporter,
) -> Checked<Vec<Copy>> {
    let others = train.iter().map(|image| (image.path.clone(), image.bytes)).collect();
    copies(val, others, |_, path| read(path), reporter)
}

/// The validation images that the weights in `file` were pretrained on, in the run of `scrl-train`
/// that the file belongs to and in those that it was initialized from. `None` for a file of no run.
/// `images` takes the place of folders of images that are no longer where they were.
///
/// # Errors
/// The reason why it is not known, if the shards or the images are not there.
pub(super) fn in_pretraining(
    val: &[AnnotatedImage],
    file: &Path,
    images: Option<&Path>,
    reporter: &Reporter,
) -> Checked<Option<Vec<Copy>>> {
    let Some(first) = Run::of(file)? else { return Ok(None) };
    let before =
        |run: &Run| run.init.as_ref().and_then(|init| Run::of(&run.find(init)).transpose());
    let runs = iter::successors(Some(Ok(first)), |run| before(run.as_ref().ok()?));
    let mut found: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for run in runs.take(MOST_RUNS) {
        let copies = run?.copies(val, images, reporter)?;
        found.extend(copies.into_iter().map(|copy| (copy.image, copy.other)));
    }
    Ok(Some(found.into_iter().map(|(image, other)| Copy { image, other }).collect()))
}

/// What the `config.toml` of a run says about its images.
#[derive(Deserialize)]
struct Config {
    shards: PathBuf,
    out: PathBuf,
    images: PathBuf,
    init: Option<PathBuf>,
}

/// A run of `scrl-train`.
struct Run {
    /// Where it was started, as far as its paths tell.
    base: PathBuf,
    shards: PathBuf,
    images: PathBuf,
    init: Option<PathBuf>,
}

impl Run {
    /// The run whose folder or whose `checkpoints` folder is or holds `file`.
    fn of(file: &Path) -> Checked<Option<Self>> {
        let Ok(file) = file.canonicalize() else { return Ok(None) };
        let folders = file.ancestors().skip(usize::from(!file.is_dir())).take(2);
        let Some(folder) = folders.into_iter().find(|folder| folder.join("config.toml").is_file())
        else {
            return Ok(None);
        };
        let path = folder.join("config.toml");
        let named = |reason: String| format!("{}: {reason}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| named(error.to_string()))?;
        // Another program's config.toml says nothing about images.
        let Ok(config) = toml::from_str::<Config>(&text) else { return Ok(None) };
        let Config { shards, out, images, init } = config;
        let base = start_of(folder, &out).unwrap_or_default();
        Ok(Some(Self { base, shards, images, init }))
    }

    /// A path of the run's options: relative to where it was started, or else to here.
    fn find(&self, path: &Path) -> PathBuf {
        let joined = self.base.join(path);
        if store::is_url(path) || !joined.exists() { path.to_owned() } else { joined }
    }

    fn copies(
        &self,
        val: &[AnnotatedImage],
        images: Option<&Path>,
        reporter: &Reporter,
    ) -> Checked<Vec<Copy>> {
        let text = |error: scrl_schemas::Error| error.to_string();
        let paths = ShardPaths::new(self.find(&self.shards));
        let options = Manifest::read(&paths.manifest()).map_err(text)?.options.sources;
        let recorded = self.find(&self.images);
        let there = store::is_url(&recorded) || recorded.exists();
        let images = images.filter(|_| !there).map_or(recorded, Path::to_owned);
        let used = SourcesReader::open(&paths.sources()).map_err(text)?;
        let others = used
            .map(|source| source.map(|source| (PathBuf::from(source.path), source.bytes as u64)))
            .collect::<std::result::Result<_, _>>()
            .map_err(text)?;
        let reader = SourceReader::open(&images, &options).map_err(|error| error.to_string())?;
        let read = |number, path: &Path| {
            let content = reader.read(number as i64, &path.to_string_lossy());
            content.map_err(|reason| format!("{}: {reason}", images.join(path).display()))
        };
        copies(val, others, read, reporter)
    }
}

/// The folder in which a run was started that wrote into `folder` as its `out`.
fn start_of(folder: &Path, out: &Path) -> Option<PathBuf> {
    let names: PathBuf = out.components().filter(|part| *part != Component::CurDir).collect();
    let relative = names.components().all(|part| matches!(part, Component::Normal(_)));
    (relative && folder.ends_with(&names))
        .then(|| folder.ancestors().nth(names.components().count()).map(Path::to_owned))?
}

fn read(path: &Path) -> Checked<Vec<u8>> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The images of which one of `others`, given by path and size, is a copy. Only those of the same
/// size are read. After a stop it ends early, with an error.
fn copies(
    images: &[AnnotatedImage],
    others: Vec<(PathBuf, u64)>,
    read_other: impl Fn(usize, &Path) -> Checked<Vec<u8>> + Sync,
    reporter: &Reporter,
) -> Checked<Vec<Copy>> {
    let mut sizes: HashMap<u64, Vec<&Path>> = HashMap::new();
    for image in images {
        sizes.entry(image.bytes).or_default().push(&image.path);
    }
    let candidates: Vec<(usize, PathBuf, u64)> = others
        .into_iter()
        .enumerate()
        .filter(|(_, (_, bytes))| sizes.contains_key(bytes))
        .map(|(number, (path, bytes))| (number, path, bytes))
        .collect();
    let wanted: Vec<&Path> = {
        let mut bytes: Vec<u64> = candidates.iter().map(|(_, _, bytes)| *bytes).collect();
        bytes.sort_unstable();
        bytes.dedup();
        bytes.iter().flat_map(|bytes| &sizes[bytes]).copied().collect()
    };
    // Checksums decide which contents are compared.
    let sums: Vec<(u32, &Path)> = wanted
        .into_par_iter()
        .map(|path| Ok((crc32c::crc32c(&read(path)?), path)))
        .collect::<Checked<_>>()?;
    let mut by_sum: HashMap<u32, Vec<&Path>> = HashMap::new();
    sums.into_iter().for_each(|(sum, path)| by_sum.entry(sum).or_default().push(path));
    let found: Vec<Vec<Copy>> = candidates
        .into_par_iter()
        .map(|(number, other, _)| {
            reporter.check_stop().map_err(|stopped| stopped.to_string())?;
            let content = read_other(number, &other)?;
            let mut found = Vec::new();
            for &path in by_sum.get(&crc32c::crc32c(&content)).into_iter().flatten() {
                if read(path)? == content {
                    found.push(Copy { image: path.to_owned(), other: other.clone() });
                }
            }
            Ok(found)
        })
        .collect::<Checked<_>>()?;
    // Of several copies the first one is named.
    let mut first: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for Copy { image, other } in found.into_iter().flatten() {
        first.entry(image).or_insert(other);
    }
    Ok(first.into_iter().map(|(image, other)| Copy { image, other }).collect())
}

#[cfg(test)]
mod tests {
    use scrl_preprocess::images::ImageSize;

    use super::*;

    #[test]
    fn copies_are_found_by_content_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let image = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            let size = ImageSize { width: 1, height: 1 };
            AnnotatedImage { path, bytes: content.len() as u64, size, boxes: Vec::new() }
        };
        let val = [image("a", "one"), image("b", "two"), image("c", "one"), image("d", "other")];
        let train = [image("x", "six"), image("y", "one"), image("z", "another one")];
        let reporter = Reporter::silent();
        let copy = |image: &str, other: &str| Copy {
            image: folder.path().join(image),
            other: folder.path().join(other),
        };
        assert_eq!(in_training(&val, &train, &reporter).unwrap(), [copy("a", "y"), copy("c", "y")]);
        assert_eq!(in_training(&val, &train[..1], &reporter).unwrap(), []);
        fs::remove_file(&train[1].path).unwrap();
        assert!(in_training(&val, &train, &reporter).unwrap_err().contains("y: No such file"));
    }

    #[test]
    fn a_run_was_started_where_its_output_folder_is_named_from() {
        let start = |folder: &str, out: &str| start_of(Path::new(folder), Path::new(out));
        assert_eq!(start("/a/runs/x", "runs/x"), Some("/a".into()));
        assert_eq!(start("/a/runs/x", "./runs/x"), Some("/a".into()));
        assert_eq!(start("/a/moved", "runs/x"), None);
        assert_eq!(start("/a/x", "../x"), None);
        assert_eq!(start("/a/x", "/a/x"), None);
    }
}
