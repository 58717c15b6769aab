//! `metrics.svg`: the metrics of a run over its steps, one panel below the other.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::metrics::Metrics;
use crate::{Error, Result};

/// Width of the drawing, in pixels.
const WIDTH: u32 = 960;
/// Width of the value axis's labels.
const LEFT: u32 = 76;
/// Margin on the right.
const RIGHT: u32 = 24;
/// Height of the loss's panel.
const TALL: u32 = 300;
/// Height of any other panel.
const LOW: u32 = 170;
/// Height of the text below all panels.
const BELOW: u32 = 20;
/// Points of a line at most: about one for each pixel.
const MOST_POINTS: usize = 800;
/// A smooth line is the mean over one of this many parts of the run.
const SMOOTH_PARTS: usize = 60;

/// Colors that can be distinguished by hue and by lightness.
const COLORS: [RGBColor; 2] = [RGBColor(11, 98, 196), RGBColor(200, 80, 30)];
const GRID: RGBColor = RGBColor(227, 230, 234);
const TEXT: RGBColor = RGBColor(27, 31, 36);

/// A step and a value.
type Point = (f64, f64);

/// A panel of the drawing.
struct Panel {
    title: &'static str,
    height: u32,
    /// Whether the values fluctuate, so that a smooth line is drawn above them.
    is_noisy: bool,
    /// Whether the axis starts at 0.
    from_zero: bool,
    /// Names and lines; names are shown where there are several.
    lines: Vec<(&'static str, Vec<Point>)>,
}

/// Draws the metrics of a run; nothing without any.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(path: &Path, metrics: &[Metrics]) -> Result<()> {
    if metrics.is_empty() {
        return Ok(());
    }
    let drawing = draw(metrics).map_err(|error| Error::drawing(path, error))?;
    Ok(scrl_schemas::store::write(path, drawing.as_bytes())?)
}

fn draw(metrics: &[Metrics]) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let panels = panels(metrics);
    let ends: Vec<u32> = panels
        .iter()
        .scan(0, |end, panel| {
            *end += panel.height;
            Some(*end)
        })
        .collect();
    let mut drawing = String::new();
    {
        let height = ends.last().copied().unwrap_or(TALL) + BELOW;
        let root = SVGBackend::with_string(&mut drawing, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let steps = [metrics.first(), metrics.last()]
            .map(|metrics| metrics.map_or(0.0, |metrics| metrics.step as f64));
        for (area, panel) in root.split_by_breakpoints([0; 0], &ends).iter().zip(&panels) {
            draw_panel(area, panel, steps)?;
        }
        let below = ("sans-serif", 12).into_font().color(&TEXT);
        root.draw_text("step", &below, ((LEFT + WIDTH - RIGHT) as i32 / 2, height as i32 - 18))?;
        root.present()?;
    }
    Ok(drawing)
}

/// The panels that have anything to show.
fn panels(metrics: &[Metrics]) -> Vec<Panel> {
    let line = |value: &dyn Fn(&Metrics) -> Option<f64>| -> Vec<Point> {
        let point = |metrics: &Metrics| Some((metrics.step as f64, value(metrics)?));
        metrics.iter().filter_map(point).filter(|(_, value)| value.is_finite()).collect()
    };
    // The loss of a step without boxes is recorded as 0.
    let loss = line(&|m| (m.boxes > 0).then_some(m.loss.into()));
    let of_step = |value: fn(&Metrics) -> f64| line(&|m| Some(value(m)));
    let all = [
        Panel {
            title: "loss",
            height: TALL,
            is_noisy: true,
            from_zero: false,
            lines: vec![("", loss)],
        },
        Panel {
            title: "learning rate",
            height: LOW,
            is_noisy: false,
            from_zero: true,
            lines: vec![("", of_step(|m| m.lr))],
        },
        Panel {
            title: "online accuracy, %",
            height: LOW,
            is_noisy: true,
            from_zero: true,
            lines: vec![("", line(&|m| m.online_acc.map(|accuracy| 100.0 * accuracy)))],
        },
        Panel {
            title: "embedding std",
            height: LOW,
            is_noisy: true,
            from_zero: true,
            lines: vec![
                ("projections", line(&|m| m.projection_std)),
                ("targets", line(&|m| m.target_std)),
            ],
        },
        Panel {
            title: "effective rank",
            height: LOW,
            is_noisy: false,
            from_zero: true,
            lines: vec![("", line(&|m| m.effective_rank))],
        },
        Panel {
            title: "box retrieval, %",
            height: LOW,
            is_noisy: false,
            from_zero: true,
            lines: vec![("", line(&|m| m.box_retrieval.map(|found| 100.0 * found)))],
        },
        Panel {
            title: "speed, pairs/s",
            height: LOW,
            is_noisy: true,
            from_zero: true,
            lines: vec![("", of_step(|m| m.pairs_per_s))],
        },
    ];
    let has_points = |panel: &Panel| panel.lines.iter().any(|(_, points)| !points.is_empty());
    all.into_iter().filter(has_points).collect()
}

fn draw_panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    panel: &Panel,
    [first, last]: [f64; 2],
) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let (low, high) = value_range(panel);
    let mut chart = ChartBuilder::on(area)
        .margin_top(34)
        .margin_right(RIGHT)
        .margin_bottom(4)
        .x_label_area_size(26)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(first..last.max(first + 1.0), low..high)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GRID)
        .label_style(("sans-serif", 12).into_font().color(&TEXT))
        .x_labels(8)
        .y_labels(panel.height as usize / 36)
        .x_label_formatter(&|step| {
            if step.fract() == 0.0 { step.to_string() } else { String::new() }
        })
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    let bold = FontDesc::new(FontFamily::SansSerif, 14.0, FontStyle::Bold).color(&TEXT);
    area.draw_text(panel.title, &bold, (LEFT as i32, 12))?;
    for (number, (name, points)) in panel.lines.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        if !name.is_empty() {
            let style = ("sans-serif", 13).into_font().color(&color);
            area.draw_text(name, &style, (200 + 100 * number as i32, 12))?;
        }
        if let [point] = points[..] {
            chart.draw_series([Circle::new(point, 3, color.filled())])?;
        } else if panel.is_noisy && points.len() > 2 * SMOOTH_PARTS {
            chart.draw_series(LineSeries::new(thinned(points), color.mix(0.3)))?;
            let smooth = smoothed(points);
            let step = smooth.len().div_ceil(MOST_POINTS);
            let line = smooth.into_iter().step_by(step);
            chart.draw_series(LineSeries::new(line, color.stroke_width(2)))?;
        } else {
            chart.draw_series(LineSeries::new(thinned(points), color.stroke_width(2)))?;
        }
    }
    Ok(())
}

/// The range of the value axis, with some room at its open ends.
fn value_range(panel: &Panel) -> (f64, f64) {
    let values = || panel.lines.iter().flat_map(|(_, points)| points).map(|point| point.1);
    let (mut low, mut high) =
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    if panel.from_zero {
        low = low.min(0.0);
    }
    if low == high {
        let around = if low == 0.0 { 1.0 } else { low.abs() };
        (low, high) = (low - 0.1 * around, high + 0.1 * around);
    }
    let room = 0.06 * (high - low);
    let room_below = if panel.from_zero && low == 0.0 { 0.0 } else { room };
    (low - room_below, high + room)
}

/// A value with few digits.
fn short(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e5).contains(&value.abs()) {
        format!("{value:.1e}").replace(".0e", "e")
    } else {
        let text = format!("{value:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// The smallest and the largest of neighboring points, where there are more than can be seen.
fn thinned(points: &[Point]) -> Vec<Point> {
    if points.len() <= 2 * MOST_POINTS {
        return points.to_vec();
    }
    let parts = points.chunks(points.len().div_ceil(MOST_POINTS));
    parts
        .flat_map(|part| {
            let by_value = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
            let ends = [part.iter().min_by(by_value), part.iter().max_by(by_value)];
            let mut ends: Vec<Point> = ends.into_iter().flatten().copied().collect();
            ends.sort_by(|a, b| a.0.total_cmp(&b.0));
            ends
        })
        .collect()
}

/// The mean around each point, over a window that is shorter only at both ends.
fn smoothed(points: &[Point]) -> Vec<Point> {
    let reach = (points.len() / SMOOTH_PARTS / 2).max(1);
    let mut sums = vec![0.0];
    for (_, value) in points {
        sums.push(sums[sums.len() - 1] + value);
    }
    let mean = |(index, (step, _)): (usize, &Point)| {
        let near = reach.min(index).min(points.len() - 1 - index);
        (*step, (sums[index + near + 1] - sums[index - near]) / (2 * near + 1) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_and_many_are_drawn() {
        for steps in [1, 5000] {
            let metrics: Vec<_> = (1..=steps).map(Metrics::example).collect();
            let drawing = draw(&metrics).unwrap();
            assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>\n"));
            for title in ["loss", "learning rate", "online accuracy", "embedding std", "speed"] {
                assert!(drawing.contains(title), "no {title}");
            }
            assert!(!drawing.contains("NaN") && !drawing.contains("inf"));
            assert!(drawing.len() < 200_000, "{} bytes", drawing.len());
        }
    }

    #[test]
    fn panels_without_values_are_left_out() {
        let metrics: Vec<_> =
            (1..=9).map(|step| Metrics { online_acc: None, ..Metrics::example(step) }).collect();
        assert!(!draw(&metrics).unwrap().contains("online accuracy"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.svg");
        write(&path, &[]).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_smooth_line_is_the_mean_of_its_window() {
        let points: Vec<Point> = (0..240).map(|x| (f64::from(x), f64::from(x % 2))).collect();
        let smooth = smoothed(&points);
        assert_eq!((smooth.len(), smooth[0]), (240, points[0]));
        assert!(smooth[2..238].iter().all(|(_, mean)| (0.4..=0.6).contains(mean)));
        assert_eq!(thinned(&points).len(), 240);
        let many: Vec<Point> = (0..100_000).map(|x| (f64::from(x), f64::from(x % 7))).collect();
        assert!(thinned(&many).len() <= 2 * MOST_POINTS);
    }
}
