//! Views against those of Pillow and torchvision, which `scripts/make_goldens_views.py` wrote.

use std::path::{Path, PathBuf};

use scrl_preprocess::images::{RgbImage, decode};
use scrl_preprocess::views::render::{RenderOptions, Renderer};
use scrl_schemas::{ColorJitter, Crop, Exif, ViewParams};
use serde_json::Value;

/// Largest difference allowed from lossless sources, in levels: mean and 99th percentile. The two
/// resizers round intermediate rows differently, by one level at times; everything else agrees
/// except for rounding.
const LOSSLESS: (f64, u8) = (0.5, 3);
/// The same from JPEG sources, where decoders differ: the method's bound.
const JPEG: (f64, u8) = (1.5, 8);

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn load(name: &str) -> RgbImage {
    decode(&std::fs::read(goldens().join(name)).unwrap(), Exif::Ignore).unwrap()
}

fn params(value: &Value) -> ViewParams {
    let crop: Vec<i32> =
        value["crop"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap() as i32).collect();
    let flag = |name: &str| value[name].as_bool().unwrap();
    let jitter = value["jitter"].as_object().map(|jitter| {
        let factor = |name: &str| jitter[name].as_f64().unwrap() as f32;
        ColorJitter {
            brightness: factor("brightness"),
            contrast: factor("contrast"),
            saturation: factor("saturation"),
            hue: factor("hue"),
            order: ColorJitter::parse_order(jitter["order"].as_str().unwrap()).unwrap(),
        }
    });
    ViewParams {
        crop: Crop { x: crop[0], y: crop[1], width: crop[2], height: crop[3] },
        flip: flag("flip"),
        vertical_flip: flag("vertical_flip"),
        turns: value["turns"].as_i64().unwrap() as i8,
        jitter,
        grayscale: flag("grayscale"),
        blur: value["blur"].as_f64().map(|blur| blur as f32),
        solarize: flag("solarize"),
    }
}

/// Mean and 99th percentile of the differences, in levels.
fn difference(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let mut differences: Vec<u8> = a.iter().zip(b).map(|(&a, &b)| a.abs_diff(b)).collect();
    differences.sort_unstable();
    let mean = differences.iter().map(|&d| f64::from(d)).sum::<f64>() / differences.len() as f64;
    (mean, differences[differences.len() * 99 / 100])
}

#[test]
fn views_equal_those_of_pillow_and_torchvision() {
    let index: Value =
        serde_json::from_str(&std::fs::read_to_string(goldens().join("views.json")).unwrap())
            .unwrap();
    let mut renderer = Renderer::default();
    let mut faults = Vec::new();
    for entry in index.as_array().unwrap() {
        let source = entry["source"].as_str().unwrap();
        let options = RenderOptions {
            size: entry["size"].as_u64().unwrap() as u32,
            blur: entry["blur_kind"].as_str().unwrap().parse().unwrap(),
        };
        let mut view = vec![[0; 3]; options.size as usize * options.size as usize];
        renderer.render(&load(source), &params(&entry["params"]), options, &mut view);
        let (mean, p99) =
            difference(view.as_flattened(), &load(entry["view"].as_str().unwrap()).pixels);
        let line = format!("{} from {source}: mean {mean:.4}, p99 {p99}", entry["view"]);
        println!("{line}");
        let limit = if source.ends_with(".jpg") { JPEG } else { LOSSLESS };
        if mean > limit.0 || p99 > limit.1 {
            faults.push(format!("{line}: {}", entry["params"]));
        }
    }
    assert!(faults.is_empty(), "beyond the tolerance:\n{}", faults.join("\n"));
}
