//! One self-contained HTML page: pairs with their boxes and source images, and the distributions
//! beside the requested ones.
//!
//! The page is complete without its script, which adds filters, highlighting of matched boxes and
//! the choice of colors; nothing is loaded from anywhere. Every text from the shards goes through
//! `escape`.

mod chart;
mod charts;
mod data_url;
mod escape;
mod pair;

use std::fmt::Write;

use indicatif::{HumanBytes, HumanCount};

use super::distributions::Distributions;
use super::pairs::Pair;
use super::palette;
use super::requested::{Frequency, Step, steps};
use super::shards::Shards;
use crate::Result;
pub use data_url::data_url;
pub use escape::escape;

/// The style that all pages share; a page's own follows.
pub const BASE_STYLE: &str = include_str!("base.css");
/// The script of the choice of colors, for a page with a hidden button `theme`.
pub const THEME_SCRIPT: &str = include_str!("theme.js");

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The page's HTML. `found` are the distributions of all rows, `expected` those to expect, `pairs`
/// the pairs shown.
///
/// # Errors
/// [`crate::Error::Encode`] if an image cannot be encoded.
pub fn html(
    shards: &Shards,
    found: &Distributions,
    expected: &Distributions,
    pairs: &[Pair],
) -> Result<String> {
    let options = &shards.manifest.options;
    let name = escape(&shards.paths.root().display().to_string());
    let mut articles = String::new();
    for (index, pair) in pairs.iter().enumerate() {
        articles += &pair::article(index, pair, options)?;
    }
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{name}: pairs and boxes</title>\n\
         <style>\n{BASE_STYLE}{STYLE}{colors}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#pairs\">Skip to the pairs</a>\n\
         <header>\n<div class=\"bar\"><p class=\"kind\">scrl shards</p>{toggle}</div>\n\
         <h1>{name}</h1>\n{facts}</header>\n\
         <main>\n{augmentations}{distributions}{filters}{articles}\
         <p class=\"nothing\" hidden>No pair on this page matches.</p>\n</main>\n\
         <footer>Written by scrl-inspect {version}; this page loads nothing from \
         elsewhere.</footer>\n\
         <script>\n{THEME_SCRIPT}{SCRIPT}</script>\n</body>\n</html>\n",
        colors = colors(),
        toggle = "<button type=\"button\" id=\"theme\" hidden>Dark</button>",
        facts = facts(shards, found),
        augmentations = augmentations(&steps(options, found)),
        distributions = charts::section(options, found, expected),
        filters = filters(shards, pairs),
        version = env!("CARGO_PKG_VERSION"),
    ))
}

/// The colors of the boxes as CSS.
fn colors() -> String {
    let rule = |(number, &color): (usize, &[u8; 3])| {
        format!(
            ".k{number}{{--color:{};--on:{}}}",
            palette::css(color),
            palette::css(palette::text_color(color))
        )
    };
    palette::COLORS.iter().enumerate().map(rule).collect::<String>() + "\n"
}

/// The folder in a few numbers.
fn facts(shards: &Shards, found: &Distributions) -> String {
    let options = &shards.manifest.options;
    let rows = found.rows.max(1) as f64;
    let full = found.rows_by_boxes.len() as u32 - 1;
    let plural = if shards.epochs.len() == 1 { "" } else { "s" };
    let levels = options.levels_in_words().map(|levels| format!(", levels {levels}"));
    let levels = levels.unwrap_or_default();
    let facts = [
        (
            "pairs",
            HumanCount(found.rows).to_string(),
            format!("{} epoch{plural} of {} planned", shards.epochs.len(), shards.manifest.epochs),
        ),
        (
            "images",
            HumanCount(shards.sources.len() as u64).to_string(),
            format!("{} unreadable", shards.unreadable()),
        ),
        (
            "boxes per pair",
            format!("{:.2}", found.boxes as f64 / rows),
            format!("{:.1} % have fewer than {full}", 100.0 * found.rows_below(full) as f64 / rows),
        ),
        (
            "on the disk",
            HumanBytes(shards.bytes()).to_string(),
            format!("{} per pair", HumanBytes(shards.bytes() / found.rows.max(1))),
        ),
        (
            "views",
            format!("{}\u{202F}px", options.size),
            format!(
                "{}, preset {}, seed {}{levels}",
                options.views, options.preset, shards.manifest.seed
            ),
        ),
    ];
    let mut out = String::from("<dl class=\"facts\">\n");
    for (name, value, detail) in facts {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{value}<small>{detail}</small></dd></div>");
    }
    out + "</dl>\n"
}

/// The table of steps: frequencies found and requested.
fn augmentations(steps: &[Step]) -> String {
    let mut rows = String::new();
    for step in steps {
        let cells: String = step.views.iter().map(frequency).collect();
        let _ = writeln!(rows, "<tr><th scope=\"row\">{}</th>{cells}</tr>", step.name);
    }
    format!(
        "<section aria-labelledby=\"h-steps\">\n<h2 id=\"h-steps\">Augmentations</h2>\n\
         <p class=\"lead\">The percentage of views with each step; the mark on a bar is the \
         requested frequency.</p>\n\
         <table class=\"steps\"><thead><tr>\
         <th scope=\"col\"><span class=\"unseen\">Step</span></th>\
         <th scope=\"col\">View 1</th><th scope=\"col\">View 2</th></tr></thead>\n\
         <tbody>\n{rows}</tbody></table>\n</section>\n"
    )
}

fn frequency(of: &Frequency) -> String {
    let (found, requested) = (100.0 * of.found(), 100.0 * of.requested);
    let odd = if of.is_odd() { " <strong>not as requested</strong>" } else { "" };
    format!(
        "<td><span class=\"meter\" aria-hidden=\"true\"><i style=\"width:{found:.2}%\"></i>\
         <b style=\"left:{requested:.2}%\"></b></span>\
         <span class=\"found\">{found:.1}\u{202F}%</span> \
         <span class=\"requested\">requested {requested:.0}\u{202F}%</span>{odd}</td>"
    )
}

/// The filters, and the number of pairs that match.
fn filters(shards: &Shards, pairs: &[Pair]) -> String {
    let mut epochs: Vec<u32> = pairs.iter().map(|pair| pair.epoch.0).collect();
    epochs.sort_unstable();
    epochs.dedup();
    let mut classes: Vec<&str> = pairs.iter().filter_map(|pair| pair.class.as_deref()).collect();
    classes.sort_unstable();
    classes.dedup();
    let option = |value: &str| format!("<option>{}</option>", escape(value));
    let epochs: String = epochs.iter().map(|epoch| option(&epoch.to_string())).collect();
    let class_filter = match classes.is_empty() {
        true => String::new(),
        false => format!(
            "<label>Class <select id=\"f-class\"><option value=\"\">all</option>{}\
             </select></label>\n",
            classes.iter().map(|class| option(class)).collect::<String>()
        ),
    };
    format!(
        "<section aria-labelledby=\"h-pairs\">\n<h2 id=\"h-pairs\">Pairs</h2>\n\
         <p class=\"lead\">{count} of {total}, chosen at random. Point at a box, or move to its \
         number with the Tab key, to highlight it in both views and in the photo. A click keeps \
         the highlight, Escape removes it.</p>\n</section>\n\
         <form class=\"filters\" id=\"pairs\" aria-label=\"Filters\" hidden>\n\
         <label>Epoch <select id=\"f-epoch\"><option value=\"\">all</option>{epochs}\
         </select></label>\n\
         {class_filter}\
         <label class=\"tick\"><input type=\"checkbox\" id=\"f-solarized\"> Solarized</label>\n\
         <label class=\"tick\"><input type=\"checkbox\" id=\"f-few\"> Fewer than {most} boxes\
         </label>\n\
         <output id=\"shown\" aria-live=\"polite\"></output>\n</form>\n",
        count = pairs.len(),
        total = HumanCount(shards.rows()),
        most = shards.manifest.options.boxes,
    )
}
