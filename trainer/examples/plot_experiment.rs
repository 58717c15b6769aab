//! Draws the figures of `scripts/experiment.sh`.
//!
//! ```sh
//! cargo run --release --example plot_experiment -- OUT
//! ```
//!
//! `OUT/results.svg` shows the top-1 accuracy of each backbone and seed, from
//! `OUT/NAME/SEED/PROTOCOL/results.json`; `OUT/training.svg` the pretraining of BYOL and SCRL with
//! their first seed, from `OUT/NAME/SEED/metrics.jsonl`.
//!
//! Of several budgets, in folders `OUT/pairs-PAIRS` of the same kind, `OUT/results.svg` shows top-1
//! of BYOL and SCRL by pairs instead, from the random weights in `OUT/random` on; each folder gets
//! its own `results.svg`, if it has ablations, and `training.svg`.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;
use serde_json::Value;

/// The folder of a backbone, its title, and whether curves show it.
type Backbone = (&'static str, &'static str, bool);
const BACKBONES: [Backbone; 8] = [
    ("random", "random", false),
    ("byol", "BYOL", true),
    ("scrl", "SCRL (10 boxes)", true),
    ("boxes-1", "1 box", false),
    ("boxes-5", "5 boxes", false),
    ("jitter-10", "box jitter 10 %", false),
    ("jitter-20", "box jitter 20 %", false),
    ("no-iou-rule", "no IoU rule", false),
];
const PROTOCOLS: [(&str, &str); 3] =
    [("roi", "RoI"), ("roi-few", "RoI from few boxes"), ("linear", "global")];
/// The start of the name of a budget's folder.
const BUDGET: &str = "pairs-";
/// Keys of metrics.jsonl.
const METRICS: [(&str, &str); 2] = [("loss", "loss"), ("projection_std", "embedding std")];
const COLORS: [RGBColor; 8] = [
    RGBColor(0x0b, 0x62, 0xc4),
    RGBColor(0xc8, 0x50, 0x1e),
    RGBColor(0x1a, 0x7f, 0x4b),
    RGBColor(0x8a, 0x3f, 0xb0),
    RGBColor(0xa6, 0x7c, 0x00),
    RGBColor(0xb3, 0x24, 0x5e),
    RGBColor(0x3a, 0x6b, 0x7e),
    RGBColor(0x55, 0x55, 0x55),
];
const WIDTH: u32 = 960;
const PANEL_HEIGHT: u32 = 260;
const GRID: RGBColor = RGBColor(0xe3, 0xe6, 0xea);
const TITLE: (&str, u32) = ("sans-serif", 15);
const LABEL: (&str, u32) = ("sans-serif", 13);

fn main() -> Result<()> {
    let out = std::env::args_os().nth(1).map(PathBuf::from).context("plot_experiment OUT")?;
    let budgets = budgets(&out)?;
    if budgets.is_empty() {
        plot_results(&out)?;
        return plot_training(&out);
    }
    plot_budgets(&out, &budgets)?;
    for (_, folder) in &budgets {
        if BACKBONES.iter().any(|(name, _, curves)| !curves && folder.join(name).is_dir()) {
            plot_results(folder)?;
        }
        plot_training(folder)?;
    }
    Ok(())
}

/// The budgets in pairs, ascending, and their folders.
fn budgets(out: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let mut budgets = Vec::new();
    for entry in fs::read_dir(out).with_context(|| out.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let pairs = name.to_str().and_then(|name| name.strip_prefix(BUDGET)?.parse().ok());
        budgets.extend(pairs.map(|pairs| (pairs, entry.path())));
    }
    budgets.sort();
    Ok(budgets)
}

/// The folders of a backbone's seeds, in ascending order.
fn seeds(out: &Path, backbone: &str) -> Result<Vec<PathBuf>> {
    let folder = out.join(backbone);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let paths = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Top-1 of a backbone's seeds in percent.
fn top1s(out: &Path, backbone: &str, protocol: &str) -> Result<Vec<f64>> {
    let mut found = Vec::new();
    for seed in seeds(out, backbone)? {
        let path = seed.join(protocol).join("results.json");
        if path.is_file() {
            let results: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
            let top1 = results["top1"].as_f64();
            found.push(100.0 * top1.with_context(|| format!("{}: no top1", path.display()))?);
        }
    }
    Ok(found)
}

/// The values' range, with a margin.
fn range(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let (low, high) = (values.clone().fold(f64::MAX, f64::min), values.fold(f64::MIN, f64::max));
    let margin = (0.12 * (high - low)).max(1e-3 * high.abs()).max(1e-6);
    low - margin..high + margin
}

/// The results of the backbones that have some: label, color, results.
type Backbones<T> = Vec<(&'static str, RGBColor, T)>;

/// The title of each protocol that has results, and `of` each backbone and protocol.
fn panels<T>(
    of: impl Fn(&Backbone, &str) -> Result<Option<T>>,
) -> Result<Vec<(&'static str, Backbones<T>)>> {
    let mut panels = Vec::new();
    for (protocol, title) in PROTOCOLS {
        let mut backbones = Vec::new();
        for (number, backbone) in BACKBONES.iter().enumerate() {
            let results = of(backbone, protocol)?;
            backbones.extend(results.map(|results| (backbone.1, COLORS[number], results)));
        }
        if !backbones.is_empty() {
            panels.push((title, backbones));
        }
    }
    Ok(panels)
}

/// A white drawing with room for some panels, one below the other.
fn canvas(path: &Path, panels: usize) -> Result<DrawingArea<SVGBackend<'_>, Shift>> {
    let size = (WIDTH, PANEL_HEIGHT * panels as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    Ok(root)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// A panel for each protocol: a dot for each seed, a line at their mean.
fn plot_results(out: &Path) -> Result<()> {
    let panels = panels(|(name, ..), protocol| {
        let values = top1s(out, name, protocol)?;
        Ok((!values.is_empty()).then_some(values))
    })?;
    ensure!(!panels.is_empty(), "{}: no results.json below it", out.display());
    let path = out.join("results.svg");
    let root = canvas(&path, panels.len())?;
    for ((title, backbones), area) in panels.iter().zip(root.split_evenly((panels.len(), 1))) {
        let values = backbones.iter().flat_map(|(_, _, values)| values.iter().copied());
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{title} protocol, top-1 %"), TITLE)
            .margin(12)
            .x_label_area_size(26)
            .y_label_area_size(44)
            .build_cartesian_2d((0..backbones.len() - 1).into_segmented(), range(values))?;
        let label = |x: &SegmentValue<usize>| match x {
            SegmentValue::CenterOf(number) => {
                backbones.get(*number).map_or(String::new(), |(label, ..)| (*label).to_owned())
            }
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(backbones.len() + 1)
            .x_label_formatter(&label)
            .y_labels(6)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .label_style(LABEL)
            .draw()?;
        for (number, (_, color, values)) in backbones.iter().enumerate() {
            let at = |value| EmptyElement::at((SegmentValue::CenterOf(number), value));
            let middle = (values.len() as i32 - 1) * 5;
            let dots = (0..).zip(values).map(|(seed, &value)| {
                at(value) + Circle::new((10 * seed - middle, 0), 4, color.filled())
            });
            chart.draw_series(dots)?;
            let line = PathElement::new([(-26, 0), (26, 0)], color.stroke_width(2));
            chart.draw_series([at(mean(values)) + line])?;
        }
    }
    root.present()?;
    println!("{}", path.display());
    Ok(())
}

/// A panel for each protocol: for BYOL and SCRL a dot for each seed and a curve through their means,
/// from random weights on.
fn plot_budgets(out: &Path, budgets: &[(u32, PathBuf)]) -> Result<()> {
    let panels = panels(|(name, _, curves), protocol| {
        if !curves {
            return Ok(None);
        }
        let mut points = vec![(0, top1s(out, "random", protocol)?)];
        for (pairs, folder) in budgets {
            points.push((*pairs, top1s(folder, name, protocol)?));
        }
        points.retain(|(_, values)| !values.is_empty());
        Ok(points.iter().any(|(pairs, _)| *pairs > 0).then_some(points))
    })?;
    // Ablations alone have no curves.
    if panels.is_empty() {
        return Ok(());
    }
    let path = out.join("results.svg");
    let root = canvas(&path, panels.len())?;
    let last = budgets.iter().map(|(pairs, _)| *pairs).max().unwrap_or(1);
    for ((title, backbones), area) in panels.iter().zip(root.split_evenly((panels.len(), 1))) {
        let points = backbones.iter().flat_map(|(_, _, points)| points);
        let values = points.flat_map(|(_, values)| values.iter().copied());
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{title} protocol, top-1 %"), TITLE)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(44)
            .build_cartesian_2d(0..last + last / 50, range(values))?;
        chart
            .configure_mesh()
            .x_desc("pairs")
            .y_labels(6)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .label_style(LABEL)
            .draw()?;
        for &(label, color, ref points) in backbones {
            let dots = points.iter().flat_map(|(pairs, values)| {
                values.iter().map(move |value| Circle::new((*pairs, *value), 3, color.mix(0.5)))
            });
            chart.draw_series(dots)?;
            let means = points.iter().map(|(pairs, values)| (*pairs, mean(values)));
            let line = LineSeries::new(means, color.stroke_width(2));
            chart.draw_series(line)?.label(label).legend(legend(color));
        }
        // The curves rise, which leaves room below their ends.
        draw_legend(&mut chart, SeriesLabelPosition::LowerRight)?;
    }
    root.present()?;
    println!("{}", path.display());
    Ok(())
}

/// The labels of a chart's series.
fn draw_legend<'a, X: Ranged, Y: Ranged>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result<()> {
    let labels = &mut chart.configure_series_labels();
    let labels = labels.position(position).background_style(WHITE.mix(0.8));
    Ok(labels.border_style(GRID).label_font(LABEL).draw()?)
}

/// The line of a legend's entry.
fn legend(color: RGBColor) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
}

/// A metric by step, for each logged step that has it.
type Curve = Vec<(f64, f64)>;

/// A panel for each metric, a curve for each backbone.
fn plot_training(out: &Path) -> Result<()> {
    let mut runs = Vec::new();
    for (number, (name, label, curves)) in BACKBONES.into_iter().enumerate() {
        let metrics = seeds(out, name)?.into_iter().map(|seed| seed.join("metrics.jsonl"));
        if let Some(path) = metrics.into_iter().find(|path| curves && path.is_file()) {
            let text = fs::read_to_string(path)?;
            let steps = text.lines().map(serde_json::from_str);
            let steps = steps.collect::<Result<Vec<Value>, _>>()?;
            runs.push((label, COLORS[number], steps));
        }
    }
    if runs.is_empty() {
        return Ok(());
    }
    let path = out.join("training.svg");
    let root = canvas(&path, METRICS.len())?;
    for ((key, title), area) in METRICS.into_iter().zip(root.split_evenly((METRICS.len(), 1))) {
        let curve = |steps: &[Value]| -> Curve {
            steps
                .iter()
                .filter_map(|line| Some((line["step"].as_f64()?, line[key].as_f64()?)))
                .collect()
        };
        let curves: Vec<(&str, RGBColor, Curve)> =
            runs.iter().map(|(label, color, steps)| (*label, *color, curve(steps))).collect();
        let points = curves.iter().flat_map(|(_, _, curve)| curve.iter());
        let last = points.clone().map(|point| point.0).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(title, TITLE)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..last, range(points.map(|point| point.1)))?;
        chart
            .configure_mesh()
            .x_desc("step")
            .x_label_formatter(&|step| format!("{step:.0}"))
            .y_labels(6)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .label_style(LABEL)
            .draw()?;
        for (label, color, curve) in curves {
            let line = LineSeries::new(curve, color.stroke_width(2));
            chart.draw_series(line)?.label(label).legend(legend(color));
        }
        // The loss falls, which leaves room above it.
        if key == "loss" {
            draw_legend(&mut chart, SeriesLabelPosition::UpperRight)?;
        }
    }
    root.present()?;
    println!("{}", path.display());
    Ok(())
}
