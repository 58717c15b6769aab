//! The command line.

use std::path::PathBuf;

use clap::Parser;
use scrl_cli::CommonOptions;
use scrl_preprocess::prepare::Options;

const EXAMPLES: &str = "\
Examples:
  scrl-prep images/ shards/                          one epoch
  scrl-prep --epochs 200 images/ shards/             200 epochs
  scrl-prep --epochs 200 --only 0..8 images/ shards/ the first eight of them
  scrl-prep --epochs 1000 --keep 3 images/ shards/   three at a time, for scrl-train --consume
  scrl-prep --views recipe --epochs 1000 images/ s/  no pixels: the trainer renders the same ones
  scrl-prep train.zip shards/                        an archive, without unpacking it
  scrl-prep --views jpeg --dry-run images.tar s/     how many bytes would it write?
  srun -n 16 scrl-prep --epochs 200 images/ shards/  sixteen processes share the work
  scrl-prep s3://bucket/images/ s3://bucket/shards/  in an object store, with the feature cloud";

/// Makes both augmented views of every image and their matched boxes, ahead of training.
///
/// The same command resumes a run that was stopped: finished shards stay.
#[derive(Parser)]
#[command(name = "scrl-prep", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    /// Folder of images (folders directly below it are classes), tar archive (WebDataset), zip
    /// archive, Parquet file, a folder of such archives or files, or a text file of paths; with the
    /// feature cloud also an s3://, gs:// or az:// URL of one
    pub images: PathBuf,

    /// Folder to write, created if missing, or such a URL
    pub shards: PathBuf,

    #[command(flatten)]
    pub options: Options,

    /// Print what would be written, and stop
    #[arg(long)]
    pub dry_run: bool,

    /// Print nothing but errors
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    _common: CommonOptions,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;

    use clap::CommandFactory;
    use scrl_cli::World;
    use scrl_preprocess::prepare::Config;
    use scrl_schemas::{BlurKind, BoxSampler};

    use super::*;

    fn arguments(line: &str) -> Result<Arguments, String> {
        let words = std::iter::once("scrl-prep").chain(line.split(' ')).map(OsString::from);
        scrl_cli::read(words.collect()).map_err(|error| error.to_string())
    }

    fn config(line: &str) -> Config {
        let Arguments { images, shards, options, .. } = arguments(line).unwrap();
        options.resolve(images, shards, World::ALONE).unwrap()
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_reach_the_run() {
        let line = "--epochs 9 --only 2..4 --iou none --crop-scale 0.1,0.9 --preset reference i s";
        let config = config(line);
        assert_eq!((config.epochs, config.only), (9, 2..4));
        assert_eq!((config.options.iou, config.options.crop_scale), (None, [0.1, 0.9]));
        assert_eq!(config.options.blur, BlurKind::Resize);
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prep.toml");
        let text = "epochs = 5\nseed = 7\ncrop-scale = [0.3, 1.0]\nquiet = true\niou = \"none\"\n";
        fs::write(&file, text).unwrap();
        let line = format!("--seed 8 --config {} i s", file.display());
        assert!(arguments(&line).unwrap().quiet);
        let config = config(&line);
        assert_eq!((config.epochs, config.seed), (5, 8));
        assert_eq!((config.options.iou, config.options.crop_scale), (None, [0.3, 1.0]));
    }

    #[test]
    fn the_steps_are_options_of_the_command_line_and_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prep.toml");
        let text = "preset = \"aerial\"\nflip = 0.3\nvertical-flip = 0.25\nquarter-turns = 0.5\n\
                    jitter = [0.7, 0.3, 0.2, 0.1, 0.05]\ngrayscale = 0.1\nbox-jitter = inf\n\
                    blur-probability = [0.5, 0.4]\nsolarize = [0.1, 0]\nbox-sampler = \"point\"\n";
        fs::write(&file, text).unwrap();
        let line = "--preset aerial --flip 0.3 --vertical-flip 0.25 --quarter-turns 0.5 \
                    --jitter 0.7,0.3,0.2,0.1,0.05 --grayscale 0.1 --box-jitter inf \
                    --blur-probability 0.5,0.4 --solarize 0.1,0 --box-sampler point i s";
        let options = config(line).options;
        assert_eq!(config(&format!("--config {} i s", file.display())).options, options);
        assert_eq!(options.steps.jitter, [0.7, 0.3, 0.2, 0.1, 0.05]);
        assert_eq!(options.steps.solarize, [0.1, 0.0]);
        assert_eq!((options.box_jitter, options.box_sampler), (f32::INFINITY, BoxSampler::Point));
    }

    #[test]
    fn invalid_values_name_the_option() {
        for (line, expected) in [
            ("--jitter 0.8,0.4 i s", "'--jitter <P,B,C,S,H>': give 5 numbers"),
            ("--crop-scale 0.8 i s", "'--crop-scale <MIN,MAX>': give 2 numbers"),
            ("--preset space i s", "paper, reference, aerial, gray"),
            ("--only 3..3 i s", "--only"),
            ("--views gif i s", "recipe"),
            ("--keep 0 i s", "--keep"),
            ("--config /none.toml i s", "/none.toml"),
            ("i", "SHARDS"),
        ] {
            let message = arguments(line).err().unwrap();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
