//! The drawings of the page as inline SVG: accuracies by measure, and differences with intervals.

use std::fmt::Write;

use scrl_preprocess::inspect::page::escape;

use super::results::{ArmDifference, Comparison};
use super::summary::{Difference, signed};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 44.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;
/// Between the points of two arms at one measure.
const STEP: f64 = 22.0;
/// About as many lines of an axis.
const TICKS: f64 = 5.0;

/// A row of the drawing of differences.
const ROW: f64 = 26.0;
/// Room for the rows' titles and for their values.
const TITLES: f64 = 250.0;
const VALUES: f64 = 160.0;

/// A linear axis with round ticks.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// An axis that shows all values, in percent or points.
    fn new(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        let rough = ((high - low) / TICKS).max(0.1);
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as u32;
        (0..=count).map(|number| self.low + f64::from(number) * self.step)
    }

    /// The place of a value from 0 (low) to 1 (high).
    fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low).max(f64::MIN_POSITIVE)
    }

    /// A tick's text without needless decimals.
    fn text(&self, value: f64) -> String {
        let decimals = if self.step < 1.0 { 1 } else { 0 };
        let value = if value.abs() < self.step / 2.0 { 0.0 } else { value };
        format!("{value:.decimals$}").replace('-', "−")
    }
}

/// Top-1 of each arm by each measure, with 95 % intervals.
pub(super) fn accuracies(found: &Comparison) -> String {
    let intervals = |value: f64, interval: Option<[f64; 2]>| {
        [Some(value), interval.map(|it| it[0]), interval.map(|it| it[1])].into_iter().flatten()
    };
    let results = || found.arms.iter().flat_map(|arm| &arm.results);
    let axis =
        Axis::new(results().flat_map(|it| intervals(it.top1, it.interval)).map(|v| 100.0 * v));
    let y = |value: f64| TOP + (1.0 - axis.place(value)) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Top-1 of each arm by each \
         measure; the table has the numbers.\"><g class=\"axis\">"
    );
    for tick in axis.ticks() {
        let (y, right) = (y(tick), WIDTH - 4.0);
        let _ = write!(
            out,
            "<path d=\"M{LEFT} {y:.1}H{right}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.5,
            axis.text(tick)
        );
    }
    let room = (WIDTH - LEFT) / found.measures.len() as f64;
    // From few labels to all of them, as curves of accuracy are drawn.
    let columns: Vec<usize> = (0..found.measures.len()).rev().collect();
    let center = |place: usize| LEFT + (place as f64 + 0.5) * room;
    for (place, &measure) in columns.iter().enumerate() {
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            center(place),
            HEIGHT - 8.0,
            escape(&found.measures[measure].name)
        );
    }
    out += "</g>";
    let step = STEP.min(room / (found.arms.len() + 1) as f64);
    for (number, arm) in found.arms.iter().enumerate() {
        let shift = (number as f64 - (found.arms.len() - 1) as f64 / 2.0) * step;
        let _ = write!(out, "<g class=\"a{number}\">");
        for (place, &measure) in columns.iter().enumerate() {
            let it = &arm.results[measure];
            let (x, middle) = (center(place) + shift, y(100.0 * it.top1));
            if let Some([low, high]) = it.interval {
                let (low, high) = (y(100.0 * low), y(100.0 * high));
                let _ = write!(out, "<path class=\"range\" d=\"M{x:.1} {low:.1}V{high:.1}\"/>");
            }
            let title =
                format!("{}, {}: {:.1} %", arm.name, found.measures[measure].name, 100.0 * it.top1);
            let _ =
                write!(out, "<g><title>{}</title>{}</g>", escape(&title), mark(number, x, middle));
        }
        out += "</g>";
    }
    out + "</svg>"
}

/// The mark of an arm: shapes tell arms apart where colors do not.
pub(super) fn mark(arm: usize, x: f64, y: f64) -> String {
    let path = |points: &[[f64; 2]]| {
        let points: Vec<String> =
            points.iter().map(|[dx, dy]| format!("{:.1} {:.1}", x + dx, y + dy)).collect();
        format!("<path class=\"mark\" d=\"M{}Z\"/>", points.join("L"))
    };
    match arm % 4 {
        0 => format!("<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>"),
        1 => path(&[[-4.5, -4.5], [4.5, -4.5], [4.5, 4.5], [-4.5, 4.5]]),
        2 => path(&[[0.0, -6.0], [5.5, 4.5], [-5.5, 4.5]]),
        _ => path(&[[0.0, -6.5], [6.5, 0.0], [0.0, 6.5], [-6.5, 0.0]]),
    }
}

/// Differences of a pair with their intervals around 0, on an axis for those of all pairs; those
/// that are hardly chance are filled.
pub(super) fn differences(rows: &[(&str, &Difference)], all: &[ArmDifference]) -> String {
    let ends = |it: &Difference| {
        let [low, high] = it.interval.unwrap_or([it.difference; 2]);
        [0.0, low, high, it.difference]
    };
    let axis = Axis::new(all.iter().flat_map(|it| ends(&it.difference)).map(|end| 100.0 * end));
    let right = WIDTH - VALUES;
    let x = |value: f64| TITLES + axis.place(value) * (right - TITLES);
    let bottom = ROW * rows.len() as f64 + 4.0;
    let height = bottom + BOTTOM;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Differences in points with \
         95 % intervals.\"><g class=\"axis\">"
    );
    for tick in axis.ticks() {
        let zero = if tick.abs() < axis.step / 2.0 { " class=\"zero\"" } else { "" };
        let x = x(tick);
        let _ = write!(
            out,
            "<path{zero} d=\"M{x:.1} 4V{bottom}\"/><text x=\"{x:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            axis.text(tick)
        );
    }
    out += "</g>";
    for (number, (title, it)) in rows.iter().enumerate() {
        let y = ROW * (number as f64 + 0.5) + 4.0;
        let class = if it.decided { "decided" } else { "open" };
        let [_, low, high, value] = ends(it).map(|value| x(100.0 * value));
        let values = match it.interval {
            Some([low, high]) => {
                format!("{} ({} to {})", signed(it.difference), signed(low), signed(high))
            }
            None => signed(it.difference),
        };
        let _ = write!(
            out,
            "<g class=\"{class}\"><text x=\"0\" y=\"{:.1}\">{}</text>\
             <path class=\"range\" d=\"M{low:.1} {y:.1}H{high:.1}\"/>\
             <circle class=\"mark\" cx=\"{value:.1}\" cy=\"{y:.1}\" r=\"5\"/>\
             <text x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">{values}</text></g>",
            y + 4.5,
            escape(&shortened(title)),
            y + 4.5,
        );
    }
    out + "</svg>"
}

/// A title that fits its room.
fn shortened(title: &str) -> String {
    const MOST: usize = 36;
    match title.chars().count() {
        0..=MOST => title.to_owned(),
        _ => title.chars().take(MOST - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks_around_all_values() {
        for (values, expected) in [
            (vec![3.0, 29.0], ["0", "10", "20", "30"].as_slice()),
            (vec![-4.0, 0.0, 5.0], &["−4", "−2", "0", "2", "4", "6"]),
            (vec![0.0, 0.9], &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
            (vec![0.0], &["0.0"]),
        ] {
            let axis = Axis::new(values.iter().copied());
            let ticks: Vec<String> = axis.ticks().map(|tick| axis.text(tick)).collect();
            assert_eq!(ticks, expected, "{values:?}");
        }
    }
}
