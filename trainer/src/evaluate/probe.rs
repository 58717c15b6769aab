//! The linear layer: trained on features that do not change, and judged.

use candle_core::{DType, Device, Tensor};
use scrl_preprocess::views::rng::{Purpose, Stream};
use serde::Serialize;

use super::cache::{Cache, Part};
use super::{Confusion, Watch};
use crate::Result;
use crate::model::{Classifier, Parameter, Parameters};
use crate::ops::{CrossEntropy, Tape, count_correct};
use crate::optim::{Schedule, ScheduleConfig, Sgd};

/// Of SGD, Nesterov's way.
const MOMENTUM: f64 = 0.9;

/// Where a training of the layer is noted after each epoch.
const NOTED: &str = "probe";

/// How the layer is trained: SGD with Nesterov's momentum and without decay, the rate rising linearly and then falling
/// along half a cosine.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProbeConfig {
    /// Epochs over the training examples.
    pub epochs: u32,
    /// Epochs in which the learning rate rises.
    pub warmup_epochs: u32,
    /// The learning rate at its peak.
    pub lr: f64,
    /// Examples a step; the last step of an epoch takes what is left.
    pub batch_size: usize,
    /// Of the initial values, the order of examples, and the augmentation.
    pub seed: u64,
}

/// Examples that the layer learns from.
pub(super) trait Examples {
    /// The class of each.
    fn classes(&self) -> &[usize];

    /// Features `[n, C]` of some of them, as an epoch sees them.
    fn features(&mut self, epoch: u32, which: &[usize]) -> Result<Tensor>;
}

/// A trained layer.
pub(super) struct Probe {
    classifier: Classifier,
    classes: usize,
    /// Mean cross-entropy of the last epoch.
    pub loss: f64,
    /// Share of right answers in the last epoch.
    pub accuracy: f64,
}

impl Probe {
    /// Trains a layer from so many channels to so many classes. With a cache, each epoch is noted there, and a training
    /// that was stopped goes on.
    pub fn train(
        config: &ProbeConfig,
        channels: usize,
        classes: usize,
        examples: &mut dyn Examples,
        noted: Option<&Cache>,
        watch: &mut Watch,
    ) -> Result<Self> {
        let (classifier, parameters) =
            Classifier::new(channels, classes, config.seed, &Device::Cpu)?;
        let mut training = Training::new(config, &parameters, examples.classes().len())?;
        let mut probe = Self { classifier, classes, loss: f64::NAN, accuracy: f64::NAN };
        let first = match noted.and_then(|cache| cache.find(NOTED)) {
            Some(state) => probe.go_on(&training, &state)?,
            None => 0,
        };
        for epoch in first..config.epochs {
            training.epoch(epoch, &mut probe, examples, watch)?;
            watch.epoch(epoch, probe.loss, probe.accuracy);
            if let Some(cache) = noted {
                cache.store(NOTED, &probe.state(&training, epoch)?)?;
            }
        }
        Ok(probe)
    }

    /// What is noted after an epoch.
    fn state(&self, training: &Training, epoch: u32) -> Result<Part> {
        let named = |parameter: &Parameter| (parameter.name.clone(), parameter.tensor().clone());
        let mut state: Part = training.sgd.state().map(named).collect();
        let done = [epoch as f32 + 1.0, self.loss as f32, self.accuracy as f32];
        state.insert("done".to_owned(), Tensor::new(&done, &Device::Cpu)?);
        Ok(state)
    }

    /// Takes up what was noted; returns the next epoch.
    fn go_on(&mut self, training: &Training, state: &Part) -> Result<u32> {
        for parameter in training.sgd.state() {
            parameter.set_from_checkpoint(&state[&parameter.name])?;
        }
        let done = state["done"].to_vec1::<f32>()?;
        (self.loss, self.accuracy) = (f64::from(done[1]), f64::from(done[2]));
        Ok(done[0] as u32)
    }

    /// What the layer makes of examples whose features `[n, C]` are given.
    pub fn judge(&self, features: &Tensor, classes: &[usize]) -> Result<Confusion> {
        let mut confusion = Confusion::new(self.classes);
        let logits =
            self.classifier.forward(&mut Tape::forward_only(), features)?.to_vec2::<f32>()?;
        for (logits, class) in logits.iter().zip(classes) {
            // The first of equal ones, as PyTorch's argmax.
            let best = (1..logits.len())
                .fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
            confusion.count(*class, best);
        }
        Ok(confusion)
    }
}

struct Training<'a> {
    config: &'a ProbeConfig,
    sgd: Sgd,
    schedule: Schedule,
    step: u64,
    steps_per_epoch: u64,
}

impl<'a> Training<'a> {
    fn new(config: &'a ProbeConfig, parameters: &Parameters, examples: usize) -> Result<Self> {
        let steps_per_epoch = examples.div_ceil(config.batch_size) as u64;
        let schedule = Schedule(ScheduleConfig {
            peak_lr: config.lr,
            tau: 1.0,
            total_steps: steps_per_epoch * u64::from(config.epochs),
            warmup_steps: steps_per_epoch * u64::from(config.warmup_epochs.min(config.epochs)),
        });
        let sgd = Sgd::new(MOMENTUM, parameters)?;
        Ok(Self { config, sgd, schedule, step: 0, steps_per_epoch })
    }

    fn epoch(
        &mut self,
        epoch: u32,
        probe: &mut Probe,
        examples: &mut dyn Examples,
        watch: &mut Watch,
    ) -> Result<()> {
        let mut order: Vec<usize> = (0..examples.classes().len()).collect();
        Stream::new(self.config.seed, epoch, u64::MAX, Purpose::Evaluation).shuffle(&mut order);
        self.step = u64::from(epoch) * self.steps_per_epoch;
        let (mut loss, mut right) = (0.0, 0.0);
        for which in order.chunks(self.config.batch_size) {
            let features = examples.features(epoch, which)?;
            let classes: Vec<i64> = which.iter().map(|&i| examples.classes()[i] as i64).collect();
            let classes = Tensor::new(classes, &Device::Cpu)?;
            self.step += 1;
            let (mean, correct) = self.step(probe, &features, &classes)?;
            loss += mean * which.len() as f64;
            right += correct;
            watch.go_on()?;
        }
        probe.loss = loss / order.len() as f64;
        probe.accuracy = right / order.len() as f64;
        Ok(())
    }

    /// One step; returns the batch's mean loss and how many answers were right before it.
    fn step(&mut self, probe: &Probe, features: &Tensor, classes: &Tensor) -> Result<(f64, f64)> {
        let mut tape = Tape::recording();
        let logits = probe.classifier.forward(&mut tape, features)?;
        let right = count_correct(&logits, classes)?;
        let loss = tape.apply(CrossEntropy::new(classes.dim(0)?), [&logits, classes])?;
        let one = Tensor::ones((), DType::F32, &Device::Cpu)?;
        let gradients = tape.backward(&loss, one)?;
        self.sgd.step(&gradients, self.schedule.lr(self.step))?;
        Ok((loss.to_scalar::<f32>()?.into(), right.to_scalar::<f32>()?.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// Two features, of which the larger one is the class.
    struct Pairs {
        classes: Vec<usize>,
        features: Vec<[f32; 2]>,
    }

    impl Pairs {
        fn new() -> Self {
            let mut random = Stream::new(3, 0, 0, Purpose::Evaluation);
            let features: Vec<[f32; 2]> =
                (0..200).map(|_| [random.uniform_f32(), random.uniform_f32()]).collect();
            Self { classes: features.iter().map(|[a, b]| usize::from(b > a)).collect(), features }
        }
    }

    impl Examples for Pairs {
        fn classes(&self) -> &[usize] {
            &self.classes
        }

        fn features(&mut self, _: u32, which: &[usize]) -> Result<Tensor> {
            let rows: Vec<[f32; 2]> = which.iter().map(|&i| self.features[i]).collect();
            Ok(Tensor::from_vec(rows.concat(), (which.len(), 2), &Device::Cpu)?)
        }
    }

    fn config(epochs: u32) -> ProbeConfig {
        ProbeConfig { epochs, warmup_epochs: 1, lr: 1.0, batch_size: 32, seed: 1 }
    }

    fn train(epochs: u32, stop_after: Option<u32>, noted: Option<&Cache>) -> Result<Probe> {
        let stop = AtomicBool::new(false);
        let mut report = |progress| {
            if let super::super::Progress::Epoch { epoch, .. } = progress
                && Some(epoch + 1) == stop_after
            {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let mut watch = Watch::new(&stop, &mut report);
        Probe::train(&config(epochs), 2, 2, &mut Pairs::new(), noted, &mut watch)
    }

    #[test]
    fn a_layer_learns_what_can_be_learnt() {
        let probe = train(40, None, None).unwrap();
        assert!(probe.accuracy > 0.95, "{}", probe.accuracy);
        let pairs = Pairs::new();
        let features = Tensor::from_vec(pairs.features.concat(), (200, 2), &Device::Cpu).unwrap();
        let confusion = probe.judge(&features, &pairs.classes).unwrap();
        assert!(confusion.accuracy() > 0.95 && confusion.examples() == 200);
    }

    #[test]
    fn a_training_that_was_stopped_ends_as_one_that_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), "a".into()).unwrap();
        let whole = train(6, None, None).unwrap();
        assert!(matches!(train(6, Some(2), Some(&cache)), Err(crate::Error::Stopped(_))));
        let resumed = train(6, None, Some(&cache)).unwrap();
        assert_eq!((whole.loss, whole.accuracy), (resumed.loss, resumed.accuracy));
    }
}
