//! The command line.

use clap::Parser;
use scrl_cli::CommonOptions;
use scrl_trainer::weights::ExportOptions;

const EXAMPLES: &str = "\
Examples:
  scrl-export --to torchvision --checkpoint run/backbone.safetensors resnet50.pth
  scrl-export --to torchvision --network target --checkpoint step-00001000.safetensors target.pth
  scrl-export --to detectron2 --checkpoint run/backbone.safetensors resnet50.pkl
  scrl-export --to detectron2 --checkpoint scrl_1000ep.pth scrl.pkl    the authors' checkpoint
  scrl-export --to transformers --checkpoint run/backbone.safetensors resnet50/

In Detectron2's configuration such weights need PIXEL_MEAN [123.675, 116.280, 103.530], PIXEL_STD
[58.395, 57.120, 57.375], RESNETS.STRIDE_IN_1X1 False and INPUT.FORMAT RGB, as torchvision's do.
transformers loads the folder with ResNetBackbone.from_pretrained(\"resnet50/\").";

/// Writes a trained backbone in the format of another program.
#[derive(Parser)]
#[command(name = "scrl-export", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    pub options: ExportOptions,

    /// Print nothing but errors
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    _common: CommonOptions,
}
