//! The results of an evaluation: `results.json`, `confusion.png` and the table on the screen.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::annotations::LeftOut;
use super::confusion::Confusion;
use super::drawing::confusion_png;
use super::linear_layer::{LinearLayer, LinearLayerConfig};
use super::options::EvalConfig;
use crate::model::Arch;
use crate::train::Precision;
use crate::{Error, Result};

/// The content of `results.json`. Accuracies are from 0 to 1.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// `roi`, `linear` or `knn`.
    pub protocol: &'static str,
    /// The file of the weights, or `random`.
    pub checkpoint: String,
    /// The backbone's architecture.
    pub arch: Arch,
    /// Accuracy of the linear layer on the validation examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// Accuracy of the votes of the 20 nearest training examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_k20: Option<f64>,
    /// Accuracy of the votes of the 200 nearest training examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_k200: Option<f64>,
    /// The mean of the classes' accuracies, for `knn` of 20 neighbors like all that follows.
    pub mean_class_accuracy: f64,
    /// Accuracy of the linear layer on the training examples in the last epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_top1: Option<f64>,
    /// The mean cross-entropy of that epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    /// Training boxes or images.
    pub train_examples: usize,
    /// Validation boxes or images.
    pub val_examples: usize,
    /// Side of the backbone's inputs in pixels.
    pub size: u32,
    /// Images in a batch of the backbone.
    pub images_per_batch: usize,
    /// What computed: `cpu` or `cuda:N`.
    pub device: String,
    /// The number format of the feature maps.
    pub precision: Precision,
    /// The linear layer's training.
    #[serde(rename = "probe", skip_serializing_if = "Option::is_none")]
    pub linear_layer: Option<LinearLayerConfig>,
    /// Training boxes and images that were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_left_out: Option<LeftOut>,
    /// Validation boxes and images that were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_left_out: Option<LeftOut>,
    /// In the order of the confusion matrix.
    pub classes: Vec<ClassResult>,
    /// `[class][prediction]`: counts of validation examples.
    pub confusion: Vec<Vec<u64>>,
    /// The same for the drawing.
    #[serde(skip)]
    matrix: Confusion,
}

/// The results of a class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassResult {
    /// Its name.
    pub name: String,
    /// Training examples.
    pub train: usize,
    /// Validation examples.
    pub val: u64,
    /// Accuracy on these; `None` where there are none.
    pub top1: Option<f64>,
    /// The most frequent wrong prediction, and its count.
    pub taken_for: Option<(String, u64)>,
}

/// The training or validation examples.
pub(super) struct Examples<'a> {
    /// The class of each.
    pub classes: &'a [usize],
    /// Boxes and images that were left out.
    pub left_out: Option<LeftOut>,
}

/// What predicts the classes.
pub(super) enum Predictor<'a> {
    /// A trained layer.
    Linear(&'a LinearLayerConfig, &'a LinearLayer),
    /// Nearest neighbors, and the accuracy of 200.
    Neighbors { top1_k200: f64 },
}

impl Results {
    /// The results of a protocol. `matrix` has the predictions for the validation examples.
    pub(super) fn new(
        protocol: &'static str,
        (EvalConfig { backbone: config, .. }, arch): (&EvalConfig, Arch),
        names: &[String],
        [train, val]: [Examples; 2],
        predictor: &Predictor,
        matrix: Confusion,
    ) -> Self {
        let mut train_counts = vec![0; names.len()];
        train.classes.iter().for_each(|&class| train_counts[class] += 1);
        let classes: Vec<ClassResult> = (0..names.len())
            .map(|class| class_result(names, class, train_counts[class], &matrix))
            .collect();
        let accuracies: Vec<f64> = classes.iter().filter_map(|class| class.top1).collect();
        let (layer, top1_k200) = match *predictor {
            Predictor::Linear(config, layer) => (Some((config, layer)), None),
            Predictor::Neighbors { top1_k200 } => (None, Some(top1_k200)),
        };
        let accuracy = Some(matrix.accuracy());
        Self {
            protocol,
            checkpoint: config.source.to_string(),
            arch,
            top1: accuracy.filter(|_| layer.is_some()),
            top1_k20: accuracy.filter(|_| layer.is_none()),
            top1_k200,
            mean_class_accuracy: accuracies.iter().sum::<f64>() / accuracies.len().max(1) as f64,
            train_top1: layer.map(|(_, layer)| layer.accuracy),
            train_loss: layer.map(|(_, layer)| layer.loss),
            train_examples: train.classes.len(),
            val_examples: val.classes.len(),
            size: config.size,
            images_per_batch: config.images_per_batch,
            device: config.device.name.clone(),
            precision: config.device.precision,
            linear_layer: layer.map(|(config, _)| config.clone()),
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
        let drawing = confusion_png(&self.matrix).map_err(|error| Error::drawing(&png, error))?;
        scrl_schemas::store::write(&png, &drawing)?;
        let text = serde_json::to_string(self).expect("plain values");
        scrl_schemas::store::write(&json, format!("{text}\n").as_bytes())?;
        Ok([json, png])
    }

    /// The table for the screen: a line for each class with validation examples, then all of them.
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
        lines.push(self.summary());
        lines.join("\n")
    }

    fn summary(&self) -> String {
        let percent = |fraction: Option<f64>| 100.0 * fraction.unwrap_or(f64::NAN);
        let (mean, val) = (100.0 * self.mean_class_accuracy, self.val_examples);
        let train = self.train_examples;
        match self.top1_k20 {
            Some(_) => format!(
                "top-1 of 20 neighbors {:.2} % of {val}, mean over classes {mean:.2} %; of 200 \
                 neighbors {:.2} %; among {train} training examples",
                percent(self.top1_k20),
                percent(self.top1_k200)
            ),
            None => format!(
                "top-1 {:.2} % of {val}, mean over classes {mean:.2} %; \
                 on the training examples {:.2} % of {train}",
                percent(self.top1),
                percent(self.train_top1)
            ),
        }
    }
}

fn class_result(names: &[String], class: usize, train: usize, matrix: &Confusion) -> ClassResult {
    let row = matrix.row(class);
    let val: u64 = row.iter().sum();
    let wrong = (0..row.len()).filter(|&prediction| prediction != class && row[prediction] > 0);
    // The first of equally frequent ones.
    let most = wrong.max_by_key(|&prediction| (row[prediction], Reverse(prediction)));
    ClassResult {
        name: names[class].clone(),
        train,
        val,
        top1: (val > 0).then(|| row[class] as f64 / val as f64),
        taken_for: most.map(|prediction| (names[prediction].clone(), row[prediction])),
    }
}
