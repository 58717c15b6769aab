//! ResNet's blocks against torchvision's: map, gradients, running statistics.

mod golden;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};
use golden::{Golden, assert_close};
use scrl_trainer::model::{Arch, Backbone, Block, Parameters};
use scrl_trainer::ops::{Geometry, Tape};

/// A block of `[inputs, width]` channels against the golden `file`.
fn compare(file: &str, arch: Arch, channels: [usize; 2], stride: usize) {
    let golden = Golden::read(file);
    let (block, parameters) =
        Parameters::build(None, &Device::Cpu, |vb| Block::new(arch, channels, stride, &vb))
            .unwrap();
    for parameter in &parameters.0 {
        parameter.set_from_checkpoint(golden.get(format!("before.{}", parameter.name))).unwrap();
    }
    let x = golden.get("x");
    let mut tape = Tape::recording();
    let y = block.forward(&mut tape, x).unwrap();
    assert_close(&y, golden.get("y"), 1e-5, file);
    let gradients = tape.backward(&y, golden.get("grad_y").clone()).unwrap();
    assert_close(gradients.get(x).unwrap(), golden.get("grad_x"), 1e-5, file);
    for parameter in &parameters.0 {
        let name = &parameter.name;
        let (found, expected) = match parameter.is_optimized() {
            false => (parameter.to_checkpoint().unwrap(), format!("after.{name}")),
            true => {
                (in_checkpoint(gradients.get(parameter.tensor()).unwrap()), format!("grad.{name}"))
            }
        };
        assert_close(&found, golden.get(expected), 1e-5, &format!("{file} {name}"));
    }
}

/// A gradient in PyTorch's layout.
fn in_checkpoint(gradient: &Tensor) -> Tensor {
    match gradient.rank() {
        4 => gradient.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap(),
        _ => gradient.clone(),
    }
}

#[test]
fn bottleneck_with_downsampling() {
    compare("bottleneck", Arch::Resnet50, [16, 8], 2);
}

#[test]
fn bottleneck_with_identity() {
    compare("bottleneck_identity", Arch::Resnet50, [32, 8], 1);
}

#[test]
fn basic_block_with_downsampling() {
    compare("basic_block", Arch::Resnet18, [6, 8], 2);
}

#[test]
fn basic_block_with_identity() {
    compare("basic_block_identity", Arch::Resnet18, [8, 8], 1);
}

#[test]
fn every_resnet_has_torchvisions_number_of_parameters() {
    // torchvision's counts, less the classifier's 512 or 2048 times 1000, plus 1000.
    let counts = [
        11_689_512 - 513_000,
        21_797_672 - 513_000,
        25_557_032 - 2_049_000,
        44_549_160 - 2_049_000,
    ];
    for (arch, count) in Arch::ALL.iter().copied().zip(counts) {
        let (_, parameters) =
            Parameters::build(None, &Device::Cpu, |vb| Backbone::new(arch, &vb)).unwrap();
        let found: usize =
            parameters.optimized().map(|parameter| parameter.tensor().elem_count()).sum();
        assert_eq!(found, count, "{arch}");
    }
}

#[test]
fn initial_weights_are_kaimings_and_depend_on_seed_and_name() {
    let filter = |name: &str, seed: u64| {
        let init = Init::Randn { mean: 0.0, stdev: (2.0f64 / (64.0 * 9.0)).sqrt() };
        let build = Parameters::build(Some(seed), &Device::Cpu, |vb| {
            vb.pp(name).get_with_hints((64, 3, 3, 32), "weight", init)
        });
        golden::numbers(&build.unwrap().0)
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

/// torchvision's multiply-adds for a view of 224 pixels, without those of the classifier.
#[test]
fn convolutions_are_those_of_torchvision() {
    let cases = [
        (Arch::Resnet18, 20, 1.814),
        (Arch::Resnet34, 36, 3.663),
        (Arch::Resnet50, 53, 4.087),
        (Arch::Resnet101, 104, 7.799),
    ];
    for (arch, count, giga) in cases {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let convolutions = Backbone::new(arch, &vb).unwrap().convolutions(1, 224).unwrap();
        assert_eq!(convolutions.len(), count, "{arch}");
        let adds = |g: &Geometry| g.out_h * g.out_w * g.o * g.kh * g.kw * g.i;
        let sum: usize = convolutions.iter().map(|(_, g)| adds(g)).sum();
        assert!((sum as f64 / 1e9 - giga).abs() < 6e-4, "{arch}: {sum}");
        assert_eq!(convolutions.last().unwrap().1.out_h, 7, "{arch}");
    }
}
