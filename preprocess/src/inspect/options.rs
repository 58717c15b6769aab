//! The options of scrl-inspect.

use std::path::PathBuf;

use clap::Args;

use crate::{Error, Result};

/// Pairs on a contact sheet, by default: they fit on a screen.
const SHEET_PAIRS: u64 = 12;
/// Pairs on a page, by default: about 4 MB.
const PAGE_PAIRS: u64 = 60;

/// The options of scrl-inspect.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Check every shard against its checksum, and every row and view against seed, options and
    /// source images; exit code 1 if anything differs
    #[arg(long, conflicts_with_all = ["png", "html", "json"])]
    pub verify: bool,

    /// With --verify: do not compare pixels, which takes most of the time
    #[arg(long, requires = "verify")]
    pub no_pixels: bool,

    /// Write a contact sheet: pairs side by side, matched boxes in matching colors
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,

    /// Write a self-contained page: pairs with their boxes and source images, and the distributions
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Print the statistics as JSON
    #[arg(long)]
    pub json: bool,

    /// The source images, if they have moved [default: the path recorded in dataset.toml]
    #[arg(long, value_name = "IMAGES")]
    pub images: Option<PathBuf>,

    /// Pairs on the contact sheet or the page, chosen at random [default: 12; 60 with --html]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub rows: Option<u64>,

    /// Inspect this epoch only
    #[arg(long, value_name = "E")]
    pub epoch: Option<u32>,

    /// Seed of the random choice of pairs [default: 0]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,

    /// Threads that read and render [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

impl Options {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// [`Error::Option`].
    pub fn check(&self) -> Result<()> {
        if self.rows.is_some() && self.png.is_none() && self.html.is_none() {
            let reason = "needs --png or --html beside it".to_owned();
            return Err(Error::Option { option: "rows", reason });
        }
        Ok(())
    }

    /// Whether statistics are printed: if requested, or if nothing else is.
    pub fn prints_statistics(&self) -> bool {
        self.json || (self.png.is_none() && self.html.is_none())
    }

    /// Pairs on the contact sheet.
    pub fn sheet_pairs(&self) -> u64 {
        self.rows.unwrap_or(SHEET_PAIRS)
    }

    /// Pairs on the page.
    pub fn page_pairs(&self) -> u64 {
        self.rows.unwrap_or(PAGE_PAIRS)
    }
}
