//! The backbones that are compared.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::refuse;
use crate::evaluate::BackboneSource;
use crate::model::Arch;
use crate::weights::{Weights, weights_file};
use crate::{Error, Result};

/// Arms that a page tells apart by color.
const MOST_ARMS: usize = 8;

/// The word for random weights.
const RANDOM: &str = "random";

/// A backbone with a name. Several runs that differ by their seed are one arm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// The name in tables and sentences.
    pub name: String,
    /// The weights of each run.
    pub runs: Vec<BackboneSource>,
}

/// What is given as an arm, before random weights have an architecture.
enum Place {
    Random,
    File(PathBuf),
}

/// Parses `--arm` options, `NAME=WHERE` or `WHERE`; those of the same name are runs of one arm.
/// Random weights have `arch`, or else that of the first other arm, and the seeds from `seed` on.
///
/// # Errors
/// [`Error::Option`] for fewer than two or too many arms; if a run folder has no weights.
pub(super) fn parse(texts: &[String], arch: Option<Arch>, seed: u64) -> Result<Vec<Arm>> {
    let mut arms: Vec<(String, Vec<Place>)> = Vec::new();
    for text in texts {
        let (name, place) = split(text)?;
        let place = match place {
            RANDOM => Place::Random,
            path => {
                let file = weights_file(Path::new(path))?;
                fs::metadata(&file).map_err(Error::io(&file))?;
                Place::File(file)
            }
        };
        match arms.iter_mut().find(|(other, _)| *other == name) {
            Some((_, places)) => places.push(place),
            None => arms.push((name, vec![place])),
        }
    }
    match arms.len() {
        0 | 1 => refuse("arm", "give at least two, such as --arm random --arm mine=run/")?,
        2..=MOST_ARMS => {}
        count => refuse("arm", format!("{count} are too many to tell apart; at most {MOST_ARMS}"))?,
    }
    let places = || arms.iter().flat_map(|(_, places)| places);
    let first_file = places().find_map(|place| match place {
        Place::Random => None,
        Place::File(path) => Some(path),
    });
    let arch = match (arch, first_file) {
        (Some(arch), _) => arch,
        (None, Some(path)) if places().any(|place| matches!(place, Place::Random)) => {
            Weights::read(path)?.backbone(None)?.0
        }
        (None, _) => Arch::Resnet50,
    };
    let source = |(number, place)| match place {
        Place::Random => BackboneSource::Random(arch, seed + number),
        Place::File(path) => BackboneSource::File(path, None),
    };
    let arm = |(name, places): (String, Vec<Place>)| Arm {
        name,
        runs: (0..).zip(places).map(source).collect(),
    };
    Ok(arms.into_iter().map(arm).collect())
}

/// The name and the place. A place without a name is its own name, also if it is a path with `=`.
fn split(text: &str) -> Result<(String, &str)> {
    match text.split_once('=') {
        Some((name, place)) if !Path::new(text).exists() => {
            if name.trim().is_empty() || place.is_empty() {
                refuse(
                    "arm",
                    format!("{text:?} is not NAME=WHERE; WHERE is random, a file or a run"),
                )?;
            }
            Ok((name.trim().to_owned(), place))
        }
        _ => Ok((text.trim_end_matches('/').to_owned(), text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(texts: &[&str]) -> Result<Vec<Arm>> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        parse(&texts, Some(Arch::Resnet18), 5)
    }

    #[test]
    fn arms_are_files_runs_and_random_weights() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str| {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), "").unwrap();
        };
        for name in ["a=b.pth", "done/backbone.safetensors"] {
            write(name);
        }
        for step in ["00000008", "00000120"] {
            write(&format!("done/checkpoints/step-{step}.safetensors"));
            write(&format!("begun/checkpoints/step-{step}.safetensors"));
        }
        let odd = path("a=b.pth").display().to_string();
        let arm = |name: &str, place: &str| format!("{name}={}", path(place).display());
        let texts = [
            "random",
            &odd,
            &arm("mine", "done"),
            &arm("mine", "begun"),
            "again=random",
            "again=random",
        ];
        let arms = parsed(&texts).unwrap();
        let file = |name| BackboneSource::File(path(name), None);
        let random = |seed| BackboneSource::Random(Arch::Resnet18, seed);
        let newest = file("begun/checkpoints/step-00000120.safetensors");
        let expected = [
            ("random", vec![random(5)]),
            (&*odd, vec![file("a=b.pth")]),
            ("mine", vec![file("done/backbone.safetensors"), newest]),
            ("again", vec![random(5), random(6)]),
        ];
        let found: Vec<_> = arms.iter().map(|arm| (&*arm.name, arm.runs.clone())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn unusable_arms_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let empty = format!("mine={}", folder.path().display());
        for (texts, words) in [
            (vec!["random"], "--arm: give at least two"),
            (vec!["random", "mine="], "is not NAME=WHERE"),
            (vec!["random", "mine=gone.pth"], "gone.pth: No such file"),
            (vec!["random", &empty], "name a file of weights"),
            (
                vec![
                    "1=random", "2=random", "3=random", "4=random", "5=random", "6=random",
                    "7=random", "8=random", "9=random",
                ],
                "at most 8",
            ),
        ] {
            let message = parsed(&texts).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
