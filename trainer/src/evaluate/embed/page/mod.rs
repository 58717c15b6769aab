//! One self-contained HTML page on embeddings: a map of them in two dimensions, the nearest
//! neighbors of some queries, and feature maps as colors, for one or two backbones.
//!
//! It loads nothing. All but the map is complete without its script. The same input gives the same
//! bytes. Paths, classes and names go through `escape`, or as JSON without `<`.

mod colors;
mod map;
mod neighbors;
mod sprites;
mod tsne;

use std::collections::BTreeSet;
use std::fmt::Write;

use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_preprocess::images::RgbImage;
use scrl_preprocess::inspect::page::{BASE_STYLE, THEME_SCRIPT, escape};

use self::neighbors::{Classes, SameClass};
use self::sprites::{Sheet, fit, pixels};
use super::super::neighbors::{Neighbor, normalized};
use super::EmbeddedRow;
use crate::Result;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Rows on the map at most: t-SNE computes all pairs of them.
const ON_MAP: usize = 1000;

/// The sides of the thumbnails: on the map, and of the neighbors.
const MAP_CELL: u32 = 48;
const NEIGHBOR_CELL: u32 = 96;

/// The sides of the neighbors and of their query on the page, in CSS pixels.
const NEIGHBOR_SIDE: u32 = 56;
const QUERY_SIDE: u32 = 88;

/// What the page shows.
pub(super) struct PageInput<'a> {
    pub title: String,
    pub rows: &'a [EmbeddedRow],
    /// One or two.
    pub arms: &'a [PageArm],
    /// The image or the crop of the box of a row, of any size.
    pub thumbnails: &'a (dyn Fn(usize) -> Result<RgbImage> + Sync),
    pub maps: &'a [FeatureMap],
}

/// The embeddings of one backbone.
pub(super) struct PageArm {
    pub name: String,
    /// `[rows, channels]`.
    pub embeddings: Vec<f32>,
    pub channels: usize,
}

/// An image with its last feature map by each arm.
pub(super) struct FeatureMap {
    pub image: RgbImage,
    /// Values and shape `[height, width, channels]`.
    pub arms: Vec<(Vec<f32>, [usize; 3])>,
}

/// The page's HTML.
///
/// # Errors
/// Those of the thumbnails, [`Error::Stopped`](crate::Error::Stopped) if the program is asked to
/// stop, and errors of the principal components.
pub(super) fn write_page(input: &PageInput, reporter: &Reporter) -> Result<String> {
    let (rows, classes) = (input.rows, Classes::new(input.rows));
    let arms: Vec<(Vec<f32>, &PageArm)> =
        input.arms.iter().map(|arm| (normalized(&arm.embeddings, arm.channels), arm)).collect();
    let same_class = neighbors::same_class(rows, &classes, &arms, reporter)?;
    let queries = neighbors::queries(&classes);
    let mut found = Vec::new();
    for (embeddings, arm) in &arms {
        let embeddings = (&embeddings[..], arm.channels);
        found.push(neighbors::of_queries(rows, &queries, embeddings, reporter)?);
    }
    let on_map = evenly(rows.len(), ON_MAP);
    let mut points = Vec::new();
    for (embeddings, arm) in &arms {
        let mut embeddings = neighbors::gather(embeddings, arm.channels, &on_map);
        // What has no place in the space is put into its middle.
        embeddings.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = 0.0);
        points.push(tsne::tsne(&embeddings, arm.channels, reporter)?);
    }
    let in_strips: BTreeSet<usize> = found
        .iter()
        .flatten()
        .flatten()
        .map(|neighbor| neighbor.row)
        .chain(queries.iter().copied())
        .collect();
    let in_strips: Vec<usize> = in_strips.into_iter().collect();
    let map_sheet = Sheet::new(&thumbnails(input, &on_map, MAP_CELL, reporter)?, MAP_CELL)?;
    let images = thumbnails(input, &in_strips, NEIGHBOR_CELL, reporter)?;
    let strips = Strips {
        rows,
        classes: &classes,
        in_strips: &in_strips,
        sheet: Sheet::new(&images, NEIGHBOR_CELL)?,
    };
    let title = escape(&input.title);
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}: embeddings</title>\n\
         <style>\n{BASE_STYLE}{STYLE}.thumb{{background-image:url({sheet})}}\n</style>\n</head>\n<body>\n\
         <header>\n<div class=\"bar\"><p class=\"kind\">scrl-embed</p>\
         <button type=\"button\" id=\"theme\" hidden>Dark</button></div>\n\
         <h1>{title}</h1>\n<p class=\"verdict\">{verdict}</p>\n{facts}</header>\n\
         <main>\n{map}{neighbors}{maps}</main>\n\
         <footer>Written by scrl-embed {version}; this page loads nothing from elsewhere.</footer>\n\
         <script>\n{THEME_SCRIPT}{SCRIPT}</script>\n</body>\n</html>\n",
        sheet = strips.sheet.url,
        verdict = verdict(input, same_class.as_ref()),
        facts = facts(input, &classes, same_class.as_ref()),
        map = map::section((rows, &on_map), (input.arms, &points), &classes, &map_sheet),
        neighbors = strips.section(&queries, input.arms, &found),
        maps = feature_maps(input)?,
        version = env!("CARGO_PKG_VERSION"),
    ))
}

/// At most `most` of `count` numbers from 0, evenly spread.
fn evenly(count: usize, most: usize) -> Vec<usize> {
    let most = most.min(count);
    (0..most).map(|number| (2 * number + 1) * count / (2 * most)).collect()
}

/// The images of some rows, the longer side of each `side` pixels long.
fn thumbnails(
    input: &PageInput,
    rows: &[usize],
    side: u32,
    reporter: &Reporter,
) -> Result<Vec<image::RgbImage>> {
    reporter.begin("thumbnails", rows.len() as u64, 0);
    let of_row = |&row: &usize| {
        let image = fit(&pixels(&(input.thumbnails)(row)?), side);
        reporter.step(1)?;
        Ok(image)
    };
    let images = rows.par_iter().map(of_row).collect();
    reporter.end();
    images
}

/// The first line of the page.
fn verdict(input: &PageInput, found: Option<&SameClass>) -> String {
    let Some(found) = found else {
        return match input.rows.iter().all(|row| row.class.is_none()) {
            true => "No row has a class, so neighbors of the same class cannot be counted.".into(),
            false => "No row with a class has neighbors in other images.".into(),
        };
    };
    let percent = |fraction: f64| format!("{:.1}\u{202F}%", 100.0 * fraction);
    let others: String = input
        .arms
        .iter()
        .zip(&found.arms)
        .skip(1)
        .map(|(arm, fraction)| format!("{} {}; ", escape(&arm.name), percent(*fraction)))
        .collect();
    let nearest = match found.neighbors {
        1 => "The nearest neighbor is of the same class for".to_owned(),
        count => format!("Of the {count} nearest neighbors"),
    };
    let same = if found.neighbors > 1 { " are of the same class" } else { " of the rows" };
    format!(
        "{nearest} <strong>{}</strong>{same} ({others}by chance {}).",
        percent(found.arms.first().copied().unwrap_or(0.0)),
        percent(found.chance)
    )
}

/// What was embedded, in a few numbers.
fn facts(input: &PageInput, classes: &Classes, found: Option<&SameClass>) -> String {
    let images = input.rows.iter().map(|row| row.image).collect::<BTreeSet<u32>>().len();
    let boxes = input.rows.iter().any(|row| row.corners.is_some());
    let (rows, of) = match boxes {
        true => ("boxes", format!("of {images} image{}", if images == 1 { "" } else { "s" })),
        false => ("images", String::new()),
    };
    let known = classes.of_rows.iter().flatten().count();
    let known = format!("known of {known} {rows}");
    let mut facts = vec![(rows, input.rows.len(), of), ("classes", classes.names.len(), known)];
    if let Some(found) = found.filter(|found| found.queries < found.rows) {
        let of = format!("of {} {rows} with a class, evenly sampled", found.rows);
        facts.push(("queries whose neighbors are counted", found.queries, of));
    }
    let mut out = String::from("<dl class=\"facts\">\n");
    for (name, value, detail) in facts {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{value}<small>{detail}</small></dd></div>");
    }
    out + "</dl>\n"
}

/// Queries with their neighbors in rows.
struct Strips<'a> {
    rows: &'a [EmbeddedRow],
    classes: &'a Classes<'a>,
    /// The rows in `sheet`, in ascending order.
    in_strips: &'a [usize],
    sheet: Sheet,
}

impl Strips<'_> {
    fn section(&self, queries: &[usize], arms: &[PageArm], found: &[Vec<Vec<Neighbor>>]) -> String {
        let mut articles = String::new();
        for (number, &query) in queries.iter().enumerate() {
            let strips: String = arms
                .iter()
                .zip(found)
                .map(|(arm, found)| self.strip(query, arm, &found[number]))
                .collect();
            let class = self.rows[query].class.as_deref();
            let _ = write!(
                articles,
                "<article class=\"query\"><figure title=\"{}\"><span class=\"cell\">{}</span>\
                 <figcaption>{}</figcaption></figure>\n{strips}</article>\n",
                self.words(query),
                self.image(query, QUERY_SIDE),
                escape(class.unwrap_or(file_name(&self.rows[query].path)))
            );
        }
        let key = match self.classes.names.is_empty() {
            true => "",
            false => {
                " Frames: <span class=\"sample same\">same class</span>, \
                 <span class=\"sample other\">other class</span>."
            }
        };
        format!(
            "<section aria-labelledby=\"h-neighbors\">\n<h2 id=\"h-neighbors\">Nearest \
             neighbors</h2>\n<p class=\"lead\">By cosine similarity, the nearest first; boxes of \
             the query's own image are left out.{key}</p>\n{articles}</section>\n"
        )
    }

    /// The neighbors of a query by one arm.
    fn strip(&self, query: usize, arm: &PageArm, neighbors: &[Neighbor]) -> String {
        let class = self.classes.of_rows[query];
        let mut items = String::new();
        for neighbor in neighbors {
            let of_neighbor = self.classes.of_rows[neighbor.row];
            let kind = match (class, of_neighbor) {
                (Some(a), Some(b)) if a == b => "same",
                (Some(_), Some(_)) => "other",
                _ => "unknown",
            };
            let words =
                format!("{}, similarity {:.3}", self.words(neighbor.row), neighbor.similarity);
            let _ = write!(
                items,
                "<li class=\"cell {kind}\" title=\"{words}\">{}<span class=\"unseen\">{words}\
                 </span></li>",
                self.image(neighbor.row, NEIGHBOR_SIDE)
            );
        }
        let same = neighbors.iter().filter(|it| self.classes.of_rows[it.row] == class).count();
        let count = match (class, neighbors.len()) {
            (_, 0) => ": no neighbors".to_owned(),
            (Some(_), number) => format!(": {same} of {number} of the same class"),
            (None, _) => String::new(),
        };
        format!(
            "<figure><figcaption><b>{}</b>{count}</figcaption><ol>{items}</ol></figure>\n",
            escape(&arm.name)
        )
    }

    fn image(&self, row: usize, side: u32) -> String {
        // Every row on the page is in the sheet.
        let number = self.in_strips.partition_point(|&shown| shown < row);
        self.sheet.span(number, "thumb", side)
    }

    /// The class, path and box of a row, escaped.
    fn words(&self, row: usize) -> String {
        let row = &self.rows[row];
        let class = row.class.as_ref().map(|class| format!("{class}: ")).unwrap_or_default();
        let bbox = row
            .corners
            .map(|[x0, y0, x1, y1]| format!(", box {x0:.0}, {y0:.0} to {x1:.0}, {y1:.0}"));
        escape(&format!("{class}{}{}", row.path, bbox.unwrap_or_default()))
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Images beside their feature maps.
fn feature_maps(input: &PageInput) -> Result<String> {
    if input.maps.is_empty() {
        return Ok(String::new());
    }
    let mut figures = String::new();
    for colored in colors::colored(input.maps)? {
        let [width, height] = colored.size;
        let names = input.arms.iter().map(|arm| escape(&arm.name));
        let images = names.zip(&colored.arms);
        let images = std::iter::once(("image".to_owned(), &colored.image)).chain(images);
        let images: String = images
            .map(|(name, url)| {
                format!(
                    "<figure><img src=\"{url}\" alt=\"\" width=\"{width}\" height=\"{height}\">\
                     <figcaption>{name}</figcaption></figure>"
                )
            })
            .collect();
        let _ = writeln!(figures, "<div class=\"colored\">{images}</div>");
    }
    Ok(format!(
        "<section aria-labelledby=\"h-maps\">\n<h2 id=\"h-maps\">Feature maps</h2>\n\
         <p class=\"lead\">The last feature maps as colors: their three leading principal \
         components over all these images as red, green and blue, each from the 2nd to the 98th \
         percentile. Within a backbone one color means one feature; between two, colors mean \
         nothing.</p>\n<div class=\"pixels\">\n{figures}</div>\n</section>\n"
    ))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
