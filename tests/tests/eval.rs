//! `scrl-eval`: all protocols.

use scrl_tests::{Dir, Output};
use serde_json::Value;

const ROI: &str = "roi --train-images scenes/train2017 \
                   --train-boxes scenes/instances_train2017.json --val-images scenes/val2017 \
                   --val-boxes scenes/instances_val2017.json --size 64 --epochs 12";

/// Nearest neighbors of the same boxes.
const KNN: &str = "knn --train-images scenes/train2017 \
                   --train-boxes scenes/instances_train2017.json --val-images scenes/val2017 \
                   --val-boxes scenes/instances_val2017.json --size 64";

const RANDOM: &str = "--checkpoint random --arch resnet18";

/// Ten training and four validation scenes.
fn scenes() -> Dir {
    let dir = Dir::new();
    dir.make_scenes("scenes --images 10 --val 4 --size 96x80").succeeds();
    dir
}

fn json(dir: &Dir, name: &str) -> Value {
    serde_json::from_str(&dir.text(name)).unwrap()
}

fn sum(counts: &Value) -> u64 {
    counts
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|n| n.as_u64().unwrap())
        .sum()
}

/// Expects the last line to be the program's only error, with all of these words.
#[track_caller]
fn ends_with(output: &Output, words: &[&str]) {
    let lines: Vec<&str> =
        output.stderr.lines().filter(|line| line.starts_with("scrl-eval: ")).collect();
    assert!(lines.len() == 1 && output.stderr.trim_end().ends_with(lines[0]), "{}", output.stderr);
    output.says(words);
}

#[test]
fn results_of_boxes_are_the_same_on_any_number_of_threads() {
    let dir = scenes();
    let output = dir.eval(&format!("{ROI} {RANDOM} --out a --threads 2 --device cpu")).succeeds();
    let results = json(&dir, "a/results.json");
    for (side, list) in [("train", "instances_train2017"), ("val", "instances_val2017")] {
        let boxes =
            json(&dir, &format!("scenes/{list}.json"))["annotations"].as_array().unwrap().len();
        assert_eq!(results[format!("{side}_examples")], boxes);
    }
    assert_eq!(sum(&results["confusion"]), results["val_examples"].as_u64().unwrap());
    assert_eq!((&results["device"], &results["precision"]), (&"cpu".into(), &"f32".into()));
    let top1 = results["top1"].as_f64().unwrap();
    for words in
        ["striped disc".to_owned(), format!("top-1 {:.2} %", 100.0 * top1), "confusion.png".into()]
    {
        assert!(output.stdout.contains(&words), "no {words} in\n{}", output.stdout);
    }
    let drawing = image::load_from_memory(&dir.read("a/confusion.png")).unwrap();
    assert_eq!((drawing.width(), drawing.height()), (32 + 12 * 40 + 8, 32 + 12 * 40 + 8));

    dir.eval(&format!("{ROI} {RANDOM} --out b --threads 1 --quiet --device cpu")).succeeds();
    dir.assert_same("a", "b");
}

#[test]
fn random_weights_are_those_of_step_0_and_features_are_never_used_for_other_weights() {
    let dir = scenes();
    dir.prep("--size 64 --min-box 16 scenes/train2017 shards").succeeds();
    let train = "--preset paper --arch resnet18 --batch-size 4 --hidden 32 --projection 16 \
                 --lr 16 --warmup-epochs 1 --max-steps 2";
    dir.train(&format!("{train} --seed 5 --out run shards")).succeeds();
    dir.eval(&format!("{ROI} {RANDOM} --seed 5 --out random")).succeeds();
    let first = "run/checkpoints/step-00000000.safetensors";
    dir.eval(&format!("{ROI} --checkpoint {first} --seed 5 --out first")).succeeds();
    let [random, first] =
        ["random", "first"].map(|name| json(&dir, &format!("{name}/results.json")));
    assert_eq!(
        (&random["confusion"], &random["train_loss"]),
        (&first["confusion"], &first["train_loss"])
    );

    // In a folder with the features of other weights, and in an empty one.
    for out in ["random", "fresh"] {
        dir.eval(&format!("{ROI} --checkpoint run/backbone.safetensors --seed 5 --out {out}"))
            .succeeds();
    }
    dir.assert_same("random", "fresh");
    assert_ne!(json(&dir, "fresh/results.json")["train_loss"], random["train_loss"]);
}

#[test]
fn classes_of_images_are_their_folders() {
    let dir = Dir::new().images(30).file("images/class1/broken.png", "not an image");
    let linear = format!("linear --images images --size 32 --epochs 6 {RANDOM}");
    let output = dir.eval(&format!("{linear} --crops 2 --out held")).succeeds();
    output.says(&["left out: images/class1/broken.png"]);
    output.says(&["no --val: 6 of 30 images are the validation split"]);
    let results = json(&dir, "held/results.json");
    assert_eq!((&results["train_examples"], &results["val_examples"]), (&24.into(), &6.into()));
    assert_eq!(results["classes"][2]["name"], "class2");
    assert!(dir.path("held/features/train-00001-00000.safetensors").exists());

    dir.eval(&format!("{linear} --val images --out given")).succeeds();
    assert_eq!(json(&dir, "given/results.json")["val_examples"], 30);
    // A new crop in every epoch is not stored.
    assert!(!dir.path("given/features/train-00000-00000.safetensors").exists());
}

/// The features of `out`, without the mirrored ones.
fn upright(dir: &Dir, out: &str) -> Vec<(String, Vec<u8>)> {
    let files = dir.files(&format!("{out}/features")).into_iter();
    files.filter(|(name, _)| !name.contains("mirrored")).collect()
}

#[test]
fn neighbors_of_boxes_are_found_among_the_features_of_roi() {
    let dir = scenes();
    let knn = format!("{KNN} {RANDOM} --device cpu");
    let output = dir.eval(&format!("{knn} --out a --threads 2")).succeeds();
    let results = json(&dir, "a/results.json");
    assert_eq!(results["protocol"], "knn");
    let [few, many] = ["top1_k20", "top1_k200"].map(|name| results[name].as_f64().unwrap());
    for name in ["top1", "train_top1", "train_loss", "probe"] {
        assert!(results.get(name).is_none(), "{name}");
    }
    assert_eq!(sum(&results["confusion"]), results["val_examples"].as_u64().unwrap());
    for words in [
        format!("top-1 of 20 neighbors {:.2} % of", 100.0 * few),
        format!("of 200 neighbors {:.2} %", 100.0 * many),
        "striped disc".to_owned(),
        "confusion.png".to_owned(),
    ] {
        assert!(output.stdout.contains(&words), "no {words} in\n{}", output.stdout);
    }
    output.says(&["only ", " training examples: all of them are the 200 nearest"]);
    dir.eval(&format!("{knn} --out b --threads 1 --quiet")).succeeds();
    dir.assert_same("a", "b");

    // After roi the features are there, and before it they are those that it computes itself.
    dir.eval(&format!("{ROI} {RANDOM} --device cpu --out roi")).succeeds();
    assert_eq!(upright(&dir, "a"), upright(&dir, "roi"));
    let before = dir.files("roi/features");
    dir.eval(&format!("{knn} --out roi")).succeeds();
    assert_eq!(dir.files("roi/features"), before);
    assert_eq!(json(&dir, "roi/results.json"), results);

    // A damaged file of features is computed again.
    std::fs::write(dir.path("b/features/val-upright-00000.safetensors"), "damaged").unwrap();
    dir.eval(&format!("{knn} --out b")).succeeds();
    dir.assert_same("a", "b");

    // With one box of each class all neighbors vote, so both numbers are the same.
    dir.eval(&format!("{knn} --out few --boxes-per-class 1")).succeeds();
    let results = json(&dir, "few/results.json");
    assert!(results["train_examples"].as_u64().unwrap() <= 12);
    assert_eq!(results["top1_k20"], results["top1_k200"]);
}

#[test]
fn neighbors_of_images_are_the_same_on_two_ranks_and_after_the_linear_protocol() {
    let dir = Dir::new().images(30);
    let common = format!("--images images --size 32 {RANDOM} --device cpu");
    dir.eval(&format!("knn {common} --out one"))
        .succeeds()
        .says(&["no --val: 6 of 30 images are the validation split"]);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rank = |rank: u32| {
        let knn = format!("knn {common} --out two --threads 1");
        let command = dir.eval(&knn).variable("RANK", rank).variable("WORLD_SIZE", 2);
        command.variable("MASTER_ADDR", "127.0.0.1").variable("MASTER_PORT", port - 1)
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| rank(0).succeeds());
        rank(1).succeeds();
        first.join().unwrap();
    });
    dir.assert_same("one", "two");

    dir.eval(&format!("linear {common} --out linear --epochs 4 --crops 1")).succeeds();
    let linear = json(&dir, "linear/results.json");
    dir.eval(&format!("knn {common} --out linear")).succeeds();
    assert_eq!(json(&dir, "linear/results.json"), json(&dir, "one/results.json"));
    dir.eval(&format!("linear {common} --out linear --epochs 4 --crops 1")).succeeds();
    assert_eq!(json(&dir, "linear/results.json"), linear);

    dir.eval(&format!("knn {common} --val images --out given")).succeeds();
    assert_eq!(json(&dir, "given/results.json")["val_examples"], 30);
}

#[test]
fn neighbors_want_images_or_boxes() {
    let dir = Dir::new().folder("images");
    let refused = |arguments: &str, words: &[&str]| {
        ends_with(&dir.eval(&format!("knn {arguments} {RANDOM} --out out")).fails(2), words);
        assert!(!dir.path("out").exists());
    };
    refused("", &["--images: is missing: give --images for whole images; or for boxes"]);
    refused("--val images", &["--images: is missing"]);
    for boxes in ["--train-images a", "--val-boxes a.json", "--boxes-per-class 5"] {
        let option = boxes.split(' ').next().unwrap();
        for images in ["--images images", "--val images"] {
            refused(
                &format!("{images} {boxes}"),
                &[&format!("{option}: is for boxes, and --images and --val are for whole images")],
            );
        }
    }
    refused("--boxes-per-class 5", &["--train-images: is missing: boxes need --train-images,"]);
    refused(
        "--train-images a --train-boxes a.json --val-images b",
        &["--val-boxes: is missing: boxes need"],
    );
    dir.eval(&format!("knn --images images --epochs 5 {RANDOM}")).fails(2).says(&["--epochs"]);
}

#[test]
#[cfg(unix)]
fn a_stopped_evaluation_ends_as_an_uninterrupted_one() {
    let dir = Dir::new().images(30);
    let linear = format!("linear --images images --size 64 --epochs 12 {RANDOM}");
    dir.eval(&format!("{linear} --out full")).succeeds();
    let checkpoint = dir.path("stopped/features/linear-layer.safetensors");
    let output =
        dir.eval(&format!("{linear} --out stopped")).interrupted_once(|| checkpoint.exists());
    ends_with(&output, &["stopped; run the same command again"]);
    assert!(!dir.path("stopped/results.json").exists());
    dir.eval(&format!("{linear} --out stopped")).succeeds();
    dir.assert_same("full", "stopped");
}

#[test]
fn options_in_a_file_are_read_and_the_command_line_wins() {
    let options =
        "images = \"images\"\nsize = 32\nepochs = 2\ncrops = 1\nlr = 0.5\nout = \"from-file\"\n";
    let dir = Dir::new().images(15).file("eval.toml", options).file("wrong.toml", "crop = 3\n");
    dir.eval(&format!("linear --config eval.toml {RANDOM} --epochs 3")).succeeds();
    let probe = &json(&dir, "from-file/results.json")["probe"];
    assert_eq!((&probe["epochs"], &probe["lr"]), (&3.into(), &0.5.into()));
    let output = dir.eval(&format!("linear --config wrong.toml {RANDOM}")).fails(2);
    output.says(&["wrong.toml", "crop is no option"]);
}

#[test]
fn unusable_options_and_files_are_reported_in_a_line() {
    let dir = scenes().file("list.json", "[]").folder("empty");
    let refused = |arguments: &str, code: i32, words: &[&str]| {
        ends_with(&dir.eval(arguments).fails(code), words)
    };
    dir.eval(ROI).fails(2).says(&["--checkpoint <FILE|random>"]);
    dir.eval("roi --checkpoint random").fails(2).says(&["--train-images <DIR>"]);
    dir.eval(&format!("{} {RANDOM}", ROI.replace("--size 64", "--size 8")))
        .fails(2)
        .says(&["--size", "8 is not in 32..=4096"]);
    for (option, value) in [("--lr", "NaN"), ("--threads", "0"), ("--epochs", "0")] {
        let line = format!("linear --images scenes {RANDOM} {option} {value}");
        dir.eval(&line).fails(2).says(&[option, &format!("'{value}'")]);
    }
    let linear = format!("linear --images scenes {RANDOM}");
    dir.eval(&format!("{linear} --device tpu")).fails(2).says(&["none of auto, cpu, cuda, cuda:N"]);
    for line in [format!("{ROI} {RANDOM}"), linear] {
        let words = ["--device: ", "; or use --device cpu"];
        refused(&format!("{line} --device cuda:99"), 2, &words);
        let words = ["--precision: bf16 needs a GPU; on the CPU it is f32"];
        refused(&format!("{line} --device cpu --precision bf16"), 2, &words);
    }
    refused(
        &format!("{ROI} --checkpoint a.pth --arch resnet18"),
        2,
        &["--arch: is for random weights"],
    );
    refused(&format!("{ROI} {RANDOM} --out s3://bucket/eval"), 2, &["--out: is a local folder"]);
    refused(&format!("{ROI} --checkpoint gone.pth"), 1, &["gone.pth: No such file"]);
    refused(
        &format!("{ROI} --checkpoint list.json"),
        1,
        &["list.json: neither a safetensors file"],
    );
    let list = ROI.replace("scenes/instances_val2017.json", "list.json");
    refused(
        &format!("{list} {RANDOM}"),
        1,
        &["list.json: not an annotation file in COCO's format"],
    );
    let images = ROI.replace("scenes/val2017", "empty");
    refused(
        &format!("{images} {RANDOM}"),
        1,
        &["instances_val2017.json", "4 images missing", "are they in empty?"],
    );
    refused(
        &format!("linear --images scenes/train2017 {RANDOM}"),
        1,
        &["scenes/train2017: has 0 classes"],
    );
    refused(&format!("linear --images empty {RANDOM}"), 1, &["empty: holds no images"]);
}
