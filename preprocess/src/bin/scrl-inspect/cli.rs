//! The command line.

use std::path::PathBuf;

use clap::Parser;
use scrl_cli::CommonOptions;
use scrl_preprocess::inspect::Options;

const EXAMPLES: &str = "\
Examples:
  scrl-inspect shards/                               statistics of the folder
  scrl-inspect --html pairs.html shards/             a page of pairs
  scrl-inspect --png pairs.png --rows 6 shards/      six pairs on a contact sheet
  scrl-inspect --verify shards/                      is every byte as scrl-prep wrote it?
  scrl-inspect --verify --images /new/images shards/ the same after the images have moved
  scrl-inspect --json shards/ | jq .augmentations    the statistics for other programs";

/// Shows the statistics of a shards folder, draws its pairs, and verifies it.
///
/// Without options it prints pairs, bytes, boxes, and the frequency of each augmentation beside the
/// requested one.
#[derive(Parser)]
#[command(name = "scrl-inspect", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    /// Folder that scrl-prep wrote; with the feature cloud also an s3://, gs:// or az:// URL
    pub shards: PathBuf,

    #[command(flatten)]
    pub options: Options,

    /// Print nothing but results and errors
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    _common: CommonOptions,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory;

    use super::*;

    fn options(line: &str) -> Result<Options, String> {
        let words = std::iter::once("scrl-inspect").chain(line.split(' ')).map(OsString::from);
        let read: Result<Arguments, _> = scrl_cli::read(words.collect());
        let options = read.map_err(|error| error.to_string())?.options;
        options.check().map_err(|error| error.to_string())?;
        Ok(options)
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn statistics_are_printed_unless_images_are_requested() {
        assert!(options("s").unwrap().prints_statistics());
        assert!(!options("--png a.png s").unwrap().prints_statistics());
        assert!(options("--json --html a.html s").unwrap().prints_statistics());
    }

    #[test]
    fn invalid_values_name_the_option() {
        for (line, expected) in [
            ("--rows 3 s", "--rows"),
            ("--rows 0 --png a s", "--rows"),
            ("--no-pixels s", "--verify"),
            ("--verify --png a s", "--png"),
            ("--epoch x s", "--epoch"),
            ("--config /none.toml s", "/none.toml"),
            ("--json", "SHARDS"),
        ] {
            let message = options(line).err().unwrap();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
