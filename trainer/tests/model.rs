//! ResNet's blocks against torchvision's: map, gradients, running statistics.

mod golden;

use candle_core::Device;
use golden::{Golden, assert_close};
use scrl_trainer::model::{Arch, Backbone, Block, BlockShape, Builder, Parameter, Parameters, Role};
use scrl_trainer::ops::Tape;

/// Gradients or values of a parameter under PyTorch's names, without the leading `block.`.
fn named(parameter: &Parameter) -> Vec<(String, candle_core::Tensor)> {
    let parts = parameter.to_checkpoint().unwrap();
    parts.into_iter().map(|(name, part)| (name.strip_prefix("block.").unwrap().to_owned(), part)).collect()
}

fn compare(file: &str, arch: Arch, shape: BlockShape) {
    let golden = Golden::read(file);
    let mut made = Parameters::default();
    let block = Block::new(arch, shape, &mut Builder::new("block", 0, &Device::Cpu, &mut made)).unwrap();
    for parameter in &made.0 {
        let parts: Vec<_> =
            named(parameter).iter().map(|(name, _)| golden.get(format!("before.{name}")).clone()).collect();
        parameter.set_from_checkpoint(&parts).unwrap();
    }
    let x = golden.get("x");
    let mut tape = Tape::recording();
    let y = block.forward(&mut tape, x).unwrap();
    assert_close(&y, golden.get("y"), 1e-5, file);
    let gradients = tape.backward(&y, golden.get("grad_y").clone()).unwrap();
    assert_close(gradients.get(x).unwrap(), golden.get("grad_x"), 1e-5, file);
    for parameter in &made.0 {
        let (prefix, shown) = match parameter.role {
            Role::RunningStatistics => ("after", parameter.clone()),
            _ => {
                let tensor = gradients.get(&parameter.tensor).unwrap().clone();
                ("grad", Parameter { tensor, ..parameter.clone() })
            }
        };
        for (name, found) in named(&shown) {
            assert_close(&found, golden.get(format!("{prefix}.{name}")), 1e-5, &format!("{file} {name}"));
        }
    }
}

#[test]
fn bottleneck_with_downsampling() {
    compare("bottleneck", Arch::Resnet50, BlockShape { inputs: 16, width: 8, outputs: 32, stride: 2 });
}

#[test]
fn bottleneck_with_identity() {
    compare(
        "bottleneck_identity",
        Arch::Resnet50,
        BlockShape { inputs: 32, width: 8, outputs: 32, stride: 1 },
    );
}

#[test]
fn basic_block_with_downsampling() {
    compare("basic_block", Arch::Resnet18, BlockShape { inputs: 6, width: 8, outputs: 8, stride: 2 });
}

#[test]
fn basic_block_with_identity() {
    compare(
        "basic_block_identity",
        Arch::Resnet18,
        BlockShape { inputs: 8, width: 8, outputs: 8, stride: 1 },
    );
}

#[test]
fn every_resnet_has_torchvisions_number_of_parameters() {
    // torchvision's counts, less the classifier's 512 or 2048 times 1000, plus 1000.
    let counts = [11_689_512 - 513_000, 21_797_672 - 513_000, 25_557_032 - 2_049_000, 44_549_160 - 2_049_000];
    for (arch, count) in Arch::ALL.iter().copied().zip(counts) {
        let mut made = Parameters::default();
        Backbone::new(arch, &mut Builder::new("b", 0, &Device::Cpu, &mut made)).unwrap();
        let found: usize = made.optimized().map(|parameter| parameter.tensor.elem_count()).sum();
        assert_eq!(found, count, "{arch}");
    }
}

#[test]
fn initial_weights_are_kaimings_and_depend_on_seed_and_name() {
    let filter = |name: &str, seed: u64| {
        let mut made = Parameters::default();
        Builder::new(name, seed, &Device::Cpu, &mut made).filter(32, 64, 3).unwrap();
        golden::numbers(&made.0[0].tensor)
    };
    let weights = filter("a", 0);
    assert_eq!(weights, filter("a", 0));
    assert_ne!(weights, filter("b", 0));
    assert_ne!(weights, filter("a", 1));
    let n = weights.len() as f64;
    let mean = weights.iter().map(|w| f64::from(*w)).sum::<f64>() / n;
    let variance = weights.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / n;
    let expected = 2.0 / (64.0 * 9.0);
    assert!(mean.abs() < 4.0 * (expected / n).sqrt(), "{mean}");
    assert!((variance / expected - 1.0).abs() < 4.0 * (2.0 / n).sqrt(), "{variance} {expected}");
}
