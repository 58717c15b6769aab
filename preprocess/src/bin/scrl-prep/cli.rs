//! The command line, and how it becomes a [`Config`].

use std::ops::Range;
use std::path::PathBuf;

use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use scrl_cli::Everywhere;
use scrl_preprocess::config::{Config, Overrides, Share, resolve};
use scrl_schemas::{BlurKind, BoxSampler, Encoding, Exif, Preset};

use crate::ranks::find_share;

/// A command line that makes sense.
pub struct Command {
    /// What to do.
    pub config: Config,
    /// Who told which share of the work is this process's, if not the command line.
    pub starter: Option<&'static str>,
    /// Stop after telling what would be done.
    pub dry_run: bool,
    /// Tell nothing but errors.
    pub quiet: bool,
}

/// Makes both augmented views of every image, and the boxes that match between them, ahead of training.
///
/// Finished parts stay when the same command is run again: a run that was stopped continues.
#[derive(Parser)]
#[command(name = "scrl-prep", version, after_help = EXAMPLES, max_term_width = 110)]
struct Arguments {
    /// Folder of images (folders directly below it are classes), tar archive (WebDataset), Parquet file, a folder of
    /// such archives or files, or a text file of paths
    images: PathBuf,

    /// Folder to write, made where it is missing
    shards: PathBuf,

    /// Planned epochs: the length of the trainer's schedule
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99_999))]
    epochs: u32,

    /// Write only epochs A to B−1; the others can be made later, or again, identical
    #[arg(long, value_name = "A..B", value_parser = parse_epochs)]
    only: Option<Range<u32>>,

    /// Seed of every random number
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Whose blur, box sampler and IoU fallback: the paper's text or its authors' code
    #[arg(long, value_name = "NAME", default_value = "paper", value_parser = choices!(Preset))]
    preset: Preset,

    /// How views are stored: lossless, smaller, or not at all [default: webp]
    #[arg(long, value_name = "KIND", value_parser = choices!(Encoding))]
    views: Option<Encoding>,

    /// Quality of --views jpeg, 1 to 100 [default: 95]
    #[arg(long, value_name = "Q")]
    quality: Option<u8>,

    /// Side of a view in pixels [default: 224]
    #[arg(long, value_name = "PIXELS")]
    size: Option<u32>,

    /// Matched boxes a pair at most [default: 10]
    #[arg(long, value_name = "K")]
    boxes: Option<u32>,

    /// Shortest side of a box, in pixels of the view [default: 32]
    #[arg(long, value_name = "PIXELS")]
    min_box: Option<u32>,

    /// Largest IoU of two boxes of a pair, or none [default: 0.5]
    #[arg(long, value_name = "IOU", value_parser = parse_iou)]
    iou: Option<IouRule>,

    /// Move each side of view 2's boxes by up to this share of their size [default: 0]
    #[arg(long, value_name = "SHARE")]
    box_jitter: Option<f32>,

    /// Smallest and largest share of the image that a view shows [default: 0.2,1]
    #[arg(long, value_name = "MIN,MAX", value_parser = parse_scale)]
    crop_scale: Option<[f32; 2]>,

    /// Which blur [default: the preset's]
    #[arg(long, value_name = "KIND", value_parser = choices!(BlurKind))]
    blur: Option<BlurKind>,

    /// How boxes are drawn [default: the preset's]
    #[arg(long, value_name = "KIND", value_parser = choices!(BoxSampler))]
    box_sampler: Option<BoxSampler>,

    /// Whether EXIF orientation turns images upright first [default: ignore]
    #[arg(long, value_name = "HOW", value_parser = choices!(Exif))]
    exif: Option<Exif>,

    /// Images a part [default: 512; 16384 for recipes]
    #[arg(long, value_name = "N")]
    rows_per_shard: Option<u32>,

    /// Finished epochs on the disk at most: older ones go as scrl-train --consume uses them up, newer ones follow
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,

    /// Number of this process, from 0, among several that share the work [default: from mpirun, srun, torchrun, …]
    #[arg(long, value_name = "R")]
    rank: Option<u32>,

    /// How many processes share the work [default: likewise, or 1]
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u32).range(1..))]
    world_size: Option<u32>,

    /// Threads that decode and render [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

    /// Share of unreadable images above which the exit code is 1
    #[arg(long, value_name = "SHARE", default_value_t = scrl_preprocess::method::MAX_BAD)]
    max_bad: f64,

    /// Tell what would be written, and stop
    #[arg(long)]
    dry_run: bool,

    /// Remove what an earlier run wrote into the folder first
    #[arg(long)]
    overwrite: bool,

    /// Tell nothing but errors
    #[arg(long)]
    quiet: bool,

    #[command(flatten)]
    _everywhere: Everywhere,
}

const EXAMPLES: &str = "\
Examples:
  scrl-prep photos/ shards/                          one epoch, to look at
  scrl-prep --epochs 200 photos/ shards/             a schedule of 200 epochs, all made now
  scrl-prep --epochs 200 --only 0..8 photos/ shards/ its first eight epochs
  scrl-prep --epochs 1000 --keep 3 photos/ shards/   three at a time, beside scrl-train --follow --consume
  scrl-prep --views recipe --epochs 1000 photos/ s/  no pixels: the trainer renders the same ones
  scrl-prep --views jpeg --dry-run photos.tar s/     how many bytes would it take?
  srun -n 16 scrl-prep --epochs 200 photos/ shards/  sixteen processes share the work";

/// A parser for a choice of the schemas that shows the names in `--help`.
macro_rules! choices {
    ($choice:ty) => {
        PossibleValuesParser::new(<$choice>::ALL.iter().map(|choice| choice.name()))
            .try_map(|name| name.parse::<$choice>())
    };
}
use choices;

/// The largest IoU allowed, or no rule.
#[derive(Clone, Copy)]
struct IouRule(Option<f32>);

fn parse_iou(text: &str) -> Result<IouRule, String> {
    match text {
        "none" => Ok(IouRule(None)),
        number => number
            .parse()
            .map(|limit| IouRule(Some(limit)))
            .map_err(|_| "give a number from 0 to 1, or none".to_owned()),
    }
}

fn parse_scale(text: &str) -> Result<[f32; 2], String> {
    text.split_once(',')
        .and_then(|(low, high)| Some([low.trim().parse().ok()?, high.trim().parse().ok()?]))
        .ok_or_else(|| "give two numbers, such as 0.2,1".to_owned())
}

fn parse_epochs(text: &str) -> Result<Range<u32>, String> {
    text.split_once("..")
        .and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?))
        .filter(|range: &Range<u32>| !range.is_empty())
        .ok_or_else(|| "give the first epoch and the one after the last, such as 0..8".to_owned())
}

/// Reads the command line and the file it may name. Ends the program with exit code 2 where they make no sense, and
/// with 0 after `--help`, `--version` and `--completions`.
pub fn parse() -> Command {
    resolve_arguments(scrl_cli::parse()).unwrap_or_else(|error| error.exit())
}

fn usage_error(message: impl std::fmt::Display) -> clap::Error {
    scrl_cli::usage_error::<Arguments>(message)
}

fn resolve_arguments(arguments: Arguments) -> Result<Command, clap::Error> {
    let (share, starter) = find_share(arguments.rank, arguments.world_size, |name| std::env::var(name).ok())
        .map_err(usage_error)?;
    if arguments.overwrite && share != Share::WHOLE {
        return Err(usage_error(
            "--overwrite: one of several processes must not remove what the others write; remove the folder first",
        ));
    }
    let given = Overrides {
        views: arguments.views,
        quality: arguments.quality,
        size: arguments.size,
        boxes: arguments.boxes,
        min_box: arguments.min_box,
        iou: arguments.iou.map(|rule| rule.0),
        box_jitter: arguments.box_jitter,
        crop_scale: arguments.crop_scale,
        blur: arguments.blur,
        box_sampler: arguments.box_sampler,
        exif: arguments.exif,
        rows_per_shard: arguments.rows_per_shard,
    };
    let options = resolve(arguments.preset, &given).map_err(usage_error)?;
    let only = arguments.only.unwrap_or(0..arguments.epochs);
    if only.end > arguments.epochs {
        return Err(usage_error(format!(
            "--only {}..{} goes beyond --epochs {}",
            only.start, only.end, arguments.epochs
        )));
    }
    if !(0.0..=1.0).contains(&arguments.max_bad) {
        return Err(usage_error("--max-bad: give a share from 0 to 1"));
    }
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let config = Config {
        images: arguments.images,
        shards: arguments.shards,
        seed: arguments.seed,
        epochs: arguments.epochs,
        only,
        options,
        keep: arguments.keep,
        share,
        threads: arguments.threads.map_or_else(cores, usize::from),
        overwrite: arguments.overwrite,
        max_bad: arguments.max_bad,
    };
    Ok(Command { config, starter, dry_run: arguments.dry_run, quiet: arguments.quiet })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;

    use clap::CommandFactory;

    use super::*;

    fn command(line: &str) -> Result<Command, String> {
        let words = std::iter::once("scrl-prep").chain(line.split(' ')).map(OsString::from);
        let command = scrl_cli::read(words.collect()).and_then(resolve_arguments);
        command.map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_reach_the_run() {
        let config = command("--epochs 9 --only 2..4 --iou none --crop-scale 0.1,0.9 --preset reference i s")
            .unwrap()
            .config;
        assert_eq!((config.epochs, config.only), (9, 2..4));
        assert_eq!((config.options.iou, config.options.crop_scale), (None, [0.1, 0.9]));
        assert_eq!(config.options.blur, BlurKind::Resize);
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prep.toml");
        fs::write(&file, "epochs = 5\nseed = 7\ncrop-scale = [0.3, 1.0]\nquiet = true\niou = \"none\"\n")
            .unwrap();
        let command = command(&format!("--seed 8 --config {} i s", file.display())).unwrap();
        assert_eq!((command.config.epochs, command.config.seed, command.quiet), (5, 8, true));
        assert_eq!(command.config.options.crop_scale, [0.3, 1.0]);
        assert_eq!(command.config.options.iou, None);
    }

    #[test]
    fn nonsense_names_the_option() {
        for (line, expected) in [
            ("--only 3..3 i s", "--only"),
            ("--only 0..2 i s", "beyond --epochs 1"),
            ("--size 0 i s", "--size"),
            ("--views gif i s", "recipe"),
            ("--keep 0 i s", "--keep"),
            ("--world-size 2 i s", "--world-size needs --rank"),
            ("--rank 1 --world-size 2 --overwrite i s", "--overwrite"),
            ("--config /none.toml i s", "/none.toml"),
            ("i", "SHARDS"),
        ] {
            let message = command(line).err().unwrap();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
