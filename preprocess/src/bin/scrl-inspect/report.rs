//! The messages of --verify.

use indicatif::{HumanBytes, HumanCount};
use scrl_cli::{print, print_error};
use scrl_preprocess::inspect::Shards;
use scrl_preprocess::inspect::verify::Verdict;

/// Prints the verdict on standard output, and each fault as a line on standard error.
pub fn verdict(shards: &Shards, verdict: &Verdict, quiet: bool) {
    for fault in &verdict.faults {
        print_error(format_args!("{}: {}", fault.file, fault.what));
    }
    let more = verdict.fault_count - verdict.faults.len() as u64;
    if more > 0 {
        print_error(format_args!("… and {} more faults", HumanCount(more)));
    }
    for note in &verdict.notes {
        print_error(note);
    }
    if !shards.unfinished.is_empty() && !quiet {
        print_error(format_args!("not checked: {} unfinished epochs", shards.unfinished.len()));
    }
    if verdict.fault_count == 0 && !quiet {
        let pixels = match (verdict.pixels, shards.are_recipes()) {
            (0, _) => String::new(),
            (count, true) => format!(", {} source images decode to their sizes", HumanCount(count)),
            (count, false) => {
                format!(", the views of {} rows match their source images", HumanCount(count))
            }
        };
        print(format_args!(
            "{} shards, {}: every checksum is right, {} rows are those of seed {}{pixels}",
            HumanCount(verdict.shards),
            HumanBytes(verdict.bytes),
            HumanCount(verdict.rows),
            shards.manifest.seed
        ));
    }
}
