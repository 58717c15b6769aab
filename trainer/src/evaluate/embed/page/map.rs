//! The map of the embeddings: what its script draws, and the legend of the classes.

use std::cmp::Reverse;
use std::fmt::Write;

use scrl_preprocess::inspect::page::escape;
use serde::Serialize;

use super::neighbors::Classes;
use super::sprites::Sheet;
use super::{EmbeddedRow, PageArm};

/// Classes with a line in the legend; more colors cannot be told apart.
const LEGEND: usize = 12;

/// The range of the coordinates that the script gets.
const RANGE: f64 = 10_000.0;

/// What the script draws.
#[derive(Serialize)]
struct Data<'a> {
    cell: u32,
    columns: u32,
    classes: &'a [&'a str],
    colors: Vec<String>,
    rows: Vec<Row<'a>>,
    /// For each arm: x and y of each row, from 0 to `RANGE`.
    arms: Vec<Vec<[u32; 2]>>,
}

#[derive(Serialize)]
struct Row<'a> {
    path: &'a str,
    #[serde(rename = "box")]
    corners: Option<[f32; 4]>,
    class: Option<usize>,
    size: [u32; 2],
}

/// The canvases of the arms with the data for the script.
pub(super) fn section(
    (rows, shown): (&[EmbeddedRow], &[usize]),
    (arms, points): (&[PageArm], &[Vec<[f64; 2]>]),
    classes: &Classes,
    sheet: &Sheet,
) -> String {
    let row = |(&row, &size): (&usize, &[u32; 2])| Row {
        path: &rows[row].path,
        corners: rows[row].corners,
        class: classes.of_rows[row],
        size,
    };
    let data = Data {
        cell: sheet.cell,
        columns: sheet.columns,
        classes: &classes.names,
        colors: colors(classes),
        rows: shown.iter().zip(&sheet.sizes).map(row).collect(),
        arms: points.iter().map(|points| scaled(points)).collect(),
    };
    let mut figures = String::new();
    for (number, arm) in arms.iter().enumerate() {
        let name = escape(&arm.name);
        let same = points[number].iter().all(|point| *point == points[number][0]);
        let same = same && points[number].len() > 1;
        let note = if same { " <small>all embeddings are equal</small>" } else { "" };
        let _ = writeln!(
            figures,
            "<figure><h3>{name}{note}</h3><canvas class=\"map\" tabindex=\"0\" role=\"img\" \
             aria-label=\"Map of the embeddings of {name}\"></canvas></figure>"
        );
    }
    let of = match shown.len() < rows.len() {
        true => format!("{} of {} rows, evenly sampled", shown.len(), rows.len()),
        false => format!("{} rows", rows.len()),
    };
    format!(
        "<section aria-labelledby=\"h-map\">\n<h2 id=\"h-map\">Map</h2>\n\
         <p class=\"lead\">t-SNE of the embeddings, each divided by its length: {of}. Near ones are \
         similar; the distances between groups, and the axes, mean nothing. The wheel zooms, \
         dragging moves, a double click resets.</p>\n\
         {legend}<noscript><p>The map is drawn by a script, which this browser does not \
         run.</p></noscript>\n<div class=\"maps\">\n{figures}</div>\n\
         <p id=\"tip\" hidden></p>\n<img id=\"sprites\" src=\"{url}\" alt=\"\" hidden>\n\
         <script type=\"application/json\" id=\"map-data\">{json}</script>\n</section>\n",
        legend = legend(classes, rows.len(), shown),
        url = sheet.url,
        json = json(&data),
    )
}

/// JSON inside a `script` element, which no text in it can end.
fn json(data: &Data) -> String {
    // Strings and numbers alone are always JSON.
    let json = serde_json::to_string(data).unwrap_or_default();
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// The points in a square, in whole numbers; in its middle if they are one.
fn scaled(points: &[[f64; 2]]) -> Vec<[u32; 2]> {
    let bounds = [0, 1].map(|axis| {
        let values = points.iter().map(|point| point[axis]);
        let low = values.clone().fold(f64::INFINITY, f64::min);
        (low, values.fold(f64::NEG_INFINITY, f64::max) - low)
    });
    let side = bounds[0].1.max(bounds[1].1);
    let scale = |value: f64, (low, extent): (f64, f64)| {
        let centered = (value - low - extent / 2.0) / side;
        let centered = if centered.is_finite() { centered } else { 0.0 };
        ((centered + 0.5) * RANGE).round() as u32
    };
    points.iter().map(|point| [0, 1].map(|axis| scale(point[axis], bounds[axis]))).collect()
}

/// The classes from the most to the least frequent one.
fn by_frequency(classes: &Classes) -> Vec<usize> {
    let counts: Vec<usize> = classes.rows().iter().map(Vec::len).collect();
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&class| Reverse(counts[class]));
    order
}

/// The colors of the classes in CSS. Those of the most frequent ones are 30° of hue apart, and
/// neighbors in hue differ in lightness.
fn colors(classes: &Classes) -> Vec<String> {
    let mut colors = vec![String::new(); classes.names.len()];
    for (rank, class) in by_frequency(classes).into_iter().enumerate() {
        let hue = (210 + 150 * rank + 17 * (rank / LEGEND)) % 360;
        let lightness = [42, 64][rank % 2];
        colors[class] = format!("hsl({hue} 75% {lightness}%)");
    }
    colors
}

/// A choice of the class to highlight, and the most frequent classes with their colors.
fn legend(classes: &Classes, number: usize, shown: &[usize]) -> String {
    if classes.names.is_empty() {
        return String::new();
    }
    let counts: Vec<usize> = classes.rows().iter().map(Vec::len).collect();
    let mut drawn = vec![false; counts.len()];
    shown.iter().filter_map(|&row| classes.of_rows[row]).for_each(|class| drawn[class] = true);
    let mut options = String::new();
    for (class, name) in classes.names.iter().enumerate().filter(|(class, _)| drawn[*class]) {
        let _ = write!(
            options,
            "<option value=\"{class}\">{} ({})</option>",
            escape(name),
            counts[class]
        );
    }
    let mut order = by_frequency(classes);
    order.retain(|&class| drawn[class]);
    let colors = colors(classes);
    let mut items = String::new();
    for &class in order.iter().take(LEGEND) {
        let _ = write!(
            items,
            "<li><span class=\"key\" style=\"background:{}\"></span>{}<small>{}</small></li>",
            colors[class],
            escape(classes.names[class]),
            counts[class]
        );
    }
    if order.len() > LEGEND {
        let _ = write!(items, "<li><small>and {} more</small></li>", order.len() - LEGEND);
    }
    let without = number - counts.iter().sum::<usize>();
    if without > 0 {
        let _ = write!(items, "<li><small>{without} without a class</small></li>");
    }
    format!(
        "<ul class=\"legend\">{items}</ul>\n<p id=\"choice\" hidden><label>Highlight \
         <select id=\"class\"><option value=\"\">all classes</option>{options}</select></label>\
         </p>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_fill_a_square_whose_sides_have_one_scale() {
        let found = scaled(&[[-1.0, 7.0], [3.0, 7.0], [1.0, 9.0]]);
        assert_eq!(found, [[0, 2500], [10_000, 2500], [5000, 7500]]);
        assert_eq!(scaled(&[[4.0, 4.0], [4.0, 4.0]]), [[5000, 5000]; 2]);
        assert!(scaled(&[]).is_empty());
    }

    #[test]
    fn frequent_classes_have_distinct_colors() {
        let of_rows = (0..100).map(|row| Some(if row < 60 { 7 } else { row % 12 })).collect();
        let colors = colors(&Classes { names: vec!["x"; 12], of_rows });
        assert_eq!(colors[7], "hsl(210 75% 42%)");
        let distinct: std::collections::BTreeSet<&String> = colors.iter().collect();
        assert_eq!(distinct.len(), 12);
    }
}
