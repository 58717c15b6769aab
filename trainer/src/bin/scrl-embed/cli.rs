//! The command line.

use clap::{Parser, value_parser};
use scrl_cli::CommonOptions;
use scrl_trainer::evaluate::EmbedOptions;

const EXAMPLES: &str = "\
Examples:
  scrl-embed --checkpoint run/backbone.safetensors images/ features.parquet
  scrl-embed --checkpoint run/backbone.safetensors --against random --html features.html \\
      images/ features.parquet
  scrl-embed --checkpoint moco_v2.pth.tar --boxes instances_val2017.json val2017/ boxes.parquet
  scrl-embed --checkpoint run/backbone.safetensors --duplicates 0.98 images/ features.parquet
  duckdb -c \"SELECT path, class, pca FROM 'features.parquet' LIMIT 5\"

The same command resumes a stopped run.";

/// Writes the features of images or boxes as a table, and a page to look at.
#[derive(Parser)]
#[command(name = "scrl-embed", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    pub options: EmbedOptions,

    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..))]
    pub threads: Option<u16>,

    /// Print nothing but errors
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    _common: CommonOptions,
}
