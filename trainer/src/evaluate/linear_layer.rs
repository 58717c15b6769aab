//! The linear layer on frozen features: its training and its validation.

use candle_core::{DType, Device, Tensor};
use scrl_cli::Reporter;
use scrl_preprocess::views::rng::{Purpose, Stream};
use serde::Serialize;

use super::cache::{Cache, Tensors};
use super::confusion::Confusion;
use crate::Result;
use crate::model::{Classifier, Parameter, Parameters};
use crate::ops::cpu::f32s;
use crate::ops::gpu::{Fetch, Transfers};
use crate::ops::{CrossEntropy, Tape, count_correct};
use crate::optim::{Schedule, ScheduleConfig, Sgd, SgdConfig};

/// Nesterov's momentum, without weight decay.
const OPTIMIZER: SgdConfig =
    SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 0.0, trust: None };

/// The name of the checkpoint in the cache.
const CHECKPOINT: &str = "linear-layer";

/// The layer's training: SGD with Nesterov momentum and without weight decay, linear warm-up, then
/// half a cosine.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinearLayerConfig {
    /// Epochs over the training examples.
    pub epochs: u32,
    /// Epochs of warm-up.
    pub warmup_epochs: u32,
    /// The learning rate at its peak.
    pub lr: f64,
    /// Examples of a step; the last step of an epoch takes the rest.
    pub batch_size: usize,
    /// Seed of the initial values, of the shuffles, and of the augmentation.
    pub seed: u64,
}

/// Training examples: their features and classes.
pub(super) trait TrainingSet {
    /// The class of each example.
    fn classes(&self) -> &[usize];

    /// What the examples are, such as `images`.
    fn unit(&self) -> &'static str;

    /// Calls `step` with each of `batches`, indices of examples, and the features `[n, C]` of these,
    /// as augmented in an epoch.
    fn visit(&mut self, epoch: u32, batches: &[&[usize]], step: &mut TrainingStep) -> Result<()>;
}

/// Takes a step with the examples of these indices, whose features lie on the CPU or on the layer's
/// device.
pub(super) type TrainingStep<'a> = dyn FnMut(&[usize], Tensor) -> Result<()> + 'a;

/// Rows of matrices `[_, C]`, each given by the number of a matrix and a row of it.
pub(super) fn select_rows(
    matrices: &[Tensor],
    rows: impl ExactSizeIterator<Item = (usize, usize)>,
) -> Result<Tensor> {
    let channels = matrices[0].dim(1)?;
    let matrices: Vec<_> = matrices.iter().map(f32s).collect::<candle_core::Result<_>>()?;
    let count = rows.len();
    let mut selected = Vec::with_capacity(count * channels);
    for (matrix, row) in rows {
        selected.extend_from_slice(&matrices[matrix][row * channels..][..channels]);
    }
    Ok(Tensor::from_vec(selected, (count, channels), &Device::Cpu)?)
}

/// A trained layer.
pub(super) struct LinearLayer {
    classifier: Classifier,
    classes: usize,
    device: Device,
    /// Mean cross-entropy of the last epoch.
    pub loss: f64,
    /// Accuracy in the last epoch, from 0 to 1; each example is counted before its step.
    pub accuracy: f64,
}

impl LinearLayer {
    /// Trains a layer from `channels` features to `classes` logits on `device`. With `checkpoints`,
    /// the state after each epoch is stored there, and a stopped training resumes from it.
    pub fn train(
        config: &LinearLayerConfig,
        [channels, classes]: [usize; 2],
        device: &Device,
        examples: &mut dyn TrainingSet,
        checkpoints: Option<&Cache>,
        reporter: &Reporter,
    ) -> Result<Self> {
        let (classifier, parameters) = Classifier::new(channels, classes, config.seed, device)?;
        let count = examples.classes().len();
        let mut training = Training::new(config, &parameters, count, device)?;
        let device = device.clone();
        let mut layer = Self { classifier, classes, device, loss: f64::NAN, accuracy: f64::NAN };
        let first = match checkpoints.and_then(|cache| cache.find(CHECKPOINT)) {
            Some(checkpoint) => layer.resume(&training, &checkpoint)?,
            None => 0,
        };
        let after = |epochs: u32| u64::from(epochs) * count as u64;
        reporter.begin(examples.unit(), after(config.epochs), after(first));
        reporter.set_status("linear layer");
        for epoch in first..config.epochs {
            training.epoch(epoch, &mut layer, examples, reporter)?;
            let (loss, percent) = (layer.loss, 100.0 * layer.accuracy);
            let epochs = format!("epoch {} of {}", epoch + 1, config.epochs);
            reporter.set_status(format_args!(
                "linear layer: {epochs}, loss {loss:.3}, top-1 {percent:.1} %"
            ));
            if let Some(cache) = checkpoints {
                cache.store(CHECKPOINT, &layer.checkpoint(&training, epoch)?)?;
            }
        }
        reporter.log();
        Ok(layer)
    }

    /// The state after an epoch.
    fn checkpoint(&self, training: &Training, epoch: u32) -> Result<Tensors> {
        let named = |parameter: &Parameter| {
            Ok((parameter.name.clone(), parameter.tensor().to_device(&Device::Cpu)?))
        };
        let mut checkpoint: Tensors = training.sgd.state().map(named).collect::<Result<_>>()?;
        let done = [epoch as f32 + 1.0, self.loss as f32, self.accuracy as f32];
        checkpoint.insert("done".to_owned(), Tensor::new(&done, &Device::Cpu)?);
        Ok(checkpoint)
    }

    /// Restores the state of a checkpoint; returns the next epoch.
    fn resume(&mut self, training: &Training, checkpoint: &Tensors) -> Result<u32> {
        for parameter in training.sgd.state() {
            parameter.set_from_checkpoint(&checkpoint[&parameter.name])?;
        }
        let done = checkpoint["done"].to_vec1::<f32>()?;
        (self.loss, self.accuracy) = (f64::from(done[1]), f64::from(done[2]));
        Ok(done[0] as u32)
    }

    /// Predicts the classes of examples from their features `[n, C]`.
    pub fn predict(&self, features: &Tensor) -> Result<Vec<usize>> {
        let features = features.to_device(&self.device)?;
        let logits =
            self.classifier.forward(&mut Tape::forward_only(), &features)?.to_vec2::<f32>()?;
        // The first of equal logits, as PyTorch's argmax.
        let first_largest = |logits: Vec<f32>| {
            (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
        };
        Ok(logits.into_iter().map(first_largest).collect())
    }

    /// Predicts the classes of examples from their features, and counts the predictions by true
    /// class.
    pub fn validate(&self, features: &Tensor, classes: &[usize]) -> Result<Confusion> {
        let mut confusion = Confusion::new(self.classes);
        for (predicted, &class) in self.predict(features)?.into_iter().zip(classes) {
            confusion.count(class, predicted);
        }
        Ok(confusion)
    }
}

struct Training<'a> {
    config: &'a LinearLayerConfig,
    sgd: Sgd,
    schedule: Schedule,
    step: u64,
    steps_per_epoch: u64,
    transfers: Transfers,
}

/// Sums over the examples of an epoch.
#[derive(Default)]
struct Sums {
    loss: f64,
    correct: f64,
}

/// A step whose loss and correct predictions are on their way to the host.
struct Pending {
    numbers: Fetch,
    examples: usize,
}

impl Sums {
    fn add(&mut self, Pending { numbers, examples }: Pending) -> Result<()> {
        let numbers = numbers.wait()?;
        self.loss += f64::from(numbers[0]) * examples as f64;
        self.correct += f64::from(numbers[1]);
        Ok(())
    }
}

impl<'a> Training<'a> {
    fn new(
        config: &'a LinearLayerConfig,
        parameters: &Parameters,
        examples: usize,
        device: &Device,
    ) -> Result<Self> {
        let steps_per_epoch = examples.div_ceil(config.batch_size) as u64;
        let schedule = Schedule(ScheduleConfig {
            peak_lr: config.lr,
            tau: 1.0,
            total_steps: steps_per_epoch * u64::from(config.epochs),
            warmup_steps: steps_per_epoch * u64::from(config.warmup_epochs.min(config.epochs)),
        });
        let sgd = Sgd::new(OPTIMIZER, parameters.optimized().cloned().collect())?;
        let transfers = Transfers::new(device)?;
        Ok(Self { config, sgd, schedule, step: 0, steps_per_epoch, transfers })
    }

    fn epoch(
        &mut self,
        epoch: u32,
        layer: &mut LinearLayer,
        examples: &mut dyn TrainingSet,
        reporter: &Reporter,
    ) -> Result<()> {
        let classes: Vec<i64> = examples.classes().iter().map(|&class| class as i64).collect();
        let mut shuffle: Vec<usize> = (0..classes.len()).collect();
        Stream::new(self.config.seed, epoch, u64::MAX, Purpose::Evaluation).shuffle(&mut shuffle);
        self.step = u64::from(epoch) * self.steps_per_epoch;
        let batches: Vec<&[usize]> = shuffle.chunks(self.config.batch_size).collect();
        let mut sums = Sums::default();
        // A GPU receives the next step while it still works on this one.
        let mut pending: Option<Pending> = None;
        examples.visit(epoch, &batches, &mut |indices, features| {
            reporter.check_stop()?;
            let features = features.to_device(&layer.device)?;
            let classes: Vec<i64> = indices.iter().map(|&index| classes[index]).collect();
            let classes = Tensor::new(classes, &layer.device)?;
            self.step += 1;
            let step = self.step(layer, &features, &classes)?;
            pending.replace(step).map_or(Ok(()), |before| sums.add(before))?;
            reporter.advance(indices.len() as u64);
            Ok(())
        })?;
        pending.map_or(Ok(()), |last| sums.add(last))?;
        layer.loss = sums.loss / shuffle.len() as f64;
        layer.accuracy = sums.correct / shuffle.len() as f64;
        Ok(())
    }

    /// One step: the batch's mean loss and the count of correct predictions before it.
    fn step(
        &mut self,
        layer: &LinearLayer,
        features: &Tensor,
        classes: &Tensor,
    ) -> Result<Pending> {
        let examples = classes.dim(0)?;
        let mut tape = Tape::recording();
        let logits = layer.classifier.forward(&mut tape, features)?;
        let correct = count_correct(&logits, classes)?;
        let loss = tape.apply(CrossEntropy::new(examples), [&logits, classes])?;
        let one = Tensor::ones((), DType::F32, &layer.device)?;
        let gradients = tape.backward(&loss, one)?;
        self.sgd.step(&gradients, &loss, self.schedule.lr(self.step))?;
        let numbers = self.transfers.fetch(&Tensor::stack(&[loss, correct], 0)?)?;
        Ok(Pending { numbers, examples })
    }
}

#[cfg(test)]
mod tests {
    use scrl_cli::{Event, Stop};

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

    impl TrainingSet for Pairs {
        fn classes(&self) -> &[usize] {
            &self.classes
        }

        fn unit(&self) -> &'static str {
            "pairs"
        }

        fn visit(&mut self, _: u32, batches: &[&[usize]], step: &mut TrainingStep) -> Result<()> {
            batches.iter().try_for_each(|indices| {
                let rows: Vec<[f32; 2]> = indices.iter().map(|&i| self.features[i]).collect();
                let features = Tensor::from_vec(rows.concat(), (rows.len(), 2), &Device::Cpu)?;
                step(indices, features)
            })
        }
    }

    fn config(epochs: u32) -> LinearLayerConfig {
        LinearLayerConfig { epochs, warmup_epochs: 1, lr: 1.0, batch_size: 32, seed: 1 }
    }

    fn train(epochs: u32, stop_after: Option<u32>, cache: Option<&Cache>) -> Result<LinearLayer> {
        let stop = Stop::default();
        let flag = stop.clone();
        let reporter = Reporter::observed(stop, move |event| {
            if stop_after.is_some_and(|epochs| event == Event::Done(u64::from(epochs) * 200)) {
                flag.set();
            }
        });
        LinearLayer::train(
            &config(epochs),
            [2, 2],
            &Device::Cpu,
            &mut Pairs::new(),
            cache,
            &reporter,
        )
    }

    #[test]
    fn a_layer_learns_separable_classes() {
        let layer = train(40, None, None).unwrap();
        assert!(layer.accuracy > 0.95, "{}", layer.accuracy);
        let pairs = Pairs::new();
        let features = Tensor::from_vec(pairs.features.concat(), (200, 2), &Device::Cpu).unwrap();
        let confusion = layer.validate(&features, &pairs.classes).unwrap();
        assert!(confusion.accuracy() > 0.95 && confusion.examples() == 200);
    }

    #[test]
    fn a_stopped_training_ends_as_an_uninterrupted_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path(), "a").unwrap();
        let full = train(6, None, None).unwrap();
        assert!(matches!(train(6, Some(2), Some(&cache)), Err(crate::Error::Stopped(_))));
        let resumed = train(6, None, Some(&cache)).unwrap();
        assert_eq!((full.loss, full.accuracy), (resumed.loss, resumed.accuracy));
    }
}
