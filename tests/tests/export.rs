//! Weights from one run into another: `scrl-export`, and `scrl-train --init`.

use safetensors::SafeTensors;
use scrl_tests::Dir;

/// A run of one step.
const TRAIN: &str = "--device cpu --preset paper --arch resnet18 --batch-size 4 --hidden 64 \
                     --projection 32 --max-steps 1 --log-every 1";

const FIRST: &str = "checkpoints/step-00000000.safetensors";
const LAST: &str = "checkpoints/step-00000001.safetensors";

/// With the folders `shards`, and `run` of one step.
fn trained() -> Dir {
    let dir = Dir::new().images(4);
    dir.prep("--size 64 --min-box 16 --epochs 2 images shards").succeeds();
    dir.train(&format!("{TRAIN} --out run shards")).succeeds();
    dir
}

/// Expects two files to have the same tensors, bit for bit, below these prefixes.
#[track_caller]
fn assert_same_tensors(dir: &Dir, (a, prefix_a): (&str, &str), (b, prefix_b): (&str, &str)) {
    let (bytes_a, bytes_b) = (dir.read(a), dir.read(b));
    let (a, b) =
        (SafeTensors::deserialize(&bytes_a).unwrap(), SafeTensors::deserialize(&bytes_b).unwrap());
    let mut count = 0;
    for (name, tensor) in a.iter().filter(|(name, _)| name.starts_with(prefix_a)) {
        let name = format!("{prefix_b}{}", &name[prefix_a.len()..]);
        assert!(tensor.data() == b.tensor(&name).unwrap().data(), "{name} differs");
        count += 1;
    }
    assert!(count > 0, "nothing below {prefix_a}");
}

/// Whether a tensor is the same in two files.
fn is_same(dir: &Dir, a: &str, b: &str, name: &str) -> bool {
    let (bytes_a, bytes_b) = (dir.read(a), dir.read(b));
    let (a, b) =
        (SafeTensors::deserialize(&bytes_a).unwrap(), SafeTensors::deserialize(&bytes_b).unwrap());
    a.tensor(name).unwrap().data() == b.tensor(name).unwrap().data()
}

#[test]
fn a_run_starts_from_the_weights_of_an_exported_backbone() {
    let dir = trained();
    for (index, name) in ["a.safetensors", "a.pth"].into_iter().enumerate() {
        dir.export(&format!("--to torchvision --checkpoint run/{LAST} {name}"))
            .succeeds()
            .says(&["resnet18", name]);
        let out = format!("from{index}");
        dir.train(&format!("{TRAIN} --seed 5 --init {name} --out {out} shards")).succeeds().says(
            &[
                "init: resnet18 backbone (100 tensors) from",
                name,
                "target random",
                "projector random",
            ],
        );
        let first = format!("{out}/{FIRST}");
        assert_same_tensors(
            &dir,
            (&format!("run/{LAST}"), "online.backbone."),
            (&first, "online.backbone."),
        );
        assert!(!is_same(&dir, &first, &format!("run/{LAST}"), "predictor.0.weight"));
        assert!(!is_same(&dir, &first, &format!("run/{LAST}"), "target.backbone.conv1.weight"));
        assert!(dir.text(&format!("{out}/config.toml")).contains(&format!("init = \"{name}\"")));
    }
    assert!(dir.read("a.safetensors") == dir.read("run/backbone.safetensors"));
    dir.assert_same("from0/checkpoints", "from1/checkpoints");
}

#[test]
fn a_run_starts_from_all_of_a_checkpoint_but_its_momentum() {
    let dir = trained();
    let source = format!("run/{LAST}");
    dir.train(&format!("{TRAIN} --seed 5 --init {source} --out from shards")).succeeds().says(&[
        "init: resnet18 backbone (100 tensors), projector, predictor from",
        "target from the same file",
    ]);
    let first = format!("from/{FIRST}");
    for part in ["online.", "target.", "predictor."] {
        assert_same_tensors(&dir, (&source, part), (&first, part));
    }
    assert!(!is_same(&dir, &first, &source, "momentum.online.backbone.conv1.weight"));

    let copied = TRAIN.replace("--hidden 64", "--hidden 48");
    dir.train(&format!("{copied} --target-init online --init {source} --out copied shards"))
        .succeeds()
        .says(&[
            "target a copy of the online network",
            "projector random, as online.projector.0.weight is",
        ]);
    let first = format!("copied/{FIRST}");
    assert_same_tensors(&dir, (&source, "online.backbone."), (&first, "online.backbone."));
    assert_same_tensors(&dir, (&first, "online."), (&first, "target."));
}

#[test]
fn a_run_that_goes_on_does_not_read_the_initial_weights_again() {
    let dir = trained();
    dir.export(&format!("--to torchvision --checkpoint run/{LAST} a.pth")).succeeds();
    let line = format!("{TRAIN} --init a.pth --checkpoint-every 1 --out from shards");
    dir.train(&line).succeeds();
    dir.remove("a.pth");
    let more = line.replace("--max-steps 1", "--max-steps 2");
    dir.train(&more).succeeds().says(&["init: a.pth is not read", "as the run resumes"]);
    dir.train(&more.replace("--out from", "--out anew")).fails(1).says(&["a.pth"]);
    assert!(!dir.path("anew").exists());
}

#[test]
fn a_run_can_be_exported_in_every_format() {
    let dir = trained().file(
        "export.toml",
        "to = \"detectron2\"\ncheckpoint = \"run/backbone.safetensors\"\nquiet = true\n",
    );
    either_network_can_be_exported_and_always_to_the_same_bytes(&dir);
    every_export_is_read_again(&dir);
    a_folder_for_transformers_is_the_same_every_time(&dir);
    options_may_stand_in_a_file(&dir);
    weights_of_another_architecture_are_refused(&dir);
}

fn every_export_is_read_again(dir: &Dir) {
    for (to, name, names) in [
        ("torchvision", "first.safetensors", "torchvision's names"),
        ("torchvision", "first.pth", "torchvision's names"),
        ("detectron2", "first.pkl", "Detectron2's names"),
        ("transformers", "first", "transformers' names"),
    ] {
        // A run's folder means its backbone.
        dir.export(&format!("--to {to} --checkpoint run {name}"))
            .succeeds()
            .says(&["weights: resnet18 backbone (100 tensors) from run/backbone.safetensors: \
             torchvision's names"]);
        dir.export(&format!("--to torchvision --checkpoint {name} again.safetensors"))
            .succeeds()
            .says(&["weights: resnet18 backbone (100 tensors) from", name, names]);
        assert!(dir.read("again.safetensors") == dir.read("run/backbone.safetensors"), "{name}");
    }
    dir.export(&format!("--to torchvision --checkpoint run/{LAST} again.safetensors"))
        .succeeds()
        .says(&["left out: 100 of target.backbone of scrl-train (--network target takes it)"]);
    dir.export("--to torchvision --checkpoint run/checkpoints --network target again.safetensors")
        .succeeds()
        .says(&["step-00000001.safetensors: target.backbone", "(--network online takes it)"]);
    dir.export("--to torchvision --checkpoint shards again.safetensors")
        .fails(1)
        .says(&["shards", "name a file of weights"]);
}

fn a_folder_for_transformers_is_the_same_every_time(dir: &Dir) {
    for (name, network) in [("a", "online"), ("b", "online"), ("c", "target")] {
        dir.export(&format!(
            "--to transformers --checkpoint run/{LAST} --network {network} {name}/"
        ))
        .succeeds()
        .says(&["resnet18, 100 tensors", "for transformers", name]);
    }
    dir.assert_same("a", "b");
    let weights = |name: &str| dir.read(&format!("{name}/model.safetensors"));
    assert!(weights("a") != weights("c"));
    dir.export("--to transformers --checkpoint a.safetensors a.safetensors")
        .fails(2)
        .says(&["--to", "gets a folder"]);
    dir.export("--to transformers --checkpoint a.safetensors export.toml")
        .fails(1)
        .says(&["export.toml", "is a file"]);
}

fn weights_of_another_architecture_are_refused(dir: &Dir) {
    let other = TRAIN.replace("resnet18", "resnet34");
    dir.train(&format!("{other} --init run/backbone.safetensors --out from shards")).fails(1).says(
        &[
            "run/backbone.safetensors",
            "not a complete resnet34",
            "layer1.2.conv1.weight is missing",
            "resnet18",
        ],
    );
    assert!(!dir.path("from").exists());
}

fn either_network_can_be_exported_and_always_to_the_same_bytes(dir: &Dir) {
    for (to, ending) in
        [("torchvision", "safetensors"), ("torchvision", "pth"), ("detectron2", "pkl")]
    {
        for (name, network) in [("a", "online"), ("b", "online"), ("c", "target")] {
            let line = format!(
                "--to {to} --checkpoint run/{LAST} --network {network} --quiet {name}.{ending}"
            );
            let output = dir.export(&line).succeeds();
            assert_eq!(output.stdout + &output.stderr, "");
        }
        assert!(dir.read(&format!("a.{ending}")) == dir.read(&format!("b.{ending}")));
        assert!(dir.read(&format!("a.{ending}")) != dir.read(&format!("c.{ending}")));
    }
    assert_same_tensors(dir, ("c.safetensors", ""), (&format!("run/{LAST}"), "target.backbone."));
    let names: Vec<_> = dir.files(".").into_keys().filter(|name| name.contains(".tmp-")).collect();
    assert!(names.is_empty(), "{names:?}");
}

fn options_may_stand_in_a_file(dir: &Dir) {
    dir.export("--config export.toml a.pkl").succeeds();
    dir.export("--config export.toml --to torchvision a.pth").succeeds();
    dir.export("--config export.toml --network target a.pkl").fails(1).says(&["no target network"]);
}

#[test]
fn unusable_files_and_options_are_named() {
    let dir = Dir::new().file("text.pth", "no weights").file("there.pkl", "");
    dir.export("--to torchvision --checkpoint nowhere.pth a.pth").fails(1).says(&["nowhere.pth"]);
    dir.export("--to torchvision --checkpoint text.pth a.pth")
        .fails(1)
        .says(&["text.pth", "neither"]);
    dir.export("--to torchvision --checkpoint text.pth nowhere/a.pth")
        .fails(1)
        .says(&["no folder nowhere"]);
    dir.export("--to torchvision --checkpoint text.pth a.onnx")
        .fails(2)
        .says(&["--to", ".safetensors"]);
    dir.export("--to detectron2 --checkpoint text.pth a.pth").fails(2).says(&["--to", ".pkl"]);
    dir.export("--to detectron2 --checkpoint there.pkl there.pkl")
        .fails(1)
        .says(&["the checkpoint itself"]);
    let output = dir.export("--to onnx --checkpoint text.pth a.onnx").fails(2);
    output.says(&["--to", "onnx"]);
    output.says(&["torchvision, detectron2, transformers"]);
    dir.export("--checkpoint text.pth a.pth").fails(2).says(&["--to"]);
    dir.export("--to torchvision a.pth").fails(2).says(&["--checkpoint"]);
    assert!(!dir.path("a.pth").exists());
}

#[test]
fn help_and_version_answer() {
    let dir = Dir::new();
    assert!(dir.export("--help").succeeds().stdout.contains("Examples:"));
    assert!(dir.export("--version").succeeds().stdout.starts_with("scrl-export 0."));
}
