//! A histogram as inline SVG: bars of what is found, lines of what was asked for and of what chance gives.

use std::fmt::Write;

use super::escape::escape;

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 8.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// What a drawing shows. Shares are by bin and sum up to 1.
pub(super) struct Chart {
    /// What is counted.
    pub title: &'static str,
    /// What the lines mean, in a sentence.
    pub note: String,
    /// Where the first bin begins and the last one ends.
    pub range: [f64; 2],
    /// Shares found.
    pub found: Vec<f64>,
    /// Shares that were asked for, where that is a plain rule.
    pub asked: Option<Vec<f64>>,
    /// Shares that chance gives.
    pub expected: Vec<f64>,
    /// Bounds that nothing should be beyond.
    pub limits: Vec<f64>,
    /// Where the axis has marks, and what stands there.
    pub ticks: Vec<(f64, String)>,
    /// What it comes to, in words, for those who do not see it.
    pub words: String,
}

impl Chart {
    /// The drawing with its title and note.
    pub fn figure(&self) -> String {
        format!(
            "<figure class=\"chart\"><h3>{}</h3><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">{}{}{}{}\
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

    fn y(&self, share: f64) -> f64 {
        let all = self.found.iter().chain(&self.expected).chain(self.asked.iter().flatten());
        let most = all.copied().fold(f64::MIN_POSITIVE, f64::max);
        HEIGHT - BOTTOM - share / most * (HEIGHT - TOP - BOTTOM)
    }

    fn edge(&self, bin: usize) -> f64 {
        let [low, high] = self.range;
        self.x(low + (high - low) * bin as f64 / self.found.len() as f64)
    }

    fn bars(&self) -> String {
        // Few bins stand apart, as they count things; many lie close, as they cut a line into pieces.
        let gap = if self.found.len() <= 16 { 4.0 } else { 0.6 };
        let mut out = String::from("<g class=\"bars\">");
        for (bin, &share) in self.found.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let (left, right, top) = (self.edge(bin), self.edge(bin + 1), self.y(share));
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
        if let Some(asked) = &self.asked {
            let _ = write!(out, "<path class=\"asked\" d=\"{}\"/>", self.steps(asked));
        }
        let _ = write!(out, "<path class=\"expected\" d=\"{}\"/>", self.steps(&self.expected));
        out
    }

    /// A line over the bins as stairs; it begins and ends with the first and last bin that is not empty.
    fn steps(&self, shares: &[f64]) -> String {
        let first = shares.iter().position(|&share| share > 0.0);
        let last = shares.iter().rposition(|&share| share > 0.0);
        let (Some(first), Some(last)) = (first, last) else { return "M0 0".to_owned() };
        let base = HEIGHT - BOTTOM;
        let mut path = format!("M{:.1} {base}", self.edge(first));
        for (bin, &share) in shares.iter().enumerate().take(last + 1).skip(first) {
            let _ = write!(path, "V{:.1}H{:.1}", self.y(share), self.edge(bin + 1));
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
                "<path d=\"M{x:.1} {base}v4\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                base + 17.0,
                escape(text)
            );
        }
        out + "</g>"
    }
}
