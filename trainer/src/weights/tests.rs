//! Reading and writing the small files of `scripts/make_goldens_weights.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde_json::{Value, json};

use super::branch::Branch;
use super::detectron2::write_detectron2;
use super::export::export;
use super::options::{ExportFormat, ExportOptions};
use super::pth_writer::write_pth;
use super::read::{FoundNetwork, Weights};
use super::safetensors::write_safetensors;
use super::transformers::{ResNetConfig, to_json, write_transformers};
use crate::Error;
use crate::model::{Arch, Backbone, Parameter, Parameters};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/weights").join(name)
}

/// Names, shapes and bits.
fn content<'a>(
    tensors: impl IntoIterator<Item = (&'a String, &'a Tensor)>,
) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    let bits = |tensor: &Tensor| {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    tensors
        .into_iter()
        .map(|(name, tensor)| (name.clone(), (tensor.dims().to_vec(), bits(tensor))))
        .collect()
}

fn plain_safetensors(name: &str) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).unwrap().into_iter().collect()
}

#[test]
fn tensors_are_those_that_pytorch_saved() {
    for (name, expected) in [
        ("authors.pth", "expected.safetensors"),
        ("legacy.pth", "expected.safetensors"),
        ("expected.safetensors", "expected.safetensors"),
        ("layouts.pth", "layouts.expected.safetensors"),
        ("half.safetensors", "half.expected.safetensors"),
    ] {
        let weights =
            Weights::read(&golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(content(&weights.tensors), content(&plain_safetensors(expected)), "{name}");
    }
}

/// The tensors of a network in `expected`, if it is among `networks`.
fn of_networks(
    expected: &BTreeMap<String, Tensor>,
    networks: &[Branch],
) -> BTreeMap<String, Tensor> {
    let is_of = |name: &str| networks.iter().any(|network| name.starts_with(network.backbone()));
    expected.clone().into_iter().filter(|(name, _)| is_of(name)).collect()
}

#[test]
fn files_of_all_projects_are_read_bit_for_bit() {
    use Branch::{Online, Target};
    // The first network is the one that is taken where nobody says which.
    for (name, networks, words, left_out) in [
        (
            "moco.pth.tar",
            &[Online, Target][..],
            "encoder_q of MoCo",
            "4 of fc, 1 of queue, 1 of queue_ptr",
        ),
        ("moco_v3.pth.tar", &[Online, Target], "base_encoder of MoCo v3", "predictor"),
        ("pixpro.pth", &[Online, Target], "encoder of PixPro", "2 of projector"),
        ("infomin.pth", &[Online, Target], "encoder of PixPro, SoCo, InfoMin", "2 of head"),
        ("dino.pth", &[Target, Online], "teacher.backbone of DINO", "1 of dino_loss"),
        ("vissl.torch", &[Online], "trunk._feature_blocks of VISSL", "2 of heads"),
        ("lightly.ckpt", &[Online, Target], "backbone of Lightly", "2 of projection_head"),
        ("lightly_backbone.pth", &[Online], "torchvision's layers in an nn.Sequential", ""),
        ("byol_pytorch.pt", &[Online, Target], "online_encoder.net of byol-pytorch", "of net"),
        ("simclr_v2.pth", &[Online], "resnet.net of SimCLR v2", "1 of head"),
        ("insloc.pth", &[Online, Target], "backbone of Lightly, solo-learn, OpenMMLab", "neck"),
        ("solo_learn.ckpt", &[Online, Target], "backbone of Lightly, solo-learn", "predictor"),
        ("openselfsup.pth", &[Online, Target], "online_net.0 of OpenSelfSup's BYOL", "backbone"),
        ("mmselfsup.pth", &[Online, Target], "backbone of Lightly, solo-learn, OpenMMLab", "neck"),
        ("timm.pth.tar", &[Target, Online], "state_dict_ema of timm", "fc"),
        ("detector.pth", &[Online], "backbone.body of torchvision's detectors", "2 of backbone"),
        ("detectron2.protocol2.pkl", &[Online], "Detectron2's names", "fc"),
        ("detectron2.protocol3.pkl", &[Online], "Detectron2's names", "fc"),
        ("detectron2.protocol4.pkl", &[Online], "Detectron2's names", "fc"),
        ("detectron2.protocol5.pkl", &[Online], "Detectron2's names", "fc"),
        ("detectron2.numpy1.pkl", &[Online], "Detectron2's names", "fc"),
        ("detectron2.fortran.pkl", &[Online], "Detectron2's names", "fc"),
        ("detectron2.fortran5.pkl", &[Online], "Detectron2's names", "fc"),
        (
            "detectron2.detector.pkl",
            &[Online],
            "backbone.bottom_up of Detectron2",
            "1 of roi_heads",
        ),
        ("transformers", &[Online], "resnet of transformers", "1 of classifier"),
    ] {
        let weights = Weights::read(&golden("projects").join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = of_networks(&plain_safetensors("projects/expected.safetensors"), networks);
        assert_eq!(content(&weights.tensors), content(&expected), "{name}");
        let branches: Vec<_> = weights.networks.iter().map(|network| network.branch()).collect();
        assert_eq!(branches, networks, "{name}");
        assert!(
            weights.networks[0].description().contains(words),
            "{name}: {:?}",
            weights.networks
        );
        let others: Vec<_> =
            weights.others.iter().map(|(part, count)| format!("{count} of {part}")).collect();
        assert!(others.join(", ").contains(left_out), "{name}: {others:?}");
        // As a run starts from it.
        let start: BTreeMap<_, _> = (weights.into_start().tensors.into_iter())
            .map(|(name, tensor)| (name.replace("online.", &format!("{}.", networks[0])), tensor))
            .collect();
        assert_eq!(content(&start), content(&of_networks(&expected, &networks[..1])), "{name}");
    }
}

#[test]
fn networks_that_are_not_torchvisions_are_refused_by_what_the_file_says() {
    for (name, words) in [
        ("refused-caffe2.pkl", "weights of Caffe2, for images in BGR"),
        ("refused-caffe-style.pth", "the style \"caffe\""),
        ("refused-model-zoo.pkl", "Detectron2's model zoo"),
        ("refused-bgr.pkl", "pixel_std is 1"),
        ("refused-int8.pkl", "is of type i1, not a float"),
    ] {
        refused(&fs::read(golden("projects").join(name)).unwrap(), &[words]);
    }
    let of_names = |names: &[&str]| {
        let zeros = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        let tensors = names.iter().map(|name| ((*name).to_owned(), zeros.clone())).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        fs::read(&path).unwrap()
    };
    for (names, words) in [
        (&["blocks.0.attn.qkv.weight", "cls_token"][..], "it looks like a vision transformer"),
        (&["a", "b", "c", "d"], "among its 4 tensors, the first are a [2, 2], b [2, 2], c [2, 2];"),
        (&["visual.attnpool.k_proj.weight", "visual.layer1.0.conv1.weight"], "CLIP's ResNet"),
        (&["resnet.net.1.blocks.0.net.2.mixing_conv.0.weight"], "selective kernels"),
        (&["model.conv1.0.weight", "model.layer1.0.conv1.weight"], "a stem of three convolutions"),
        (&["conv1_w", "res2_0_branch2a_w"], "weights of Caffe2"),
        (
            &["model.layer1.0.conv1.weight", "state_dict.layer1.0.conv1.weight"],
            "two networks of the same kind, model and state_dict",
        ),
    ] {
        refused(&of_names(names), &[words]);
    }
}

#[test]
fn damaged_pickles_neither_panic_nor_ask_for_much() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pkl");
    // A linear congruential generator: the same damages each time.
    let mut random = 1u64;
    let mut below = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % bound
    };
    let mut refusals = 0;
    for name in [
        "projects/detectron2.protocol2.pkl",
        "projects/detectron2.protocol5.pkl",
        "tiny.pkl",
        "legacy.pth",
    ] {
        let intact = fs::read(golden(name)).unwrap();
        for round in 0..400 {
            let mut bytes = intact.clone();
            for _ in 0..1 + round % 4 {
                let at = below(bytes.len());
                bytes[at] = below(256) as u8;
            }
            if round % 3 == 0 {
                bytes.truncate(below(intact.len()));
            }
            fs::write(&path, &bytes).unwrap();
            match Weights::read(&path) {
                Ok(weights) => {
                    let elements: usize = weights.tensors.values().map(Tensor::elem_count).sum();
                    assert!(elements <= intact.len(), "{name}, {round}: {elements} elements");
                }
                Err(_) => refusals += 1,
            }
        }
    }
    assert!(refusals > 400, "{refusals}");
}

#[test]
fn a_report_says_what_was_taken_and_what_not() {
    let mut weights = of_resnet18();
    weights.others = BTreeMap::from([("fc".to_owned(), 2), ("queue".to_owned(), 1)]);
    let report = weights.report(None).unwrap().to_string();
    let expected = "resnet18 backbone (100 tensors) from here: torchvision's names; left out: 2 of \
                    fc, 1 of queue";
    assert_eq!(report, expected);
    weights.others = (0..9).map(|number| (format!("part{number}"), 3)).collect();
    let report = weights.report(None).unwrap().to_string();
    assert!(report.ends_with("3 of part4, 12 others"), "{report}");
}

/// Compares with a golden file, or writes it where the environment says so.
fn assert_golden(written: &Path, name: &str) {
    if env::var_os("SCRL_WRITE_GOLDENS").is_some() {
        fs::copy(written, golden(name)).unwrap();
    }
    assert!(fs::read(written).unwrap() == fs::read(golden(name)).unwrap(), "{name} differs");
}

#[test]
fn written_files_are_those_that_pytorch_and_numpy_have_loaded() {
    let tensors = plain_safetensors("tiny.safetensors");
    let in_order: Vec<_> = tensors.clone().into_iter().collect();
    let folder = tempfile::tempdir().unwrap();
    let (pth, pkl) = (folder.path().join("a.pth"), folder.path().join("b.pkl"));
    write_pth(&pth, &in_order).unwrap();
    write_detectron2(&pkl, &in_order).unwrap();
    assert_golden(&pth, "tiny.pth");
    assert_golden(&pkl, "tiny.pkl");

    let by_candle: BTreeMap<_, _> =
        candle_core::pickle::read_all(&pth).unwrap().into_iter().collect();
    assert_eq!(content(&by_candle), content(&tensors));
    let by_us = Weights::read(&pth).unwrap();
    let named = |name: &String| format!("online.backbone.{name}");
    let expected: BTreeMap<_, _> =
        tensors.iter().map(|(name, tensor)| (named(name), tensor.clone())).collect();
    assert_eq!(content(&by_us.tensors), content(&expected));
    let by_us = Weights::read(&pkl).unwrap();
    assert_eq!(content(&by_us.tensors), content(&expected));
}

#[test]
fn numbers_in_an_archive_begin_at_multiples_of_64_bytes() {
    let file = fs::File::open(golden("tiny.pth")).unwrap();
    let mut archive = zip::ZipArchive::new(file).unwrap();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).unwrap();
        assert_eq!(entry.compression(), zip::CompressionMethod::Stored);
        assert_eq!(entry.data_start().unwrap() % 64, 0, "entry {index}");
    }
}

#[test]
fn safetensors_are_written_as_they_were_read() {
    let tensors = plain_safetensors("tiny.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let read = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    assert_eq!(content(&read), content(&tensors));
}

/// Expects a file with this content to be refused in one line with its name and these words.
#[track_caller]
fn refused(content: &[u8], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("given.pth");
    fs::write(&path, content).unwrap();
    let message = Weights::read(&path).unwrap_err().to_string();
    let named = message.starts_with(&path.display().to_string()) && !message.contains('\n');
    assert!(named && words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn other_files_are_refused_with_a_reason() {
    refused(b"", &["neither a safetensors file", "save_file"]);
    refused(b"\x80\x06}.", &["neither a safetensors file"]);
    refused(b"\x80\x04}.", &["no ResNet among its 0 tensors"]);
    refused(b"\x80\x04N.", &["a pickled object, not a dictionary"]);
    refused(b"PK\x03\x04 and no more", &["damaged"]);
    refused(b"\x02\0\0\0\0\0\0\0{}", &["no ResNet among its 0 tensors"]);
    let mut of_a_head = BTreeMap::new();
    of_a_head
        .insert("fc.weight".to_owned(), Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fc.safetensors");
    write_safetensors(&path, &of_a_head, &BTreeMap::new()).unwrap();
    refused(&fs::read(&path).unwrap(), &["no ResNet among its 1 tensors, the first is fc.weight"]);
}

#[test]
fn files_cut_off_anywhere_are_refused() {
    for name in ["authors.pth", "legacy.pth", "expected.safetensors"] {
        let intact = fs::read(golden(name)).unwrap();
        for length in (0..intact.len()).step_by(97) {
            refused(&intact[..length], &[]);
        }
    }
}

#[test]
fn a_changed_number_in_an_archive_is_noticed() {
    let mut bytes = fs::read(golden("tiny.pth")).unwrap();
    let mut archive = zip::ZipArchive::new(fs::File::open(golden("tiny.pth")).unwrap()).unwrap();
    let start = archive.by_name("archive/data/0").unwrap().data_start().unwrap() as usize;
    bytes[start] ^= 1;
    refused(&bytes, &["checksum"]);
}

#[test]
fn an_incomplete_backbone_is_refused() {
    // Four stages of one basic block.
    let weights = Weights::read(&golden("expected.safetensors")).unwrap();
    let message = weights.backbone(Some(Branch::Online)).unwrap_err().to_string();
    assert!(message.contains("[1, 1, 1, 1] basic blocks: none of resnet18"), "{message}");

    let mut weights = of_resnet18();
    weights.tensors.remove("online.backbone.layer2.1.bn2.bias");
    let message = weights.backbone(Some(Branch::Online)).unwrap_err().to_string();
    let expected = "not a complete resnet18: online.backbone.layer2.1.bn2.bias is missing; \
                    99 of 100 tensors fit";
    assert!(message.contains(expected), "{message}");
    let message = weights.backbone(Some(Branch::Target)).unwrap_err().to_string();
    assert!(message.contains("has no target network; use --network online"), "{message}");
}

/// A ResNet-18 whose numbers are zeros and ones.
fn of_resnet18() -> Weights {
    let backbone = |vb: VarBuilder| Backbone::new(Arch::Resnet18, &vb.pp("online").pp("backbone"));
    let (_, parameters) = Parameters::build(None, &Device::Cpu, backbone).unwrap();
    let tensor = |p: &Parameter| (p.name.clone(), p.to_checkpoint().unwrap());
    let tensors = parameters.0.iter().map(tensor).collect();
    let networks = vec![FoundNetwork::of_torchvision()];
    Weights { path: "here".into(), tensors, networks, others: BTreeMap::new() }
}

#[test]
fn a_backbone_comes_in_torchvisions_order() {
    let (arch, tensors) = of_resnet18().backbone(Some(Branch::Online)).unwrap();
    assert_eq!(arch, Arch::Resnet18);
    let names: Vec<_> = tensors.iter().map(|(name, _)| name.as_str()).take(6).collect();
    let expected =
        ["conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"];
    assert_eq!(names, [&expected[..], &["layer1.0.conv1.weight"]].concat());
}

/// Its `ResNetConfig`.
fn config_of(arch: Arch) -> Value {
    serde_json::from_slice(&to_json(&ResNetConfig::of(arch))).unwrap()
}

#[test]
fn a_configuration_for_transformers_has_the_shapes_of_its_architecture() {
    let basic = json!([64, 128, 256, 512]);
    let bottleneck = json!([256, 512, 1024, 2048]);
    for (arch, layer_type, depths, hidden_sizes) in [
        (Arch::Resnet18, "basic", json!([2, 2, 2, 2]), &basic),
        (Arch::Resnet34, "basic", json!([3, 4, 6, 3]), &basic),
        (Arch::Resnet50, "bottleneck", json!([3, 4, 6, 3]), &bottleneck),
        (Arch::Resnet101, "bottleneck", json!([3, 4, 23, 3]), &bottleneck),
    ] {
        let expected = json!({
            "architectures": ["ResNetBackbone"],
            "model_type": "resnet",
            "num_channels": 3,
            "embedding_size": 64,
            "hidden_sizes": hidden_sizes,
            "depths": depths,
            "layer_type": layer_type,
            "hidden_act": "relu",
            "downsample_in_first_stage": false,
            "downsample_in_bottleneck": false,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        });
        assert_eq!(config_of(arch), expected, "{arch}");
    }
}

#[test]
fn a_folder_for_transformers_has_every_tensor_under_another_name() {
    let (arch, tensors) = of_resnet18().backbone(Some(Branch::Online)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("resnet18");
    // The second time over the first folder.
    for _ in 0..2 {
        write_transformers(&out, arch, tensors.clone()).unwrap();
    }
    let (again, read) = Weights::read(&out).unwrap().backbone(None).unwrap();
    let of = |tensors: &[(String, Tensor)]| content(tensors.iter().map(|(name, t)| (name, t)));
    assert_eq!((again, of(&read)), (arch, of(&tensors)));
    let names: BTreeSet<_> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let expected = ["config.json", "model.safetensors", "preprocessor_config.json"];
    assert_eq!(names, expected.map(Into::into).into());
    let read = |name: &str| fs::read(out.join(name)).unwrap();
    let value = |name: &str| serde_json::from_slice::<Value>(&read(name)).unwrap();
    assert_eq!(value("config.json"), config_of(arch));
    assert_eq!(value("preprocessor_config.json")["image_mean"], json!([0.485, 0.456, 0.406]));

    let renamed = candle_core::safetensors::load(out.join("model.safetensors"), &Device::Cpu);
    let renamed: BTreeMap<_, _> = renamed.unwrap().into_iter().collect();
    let count = |ending: &str| renamed.keys().filter(|name| name.ends_with(ending)).count();
    assert_eq!(count("num_batches_tracked"), count("running_var"));
    assert_eq!(renamed.len(), tensors.len() + count("num_batches_tracked"));
    for (name, tensor) in [
        ("embedder.embedder.convolution.weight", "conv1.weight"),
        ("encoder.stages.1.layers.0.shortcut.convolution.weight", "layer2.0.downsample.0.weight"),
        ("encoder.stages.3.layers.1.layer.1.normalization.running_var", "layer4.1.bn2.running_var"),
    ] {
        let (_, expected) = tensors.iter().find(|(found, _)| found == tensor).unwrap();
        let one = |tensor: &Tensor| content([(&name.to_owned(), tensor)]);
        assert_eq!(one(&renamed[name]), one(expected));
    }
}

#[test]
fn another_extension_than_the_formats_is_refused() {
    for (to, name) in [
        (ExportFormat::Torchvision, "a.pkl"),
        (ExportFormat::Detectron2, "a"),
        (ExportFormat::Transformers, "a.safetensors"),
    ] {
        let (out, checkpoint, network) = (name.into(), golden("tiny.pth"), None);
        let error = export(&ExportOptions { out, to, checkpoint, network }).unwrap_err();
        assert!(matches!(error, Error::Option { option: "to", .. }), "{error}");
    }
}
