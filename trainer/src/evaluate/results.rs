//! What an evaluation found: `results.json` and `confusion.png`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::probe::Probe;
use super::{Confusion, LeftOut, ProbeConfig, Subject};
use crate::Result;
use crate::model::Arch;

/// Everything in `results.json`. Shares are numbers from 0 to 1.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// `roi` or `linear`.
    pub protocol: &'static str,
    /// The file of the weights, or `random`.
    pub checkpoint: String,
    /// The backbone's architecture.
    pub arch: Arch,
    /// The share of validation examples whose class was told.
    pub top1: f64,
    /// The mean over the classes of that share, each class counting the same.
    pub mean_class_accuracy: f64,
    /// The share of right answers in the last epoch on the training examples.
    pub train_top1: f64,
    /// The mean cross-entropy of that epoch.
    pub train_loss: f64,
    /// Boxes or images to train on.
    pub train_examples: usize,
    /// Boxes or images to validate with.
    pub val_examples: usize,
    /// Side of the pictures in pixels.
    pub size: u32,
    /// Pictures that went through the backbone together.
    pub images_per_batch: usize,
    /// The linear layer's training.
    pub probe: ProbeConfig,
    /// What of the training list was not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_left_out: Option<LeftOut>,
    /// What of the validation list was not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_left_out: Option<LeftOut>,
    /// One a class, in the order of the confusion's rows.
    pub classes: Vec<ClassResult>,
    /// `[class][answer]`: how many examples of the class got the answer.
    pub confusion: Vec<Vec<u64>>,
    /// For the drawing.
    #[serde(skip)]
    matrix: Confusion,
}

/// How well a class is told.
#[derive(Clone, Debug, Serialize)]
pub struct ClassResult {
    /// Its name.
    pub name: String,
    /// Training examples.
    pub train: usize,
    /// Validation examples.
    pub val: u64,
    /// The share of these that were told; `None` where there are none.
    pub top1: Option<f64>,
    /// The wrong answer given most often, and how often.
    pub taken_for: Option<(String, u64)>,
}

/// The examples of a side.
pub(super) struct Counted<'a> {
    /// The class of each.
    pub classes: &'a [usize],
    /// What was not used.
    pub left_out: Option<LeftOut>,
}

impl Results {
    pub(super) fn new(
        protocol: &'static str,
        (subject, arch): (&Subject, Arch),
        names: &[String],
        [train, val]: [Counted; 2],
        probe: &Probe,
        matrix: Confusion,
    ) -> Self {
        let mut trained = vec![0; names.len()];
        train.classes.iter().for_each(|&class| trained[class] += 1);
        let classes: Vec<ClassResult> = (0..names.len())
            .map(|class| class_result(names, class, trained[class], &matrix))
            .collect();
        let told: Vec<f64> = classes.iter().filter_map(|class| class.top1).collect();
        Self {
            protocol,
            checkpoint: subject.start.to_string(),
            arch,
            top1: matrix.accuracy(),
            mean_class_accuracy: told.iter().sum::<f64>() / told.len().max(1) as f64,
            train_top1: probe.accuracy,
            train_loss: probe.loss,
            train_examples: train.classes.len(),
            val_examples: val.classes.len(),
            size: subject.size,
            images_per_batch: subject.images_per_batch,
            probe: subject.probe.clone(),
            train_left_out: train.left_out,
            val_left_out: val.left_out,
            classes,
            confusion: (0..matrix.classes()).map(|class| matrix.row(class).to_vec()).collect(),
            matrix,
        }
    }

    /// Writes `results.json` and `confusion.png`; returns their paths.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, out: &Path) -> Result<[PathBuf; 2]> {
        let (json, png) = (out.join("results.json"), out.join("confusion.png"));
        self.matrix.write_png(&png)?;
        let text = serde_json::to_string(self).expect("plain values");
        scrl_schemas::atomic::write(&json, format!("{text}\n").as_bytes())?;
        Ok([json, png])
    }

    /// The table for the screen: a line for each class that was validated, then the whole.
    pub fn table(&self) -> String {
        let width =
            self.classes.iter().map(|class| class.name.chars().count()).max().unwrap_or(0).max(5);
        let mut lines =
            vec![format!("  no  {:width$}  train    val   top-1  most often taken for", "class")];
        for (number, class) in (1..).zip(&self.classes) {
            let Some(top1) = class.top1 else { continue };
            let taken = class.taken_for.as_ref().map(|(name, count)| format!("{name} ({count})"));
            let line = format!(
                "{number:4}  {:width$} {:6} {:6}  {:5.1}%  {}",
                class.name,
                class.train,
                class.val,
                100.0 * top1,
                taken.unwrap_or_default()
            );
            lines.push(line.trim_end().to_owned());
        }
        lines.push(format!(
            "top-1 {:.2} % of {}, mean over classes {:.2} %; on the training examples {:.2} % of {}",
            100.0 * self.top1,
            self.val_examples,
            100.0 * self.mean_class_accuracy,
            100.0 * self.train_top1,
            self.train_examples
        ));
        lines.join("\n")
    }
}

fn class_result(names: &[String], class: usize, train: usize, matrix: &Confusion) -> ClassResult {
    let row = matrix.row(class);
    let val: u64 = row.iter().sum();
    let wrong = (0..row.len()).filter(|&answer| answer != class && row[answer] > 0);
    // The first of equal ones.
    let most = wrong.max_by_key(|&answer| (row[answer], std::cmp::Reverse(answer)));
    ClassResult {
        name: names[class].clone(),
        train,
        val,
        top1: (val > 0).then(|| row[class] as f64 / val as f64),
        taken_for: most.map(|answer| (names[answer].clone(), row[answer])),
    }
}
