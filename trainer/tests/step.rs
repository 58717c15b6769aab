//! Three steps against PyTorch: the same weights, views and boxes must give the same losses and
//! move every tensor the same way.

mod golden;

use candle_core::{DType, Device, Tensor};
use golden::{Golden, numbers, relative_error};
use scrl_trainer::model::{Arch, HeadSizes, Parameter, Regions};
use scrl_trainer::optim::SgdConfig;
use scrl_trainer::train::{Labels, Learner, LearnerConfig, MicroBatch};

/// Largest relative error of the loss.
const LOSS_TOLERANCE: f64 = 2e-3;

/// Largest relative error of a tensor's movement.
const MOVEMENT_TOLERANCE: f64 = 0.05;

/// Largest movement of a bias in front of a batch norm, whose gradient is rounding errors only.
const MOVEMENT_OF_DEAD_BIAS: f64 = 1e-6;

/// The number `i` of the stream called `name`, as the script that made the golden files defines it.
fn hash(name: &str, i: usize) -> u32 {
    let fnv1a = name
        .bytes()
        .fold(0x811c_9dc5u32, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mut x = fnv1a.wrapping_add((i as u32).wrapping_mul(0x9e37_79b9));
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// The initial values by the rules of that script.
fn initial_value(arch: Arch, name: &str, shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    let ends_block = name.contains(".layer")
        && name.contains(if arch == Arch::Resnet50 { ".bn3." } else { ".bn2." });
    let value = |i| {
        let v = 2.0 * (f64::from(hash(name, i) >> 8) / f64::from(1 << 24)) - 1.0;
        match name.rsplit('.').next().unwrap() {
            "running_mean" => 0.0,
            "running_var" => 1.0,
            "bias" if ends_block => 0.5 * v,
            "bias" if name.contains(".backbone.") => 2.0 + v,
            "bias" => 0.1 * v,
            _ if shape.len() > 1 => {
                let fan_in: usize = shape[1..].iter().product();
                (6.0 / fan_in as f64).sqrt() * v
            }
            _ if ends_block => 0.3 * (1.0 + 0.1 * v),
            _ => 1.0 + 0.1 * v,
        }
    };
    let values: Vec<f32> = (0..count).map(|i| value(i) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn views(step: usize, pairs: usize, size: usize) -> Tensor {
    let (name, blocks) = (format!("views.step{step}"), size / 8);
    let mut bytes = Vec::with_capacity(2 * pairs * size * size * 3);
    for n in 0..2 * pairs {
        for y in 0..size {
            for x in 0..size {
                let block = (n * blocks + y / 8) * blocks + x / 8;
                bytes.extend((0..3).map(|c| (hash(&name, block * 3 + c) >> 24) as u8));
            }
        }
    }
    Tensor::from_vec(bytes, (2 * pairs, size, size, 3), &Device::Cpu).unwrap()
}

/// A learner with the script's weights, and these weights in the order of its state.
fn learner(golden: &Golden, arch: Arch, classes: Option<usize>) -> (Learner, Vec<Tensor>) {
    let config = LearnerConfig {
        arch,
        sizes: HeadSizes { hidden: golden.count("hidden"), projection: golden.count("projection") },
        seed: 0,
        copy_online: false,
        dtype: DType::F32,
        optimizer: SgdConfig {
            momentum: 0.9,
            weight_decay: golden.number("weight_decay") as f32,
            trust: Some(1e-3),
            ..SgdConfig::default()
        },
        classes,
    };
    let learner = Learner::new(&config, &Device::Cpu).unwrap();
    let mut before = Vec::new();
    for parameter in moving(&learner) {
        let value = initial_value(arch, &parameter.name, &parameter.checkpoint_shape());
        parameter.set_from_checkpoint(&value).unwrap();
        before.push(value);
    }
    (learner, before)
}

/// All but the velocities.
fn moving(learner: &Learner) -> Vec<Parameter> {
    learner.state().filter(|p| !p.name.starts_with("momentum.")).cloned().collect()
}

/// The regions of a step, and how many of them match.
fn regions(golden: &Golden, method: &str, step: usize) -> (Regions, usize) {
    match method {
        "byol" => (Regions::Whole, golden.count("pairs")),
        _ => {
            let boxes = golden.get(format!("boxes.step{step}")).clone();
            let matches = boxes.dims()[0] / 2;
            (Regions::Boxes(boxes), matches)
        }
    }
}

fn compare(arch: Arch, method: &str) {
    let golden = Golden::read(&format!("step_{arch}_{method}"));
    let (pairs, size) = (golden.count("pairs"), golden.count("size"));
    let (mut learner, before) = learner(&golden, arch, None);
    for step in 0..3 {
        let (regions, matches) = regions(&golden, method, step);
        let batch = MicroBatch { pixels: views(step, pairs, size), regions, labels: None };
        let computed = learner.compute(&batch, matches, None, true).unwrap();
        let at = |name: &str| f64::from(numbers(golden.get(name))[step]);
        let (loss, expected) = (f64::from(computed.loss.to_scalar::<f32>().unwrap()), at("loss"));
        let error = (loss / expected - 1.0).abs();
        println!(
            "{arch} {method} step {step}: loss {loss:.6}, PyTorch {expected:.6}, error {error:.1e}"
        );
        assert!(error < LOSS_TOLERANCE, "loss {loss} where PyTorch has {expected}");
        learner.apply(&computed, at("lr"), at("tau")).unwrap();
    }
    let (mut worst, mut compared) = ((0.0, String::new()), 0);
    for (parameter, before) in moving(&learner).into_iter().zip(before) {
        let (name, after) = (parameter.name.clone(), parameter.to_checkpoint().unwrap());
        let moved = numbers(&(after - before).unwrap());
        let expected = numbers(golden.get(format!("moved.{name}")));
        let samples: Vec<f32> =
            (0..expected.len()).map(|k| moved[k * moved.len() / expected.len()]).collect();
        let length = moved.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let expected_length = golden.number(format!("norm.{name}"));
        if name == "online.projector.0.bias" || name == "predictor.0.bias" {
            assert!(length < MOVEMENT_OF_DEAD_BIAS, "{name} moved by {length:.1e}");
            continue;
        }
        let error = relative_error(&samples, &expected).max((length / expected_length - 1.0).abs());
        assert!(error < MOVEMENT_TOLERANCE, "{name}: movement differs by {error:.3}");
        compared += 1;
        if error > worst.0 {
            worst = (error, name);
        }
    }
    println!(
        "{arch} {method}: {compared} tensors, the worst movement {:.1e} off: {}",
        worst.0, worst.1
    );
    assert!(compared > 100);
}

/// The classes of a step's views.
fn labels(golden: &Golden, step: usize) -> Labels {
    let classes = numbers(golden.get(format!("classes.step{step}")));
    let labeled = 2 * classes.iter().filter(|class| **class >= 0.0).count();
    let views: Vec<i64> = classes.iter().chain(&classes).map(|class| *class as i64).collect();
    Labels { classes: Tensor::new(views, &Device::Cpu).unwrap(), labeled }
}

#[test]
fn a_classifier_learns_beside_the_step_and_changes_nothing_in_it() {
    let (golden, expected) = (Golden::read("step_resnet18_scrl"), Golden::read("classifier"));
    let (pairs, size) = (golden.count("pairs"), golden.count("size"));
    let (mut plain, _) = learner(&golden, Arch::Resnet18, None);
    let (mut evaluated, before) = learner(&golden, Arch::Resnet18, Some(expected.count("classes")));
    let scalar = |tensor: &Tensor| tensor.to_scalar::<f32>().unwrap();
    for step in 0..3 {
        let (regions, matches) = regions(&golden, "scrl", step);
        let (pixels, labels) = (views(step, pairs, size), labels(&expected, step));
        let batch = MicroBatch { pixels, regions, labels: Some(labels) };
        let at = |name: &str| f64::from(numbers(golden.get(name))[step]);
        let alone = plain.compute(&batch, matches, None, true).unwrap();
        let computed = evaluated.compute(&batch, matches, None, true).unwrap();
        assert!(alone.online.is_none());
        assert_eq!(scalar(&alone.loss), scalar(&computed.loss));
        let online = computed.online.as_ref().unwrap();
        let (loss, right) = (scalar(&online.loss), scalar(&online.correct));
        let [expected_loss, expected_right] =
            ["online_loss", "right"].map(|name| numbers(expected.get(name))[step]);
        println!(
            "step {step}: {loss} and {right} right, PyTorch {expected_loss} and {expected_right}"
        );
        assert!((loss / expected_loss - 1.0).abs() < LOSS_TOLERANCE as f32);
        assert_eq!((right, online.labeled), (expected_right, 2 * (pairs - 1)));
        plain.apply(&alone, at("lr"), at("tau")).unwrap();
        evaluated.apply(&computed, at("lr"), at("tau")).unwrap();
    }
    let mut compared = 0;
    let of_classifier = |p: &&Parameter| p.name.contains("classifier.");
    for (parameter, before) in
        evaluated.state().filter(of_classifier).zip(&before[before.len() - 2..])
    {
        if parameter.name.starts_with("momentum.") {
            continue;
        }
        let (name, after) = (&parameter.name, parameter.to_checkpoint().unwrap());
        let moved = numbers(&(after - before).unwrap());
        let error = relative_error(&moved, &numbers(expected.get(format!("moved.{name}"))));
        println!("{name}: movement {error:.1e} off");
        assert!(error < MOVEMENT_TOLERANCE, "{name}: movement differs by {error:.3}");
        compared += 1;
    }
    assert_eq!(compared, 2);
    let others = evaluated.state().filter(|p| !of_classifier(p));
    for (one, other) in plain.state().zip(others) {
        assert!(numbers(one.tensor()) == numbers(other.tensor()), "{} differs", one.name);
    }
}

#[test]
fn resnet18_scrl() {
    compare(Arch::Resnet18, "scrl");
}

#[test]
fn resnet18_byol() {
    compare(Arch::Resnet18, "byol");
}

#[test]
fn resnet50_scrl() {
    compare(Arch::Resnet50, "scrl");
}

#[test]
fn resnet50_byol() {
    compare(Arch::Resnet50, "byol");
}
