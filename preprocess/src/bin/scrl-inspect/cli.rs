//! The command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use scrl_cli::Everywhere;
use scrl_schemas::Epoch;

/// Pairs on a contact sheet, by default: what fits a screen.
const SHEET_ROWS: u64 = 12;
/// Pairs on a page, by default: about 4 MB.
const PAGE_ROWS: u64 = 60;

/// A command line that makes sense.
pub struct Command {
    /// The folder to look into.
    pub shards: PathBuf,
    /// Check it.
    pub verify: bool,
    /// Without rendering pixels again.
    pub no_pixels: bool,
    /// Where to write a contact sheet.
    pub png: Option<PathBuf>,
    /// Where to write a page.
    pub html: Option<PathBuf>,
    /// Tell the numbers as JSON.
    pub json: bool,
    /// Where the sources are now, if not where they were.
    pub images: Option<PathBuf>,
    /// Pairs on the sheet.
    pub sheet_rows: u64,
    /// Pairs on the page.
    pub page_rows: u64,
    /// The only epoch to look at.
    pub epoch: Option<Epoch>,
    /// Which pairs are shown.
    pub seed: u64,
    /// Threads to read and render with.
    pub threads: usize,
    /// Tell nothing but results and errors.
    pub quiet: bool,
}

impl Command {
    /// Whether the numbers are to be printed: where asked for, or nothing else is.
    pub fn tells_numbers(&self) -> bool {
        self.json || (self.png.is_none() && self.html.is_none())
    }
}

/// Shows what a folder of scrl-prep holds: in numbers, as pictures, and whether it is right.
///
/// Without options: pairs, bytes, boxes, and how often each augmentation occurs beside how often it was asked for.
#[derive(Parser)]
#[command(name = "scrl-inspect", version, after_help = EXAMPLES, max_term_width = 110)]
struct Arguments {
    /// Folder that scrl-prep wrote
    shards: PathBuf,

    /// Check every part against its checksum, and every row and picture against what seed, options and sources give;
    /// exit code 1 if anything differs
    #[arg(long, conflicts_with_all = ["png", "html", "json"])]
    verify: bool,

    /// With --verify: leave the pictures out, which take most of the time
    #[arg(long, requires = "verify")]
    no_pixels: bool,

    /// Write a contact sheet: pairs side by side, matched boxes in matching colors
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,

    /// Write a page that needs nothing else: pairs with their boxes and sources, and the distributions drawn
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,

    /// Where the images of the shards lie [default: where they lay when the shards were made]
    #[arg(long, value_name = "IMAGES")]
    images: Option<PathBuf>,

    /// Pairs on the sheet or the page, chosen at random [default: 12; 60 with --html]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    rows: Option<u64>,

    /// Look at this epoch alone
    #[arg(long, value_name = "E")]
    epoch: Option<u32>,

    /// Other pairs for other numbers
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Threads that read and render [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

    /// Tell nothing but results and errors
    #[arg(long)]
    quiet: bool,

    #[command(flatten)]
    _everywhere: Everywhere,
}

const EXAMPLES: &str = "\
Examples:
  scrl-inspect shards/                               the folder in numbers
  scrl-inspect --html pairs.html shards/             a page to look through
  scrl-inspect --png pairs.png --rows 6 shards/      six pairs as a picture
  scrl-inspect --verify shards/                      is every byte what it should be?
  scrl-inspect --verify --images /new/photos shards/ the same after the photos have moved
  scrl-inspect --json shards/ | jq .augmentations    the numbers for other programs";

/// Reads the command line and the file it may name. Ends the program with exit code 2 where they make no sense, and
/// with 0 after `--help`, `--version` and `--completions`.
pub fn parse() -> Command {
    resolve_arguments(scrl_cli::parse()).unwrap_or_else(|error| error.exit())
}

fn resolve_arguments(arguments: Arguments) -> Result<Command, clap::Error> {
    if arguments.rows.is_some() && arguments.png.is_none() && arguments.html.is_none() {
        let message = "--rows is of use with --png or --html only";
        return Err(Arguments::command().error(ErrorKind::ArgumentConflict, message));
    }
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Command {
        shards: arguments.shards,
        verify: arguments.verify,
        no_pixels: arguments.no_pixels,
        png: arguments.png,
        html: arguments.html,
        json: arguments.json,
        images: arguments.images,
        sheet_rows: arguments.rows.unwrap_or(SHEET_ROWS),
        page_rows: arguments.rows.unwrap_or(PAGE_ROWS),
        epoch: arguments.epoch.map(Epoch),
        seed: arguments.seed,
        threads: arguments.threads.map_or_else(cores, usize::from),
        quiet: arguments.quiet,
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn command(line: &str) -> Result<Command, String> {
        let words = std::iter::once("scrl-inspect").chain(line.split(' ')).map(OsString::from);
        let command = scrl_cli::read(words.collect()).and_then(resolve_arguments);
        command.map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn numbers_are_told_unless_pictures_are_asked_for() {
        assert!(command("s").unwrap().tells_numbers());
        assert!(!command("--png a.png s").unwrap().tells_numbers());
        assert!(command("--json --html a.html s").unwrap().tells_numbers());
    }

    #[test]
    fn nonsense_names_the_option() {
        for (line, expected) in [
            ("--rows 3 s", "--rows"),
            ("--rows 0 --png a s", "--rows"),
            ("--no-pixels s", "--verify"),
            ("--verify --png a s", "--png"),
            ("--epoch x s", "--epoch"),
            ("--config /none.toml s", "/none.toml"),
            ("--json", "SHARDS"),
        ] {
            let message = command(line).err().unwrap();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
