//! `scrl-eval compare`: which of several backbones is better on one's own images.

use std::fs;

use image::{Rgb, RgbImage};
use scrl_tests::Dir;
use serde_json::{Value, json};

const SCENES: &str = "--train-images scenes/train2017 \
                      --train-boxes scenes/instances_train2017.json --val-images scenes/val2017 \
                      --val-boxes scenes/instances_val2017.json --size 64 --epochs 12";

const RUN: &str = "--preset paper --arch resnet18 --batch-size 4 --hidden 32 --projection 16 \
                   --lr 16 --warmup-epochs 1 --max-steps 1";

const COLORS: [[u8; 3]; 3] = [[220, 40, 40], [40, 200, 60], [50, 70, 230]];

/// Images of four squares each on textured gray, and their boxes in COCO's format; the class of a
/// square is its color.
fn squares(dir: &Dir, name: &str, count: u32) {
    fs::create_dir_all(dir.path(name)).unwrap();
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for image in 0..count {
        let noise = |x: u32, y: u32| ((x * 7 + y * 13 + image * 29 + count) % 23) as u8;
        let mut drawn = RgbImage::from_fn(64, 64, |x, y| Rgb([110 + noise(x, y); 3]));
        for square in 0..4 {
            let class = (image + square + image / 3) % 3;
            let (left, top) = (32 * (square % 2) + 4, 32 * (square / 2) + 4);
            for (x, y) in (0..24 * 24).map(|i| (left + i % 24, top + i / 24)) {
                let shade = noise(x, y) + noise(y, x);
                let color = COLORS[class as usize].map(|value| value.saturating_sub(shade));
                drawn.put_pixel(x, y, Rgb(color));
            }
            let bbox = [left, top, 24, 24];
            annotations.push(json!({"image_id": image, "category_id": class, "bbox": bbox}));
        }
        // No two images are copies.
        drawn.put_pixel(0, 0, Rgb([image as u8, count as u8, 0]));
        let file = format!("{image:03}.png");
        drawn.save(dir.path(name).join(&file)).unwrap();
        images.push(json!({"id": image, "file_name": file, "width": 64, "height": 64}));
    }
    let categories = ["red", "green", "blue"].iter().enumerate();
    let categories: Vec<Value> =
        categories.map(|(id, name)| json!({"id": id, "name": name})).collect();
    let list = json!({"images": images, "annotations": annotations, "categories": categories});
    fs::write(dir.path(&format!("{name}.json")), list.to_string()).unwrap();
}

fn results(dir: &Dir, out: &str) -> Value {
    serde_json::from_str(&dir.text(&format!("{out}/results.json"))).unwrap()
}

/// `scenes`, and `run` with weights for them.
fn run_on(dir: &Dir, images: &str) {
    dir.prep(&format!("--size 64 --min-box 16 --views recipe {images} shards")).succeeds();
    dir.train(&format!("{RUN} --out run shards")).succeeds();
}

#[test]
fn a_planted_better_backbone_is_above_and_equal_ones_stay_undecided() {
    let dir = Dir::new().images(8);
    squares(&dir, "train", 24);
    squares(&dir, "val", 60);
    run_on(&dir, "images");
    // A backbone that sees nothing: all its weights are 0.
    let mut blind = dir.read("run/backbone.safetensors");
    let header = u64::from_le_bytes(blind[..8].try_into().unwrap()) as usize;
    blind[8 + header..].fill(0);
    let dir = dir.file("blind.safetensors", blind);

    let boxes =
        "--train-images train --train-boxes train.json --val-images val --val-boxes val.json";
    let arms = "--arm blind.safetensors --arm sees=random --arm same=random";
    let line = format!("compare {boxes} {arms} --size 64 --fractions 10,100 --seed 3");
    let output = dir.eval(&format!("{line} --threads 2 --out a")).succeeds();
    let found = results(&dir, "a");
    let differences = found["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 3 * 3, "three pairs by three measures");
    for it in differences {
        let equal = it["arm"] == "same" && it["against"] == "sees";
        assert_eq!(it["decided"], !equal, "{it}");
        if equal {
            assert_eq!((&it["difference"], &it["interval"]), (&json!(0.0), &json!([0.0, 0.0])));
        } else {
            assert!(it["interval"][0].as_f64().unwrap() > 0.1, "{it}");
        }
    }
    let words = "With all labels, same is above blind.safetensors by ";
    assert!(output.stdout.contains(words), "{}", output.stdout);
    let words = "; against sees the difference could be chance (0.0 points, 95 %: 0.0 to 0.0).";
    assert!(output.stdout.contains(words), "{}", output.stdout);
    // 96 training boxes: of each of three classes a tenth.
    let boxes: Vec<&Value> =
        found["measures"].as_array().unwrap().iter().map(|it| &it["boxes"]).collect();
    assert_eq!(boxes, [96, 9, 96]);
    assert_eq!(found["classes"][0]["name"], "red");
    assert_eq!(found["warnings"], json!([]));

    // The page is complete by itself.
    let page = dir.text("a/compare.html");
    for words in ["Does it help?", "same − sees", "95 % intervals", "<svg", "blue", "60 images"] {
        assert!(page.contains(words), "no {words}");
    }
    for outside in ["http://", "https://", "src=", "url(", "<link rel=\"stylesheet"] {
        assert!(!page.contains(outside), "{outside}");
    }

    dir.eval(&format!("{line} --threads 1 --quiet --out b")).succeeds();
    dir.assert_same("a", "b");
}

#[test]
fn validation_images_that_were_learned_from_and_too_few_boxes_are_warned_of() {
    let dir = Dir::new().folder("photos");
    dir.make_scenes("scenes --images 10 --val 4 --size 96x80").succeeds();
    for (from, to) in [
        ("val2017/000000000001.jpg", "photos/leaked.jpg"),
        ("val2017/000000000002.jpg", "scenes/train2017/000000000003.jpg"),
        ("train2017/000000000001.jpg", "photos/a.jpg"),
        ("train2017/000000000002.jpg", "photos/b.jpg"),
        ("train2017/000000000004.jpg", "photos/c.jpg"),
    ] {
        fs::copy(dir.path(&format!("scenes/{from}")), dir.path(to)).unwrap();
    }
    run_on(&dir, "photos");
    let results_of = r#"{"bbox": {"AP": 0.25, "AP50": 0.5, "AP75": 0.125}}"#;
    let dir = dir.file("ap.json", results_of);
    let line =
        format!("compare {SCENES} --arm random --arm mine=run --seeds 2 --detection mine=ap.json");
    let output = dir.eval(&format!("{line} --out a")).succeeds();
    let copy = "1 of 4 validation images, byte for byte, such as scenes/val2017/00000000000";
    let training =
        &[copy, "2.jpg (scenes/train2017/000000000003.jpg), are training images as well"];
    output.says(training);
    output.says(&["warning: ", copy, "1.jpg (leaked.jpg), were in the pretraining of mine"]);
    output.says(&["validation boxes of 4 images: the intervals are ± ", "points wide"]);
    output.says(&["of 12 classes have no validation boxes"]);
    let found = results(&dir, "a");
    assert_eq!(found["warnings"].as_array().unwrap().len(), 4, "{}", found["warnings"]);
    assert_eq!(
        found["arms"][1]["detection"],
        json!([["AP", 0.25], ["AP50", 0.5], ["AP75", 0.125]])
    );
    assert!(dir.text("a/compare.html").contains("leaked.jpg"));

    // With all labels it is the RoI protocol.
    let roi = format!("roi {SCENES} --checkpoint run/backbone.safetensors --seed 1 --out roi");
    dir.eval(&roi).succeeds();
    assert_eq!(found["arms"][1]["results"][0]["seeds"][1], results(&dir, "roi")["top1"]);

    // Images that moved, shards that are gone, and weights of no run.
    fs::rename(dir.path("photos"), dir.path("moved")).unwrap();
    let output = dir.eval(&format!("{line} --out b")).succeeds();
    output.says(&["in the pretraining of mine is not known", "photos", "--pretraining-images"]);
    let output = dir.eval(&format!("{line} --pretraining-images moved --out b")).succeeds();
    output.says(&["1.jpg (leaked.jpg), were in the pretraining of mine"]);
    fs::rename(dir.path("shards"), dir.path("gone")).unwrap();
    let output = dir.eval(&format!("{line} --out b")).succeeds();
    output.says(&["in the pretraining of mine is not known", "shards/dataset.toml"]);
    fs::copy(dir.path("run/backbone.safetensors"), dir.path("published.safetensors")).unwrap();
    let line = line.replace("mine=run", "mine=published.safetensors");
    let output = dir.eval(&format!("{line} --out b")).succeeds();
    assert!(!output.stderr.contains("pretraining"), "{}", output.stderr);
}

#[test]
fn runs_initialized_from_others_have_their_pretraining_as_well() {
    let dir = Dir::new().images(8).folder("photos");
    dir.make_scenes("scenes --images 10 --val 4 --size 96x80").succeeds();
    for number in 1..=4 {
        let name = format!("00000000000{number}.jpg");
        fs::copy(dir.path(&format!("scenes/val2017/{name}")), dir.path(&format!("photos/{name}")))
            .unwrap();
    }
    run_on(&dir, "photos");
    dir.prep("--size 64 --min-box 16 images others").succeeds();
    let init = "--init run/checkpoints/step-00000001.safetensors";
    dir.train(&format!("{RUN} {init} --out second others")).succeeds();
    // One arm has two runs, each for one seed.
    let arms = "--arm random --arm second=second --arm both=second --arm both=run";
    let output = dir.eval(&format!("compare {SCENES} {arms} --seeds 2 --out a")).succeeds();
    let found = results(&dir, "a");
    let warnings = found["warnings"].as_array().unwrap();
    let about = |text: &&Value| text.as_str().unwrap().contains("in the pretraining of");
    assert_eq!(warnings.iter().filter(about).count(), 1, "{warnings:?}");
    output.says(&["4 of 4 validation images", "were in the pretraining of second and both:"]);
    let neighbors = found["arms"][2]["results"].as_array().unwrap().last().unwrap();
    assert!(neighbors["std"].is_f64() && neighbors["seeds"].as_array().unwrap().len() == 2);
}

#[test]
fn unusable_options_are_reported_in_a_line() {
    let dir = Dir::new().file("x.json", r#"{"top1": 0.5}"#);
    dir.make_scenes("scenes --images 4 --val 2 --size 96x80").succeeds();
    let line = |options: &str| format!("compare {SCENES} --arch resnet18 {options}");
    dir.eval(&line("")).fails(2).says(&["--arm <[NAME=]WHERE>"]);
    dir.eval(&line("--arm random")).fails(2).says(&["--arm: give at least two"]);
    let two = "--arm random --arm b=random";
    dir.eval(&line(&format!("{two} --arm b=random"))).fails(2).says(&["--seeds: 3 is no multiple"]);
    dir.eval(&line(&format!("{two} --fractions 0,10"))).fails(2).says(&["--fractions", "above 0"]);
    dir.eval(&line(&format!("{two} --arm gone.pth"))).fails(1).says(&["gone.pth: No such file"]);
    dir.eval(&line(&format!("{two} --arm scenes")))
        .fails(1)
        .says(&["scenes: a folder without backbone.safetensors"]);
    let detection = format!("{two} --detection c=x.json");
    dir.eval(&line(&detection)).fails(2).says(&["--detection: c is none of the arms random, b"]);
    let detection = format!("{two} --detection b=x.json");
    dir.eval(&line(&detection)).fails(1).says(&["x.json: no results.json of scripts/finetune"]);
}
