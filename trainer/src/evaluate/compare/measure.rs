//! Measuring an arm: which validation boxes it classifies correctly, by each measure and seed.

use candle_core::Tensor;
use scrl_cli::Reporter;

use super::arms::Arm;
use super::labels::{labeled, training};
use super::options::CompareConfig;
use super::summary::{Measure, Outcome};
use crate::Result;
use crate::collective::Ranks;
use crate::evaluate::BackboneSource;
use crate::evaluate::box_features::{BoxSplits, TRAINING, VALIDATION, box_key, classes_of};
use crate::evaluate::features::Extractor;
use crate::evaluate::frozen_backbone::FrozenBackbone;
use crate::evaluate::knn::{NEIGHBORS, classify};
use crate::evaluate::linear_layer::LinearLayer;
use crate::evaluate::options::BackboneConfig;
use crate::evaluate::roi::TrainingBoxes;
use crate::model::Arch;

/// The features of a backbone.
struct BoxFeatures {
    /// `[boxes, C]` each: of the training images, and of the flipped ones.
    train: Vec<Tensor>,
    /// `[boxes, C]`.
    val: Tensor,
}

/// All measures of all arms.
pub(super) struct Measuring<'a> {
    pub config: &'a CompareConfig,
    pub boxes: &'a BoxSplits,
    pub train_classes: Vec<usize>,
    pub val_classes: Vec<usize>,
    pub ranks: &'a Ranks,
    pub reporter: &'a Reporter,
}

impl<'a> Measuring<'a> {
    pub fn new(
        config: &'a CompareConfig,
        boxes: &'a BoxSplits,
        ranks: &'a Ranks,
        reporter: &'a Reporter,
    ) -> Self {
        let [train_classes, val_classes] =
            [&boxes.train, &boxes.val].map(|split| classes_of(&split.images));
        Self { config, boxes, train_classes, val_classes, ranks, reporter }
    }

    /// The linear layers from the largest fraction to the smallest, then k-NN.
    pub fn measures(&self) -> Vec<Measure> {
        let all = self.train_classes.len();
        let linear = |&percent: &f64| {
            let boxes = labeled(&self.train_classes, percent, self.config.seeds[0]).len();
            let layer = training(&self.config.linear_layer, [boxes, all], 0);
            let words = if percent == 100.0 {
                "With all labels".to_owned()
            } else {
                format!("With {percent} % of the labels")
            };
            let name = format!("RoI linear, {percent} %");
            Measure { name, words, boxes, epochs: Some(layer.epochs) }
        };
        let neighbors = Measure {
            name: format!("k-NN, k = {}", NEIGHBORS[0]),
            words: "By k-NN".to_owned(),
            boxes: all,
            epochs: None,
        };
        self.config.fractions.iter().map(linear).chain([neighbors]).collect()
    }

    /// The outcomes of an arm by each measure. On the first of the ranks.
    pub fn arm(&self, arm: &Arm) -> Result<Option<(Arch, Vec<Outcome>)>> {
        let config = self.config;
        let seeds = config.seeds.len();
        // `[measure][seed][box]`.
        let mut right = vec![vec![Vec::new(); seeds]; config.fractions.len() + 1];
        let mut arch = None;
        let mut is_first = true;
        for (number, source) in arm.runs.iter().enumerate() {
            let (backbone, features) = self.features(source)?;
            arch = Some(backbone.arch());
            let Some(features) = features else {
                is_first = false;
                continue;
            };
            let neighbors = self.by_neighbors(&features)?;
            for place in (number..seeds).step_by(arm.runs.len()) {
                for (measure, &percent) in config.fractions.iter().enumerate() {
                    let seed = config.seeds[place];
                    right[measure][place] = self.by_layer(&backbone, &features, percent, seed)?;
                }
                right[config.fractions.len()][place].clone_from(&neighbors);
            }
        }
        let outcome = |(measure, right)| {
            let varies = measure < config.fractions.len() || arm.runs.len() > 1;
            Outcome { right, varies }
        };
        let outcomes = right.into_iter().enumerate().map(outcome).collect();
        Ok(arch.filter(|_| is_first).map(|arch| (arch, outcomes)))
    }

    /// A backbone and its features. On the first of the ranks; the others compute their part.
    fn features(&self, source: &BackboneSource) -> Result<(FrozenBackbone, Option<BoxFeatures>)> {
        let Self { boxes: BoxSplits { train, val, resized }, ranks, reporter, .. } = self;
        let common = &self.config.common;
        let config = BackboneConfig { source: source.clone(), ..common.backbone.clone() };
        let backbone = FrozenBackbone::new(source, &config.device, reporter)?;
        let key = box_key(&config, &backbone, &[train, val], resized)?;
        let folder = common.out.join(format!("features/{:08x}", backbone.checksum()?));
        let extractor = Extractor::new(&config, &backbone, (&folder, &key), ranks)?;
        extractor.box_statistics(&train.images, resized, reporter)?;
        let of = |set, images, mirrored| {
            extractor.box_features(set, images, resized, mirrored, reporter)
        };
        let of_train = of(TRAINING, &train.images, true)?;
        let of_val = of(VALIDATION, &val.images, false)?;
        let features =
            of_train.zip(of_val).map(|(train, mut val)| BoxFeatures { train, val: val.remove(0) });
        Ok((backbone, features))
    }

    /// The validation boxes that a linear layer classifies correctly, trained on a part of the
    /// labels.
    fn by_layer(
        &self,
        backbone: &FrozenBackbone,
        features: &BoxFeatures,
        percent: f64,
        seed: u64,
    ) -> Result<Vec<bool>> {
        let rows = labeled(&self.train_classes, percent, seed);
        let counts = [rows.len(), self.train_classes.len()];
        let layer = training(&self.config.linear_layer, counts, seed);
        let mut examples =
            TrainingBoxes::new(features.train.clone(), rows, &self.boxes.train.images, seed);
        let layer = LinearLayer::train(
            &layer,
            [backbone.arch().channels(), self.boxes.train.classes.len()],
            backbone.device(),
            &mut examples,
            None,
            self.reporter,
        )?;
        Ok(self.right(&layer.predict(&features.val)?))
    }

    /// The validation boxes that their nearest neighbors classify correctly.
    fn by_neighbors(&self, features: &BoxFeatures) -> Result<Vec<bool>> {
        let train = (&features.train[0], &*self.train_classes);
        let classes = self.boxes.train.classes.len();
        let [nearest, _] = classify(train, &features.val, classes, self.reporter)?;
        Ok(self.right(&nearest))
    }

    fn right(&self, predicted: &[usize]) -> Vec<bool> {
        predicted
            .iter()
            .zip(&self.val_classes)
            .map(|(predicted, class)| predicted == class)
            .collect()
    }
}
