//! A histogram as inline SVG: bars of the distribution found, lines of the requested and the
//! expected one.

use std::fmt::Write;

use super::escape::escape;

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 8.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// A histogram to draw; the values of the bins are fractions that sum to 1.
pub(super) struct Chart {
    /// What is counted.
    pub title: &'static str,
    /// A caption of one or two sentences.
    pub note: String,
    /// Lower edge of the first bin and upper edge of the last.
    pub range: [f64; 2],
    /// The distribution found.
    pub found: Vec<f64>,
    /// The requested distribution, if it is a simple one.
    pub requested: Option<Vec<f64>>,
    /// The distribution to expect.
    pub expected: Vec<f64>,
    /// Limits that no value may exceed.
    pub limits: Vec<f64>,
    /// Ticks of the axis and their labels.
    pub ticks: Vec<(f64, String)>,
    /// A description for screen readers.
    pub words: String,
}

impl Chart {
    /// The chart with its title and caption.
    pub fn figure(&self) -> String {
        format!(
            "<figure class=\"chart\"><h3>{}</h3>\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">{}{}{}{}\
             </svg><figcaption>{}</figcaption></figure>\n",
            self.title,
            escape(&format!("{}: {}", self.title, self.words)),
            self.bars(),
            self.limit_lines(),
            self.lines(),
            self.axis(),
            escape(&self.note)
        )
    }

    fn x(&self, value: f64) -> f64 {
        let [low, high] = self.range;
        LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, fraction: f64) -> f64 {
        let all = self.found.iter().chain(&self.expected).chain(self.requested.iter().flatten());
        let most = all.copied().fold(f64::MIN_POSITIVE, f64::max);
        HEIGHT - BOTTOM - fraction / most * (HEIGHT - TOP - BOTTOM)
    }

    fn edge(&self, bin: usize) -> f64 {
        let [low, high] = self.range;
        self.x(low + (high - low) * bin as f64 / self.found.len() as f64)
    }

    fn bars(&self) -> String {
        // Few bins are counts and are drawn apart; many divide an axis and are drawn close
        // together.
        let gap = if self.found.len() <= 16 { 4.0 } else { 0.6 };
        let mut out = String::from("<g class=\"bars\">");
        for (bin, &fraction) in self.found.iter().enumerate().filter(|(_, value)| **value > 0.0) {
            let (left, right, top) = (self.edge(bin), self.edge(bin + 1), self.y(fraction));
            let _ = write!(
                out,
                "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                left + gap / 2.0,
                right - left - gap,
                HEIGHT - BOTTOM - top
            );
        }
        out + "</g>"
    }

    fn lines(&self) -> String {
        let mut out = String::new();
        if let Some(requested) = &self.requested {
            let _ = write!(out, "<path class=\"requested\" d=\"{}\"/>", self.steps(requested));
        }
        let _ = write!(out, "<path class=\"expected\" d=\"{}\"/>", self.steps(&self.expected));
        out
    }

    /// A step line over the bins, from the first to the last one that is not empty.
    fn steps(&self, bins: &[f64]) -> String {
        let first = bins.iter().position(|&value| value > 0.0);
        let last = bins.iter().rposition(|&value| value > 0.0);
        let (Some(first), Some(last)) = (first, last) else { return "M0 0".to_owned() };
        let base = HEIGHT - BOTTOM;
        let mut path = format!("M{:.1} {base}", self.edge(first));
        for (bin, &value) in bins.iter().enumerate().take(last + 1).skip(first) {
            let _ = write!(path, "V{:.1}H{:.1}", self.y(value), self.edge(bin + 1));
        }
        path + &format!("V{base}")
    }

    fn limit_lines(&self) -> String {
        let line = |&limit: &f64| {
            let x = self.x(limit);
            format!("<path class=\"limit\" d=\"M{x:.1} {TOP}V{:.1}\"/>", HEIGHT - BOTTOM)
        };
        self.limits.iter().map(line).collect()
    }

    fn axis(&self) -> String {
        let base = HEIGHT - BOTTOM;
        let mut out = format!("<g class=\"axis\"><path d=\"M{LEFT} {base}H{}\"/>", WIDTH - RIGHT);
        for (value, text) in &self.ticks {
            let x = self.x(*value);
            let anchor = match x {
                x if x < LEFT + 12.0 => "start",
                x if x > WIDTH - RIGHT - 12.0 => "end",
                _ => "middle",
            };
            let _ = write!(
                out,
                "<path d=\"M{x:.1} {base}v4\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                base + 17.0,
                escape(text)
            );
        }
        out + "</g>"
    }
}
