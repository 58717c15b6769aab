//! The command line.

use clap::{Args, Parser, Subcommand, value_parser};
use scrl_cli::{CompletionScript, OptionsFile, WorldOptions};
use scrl_trainer::evaluate::{CompareOptions, KnnOptions, LinearOptions, RoiOptions};

const EXAMPLES: &str = "\
Examples:
  scrl-eval roi --train-images train2017 --train-boxes instances_train2017.json \\
      --val-images val2017 --val-boxes instances_val2017.json --checkpoint run/backbone.safetensors
  scrl-eval roi --config coco.toml --checkpoint random --arch resnet18
  scrl-eval linear --images train --val val --checkpoint resnet50.pth --out eval/resnet50
  scrl-eval linear --images images --crops 4 --checkpoint step-00001000.safetensors --network target
  scrl-eval knn --images train --val val --checkpoint run/backbone.safetensors
  scrl-eval knn --train-images train2017 --train-boxes instances_train2017.json \\
      --val-images val2017 --val-boxes instances_val2017.json --checkpoint run/backbone.safetensors
  scrl-eval compare --train-images train2017 --train-boxes instances_train2017.json \\
      --val-images val2017 --val-boxes instances_val2017.json \\
      --arm random --arm moco=moco.pth --arm mine=run/ --out compare

The same command with the same --out resumes a stopped evaluation. Processes that torchrun, mpirun
or srun starts divide the features among them.";

/// Evaluates a backbone: trains a linear layer on its frozen features, or looks for nearest neighbors
/// among them, and reports the accuracy.
#[derive(Parser)]
#[command(name = "scrl-eval", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub protocol: Protocol,

    #[command(flatten)]
    _script: CompletionScript,
}

#[derive(Subcommand)]
pub enum Protocol {
    /// Classification of ground-truth boxes from RoIAligned features (section 4.2.5 of the paper)
    #[command(after_help = EXAMPLES)]
    Roi {
        #[command(flatten)]
        options: RoiOptions,
        #[command(flatten)]
        process: ProcessOptions,
    },
    /// Classification of images from pooled features
    #[command(after_help = EXAMPLES)]
    Linear {
        #[command(flatten)]
        options: LinearOptions,
        #[command(flatten)]
        process: ProcessOptions,
    },
    /// Classification of images or of boxes by their nearest neighbors, without training
    #[command(after_help = EXAMPLES)]
    Knn {
        #[command(flatten)]
        options: KnnOptions,
        #[command(flatten)]
        process: ProcessOptions,
    },
    /// Does it help? Backbones compared on the same boxes: intervals, and a page
    #[command(after_help = EXAMPLES)]
    Compare {
        #[command(flatten)]
        options: CompareOptions,
        #[command(flatten)]
        process: ProcessOptions,
    },
}

/// Options that have no influence on the results.
#[derive(Args)]
pub struct ProcessOptions {
    /// Threads [default: all cores, divided among the processes on this machine]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..))]
    pub threads: Option<u16>,

    #[command(flatten)]
    pub world: WorldOptions,

    /// Print nothing but errors
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    _file: OptionsFile,
}
