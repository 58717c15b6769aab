//! The statistics of a shards folder, as text or as JSON.

use std::fmt::Write;

use indicatif::{HumanBytes, HumanCount};
use scrl_schemas::{BoxSampler, PrepOptions};
use serde_json::{Value, json};

use super::distributions::Distributions;
use super::histogram::Histogram;
use super::requested::{Frequency, steps};
use super::shards::Shards;

/// Width of the longest bar in characters.
const BAR: usize = 40;
/// Eighths of a character.
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// The statistics as text of at most 100 columns, unless a path is longer.
pub fn text(shards: &Shards, found: &Distributions) -> String {
    let mut out = String::new();
    let options = &shards.manifest.options;
    let sections = [
        head(shards, found),
        frequencies(shards, found),
        ranges(options, found),
        boxes(options, found),
    ];
    for section in sections {
        let _ = writeln!(out, "{section}");
    }
    out.trim_end().to_owned()
}

fn head(shards: &Shards, found: &Distributions) -> String {
    let manifest = &shards.manifest;
    let options = &manifest.options;
    let epochs = match shards.unfinished.len() {
        0 => format!("{} of {} planned", shards.epochs.len(), manifest.epochs),
        count => {
            format!("{} of {} planned, {count} being made", shards.epochs.len(), manifest.epochs)
        }
    };
    let per_pair = shards.bytes() / found.rows.max(1);
    let mut lines = vec![
        (
            "views",
            format!(
                "{}, {} px, preset {}, seed {}, by {}",
                options.views, options.size, options.preset, manifest.seed, manifest.writer
            ),
        ),
        ("images", manifest.images.clone()),
        ("", images(shards)),
        ("epochs", epochs),
        ("shards", HumanCount(shards.iter().count() as u64).to_string()),
        ("pairs", HumanCount(found.rows).to_string()),
        ("bytes", format!("{}, {} per pair", HumanBytes(shards.bytes()), HumanCount(per_pair))),
    ];
    if let Some(levels) = options.levels_in_words() {
        lines.insert(1, ("levels", levels));
    }
    let mut out = format!("{}\n", shards.paths.root().display());
    for (name, value) in lines {
        let _ = writeln!(out, "  {name:<8} {value}");
    }
    out
}

/// The numbers of images, classes and unreadable images.
fn images(shards: &Shards) -> String {
    let mut text = format!("{} found", HumanCount(shards.sources.len() as u64));
    let mut of_class = std::collections::BTreeMap::new();
    for source in shards.sources.iter().filter(|source| source.error.is_none()) {
        if let Some((number, _)) = source.class {
            *of_class.entry(number).or_insert(0u64) += 1;
        }
    }
    if let (Some(fewest), Some(most)) = (of_class.values().min(), of_class.values().max()) {
        let each = if fewest == most { format!("{fewest}") } else { format!("{fewest} to {most}") };
        let plural = if of_class.len() == 1 { "" } else { "es" };
        let _ = write!(text, ", {} class{plural} of {each}", HumanCount(of_class.len() as u64));
    }
    let unreadable = shards.unreadable();
    let _ = write!(text, ", {} unreadable", HumanCount(unreadable));
    if unreadable > 0 {
        text.push_str(" (reasons in sources.parquet)");
    }
    text
}

fn frequencies(shards: &Shards, found: &Distributions) -> String {
    let steps = steps(&shards.manifest.options, found);
    let width = steps.iter().map(|step| step.name.len()).max().unwrap_or(0).max(10);
    let mut out = format!(
        "  {:<width$}{:>10}{:>11}{:>13}{:>11}\n",
        "", "view 1", "requested", "view 2", "requested"
    );
    for step in steps {
        let cell = |of: &Frequency| {
            format!("{:>8.2} %{:>9.0} %", 100.0 * of.found(), 100.0 * of.requested)
        };
        let [first, second] = step.views.each_ref();
        let odd = if step.views.iter().any(Frequency::is_odd) { "   not as requested" } else { "" };
        let _ = writeln!(out, "  {:<width$}{}    {}{odd}", step.name, cell(first), cell(second));
    }
    out
}

/// A line of quantiles.
struct Range<'a> {
    name: &'static str,
    of: &'a Histogram,
    /// Converts the histogram's values to those shown.
    show: fn(f64) -> f64,
    digits: usize,
}

fn ranges(options: &PrepOptions, found: &Distributions) -> String {
    let same = |value: f64| value;
    let percent = |value: f64| 100.0 * value;
    let [first, second] = &found.views;
    let range = |name, of, show: fn(f64) -> f64, digits| Range { name, of, show, digits };
    let mut table = vec![
        range("crop 1, % of the image", &first.crop_area, percent, 1),
        range("crop 2, % of the image", &second.crop_area, percent, 1),
        range("crop 1, width : height", &first.crop_aspect_log2, f64::exp2, 2),
        range("crop 2, width : height", &second.crop_aspect_log2, f64::exp2, 2),
        range("IoU of the crops", &found.crop_iou, same, 2),
    ];
    if options.box_sampler != BoxSampler::Point {
        let of_boxes = [
            range("box in view 1, px", &first.box_side, same, 0),
            range("box in view 2, px", &second.box_side, same, 0),
            range("IoU of two boxes", &found.box_iou, same, 2),
        ];
        table.splice(4..4, of_boxes);
    }
    let mut out =
        format!("{:<25}{:>8}{:>8}{:>8}{:>8}{:>8}\n", "", "min", "5 %", "median", "95 %", "max");
    for Range { name, of, show, digits } in table {
        let _ = write!(out, "  {name:<23}");
        let values = [0.0, 0.05, 0.5, 0.95, 1.0].map(|q| match q {
            0.0 => of.quantile(0.0).map(|_| of.min),
            1.0 => of.quantile(1.0).map(|_| of.max),
            q => of.quantile(q),
        });
        for value in values {
            let _ = match value {
                Some(value) => write!(out, "{:>8.digits$}", show(value)),
                None => write!(out, "{:>8}", "–"),
            };
        }
        out.push('\n');
    }
    out
}

fn boxes(options: &PrepOptions, found: &Distributions) -> String {
    let kind = match options.box_sampler {
        BoxSampler::Point => "points",
        BoxSampler::Uniform | BoxSampler::Grid => "boxes",
    };
    let rows = found.rows.max(1) as f64;
    let mean = found.boxes as f64 / rows;
    let full = found.rows_by_boxes.len() as u32 - 1;
    let percent = |count: u64| 100.0 * count as f64 / rows;
    let mut out = format!(
        "{kind} per pair: {mean:.2} on average; {:.2} % of the pairs have none, {:.2} % fewer than \
         {full}\n",
        percent(found.rows_by_boxes[0]),
        percent(found.rows_below(full))
    );
    if options.box_jitter.is_infinite() {
        let _ = writeln!(out, "{kind} of view 2 lie anywhere in it, unmatched: --box-jitter inf");
    }
    let most = found.rows_by_boxes.iter().max().copied().unwrap_or(0).max(1);
    // Without the numbers of boxes beyond the largest that occurs.
    let shown = found.rows_by_boxes.iter().rposition(|&count| count > 0).unwrap_or(0);
    for (boxes, &count) in found.rows_by_boxes.iter().enumerate().take(shown + 1) {
        let line =
            format!("  {boxes:>3}  {:>7.2} %  {}", percent(count), bar(count as f64 / most as f64));
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// A bar whose length is this fraction of the longest.
fn bar(fraction: f64) -> String {
    let eighths = (fraction * (BAR * 8) as f64).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    bar.push(EIGHTHS[eighths % 8]);
    bar
}

/// The statistics as JSON, with every histogram bin by bin.
pub fn json(shards: &Shards, found: &Distributions) -> Value {
    let augmentations = steps(&shards.manifest.options, found).into_iter().map(|step| {
        let views = step
            .views
            .map(|of| json!({"found": of.found(), "requested": of.requested, "odd": of.is_odd()}));
        let [first, second] = views;
        (step.name.to_owned(), json!({"view1": first, "view2": second}))
    });
    let mut manifest = json!(shards.manifest);
    if shards.manifest.options.box_jitter.is_infinite() {
        // JSON has no infinite numbers.
        manifest["options"]["box-jitter"] = json!("inf");
    }
    json!({
        "shards": shards.paths.root(),
        "manifest": manifest,
        "epochs": shards.epochs.iter().map(|finished| finished.epoch.0).collect::<Vec<_>>(),
        "unfinished_epochs": shards.unfinished.iter().map(|epoch| epoch.0).collect::<Vec<_>>(),
        "parts": shards.iter().count(),
        "bytes": shards.bytes(),
        "unreadable_images": shards.unreadable(),
        "augmentations": serde_json::Map::from_iter(augmentations),
        "found": found,
    })
}
