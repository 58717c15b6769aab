//! Several ranks, as threads: they compute what one process does, and end together.

mod emulated;
mod golden;
mod prepared;

use std::fs;

use candle_core::{DType, Device, Tensor};
use emulated::CompiledKernels;
use golden::{numbers, relative_error};
use prepared::{Prepared, metrics};
use scrl_cli::{Event, Reporter, Stop};
use scrl_schemas::ViewEncoding;
use scrl_trainer::Error;
use scrl_trainer::collective::{Ranks, Threads};
use scrl_trainer::data::Dataset;
use scrl_trainer::model::{Arch, HeadSizes, Parameter, Regions};
use scrl_trainer::ops::gpu::emulate;
use scrl_trainer::optim::SgdConfig;
use scrl_trainer::train::{
    Checkpoint, Labels, Learner, LearnerConfig, Method, MicroBatch, Options, Resume, Summary,
    TrainConfig, train,
};

/// Largest relative difference between the losses of several processes and of one.
const LOSS_TOLERANCE: f64 = 1e-6;

/// The same for the gradient of a tensor, by its norm.
const GRADIENT_TOLERANCE: f64 = 1e-5;

/// The same for what three steps change.
const MOVEMENT_TOLERANCE: f64 = 1e-3;

/// The learning rate of a batch of 12 by the paper's rule.
const LR: f64 = 0.45 * 12.0 / 256.0;

/// A fixed number from 0 to 1.
fn noise(i: usize) -> f32 {
    let mut x = (i as u32).wrapping_mul(0x9e37_79b9);
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    ((x ^ (x >> 13)) >> 8) as f32 / (1u32 << 24) as f32
}

/// A micro-batch of which each rank takes a part.
struct Whole {
    pairs: usize,
    side: usize,
    /// Matched boxes of each pair.
    boxes: Vec<usize>,
}

/// What one process is given.
struct Part {
    pixels: Tensor,
    rois: Tensor,
    classes: Tensor,
}

impl Whole {
    fn matches(&self) -> usize {
        self.boxes.iter().sum()
    }

    fn part(&self, ranks: &Ranks) -> Part {
        let (own, side) = (ranks.part(self.pairs), self.side);
        let (mut pixels, mut rois) = (Vec::new(), Vec::new());
        for view in 0..2 {
            for (place, pair) in own.clone().enumerate() {
                let image = 2 * pair + view;
                for at in 0..side * side {
                    let (x, y) = (at % side, at / side);
                    let block = (image * side + y / 6) * side + x / 6;
                    pixels.extend((0..3).map(|c| (255.0 * noise(3 * block + c)) as u8));
                }
                for b in 0..self.boxes[pair] {
                    let corner = |k: usize| noise(97 * (image * 10 + b) + k) * side as f32 / 2.0;
                    let (x, y) = (corner(0), corner(1));
                    let (width, height) = (16.0 + corner(2), 16.0 + corner(3));
                    let index = view * own.len() + place;
                    rois.extend([index as f32, x, y, x + width, y + height]);
                }
            }
        }
        let classes: Vec<i64> =
            own.clone().chain(own.clone()).map(|pair| (pair % 3) as i64).collect();
        let cpu = &Device::Cpu;
        Part {
            pixels: Tensor::from_vec(pixels, (2 * own.len(), side, side, 3), cpu).unwrap(),
            rois: Tensor::from_slice(&rois, (rois.len() / 5, 5), cpu).unwrap(),
            classes: Tensor::from_vec(classes, 2 * own.len(), cpu).unwrap(),
        }
    }
}

/// The results of the first step and of all steps.
struct Outcome {
    loss: f64,
    correct: f32,
    gradients: Vec<(String, Vec<f32>)>,
    /// By how much the steps change each weight.
    movement: Vec<f32>,
    /// The whole state after them.
    end: Vec<Vec<f32>>,
}

fn learner(ranks: &Ranks) -> Learner {
    let config = LearnerConfig {
        arch: Arch::Resnet18,
        sizes: HeadSizes { hidden: 256, projection: 64 },
        seed: 4,
        copy_online: false,
        dtype: DType::F32,
        optimizer: SgdConfig {
            momentum: 0.9,
            weight_decay: 1e-6,
            trust: Some(1e-3),
            ..SgdConfig::default()
        },
        classes: Some(3),
    };
    Learner::new(&config, &Device::Cpu).unwrap().among(ranks)
}

fn learn(ranks: &Ranks, whole: &Whole, method: Method, steps: usize) -> Outcome {
    let mut learner = learner(ranks);
    let part = whole.part(ranks);
    let labels = Labels { classes: part.classes, labeled: 2 * whole.pairs };
    let (regions, matches) = match method {
        Method::Scrl => (Regions::Boxes(part.rois), whole.matches()),
        Method::Byol => (Regions::Whole, whole.pairs),
    };
    let batch = MicroBatch { pixels: part.pixels, regions, labels: Some(labels) };
    let compute = |learner: &Learner| learner.compute(&batch, matches, None, true).unwrap();
    let before: Vec<Vec<f32>> =
        learner.state().map(|parameter| numbers(parameter.tensor())).collect();
    let first = compute(&learner);
    let gradients = learner.state().filter_map(|parameter| {
        let gradient = first.gradient(parameter)?;
        Some((parameter.name.clone(), numbers(gradient)))
    });
    let gradients = gradients.collect();
    let online = first.online.as_ref().unwrap();
    let (loss, correct) = (first.loss.to_scalar::<f32>().unwrap(), &online.correct);
    let (loss, correct) = (f64::from(loss), correct.to_scalar::<f32>().unwrap());
    learner.apply(&first, LR, 0.97).unwrap();
    for _ in 1..steps {
        let next = compute(&learner);
        learner.apply(&next, LR, 0.97).unwrap();
    }
    let end: Vec<Vec<f32>> = learner.state().map(|p| numbers(p.tensor())).collect();
    let weights = learner.state().zip(before.iter().zip(&end)).filter(|(parameter, _)| {
        parameter.is_optimized() && !parameter.name.starts_with("momentum.")
    });
    let movement = weights
        .flat_map(|(_, (before, end))| end.iter().zip(before).map(|(end, before)| end - before))
        .collect();
    Outcome { loss, correct, gradients, movement, end }
}

/// How far several ranks may be from one: the loss, each gradient, and the movement.
struct Tolerances {
    loss: f64,
    gradient: f64,
    movement: f64,
}

const CPU: Tolerances =
    Tolerances { loss: LOSS_TOLERANCE, gradient: GRADIENT_TOLERANCE, movement: MOVEMENT_TOLERANCE };

fn compare(whole: &Whole, sizes: &[usize], method: Method) {
    compare_where(sizes, &CPU, |ranks| learn(ranks, whole, method, 3));
}

fn compare_where(
    sizes: &[usize],
    tolerances: &Tolerances,
    learn: impl Fn(&Ranks) -> Outcome + Sync,
) {
    let alone = learn(&Ranks::default());
    for &size in sizes {
        let all = Threads::run(size, |ranks| learn(&ranks));
        let found = &all[0];
        let loss = (found.loss / alone.loss - 1.0).abs();
        let movement = relative_error(&found.movement, &alone.movement);
        println!("{size} ranks: loss {loss:.1e}, movement {movement:.1e}");
        for ((name, found), (_, expected)) in found.gradients.iter().zip(&alone.gradients) {
            let difference = relative_error(found, expected);
            // The gradient of a bias in front of a batch norm is nothing but rounding.
            let is_dead = name.ends_with(".0.bias");
            assert!(is_dead || difference <= tolerances.gradient, "{name}: {difference}");
        }
        assert!(loss <= tolerances.loss, "{loss}");
        assert!(movement <= tolerances.movement, "{movement}");
        assert_eq!(found.correct, alone.correct);
        for other in &all {
            assert!(other.end == found.end, "ranks differ");
        }
    }
}

/// 12 pairs, with these numbers of matched boxes.
fn whole(boxes: impl Fn(usize) -> usize) -> Whole {
    Whole { pairs: 12, side: 64, boxes: (0..12).map(boxes).collect() }
}

#[test]
fn ranks_compute_what_one_process_does() {
    compare(&whole(|pair| pair * 7 % 11), &[2, 3, 4], Method::Scrl);
}

#[test]
fn ranks_compare_entire_views() {
    compare(&whole(|_| 0), &[3], Method::Byol);
}

#[test]
fn all_boxes_may_lie_on_one_rank() {
    compare(&whole(|pair| if pair < 3 { 9 } else { 0 }), &[4], Method::Scrl);
}

/// Kernels add up in float32, in blocks of rows that lie otherwise in a smaller map. On its way to the
/// first layer that grows: the tests of steps allow the kernels as much against the CPU.
const GPU: Tolerances = Tolerances { loss: 1e-5, gradient: 2e-2, movement: 1e-4 };

#[test]
fn gpus_compute_what_one_does() {
    if CompiledKernels::new().is_none() {
        eprintln!("skipped: no C++ compiler");
        return;
    }
    // One rank has most boxes, one has none. The kernels run on the CPU, for each rank by itself.
    let whole = Whole { pairs: 6, side: 32, boxes: vec![9, 4, 3, 0, 0, 0] };
    compare_where(&[3], &GPU, |ranks| {
        let kernels = CompiledKernels::new().unwrap();
        emulate(kernels, || learn(ranks, &whole, Method::Scrl, 1))
    });
}

/// Trains on `size` ranks to step `last`; every rank's result.
fn train_on(
    prepared: &Prepared,
    size: usize,
    out: &str,
    last: u64,
    change: impl Fn(&Ranks, &mut Options) + Sync,
    reporter: impl Fn(&Ranks) -> Reporter + Sync,
) -> Vec<Result<Summary, Error>> {
    Threads::run(size, |ranks| {
        let shards = prepared.path("shards");
        let (config, dataset) = prepared.config_among(&ranks, &shards, out, |options| {
            options.max_steps = Some(last);
            options.checkpoint_every = Some(2);
            change(&ranks, options);
        });
        train(&config, &dataset, &Resume::Auto, &ranks, &reporter(&ranks))
    })
}

fn silent(_: &Ranks) -> Reporter {
    Reporter::silent()
}

fn prepared(views: ViewEncoding) -> Prepared {
    let prepared = Prepared::classes(18);
    prepared.prepare("shards", 2, views);
    prepared
}

/// The checkpoint of a step.
fn checkpoint(prepared: &Prepared, out: &str, step: u64) -> Vec<u8> {
    let folder = prepared.path(out).join("checkpoints");
    fs::read(folder.join(Checkpoint::file_name(step))).unwrap()
}

fn losses(prepared: &Prepared, out: &str) -> Vec<f32> {
    metrics(&prepared.path(out)).iter().map(|metrics| metrics.loss).collect()
}

#[test]
fn a_run_resumes_with_any_number_of_ranks() {
    let prepared = prepared(ViewEncoding::Webp);
    let run = |size, out, last| {
        for result in train_on(&prepared, size, out, last, |_, _| {}, silent) {
            result.unwrap();
        }
    };
    run(1, "alone", 6);
    run(2, "whole", 6);
    run(2, "pieces", 3);
    run(2, "pieces", 6);
    let [whole, pieces] = ["whole", "pieces"].map(|out| checkpoint(&prepared, out, 6));
    assert!(whole == pieces, "a restart changed the bits");
    for (size, last) in [(2, 2), (4, 4), (1, 6)] {
        run(size, "changing", last);
    }
    let alone = losses(&prepared, "alone");
    for out in ["whole", "changing"] {
        let losses = losses(&prepared, out);
        assert_eq!(losses.len(), 6);
        for (found, expected) in losses.iter().zip(&alone) {
            assert!((found / expected - 1.0).abs() < 1e-3, "{out}: {found} {expected}");
        }
    }
}

#[test]
fn ranks_render_their_part_of_recipes() {
    let prepared = prepared(ViewEncoding::Recipe);
    for (size, out) in [(1, "alone"), (2, "two")] {
        for result in train_on(&prepared, size, out, 1, |_, _| {}, silent) {
            result.unwrap();
        }
    }
    let [alone, two] = ["alone", "two"].map(|out| losses(&prepared, out)[0]);
    assert!((f64::from(two) / f64::from(alone) - 1.0).abs() <= LOSS_TOLERANCE);
}

#[test]
fn one_stopped_rank_stops_all_after_the_same_step() {
    let prepared = prepared(ViewEncoding::Webp);
    let results = train_on(
        &prepared,
        2,
        "run",
        6,
        |_, _| {},
        |ranks| {
            let stop = Stop::default();
            let (flag, is_second) = (stop.clone(), ranks.rank() == 1);
            Reporter::observed(stop, move |event| {
                if is_second && event == Event::Done(3) {
                    flag.set();
                }
            })
        },
    );
    assert!(results.iter().all(|result| matches!(result, Err(Error::Stopped(_)))), "{results:?}");
    // The step during which the flag was set is the last.
    assert_eq!(losses(&prepared, "run").len(), 4);
    checkpoint(&prepared, "run", 4);
}

#[test]
fn different_ranks_are_refused_in_one_line() {
    let prepared = prepared(ViewEncoding::Webp);
    let change = |ranks: &Ranks, options: &mut Options| {
        options.ema = Some(if ranks.rank() == 2 { 0.5 } else { 0.97 });
    };
    for result in train_on(&prepared, 4, "run", 6, change, silent) {
        let message = result.unwrap_err().to_string();
        let expected = "rank 0 has --ema 0.97, rank 2 has --ema 0.5; all ranks of a run must";
        assert!(message.contains(expected), "{message}");
    }
    assert!(!prepared.path("run").exists());
}

#[test]
fn batches_that_cannot_be_divided_are_refused() {
    let prepared = prepared(ViewEncoding::Webp);
    let messages = Threads::run(3, |ranks| {
        let dataset = Dataset::open(&prepared.path("shards")).unwrap();
        let options = Options { batch_size: Some(4), ..Options::default() };
        TrainConfig::resolve(options, &dataset, "run".into(), &ranks, None).unwrap_err().to_string()
    });
    assert!(messages[2].contains("--batch-size: 4 pairs cannot be divided among 3 processes"));
}

#[test]
fn a_nan_loss_on_one_rank_is_nan_on_all() {
    let whole = whole(|_| 2);
    Threads::run(2, |ranks| {
        let mut learner = learner(&ranks);
        let weights: Vec<Parameter> = learner.state().cloned().collect();
        if ranks.rank() == 1 {
            let last = weights.iter().find(|p| p.name == "predictor.3.weight").unwrap();
            last.set(&Tensor::full(f32::NAN, last.tensor().dims(), &Device::Cpu).unwrap()).unwrap();
        }
        let before: Vec<Vec<f32>> = weights.iter().map(|p| numbers(p.tensor())).collect();
        let part = whole.part(&ranks);
        let (pixels, regions) = (part.pixels, Regions::Boxes(part.rois));
        let batch = MicroBatch { pixels, regions, labels: None };
        let own = learner.compute(&batch, whole.matches(), None, false).unwrap();
        assert_eq!(own.loss.to_scalar::<f32>().unwrap().is_nan(), ranks.rank() == 1);
        let computed = learner.compute(&batch, whole.matches(), None, true).unwrap();
        assert!(computed.loss.to_scalar::<f32>().unwrap().is_nan());
        learner.apply(&computed, LR, 0.97).unwrap();
        let optimized = weights.iter().zip(&before).filter(|(p, _)| p.is_optimized());
        for (parameter, before) in optimized.filter(|(p, _)| p.name != "predictor.3.weight") {
            assert_eq!(&numbers(parameter.tensor()), before, "{}", parameter.name);
        }
    });
}
