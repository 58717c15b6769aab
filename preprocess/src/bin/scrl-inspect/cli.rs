//! The command line.

use std::path::PathBuf;

use clap::Parser;
use scrl_cli::CommonOptions;
use scrl_preprocess::inspect::Options;

const EXAMPLES: &str = "\
Examples:
  scrl-inspect shards/                               the folder in numbers
  scrl-inspect --html pairs.html shards/             a page to look through
  scrl-inspect --png pairs.png --rows 6 shards/      six pairs on a contact sheet
  scrl-inspect --verify shards/                      is every byte what it should be?
  scrl-inspect --verify --images /new/images shards/ the same after the images have moved
  scrl-inspect --json shards/ | jq .augmentations    the numbers for other programs";

/// Shows what a shards folder holds: in numbers, as images, and whether it is intact.
///
/// Without options: pairs, bytes, boxes, and how often each augmentation occurs beside how often it
/// was requested.
#[derive(Parser)]
#[command(name = "scrl-inspect", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    /// Folder that scrl-prep wrote
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
    fn numbers_are_printed_unless_images_are_requested() {
        assert!(options("s").unwrap().prints_numbers());
        assert!(!options("--png a.png s").unwrap().prints_numbers());
        assert!(options("--json --html a.html s").unwrap().prints_numbers());
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
