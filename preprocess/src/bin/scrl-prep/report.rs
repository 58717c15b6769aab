//! The messages before and after the run.

use std::path::Path;

use anyhow::bail;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use scrl_cli::Reporter;
use scrl_preprocess::prepare::{Outline, Summary};
use scrl_schemas::ViewEncoding;

/// Prints what the run will do.
pub fn outline(reporter: &Reporter, outline: &Outline, views: ViewEncoding) {
    let images = counted(outline.images, "image");
    let classes = match outline.classes {
        0 => String::new(),
        1 => " in 1 class".to_owned(),
        count => format!(" in {} classes", HumanCount(count)),
    };
    let mut odd = Vec::new();
    if outline.unreadable > 0 {
        odd.push(format!("{} unreadable", HumanCount(outline.unreadable)));
    }
    if outline.ignored > 0 {
        let other = counted(outline.ignored, "other file");
        odd.push(format!("{other} ignored: {}", outline.ignored_endings));
    }
    let odd = if odd.is_empty() { String::new() } else { format!(" ({})", odd.join(", ")) };
    reporter.say(format_args!("{images}{classes}{odd}"));
    for notice in &outline.notices {
        reporter.say(format_args!("{notice}"));
    }
    if let Some([before, now]) = outline.more_planned {
        reporter.say(format_args!("planned epochs: {before} until now, {now} from now on"));
    }
    let finished = match outline.shards_finished {
        0 => String::new(),
        count => format!(", {count} of them finished"),
    };
    reporter.say(format_args!(
        "{} of {}{finished}; {} pairs to write as {views}, about {} in about {}",
        counted(outline.epochs, "epoch"),
        counted(outline.shards_per_epoch, "shard"),
        HumanCount(outline.pairs_to_write),
        HumanBytes(outline.bytes_to_write),
        HumanDuration(outline.time)
    ));
}

/// Prints what the run did.
pub fn summary(reporter: &Reporter, summary: &Summary, shards: &Path) {
    let seconds = summary.time.as_secs_f64();
    let unreadable = match summary.unreadable {
        0 => String::new(),
        count => format!(", {count} images unreadable (see sources.parquet)"),
    };
    reporter.say(format_args!(
        "{} pairs in {seconds:.1} s, {:.0} pairs/s{unreadable}; {}",
        HumanCount(summary.pairs),
        summary.pairs as f64 / seconds,
        match summary.incomplete {
            0 => format!("{} is complete", shards.display()),
            count => format!(
                "{} wait in {} for other ranks, the last of which completes them",
                counted(count, "epoch"),
                shards.display()
            ),
        }
    ));
}

/// A count and its noun, in the plural unless it is one.
fn counted(count: impl Into<u64>, of: &str) -> String {
    let count = count.into();
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {of}{plural}", HumanCount(count))
}

/// Refuses a run that the disk has no room for.
///
/// # Errors
/// One line with the sizes of all three encodings.
pub fn check_space(outline: &Outline, views: ViewEncoding, shards: &Path) -> anyhow::Result<()> {
    let Some(free) = outline.free_bytes.filter(|&free| free < outline.bytes_needed) else {
        return Ok(());
    };
    let epochs = u64::from(outline.epochs);
    let bytes = outline.estimate.bytes;
    let size = |encoding| HumanBytes(bytes.of(encoding).saturating_mul(epochs));
    let keep = match free / bytes.of(views).max(1) {
        0 => format!("not even one epoch fits as {views}"),
        fitting => format!("--keep {fitting} fits, with scrl-train --consume running"),
    };
    bail!(
        "{}: has {} free and {} take about {} as webp, {} as jpeg, {} as recipe; {keep}; or choose \
         other --views, fewer epochs with --only, or another disk",
        shards.display(),
        HumanBytes(free),
        counted(outline.epochs, "epoch"),
        size(ViewEncoding::Webp),
        size(ViewEncoding::Jpeg),
        size(ViewEncoding::Recipe)
    );
}
