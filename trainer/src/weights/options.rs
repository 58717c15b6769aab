//! The options of scrl-export.

use std::path::PathBuf;

use clap::Args;
use scrl_cli::choices;
use scrl_schemas::named_choice;

use super::branch::Branch;

named_choice! {
    /// A program for which a backbone is exported.
    pub enum ExportFormat {
        /// torchvision and timm: a state dict without `fc`.
        Torchvision = "torchvision",
        /// Detectron2.
        Detectron2 = "detectron2",
        /// Hugging Face's transformers: a folder of a `ResNetBackbone`.
        Transformers = "transformers",
    }
}

/// Every option that decides what is exported.
#[derive(Args, Clone, Debug)]
pub struct ExportOptions {
    /// File to write: .safetensors, .pth or .pt for torchvision (timm's ResNets load it too), .pkl
    /// for detectron2; for transformers a folder, which gets config.json, model.safetensors and
    /// preprocessor_config.json
    pub out: PathBuf,

    /// Program that will load it
    #[arg(long, value_name = "FORMAT", value_parser = choices!(ExportFormat))]
    pub to: ExportFormat,

    /// A run's folder, a checkpoint, or any other file or folder that scrl-train --init reads
    #[arg(long, value_name = "FILE")]
    pub checkpoint: PathBuf,

    /// Which network's backbone: the trained one, or its EMA or momentum encoder [default: the one
    /// that people use of such a file; online in checkpoints]
    #[arg(long, value_name = "NAME", value_parser = choices!(Branch))]
    pub network: Option<Branch>,
}
