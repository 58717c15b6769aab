//! The command line.

use std::path::PathBuf;

use clap::Parser;
use scrl_cli::CommonOptions;
use scrl_trainer::train::Options;

const EXAMPLES: &str = "\
Examples:
  scrl-train shards/                                  ResNet-50 as in the paper
  scrl-train --arch resnet18 --batch-size 16 --out runs/small shards/
  scrl-train --method byol --max-steps 100 --log-every 1 shards/
  scrl-train --follow --consume shards/               while scrl-prep --keep 3 makes them
  scrl-train --init resnet50.pth --target-init online shards/     start from torchvision's weights
  scrl-train --config small.toml --lr 0.3 shards/     options from a file; the command line wins

The same command goes on where an earlier one stopped, as long as --out is the same.";

/// Pretrains a detection backbone from the shards that scrl-prep made.
#[derive(Parser)]
#[command(name = "scrl-train", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Arguments {
    /// Folder that scrl-prep wrote
    pub shards: PathBuf,

    #[command(flatten)]
    pub options: Options,

    /// Say nothing but errors
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    _common: CommonOptions,
}
