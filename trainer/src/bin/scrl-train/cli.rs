//! The command line.

use std::path::PathBuf;

use clap::Parser;
use scrl_cli::{CommonOptions, WorldOptions};
use scrl_trainer::train::Options;

const EXAMPLES: &str = "\
Examples:
  scrl-train shards/                               ResNet-50, with options that fit the shards
  scrl-train --arch resnet18 --hidden 512 --projection 128 shards/  a small network for a CPU
  scrl-train --preset paper --batch-size 8192 shards/  as in the paper
  scrl-train --method byol --max-steps 100 --log-every 1 shards/
  scrl-train --follow --consume shards/            while scrl-prep --keep 3 writes them
  scrl-train --init resnet50.pth --target-init online shards/  start from torchvision's weights
  mpirun -n 4 --bind-to none scrl-train shards/    on four processes, with the feature mpi
  scrl-train --config small.toml --lr 0.3 shards/  options from a file; the command line wins

The same command resumes where an earlier one stopped, as long as --out is the same.";

/// Pretrains a detection backbone from the shards that scrl-prep made.
#[derive(Parser)]
#[command(name = "scrl-train", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    /// Folder that scrl-prep wrote; with the feature cloud also an s3://, gs:// or az:// URL
    pub shards: PathBuf,

    #[command(flatten)]
    pub options: Options,

    #[command(flatten)]
    pub world: WorldOptions,

    /// Print nothing but errors
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    _common: CommonOptions,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn invalid_values_list_the_choices() {
        for (line, expected) in [
            ("--preset page s", "reference-1000"),
            ("--optimizer adam s", "sgd"),
            ("--arch vgg s", "resnet101"),
            ("--method clip s", "byol"),
            ("--device tpu s", "cuda:N"),
            ("--threads 0 s", "--threads"),
            ("", "SHARDS"),
        ] {
            let words = std::iter::once("scrl-train").chain(line.split_whitespace());
            let read = scrl_cli::read::<Arguments>(words.map(Into::into).collect());
            let message = read.err().expect(line).to_string();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
