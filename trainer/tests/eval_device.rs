//! `scrl-eval` with its features and its linear layer on the emulated device, and the program itself
//! on a simulated GPU (`simulated/simulator.h`), against the CPU: both protocols, with counts of
//! classes that are no multiple of a pack.

mod emulated;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use emulated::CompiledKernels;
use image::RgbImage;
use scrl_cli::Reporter;
use scrl_preprocess::views::rng::{Purpose, Stream};
use scrl_trainer::collective::Ranks;
use scrl_trainer::evaluate::{
    BackboneConfig, BackboneSource, BoxFiles, EvalConfig, ImageFiles, LinearConfig,
    LinearLayerConfig, Results, RoiConfig, evaluate_boxes, evaluate_images,
};
use scrl_trainer::model::Arch;
use scrl_trainer::ops::gpu::emulate;
use scrl_trainer::train::{DeviceConfig, Precision};

/// Side of the images that are drawn, in pixels.
const DRAWN: u32 = 72;

const TRAINING_IMAGES: usize = 13;
const VALIDATION_IMAGES: usize = 5;

/// Waves of a color and a direction of its own for each image, so that features differ.
fn draw(path: &Path, number: usize) {
    let mut random = Stream::new(5, 0, number as u64, Purpose::View1);
    let [a, b] = [(); 2].map(|()| random.uniform(0.05, 0.6));
    let colors = [(); 3].map(|()| random.uniform(20.0, 120.0));
    let image = RgbImage::from_fn(DRAWN, DRAWN, |x, y| {
        let wave = 1.0 + (a * f64::from(x) + b * f64::from(y)).sin();
        image::Rgb(colors.map(|color| (color * wave) as u8))
    });
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.save(path).unwrap();
}

const LINEAR_LAYER: LinearLayerConfig =
    LinearLayerConfig { epochs: 6, warmup_epochs: 1, lr: 0.02, batch_size: 16, seed: 3 };

fn config(out: PathBuf, precision: Precision) -> EvalConfig {
    let backbone = BackboneConfig {
        source: BackboneSource::Random(Arch::Resnet18, 3),
        size: 64,
        images_per_batch: 4,
        pixels: Default::default(),
        device: DeviceConfig { name: "cpu".to_owned(), why_cpu: None, precision },
        seed: 3,
    };
    EvalConfig { backbone, out }
}

/// Images with boxes and their list in COCO's format. Only some of the classes have boxes.
fn annotated(folder: &Path, side: &str, images: usize, classes: usize) {
    let (mut listed, mut boxes) = (Vec::new(), Vec::new());
    for number in 0..images {
        let name = format!("{number}.png");
        draw(&folder.join(side).join(&name), if side == "val" { 100 + number } else { number });
        listed.push(format!(r#"{{"id": {number}, "file_name": "{name}"}}"#));
        for place in 0..1 + number % 3 {
            let (class, at) = ((7 * number + place) % classes, 5 + 9 * place);
            boxes.push(format!(
                r#"{{"image_id": {number}, "category_id": {class}, "bbox": [{at}, {at}, 30, 36]}}"#
            ));
        }
    }
    let names: Vec<String> =
        (0..classes).map(|id| format!(r#"{{"id": {id}, "name": "class {id}"}}"#)).collect();
    let text = format!(
        r#"{{"images": [{}], "annotations": [{}], "categories": [{}]}}"#,
        listed.join(", "),
        boxes.join(", "),
        names.join(", ")
    );
    fs::write(folder.join(format!("{side}.json")), text).unwrap();
}

fn boxes(folder: &Path, out: &str, precision: Precision) -> Results {
    let config = RoiConfig {
        common: config(folder.join(out), precision),
        files: BoxFiles {
            train_images: folder.join("train"),
            train_boxes: folder.join("train.json"),
            val_images: folder.join("val"),
            val_boxes: folder.join("val.json"),
        },
        boxes_per_class: None,
        linear_layer: LINEAR_LAYER,
    };
    evaluate_boxes(&config, &Ranks::default(), &Reporter::silent()).unwrap().unwrap()
}

fn images(folder: &Path, out: &str, precision: Precision, crops: u32) -> Results {
    let config = LinearConfig {
        common: config(folder.join(out), precision),
        files: ImageFiles { images: folder.join("images"), val: None },
        crops,
        linear_layer: LINEAR_LAYER,
    };
    evaluate_images(&config, &Ranks::default(), &Reporter::silent()).unwrap().unwrap()
}

/// ‖found − expected‖ of the features in a file, in standard deviations of the expected ones.
fn distance(folder: &Path, outs: [&str; 2], name: &str, tensor: &str) -> f32 {
    let [found, expected] = outs.map(|out| -> Tensor {
        let path = folder.join(out).join(format!("features/{name}.safetensors"));
        let mut tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        tensors.remove(tensor).unwrap()
    });
    let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let mean = expected.mean_keepdim(0).unwrap();
    let spread = norm(&expected.broadcast_sub(&mean).unwrap());
    let distance = norm(&(found - expected).unwrap()) / spread;
    println!("{name}: {distance:.1e}");
    distance
}

#[track_caller]
fn compare(found: &Results, expected: &Results, tolerance: f64) {
    let [found_loss, expected_loss] = [found, expected].map(|results| results.train_loss.unwrap());
    println!(
        "loss {found_loss} and {expected_loss}, top-1 {:?} and {:?} of {}",
        found.top1, expected.top1, found.val_examples
    );
    let loss = (found_loss / expected_loss - 1.0).abs();
    assert!(loss <= tolerance, "{found_loss} where {expected_loss} is expected");
    assert_eq!(found.val_examples, expected.val_examples);
}

/// Both places give the same statistics, features and loss within `features` standard deviations and
/// `loss`.
fn roi(classes: usize, precision: Precision, features: f32, loss: f64) {
    let Some(kernels) = CompiledKernels::new() else {
        return eprintln!("skipped: no C++ compiler");
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    annotated(folder, "train", TRAINING_IMAGES, classes);
    annotated(folder, "val", VALIDATION_IMAGES, classes);
    let expected = boxes(folder, "cpu", Precision::F32);
    let found = emulate(kernels.clone(), || boxes(folder, "device", precision));
    for (name, tensor) in [
        ("statistics", "0038"),
        ("statistics", "0039"),
        ("train-upright-00000", "vectors"),
        ("train-mirrored-00000", "vectors"),
        ("val-upright-00000", "vectors"),
    ] {
        assert!(distance(folder, ["device", "cpu"], name, tensor) < features, "{name}");
    }
    compare(&found, &expected, loss);
    // Of a device as of the CPU: a resumed evaluation, and one anew, have the same results.
    let again = emulate(kernels, || boxes(folder, "again", precision));
    assert_eq!((again.train_loss, again.top1), (found.train_loss, found.top1));
    for entry in fs::read_dir(folder.join("device/features")).unwrap() {
        let name = entry.unwrap().file_name();
        let [one, other] =
            ["device", "again"].map(|out| fs::read(folder.join(out).join("features").join(&name)));
        assert!(one.unwrap() == other.unwrap(), "{name:?} differs");
    }
}

#[test]
fn boxes_of_25_classes_f32() {
    roi(25, Precision::F32, 1e-4, 1e-4);
}

#[test]
fn boxes_of_80_classes_bf16() {
    // Some 40 roundings to 8 bits on the way through random weights: 5.1e-2 was measured.
    roi(80, Precision::Bf16, 1e-1, 2e-2);
}

#[test]
fn images_of_3_classes() {
    let Some(kernels) = CompiledKernels::new() else {
        return eprintln!("skipped: no C++ compiler");
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for number in 0..18 {
        draw(&folder.join(format!("images/class{}/{number:02}.png", number % 3)), number);
    }
    // Stored crops, and new ones in every epoch, which never leave the device.
    for crops in [2, 6] {
        let [cpu, device] = [format!("cpu{crops}"), format!("device{crops}")];
        let expected = images(folder, &cpu, Precision::F32, crops);
        let found = emulate(kernels.clone(), || images(folder, &device, Precision::F32, crops));
        assert!(distance(folder, [&device, &cpu], "val-00000", "vectors") < 1e-4);
        compare(&found, &expected, 1e-4);
    }
}

/// The program itself, in an order of streams drawn at random, on as many boxes as make features of
/// more bytes than the least page-locked memory.
#[cfg(feature = "cuda")]
#[test]
fn the_program_on_a_simulated_gpu() {
    if CompiledKernels::new().is_none() {
        return eprintln!("skipped: no C++ compiler");
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    annotated(folder, "train", TRAINING_IMAGES, 25);
    annotated(folder, "val", VALIDATION_IMAGES, 25);
    let expected = boxes(folder, "cpu", Precision::F32);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let losses = ["0", "5"].map(|seed| {
        let out = format!("gpu{seed}");
        let output = std::process::Command::new(root.join("scripts/simulate_gpu.sh"))
            .arg(env!("CARGO_BIN_EXE_scrl-eval"))
            .args(
                "roi --device cuda --precision f32 --checkpoint random --arch resnet18".split(' '),
            )
            .args(
                "--size 64 --images-per-batch 4 --epochs 6 --warmup-epochs 1 --lr 0.02".split(' '),
            )
            .args(
                "--batch-size 16 --seed 3 --train-images train --train-boxes train.json".split(' '),
            )
            .args("--val-images val --val-boxes val.json --quiet --out".split(' '))
            .arg(&out)
            .env("SCRL_SIM_SEED", seed)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for name in ["train-upright-00000", "train-mirrored-00000", "val-upright-00000"] {
            assert!(distance(folder, [&out, "cpu"], name, "vectors") < 1e-4, "{name}");
        }
        let text = fs::read(folder.join(&out).join("results.json")).unwrap();
        let results: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&results["device"], &results["precision"]), (&"cuda:0".into(), &"f32".into()));
        results["train_loss"].as_f64().unwrap()
    });
    let expected = expected.train_loss.unwrap();
    println!("losses {losses:?} and {expected}");
    assert_eq!(losses[0], losses[1]);
    assert!((losses[0] / expected - 1.0).abs() < 1e-4);
}
