//! The command line.

use std::path::PathBuf;

use clap::Parser;
use scrl_cli::CommonOptions;
use scrl_trainer::weights::{Branch, ExportFormat};

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
    pub to: ExportFormat,

    /// A checkpoint, a backbone.safetensors, or any other file that scrl-train --init reads
    #[arg(long, value_name = "FILE")]
    pub checkpoint: PathBuf,

    /// Whose backbone: online or target
    #[arg(long, value_name = "NAME", default_value = "online")]
    pub network: Branch,

    /// Say nothing but errors
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    _common: CommonOptions,
}
