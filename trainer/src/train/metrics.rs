//! `metrics.jsonl`: one line for each logged step.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::ops::gpu::PeakMemory;
use crate::{Error, Result};

/// The logged numbers of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The step, from 1; 0 beside the health of the initial weights, which TensorBoard shows.
    pub step: u64,
    /// The epoch of its rows, from 0.
    pub epoch: u32,
    /// Mean of the loss over the step's matched boxes.
    pub loss: f32,
    /// Learning rate.
    pub lr: f64,
    /// τ of the EMA.
    pub ema: f64,
    /// Matched boxes of the step.
    pub boxes: usize,
    /// Pairs per second since the last line.
    pub pairs_per_s: f64,
    /// Fraction of that time spent waiting for data.
    pub data_wait: f64,
    /// Accuracy of the online evaluation over the labeled views since the last line, if there is
    /// one.
    pub online_acc: Option<f64>,
    /// Embedding std of the step's online projections: standard deviation of their directions, mean
    /// over dimensions. About 1/√dimensions for random directions, near 0 after a collapse.
    /// `None` without matched boxes.
    pub projection_std: Option<f64>,
    /// The same for the target network's projections.
    pub target_std: Option<f64>,
    /// The effective rank of box features of held-out pairs, where it was measured after the step:
    /// how many directions they use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_rank: Option<f64>,
    /// Their box retrieval: the fraction of boxes that find their match in the other view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub box_retrieval: Option<f64>,
    /// The most memory of the GPU that was taken so far, in bytes; left out where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<PeakMemory>,
}

impl Metrics {
    /// Before the first step: all else is 0.
    pub(super) fn initial() -> Self {
        Self {
            step: 0,
            epoch: 0,
            loss: 0.0,
            lr: 0.0,
            ema: 0.0,
            boxes: 0,
            pairs_per_s: 0.0,
            data_wait: 0.0,
            online_acc: None,
            projection_std: None,
            target_std: None,
            effective_rank: None,
            box_retrieval: None,
            memory: None,
        }
    }
}

#[cfg(test)]
impl Metrics {
    /// Metrics for tests.
    pub(super) fn example(step: u64) -> Self {
        Self {
            step,
            epoch: 0,
            loss: 4.0,
            lr: 0.1,
            ema: 0.97,
            boxes: 3,
            pairs_per_s: 1.5,
            data_wait: 0.0,
            online_acc: Some(0.5),
            projection_std: None,
            target_std: Some(0.06),
            effective_rank: None,
            box_retrieval: None,
            memory: None,
        }
    }
}

/// Sums from one logged step to the next.
pub(super) struct Interval {
    start: Instant,
    /// Time spent waiting for data.
    pub waited: Duration,
    /// Number of pairs.
    pub pairs: usize,
    /// Number of labeled views in the online evaluation.
    labeled: usize,
    /// Number of correctly classified ones.
    correct: f64,
}

impl Interval {
    /// An interval that starts now.
    pub fn new() -> Self {
        Self { start: Instant::now(), waited: Duration::ZERO, pairs: 0, labeled: 0, correct: 0.0 }
    }

    /// Adds a step's online evaluation: labeled views, and correctly classified ones.
    pub fn add(&mut self, labeled: usize, correct: f64) {
        self.labeled += labeled;
        self.correct += correct;
    }

    /// Completes the metrics of the step that ends the interval.
    pub fn complete(&self, metrics: Metrics) -> Metrics {
        let seconds = self.start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        Metrics {
            pairs_per_s: self.pairs as f64 / seconds,
            data_wait: self.waited.as_secs_f64() / seconds,
            online_acc: (self.labeled > 0).then(|| self.correct / self.labeled as f64),
            ..metrics
        }
    }
}

/// Appends lines to `metrics.jsonl`.
pub(super) struct MetricsLog {
    path: PathBuf,
}

impl MetricsLog {
    /// Opens the log of a run that starts after `step`: lines of later steps and a broken last line
    /// are dropped.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let text = if path.exists() {
            fs::read_to_string(path).map_err(Error::io(path))?
        } else {
            String::new()
        };
        let is_kept = |line: &&str| {
            let metrics = serde_json::from_str::<Metrics>(line);
            line.ends_with('\n') && metrics.is_ok_and(|metrics| metrics.step <= step)
        };
        let kept: String = text.split_inclusive('\n').filter(is_kept).collect();
        scrl_schemas::store::write(path, kept.as_bytes())?;
        Ok(Self { path: path.to_owned() })
    }

    /// All lines.
    pub fn read(&self) -> Result<Vec<Metrics>> {
        let text = fs::read_to_string(&self.path).map_err(Error::io(&self.path))?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Appends a line.
    pub fn write(&self, metrics: &Metrics) -> Result<()> {
        let line = serde_json::to_string(metrics).expect("plain values") + "\n";
        let mut file =
            OpenOptions::new().append(true).open(&self.path).map_err(Error::io(&self.path))?;
        file.write_all(line.as_bytes()).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_log_has_no_doubled_and_no_broken_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let log = MetricsLog::open(&path, 0).unwrap();
        (1..=4).for_each(|step| log.write(&Metrics::example(step)).unwrap());
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"step\": 5, \"ep");
        fs::write(&path, text).unwrap();

        MetricsLog::open(&path, 2).unwrap().write(&Metrics::example(3)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let steps: Vec<Metrics> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(steps, [Metrics::example(1), Metrics::example(2), Metrics::example(3)]);
    }
}
