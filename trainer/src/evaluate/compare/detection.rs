//! The average precision of detectors that `scripts/finetune_detection.py` trained from the arms.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::refuse;
use crate::{Error, Result};

/// The columns of a table, in the order of COCO's own.
const COLUMNS: [&str; 3] = ["AP", "AP50", "AP75"];

/// COCO's results, by kind (`bbox`, `segm`, `keypoints`) and name, from 0 to 1.
type Kinds = BTreeMap<String, BTreeMap<String, f64>>;

/// A column of AP: its title, and the mean of each arm over the files given for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Precision {
    /// Such as `AP50`, or `AP50 of segm`.
    pub title: String,
    /// From 0 to 1; `None` for an arm without results.
    pub arms: Vec<Option<f64>>,
}

/// Reads `NAME=results.json` options.
///
/// # Errors
/// If NAME is no arm or a file has no AP.
pub(super) fn read(texts: &[String], arms: &[&str]) -> Result<Vec<Precision>> {
    let mut files: Vec<Vec<Kinds>> = vec![Vec::new(); arms.len()];
    for text in texts {
        let Some((name, path)) = text.split_once('=') else {
            return refuse("detection", format!("{text:?} is not NAME=results.json"));
        };
        match arms.iter().position(|arm| *arm == name.trim()) {
            Some(arm) => files[arm].push(read_file(&PathBuf::from(path))?),
            None => refuse("detection", format!("{name} is none of the arms {}", arms.join(", ")))?,
        }
    }
    let mut kinds: Vec<&String> = files.iter().flatten().flat_map(BTreeMap::keys).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let column = |kind: &String, name: &str| {
        // COCO says −1 where there is nothing to be found.
        let of_arm = |files: &Vec<Kinds>| {
            let values = files.iter().filter_map(|kinds| kinds.get(kind)?.get(name).copied());
            mean(values.filter(|value| *value >= 0.0))
        };
        let title = if kind == "bbox" { name.to_owned() } else { format!("{name} of {kind}") };
        Precision { title, arms: files.iter().map(of_arm).collect() }
    };
    Ok(kinds.iter().flat_map(|kind| COLUMNS.map(|name| column(kind, name))).collect())
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / f64::from(count))
}

fn read_file(path: &Path) -> Result<Kinds> {
    let text = fs::read(path).map_err(Error::io(path))?;
    let found: Option<Kinds> = serde_json::from_slice(&text).ok();
    found.filter(|kinds| kinds.values().any(|kind| kind.contains_key("AP"))).ok_or_else(|| {
        Error::dataset(path, "no results.json of scripts/finetune_detection.py: it has no AP")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_is_the_mean_over_an_arms_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).unwrap();
            format!("{}={}", &name[..1], folder.path().join(name).display())
        };
        let texts = [
            file("a1", r#"{"bbox": {"AP": 0.25, "AP50": 0.5, "AP75": -1.0}}"#),
            file("a2", r#"{"bbox": {"AP": 0.75, "AP50": 0.5, "AP75": -1.0}}"#),
            file("b", r#"{"bbox": {"AP": 0.5, "AP50": 0.5, "AP75": 0.0}, "segm": {"AP": 0.1}}"#),
        ];
        let found = read(&texts, &["b", "random", "a"]).unwrap();
        let [ap, _, ap75, segm, ..] = &found[..] else { panic!("six columns") };
        assert_eq!((&*ap.title, &ap.arms[..]), ("AP", &[Some(0.5), None, Some(0.5)][..]));
        assert_eq!(ap75.arms, [Some(0.0), None, None]);
        assert_eq!((&*segm.title, segm.arms[0]), ("AP of segm", Some(0.1)));

        let refused = |text: String| read(&[text], &["a"]).unwrap_err().to_string();
        assert!(refused("c=x".into()).contains("--detection: c is none of the arms a"));
        assert!(refused(file("a3", r#"{"top1": 0.5}"#)).contains("it has no AP"));
        assert!(refused("a".into()).contains("is not NAME=results.json"));
    }
}
