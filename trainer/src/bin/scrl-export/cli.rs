//! The command line, and how it becomes [`Options`].

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use scrl_trainer::weights::{Branch, ExportFormat};
use serde::Deserialize;

use crate::shared;

const EXAMPLES: &str = "\
Examples:
  scrl-export --to torchvision --checkpoint run/backbone.safetensors resnet50.pth
  scrl-export --to torchvision --network target --checkpoint step-00001000.safetensors target.pth
  scrl-export --to detectron2 --checkpoint run/backbone.safetensors resnet50.pkl
  scrl-export --to detectron2 --checkpoint scrl_1000ep.pth scrl.pkl    the authors' checkpoint

In Detectron2's configuration such weights need PIXEL_MEAN [123.675, 116.280, 103.530], PIXEL_STD
[58.395, 57.120, 57.375], RESNETS.STRIDE_IN_1X1 False and INPUT.FORMAT RGB, as torchvision's do.";

/// Writes a trained backbone in the formats of other programs.
#[derive(Parser)]
#[command(name = "scrl-export", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Arguments {
    /// File to write: .safetensors, .pth or .pt for torchvision (timm's ResNets load them too), .pkl for detectron2
    pub out: PathBuf,

    /// torchvision or detectron2
    #[arg(long, value_name = "FORMAT")]
    to: Option<ExportFormat>,

    /// A checkpoint, a backbone.safetensors, or any other file that scrl-train --init reads
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,

    /// Whose backbone: online or target [default: online]
    #[arg(long, value_name = "NAME")]
    network: Option<Branch>,

    /// Say nothing but errors
    #[arg(long)]
    quiet: bool,

    /// Options from a TOML file, named as here; the command line wins
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Every option; what is missing gets its default.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Options {
    pub to: Option<ExportFormat>,
    pub checkpoint: Option<PathBuf>,
    pub network: Option<Branch>,
    pub quiet: Option<bool>,
}

impl Arguments {
    /// The options of the command line, completed by those of the file.
    pub fn options(self) -> Result<Options> {
        let file: Options = shared::options_in(self.config.as_deref())?;
        Ok(Options {
            to: self.to.or(file.to),
            checkpoint: self.checkpoint.or(file.checkpoint),
            network: self.network.or(file.network),
            quiet: Some(self.quiet || file.quiet.unwrap_or(false)),
        })
    }
}
