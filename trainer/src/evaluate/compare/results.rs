//! The results of a comparison: `results.json`, `compare.html`, and the table on the screen.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::bootstrap::RESAMPLES;
use super::detection::Precision;
use super::page;
use super::summary::{
    Accuracy, ClassSummary, Difference, Measure, Summary, pairs, sentence, signed,
};
use crate::Result;
use crate::evaluate::LinearLayerConfig;
use crate::model::Arch;

/// The content of `results.json`. Accuracies and differences are fractions from 0 to 1.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// `compare`.
    pub protocol: &'static str,
    /// A sentence for each measure and each arm but the first; those of the first measure first.
    pub sentences: Vec<String>,
    /// What makes the numbers doubtful.
    pub warnings: Vec<String>,
    /// The arms, as given.
    pub arms: Vec<ArmResults>,
    /// What was measured, the first measure first.
    pub measures: Vec<Measure>,
    /// Each arm against each earlier one, by each measure.
    pub differences: Vec<ArmDifference>,
    /// Each class by the first measure.
    pub classes: Vec<ClassSummary>,
    /// What was measured on.
    pub setup: Setup,
}

/// What a comparison was made of.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    /// Training boxes.
    pub train_boxes: usize,
    /// Their images.
    pub train_images: usize,
    /// Validation boxes.
    pub val_boxes: usize,
    /// Their images.
    pub val_images: usize,
    /// Neighbors of the k-NN.
    pub k: usize,
    /// Seeds of the linear layer and of the labels it gets.
    pub seeds: Vec<u64>,
    /// Draws of the bootstrap.
    pub resamples: u64,
    /// Side of the backbone's inputs in pixels.
    pub size: u32,
    /// What computed: `cpu` or `cuda:N`.
    pub device: String,
    /// The number format of the feature maps.
    pub precision: crate::train::Precision,
    /// The linear layer's training on all labels.
    #[serde(rename = "probe")]
    pub linear_layer: LinearLayerConfig,
}

/// The results of an arm.
#[derive(Clone, Debug, Serialize)]
pub struct ArmResults {
    /// Its name.
    pub name: String,
    /// The file of the weights of each run, or `random`.
    pub checkpoints: Vec<String>,
    /// Its architecture.
    pub arch: Arch,
    /// In the order of the measures.
    pub results: Vec<Accuracy>,
    /// AP of detectors; in the order of the columns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detection: Vec<(String, Option<f64>)>,
}

/// A difference of two arms by a measure.
#[derive(Clone, Debug, Serialize)]
pub struct ArmDifference {
    /// The later arm.
    pub arm: String,
    /// The earlier one.
    pub against: String,
    /// The measure's name.
    pub measure: String,
    /// The difference.
    #[serde(flatten)]
    pub difference: Difference,
}

/// The arms' names, weights, and architectures.
pub(super) type Named = Vec<(String, Vec<String>, Arch)>;

impl Comparison {
    pub(super) fn new(
        arms: Named,
        measures: Vec<Measure>,
        summary: Summary,
        detection: &[Precision],
        warnings: Vec<String>,
        setup: Setup,
    ) -> Self {
        let names: Vec<String> = arms.iter().map(|(name, ..)| name.clone()).collect();
        let Summary { accuracies, differences, classes } = summary;
        let pairs = pairs(arms.len());
        let mut sentences = Vec::new();
        for (measure, of_pairs) in measures.iter().zip(&differences) {
            for arm in 1..names.len() {
                let of_arm = pairs.iter().zip(of_pairs).filter(|([of, _], _)| *of == arm);
                let against: Vec<(&str, &Difference)> =
                    of_arm.map(|([_, other], it)| (&*names[*other], it)).collect();
                sentences.push(sentence(&measure.words, &names[arm], &against));
            }
        }
        let arm = |(number, (name, checkpoints, arch)): (usize, (String, Vec<String>, Arch))| {
            ArmResults {
                name,
                checkpoints,
                arch,
                results: accuracies
                    .iter()
                    .map(|of_arms: &Vec<Accuracy>| of_arms[number].clone())
                    .collect(),
                detection: detection.iter().map(|ap| (ap.title.clone(), ap.arms[number])).collect(),
            }
        };
        let differences = measures.iter().zip(differences).flat_map(|(measure, of_pairs)| {
            let pair = |([arm, against], difference): (&[usize; 2], _)| ArmDifference {
                arm: names[*arm].clone(),
                against: names[*against].clone(),
                measure: measure.name.clone(),
                difference,
            };
            pairs.iter().zip(of_pairs).map(pair).collect::<Vec<_>>()
        });
        Self {
            protocol: "compare",
            sentences,
            warnings,
            differences: differences.collect(),
            arms: arms.into_iter().enumerate().map(arm).collect(),
            measures,
            classes,
            setup,
        }
    }

    /// The sentences about the first measure.
    pub fn headline(&self) -> &[String] {
        &self.sentences[..self.arms.len() - 1]
    }

    /// Writes `results.json` and `compare.html`; returns their paths.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, out: &Path) -> Result<[PathBuf; 2]> {
        let (json, html) = (out.join("results.json"), out.join("compare.html"));
        let text = serde_json::to_string(self).expect("plain values");
        scrl_schemas::store::write(&json, format!("{text}\n").as_bytes())?;
        scrl_schemas::store::write(&html, page::html(self).as_bytes())?;
        Ok([json, html])
    }

    /// The tables and sentences for the screen.
    pub fn table(&self) -> String {
        let mut head = vec!["top-1 in %, ± over seeds".to_owned()];
        head.extend(self.measures.iter().map(|measure| measure.name.clone()));
        let detection = &self.arms[0].detection;
        head.extend(detection.iter().map(|(title, _)| title.clone()));
        let row = |arm: &ArmResults| {
            let accuracies = arm.results.iter().map(accuracy);
            let detection = arm.detection.iter().map(|(_, value)| percent(*value));
            [arm.name.clone()].into_iter().chain(accuracies).chain(detection).collect()
        };
        let top = aligned([head].into_iter().chain(self.arms.iter().map(row)).collect());

        let mut head = vec!["difference in points (95 %)".to_owned()];
        head.extend(self.measures.iter().map(|measure| measure.name.clone()));
        let count = pairs(self.arms.len()).len();
        let row = |pair: usize| {
            let of_pair = self.differences.iter().skip(pair).step_by(count);
            let ArmDifference { arm, against, .. } = &self.differences[pair];
            let cell = |it: &ArmDifference| {
                let mark = if it.difference.decided { " *" } else { "  " };
                short(&it.difference) + mark
            };
            [format!("{arm} − {against}")].into_iter().chain(of_pair.map(cell)).collect()
        };
        let bottom = aligned([head].into_iter().chain((0..count).map(row)).collect());
        let note = "* hardly chance: 0 lies outside the interval, and all seeds agree in the sign";
        format!(
            "{top}\n\n{bottom}\n{note} ({RESAMPLES} draws of images)\n\n{}",
            self.headline().join("\n")
        )
    }
}

/// Such as `29.6 ± 0.9`.
pub(super) fn accuracy(of: &Accuracy) -> String {
    let top1 = percent(Some(of.top1));
    of.std.map_or(top1.clone(), |std| format!("{top1} ± {:.1}", 100.0 * std))
}

/// Such as `29.6`, or a dash.
pub(super) fn percent(fraction: Option<f64>) -> String {
    fraction.map_or("–".to_owned(), |value| format!("{:.1}", 100.0 * value))
}

/// Such as `+9.3 (+8.1 to +10.5)`.
pub(super) fn short(of: &Difference) -> String {
    let interval = of.interval.map(|[low, high]| format!(" ({} to {})", signed(low), signed(high)));
    signed(of.difference) + &interval.unwrap_or_default()
}

/// Rows with columns of equal width, the first one flush left.
fn aligned(rows: Vec<Vec<String>>) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(column, text): (usize, &String)| match column {
            0 => format!("{text:<0$}", widths[0]),
            _ => format!("  {text:>0$}", widths[column]),
        };
        row.iter().enumerate().map(cell).collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
