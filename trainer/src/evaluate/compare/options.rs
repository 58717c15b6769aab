//! The options of a comparison, and the configuration that they resolve to.

use std::path::PathBuf;

use clap::{Args, value_parser};

use super::arms::{self, Arm};
use crate::Result;
use crate::error::refuse;
use crate::evaluate::linear_layer::LinearLayerConfig;
use crate::evaluate::options::{
    BoxFiles, EvalConfig, InputOptions, LinearLayerOptions, OF_BOXES, ROI,
};
use crate::train::check_out;

/// Options of a comparison.
#[derive(Args, Clone, Debug)]
pub struct CompareOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub files: BoxFiles,

    /// A backbone to compare, as often as there are: WHERE is random, a file of weights, or the
    /// output folder of scrl-train. The same NAME again is another run of this arm
    #[arg(long, value_name = "[NAME=]WHERE", value_delimiter = ',', required = true)]
    pub arm: Vec<String>,

    /// Seeds from --seed on, of the linear layer and of the labels it gets; with several runs of an
    /// arm, a multiple of their number
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub seeds: u32,

    /// Percent of the labels that the linear layer gets
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1.0, 10.0, 100.0],
        value_parser = parse_percent)]
    pub fractions: Vec<f64>,

    /// Results of scripts/finetune_detection.py for an arm, shown beside the others
    #[arg(long, value_name = "NAME=FILE", value_delimiter = ',')]
    pub detection: Vec<String>,

    /// Where the images of the pretraining are now, to look for those of the validation among them
    /// [default: as recorded]
    #[arg(long, value_name = "DIR")]
    pub pretraining_images: Option<PathBuf>,

    /// Folder for compare.html, results.json and features [default: runs/ and the time]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub inputs: InputOptions,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub linear_layer: LinearLayerOptions,
}

fn parse_percent(text: &str) -> std::result::Result<f64, String> {
    let percent = text.trim().trim_end_matches('%').parse().ok();
    let percent = percent.filter(|percent: &f64| *percent > 0.0 && *percent <= 100.0);
    percent.ok_or_else(|| "give percent above 0 and up to 100, such as 1,10,100".to_owned())
}

/// The resolved options of a comparison.
#[derive(Clone, Debug)]
pub struct CompareConfig {
    /// The options of all protocols, with the backbone of the first arm.
    pub common: EvalConfig,
    /// The images with their boxes.
    pub files: BoxFiles,
    /// The linear layer's training on all labels.
    pub linear_layer: LinearLayerConfig,
    /// At least two.
    pub arms: Vec<Arm>,
    /// Of the linear layer and of the labels it gets.
    pub seeds: Vec<u64>,
    /// Percent of the labels, descending.
    pub fractions: Vec<f64>,
    /// `NAME=FILE` of detectors' results.
    pub detection: Vec<String>,
    /// The folder of the pretraining's images, if they are not where they were.
    pub pretraining_images: Option<PathBuf>,
}

impl CompareOptions {
    /// Fills in the defaults and finds the arms' weights.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for the first invalid value; if an arm has no
    /// weights.
    pub fn resolve(self) -> Result<CompareConfig> {
        let Self { files, arm, seeds, mut fractions, detection, pretraining_images, .. } = self;
        let first = self.inputs.seed;
        let arms = arms::parse(&arm, self.inputs.arch, first)?;
        for arm in &arms {
            if !(seeds as usize).is_multiple_of(arm.runs.len()) {
                let (runs, name) = (arm.runs.len(), &arm.name);
                let reason = format!("{seeds} is no multiple of the {runs} runs of {name}");
                return refuse("seeds", reason);
            }
        }
        fractions.sort_by(|a, b| b.total_cmp(a));
        fractions.dedup();
        let backbone = self.inputs.resolve(arms[0].runs[0].clone(), &OF_BOXES)?;
        let out = self.out.unwrap_or_else(scrl_cli::default_out);
        check_out(&out)?;
        Ok(CompareConfig {
            common: EvalConfig { backbone, out },
            files,
            linear_layer: self.linear_layer.resolve(&ROI, first),
            arms,
            seeds: (first..).take(seeds as usize).collect(),
            fractions,
            detection,
            pretraining_images,
        })
    }
}
