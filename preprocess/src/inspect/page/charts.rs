//! The charts of the page, with the requested distribution of each.

use scrl_schemas::{BlurKind, BoxSampler, PrepOptions};

use super::chart::Chart;
use crate::inspect::distributions::Distributions;
use crate::inspect::histogram::Histogram;
use crate::views::method::{BLUR_SIGMA, CROP_RATIO, RESIZE_BLUR_FACTORS};
use crate::views::params::{factors, hue_shifts};

/// The section with all charts.
pub(super) fn section(
    options: &PrepOptions,
    found: &Distributions,
    expected: &Distributions,
) -> String {
    let charts: String = charts(options, found, expected).iter().map(Chart::figure).collect();
    format!(
        "<section aria-labelledby=\"h-dist\">\n<h2 id=\"h-dist\">Distributions</h2>\n\
         <ul class=\"legend\">{}</ul>\n<div class=\"charts\">\n{charts}</div>\n</section>\n",
        LEGEND
            .map(|(kind, text)| format!("<li><span class=\"key {kind}\"></span>{text}</li>"))
            .concat()
    )
}

/// The legend of the charts: CSS class and text.
const LEGEND: [(&str, &str); 4] = [
    ("bars", "all pairs of this folder"),
    ("expected", "expected: the same photos and options with another seed"),
    ("requested", "requested: before crops that do not fit the photo are redrawn"),
    ("limit", "limit"),
];

fn charts(options: &PrepOptions, found: &Distributions, expected: &Distributions) -> Vec<Chart> {
    let [low, high] = options.crop_scale.map(f64::from);
    let percents = || ticks(&[0.0, 0.25, 0.5, 0.75, 1.0], |area| format!("{:.0} %", 100.0 * area));
    let ratios = || {
        let ratio = |log2: f64| match log2 {
            l if l < -0.1 => "3:4".to_owned(),
            l if l > 0.1 => "4:3".to_owned(),
            _ => "1:1".to_owned(),
        };
        ticks(&[CROP_RATIO[0].log2(), 0.0, CROP_RATIO[1].log2()], ratio)
    };
    let mut charts = Vec::new();
    for (view, name) in [(0, "Crop area, view 1"), (1, "Crop area, view 2")] {
        let (f, e) = (&found.views[view].crop_area, &expected.views[view].crop_area);
        let note = format!(
            "Fraction of the photo. Requested: uniform from {:.0} to {:.0} %.",
            100.0 * low,
            100.0 * high
        );
        charts.push(
            Panel {
                title: name,
                note,
                ticks: percents(),
                uniform: Some([low, high]),
                limits: vec![low, high],
            }
            .of(f, e),
        );
    }
    for (view, name) in [(0, "Crop shape, view 1"), (1, "Crop shape, view 2")] {
        let (f, e) = (&found.views[view].crop_aspect_log2, &expected.views[view].crop_aspect_log2);
        let bounds = CROP_RATIO.map(f64::log2);
        let note = "Width to height, logarithmic. Requested: uniform from 3:4 to 4:3.".to_owned();
        charts.push(
            Panel {
                title: name,
                note,
                ticks: ratios(),
                uniform: Some(bounds),
                limits: bounds.to_vec(),
            }
            .of(f, e),
        );
    }
    // Points have no size, and do not overlap.
    if options.box_sampler != BoxSampler::Point {
        charts.extend(sizes_and_overlaps(options, found, expected));
    }
    let note = "The two crops of a pair, in the photo; 0 if they do not overlap.".to_owned();
    charts.push(
        Panel {
            title: "Overlap of crops (IoU)",
            note,
            ticks: iou_ticks(),
            uniform: None,
            limits: Vec::new(),
        }
        .of(&found.crop_iou, &expected.crop_iou),
    );
    charts.push(boxes_per_pair(options, found, expected));
    charts.extend(strengths(options, found, expected));
    charts
}

/// The sizes of the boxes in both views, and their overlaps.
fn sizes_and_overlaps(
    options: &PrepOptions,
    found: &Distributions,
    expected: &Distributions,
) -> Vec<Chart> {
    let size = f64::from(options.size);
    let mut charts = Vec::new();
    for (view, title) in [(0, "Box size, view 1"), (1, "Box size, view 2")] {
        let (f, e) = (&found.views[view].box_side, &expected.views[view].box_side);
        let note = format!(
            "Square root of the area, in pixels of the view. No side is under {} px.",
            options.min_box
        );
        let marks = [0.0, size / 4.0, size / 2.0, size * 0.75, size];
        let ticks = ticks(&marks, |side| format!("{side:.0}"));
        let limits = vec![f64::from(options.min_box)];
        charts.push(Panel { title, note, ticks, uniform: None, limits }.of(f, e));
    }
    let title = "Overlap of boxes (IoU)";
    let note = match options.iou {
        Some(limit) => format!("All pairs of boxes of a row, in the photo; none above {limit}."),
        None => "All pairs of boxes of a row, in the photo; without a limit.".to_owned(),
    };
    let limits: Vec<f64> = options.iou.map(f64::from).into_iter().collect();
    let panel = Panel { title, note, ticks: iou_ticks(), uniform: None, limits };
    charts.push(panel.of(&found.box_iou, &expected.box_iou));
    charts
}

fn iou_ticks() -> Vec<(f64, String)> {
    ticks(&[0.0, 0.25, 0.5, 0.75, 1.0], |iou| format!("{iou:.2}"))
}

/// The texts and limits of a chart.
struct Panel {
    title: &'static str,
    note: String,
    ticks: Vec<(f64, String)>,
    /// The range of the requested uniform distribution, if it is one.
    uniform: Option<[f64; 2]>,
    limits: Vec<f64>,
}

impl Panel {
    fn of(self, found: &Histogram, expected: &Histogram) -> Chart {
        let words = match (found.quantile(0.05), found.quantile(0.5), found.quantile(0.95)) {
            (Some(low), Some(middle), Some(high)) => {
                format!(
                    "{low:.2} at 5 percent, median {middle:.2}, {high:.2} at 95 percent. {}",
                    self.note
                )
            }
            _ => "no values".to_owned(),
        };
        Chart {
            title: self.title,
            note: self.note,
            range: [found.low, found.high],
            found: found.fractions(),
            requested: self.uniform.map(|range| uniform(found, range)),
            expected: expected.fractions(),
            limits: self.limits,
            ticks: self.ticks,
            words,
        }
    }
}

/// The fractions of a uniform distribution between two bounds.
fn uniform(bins: &Histogram, [low, high]: [f64; 2]) -> Vec<f64> {
    let edges: Vec<f64> = bins.edges().collect();
    let within = |pair: &[f64]| (pair[1].min(high) - pair[0].max(low)).max(0.0);
    // The range may be a single point.
    let length = (high - low).max(f64::MIN_POSITIVE);
    edges.windows(2).map(|pair| within(pair) / length).collect()
}

fn ticks(values: &[f64], text: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    values.iter().map(|&value| (value, text(value))).collect()
}

fn boxes_per_pair(options: &PrepOptions, found: &Distributions, expected: &Distributions) -> Chart {
    let fractions = |of: &Distributions| -> Vec<f64> {
        let rows = of.rows.max(1) as f64;
        of.rows_by_boxes.iter().map(|&count| count as f64 / rows).collect()
    };
    let bins = found.rows_by_boxes.len();
    let every = bins.div_ceil(12).max(1);
    let numbers =
        (0..bins).step_by(every).map(|boxes| (boxes as f64 + 0.5, boxes.to_string())).collect();
    let mut expected = fractions(expected);
    expected.resize(bins, 0.0);
    let none = 100.0 * found.rows_by_boxes[0] as f64 / found.rows.max(1) as f64;
    Chart {
        title: "Boxes per pair",
        note: format!("At most {} were requested.", options.boxes),
        range: [0.0, bins as f64],
        found: fractions(found),
        requested: None,
        expected,
        limits: Vec::new(),
        ticks: numbers,
        words: format!(
            "{:.2} on average, none in {none:.1} percent of the pairs",
            found.boxes as f64 / found.rows.max(1) as f64
        ),
    }
}

/// The strengths of jitter and blur.
fn strengths(options: &PrepOptions, found: &Distributions, expected: &Distributions) -> Vec<Chart> {
    let (f, e) = (&found.jitter, &expected.jitter);
    let [probability, brightness, contrast, saturation, hue] = options.steps.jitter;
    let factor = |value: f64| format!("{value:.1}").replace('-', "−");
    let table = [
        ("Brightness", &f.brightness, &e.brightness, factors(brightness), "factor"),
        ("Contrast", &f.contrast, &e.contrast, factors(contrast), "factor"),
        ("Saturation", &f.saturation, &e.saturation, factors(saturation), "factor"),
        ("Hue", &f.hue, &e.hue, hue_shifts(hue), "shift in turns"),
    ];
    let mut charts: Vec<Chart> = table
        .into_iter()
        .filter(|(_, _, _, [low, high], _)| probability > 0.0 && low < high)
        .map(|(title, found, expected, [low, high], unit)| {
            let note = format!("Jittered views, {unit}. Requested: uniform from {low} to {high}.")
                .replace('-', "−");
            let marks = ticks(&[low, (low + high) / 2.0, high], factor);
            Panel { title, note, ticks: marks, uniform: Some([low, high]), limits: vec![low, high] }
                .of(found, expected)
        })
        .collect();
    let (found, expected) = (&found.blur, &expected.blur);
    let [low, high] = BLUR_SIGMA;
    match options.blur {
        BlurKind::None => {}
        BlurKind::Gaussian => {
            let note = format!("σ, pixels of the view. Requested: uniform from {low} to {high}.");
            let marks = ticks(&[low, 0.5, 1.0, 1.5, high], factor);
            let panel = Panel {
                title: "Blur",
                note,
                ticks: marks,
                uniform: Some(BLUR_SIGMA),
                limits: vec![low, high],
            };
            charts.push(panel.of(found, expected));
        }
        BlurKind::Resize => {
            let note = "The resize factor. Requested: 1.1, 1.2 and 1.5 equally often.".to_owned();
            let marks = ticks(&RESIZE_BLUR_FACTORS.map(f64::from), factor);
            let panel =
                Panel { title: "Blur", note, ticks: marks, uniform: None, limits: Vec::new() };
            charts.push(panel.of(found, expected));
        }
    }
    charts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_distribution_sums_to_one() {
        let bins = Histogram::new(0.0, 1.0, 40);
        let fractions = uniform(&bins, [0.21, 1.0]);
        assert!((fractions.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert_eq!(fractions[7], 0.0);
        assert!(fractions[8] > 0.0 && fractions[8] < fractions[9]);
    }
}
