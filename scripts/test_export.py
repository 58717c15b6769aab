#!/usr/bin/env python3
"""Test scrl-export and scrl-train --init with the libraries whose files they write and read.

    test_export.py [--bin target/debug] [--numpy-python PYTHON …]

Trains one step of a small ResNet-18 on synthetic images, and then checks that

  - torchvision's ResNet-18 loads the exported .safetensors, .pth and .pt (also with
    weights_only=True and mapped into memory): only fc.* is missing, nothing is unexpected, every
    tensor is the checkpoint's bit for bit, and the three give the same features;
  - transformers' ResNetBackbone loads the exported folder with no tensor missing or unexpected, and
    the feature maps of all four stages are torchvision's, for the four architectures;
  - the Python of docs/detectors.md for torchvision, timm and transformers runs, and the detectors
    that it builds have the exported weights, all trainable;
  - the .pkl loads with the standard library's pickle alone, without a warning, as writable float32
    arrays under the names of Detectron2's converter of torchvision's weights, for the four
    architectures;
  - a run that starts from each of these files, from a complete checkpoint, from torchvision's
    models saved by torch.save and save_file, and from checkpoints in the format of the authors'
    code, starts with exactly these weights;
  - scrl-export reads, bit for bit, the ResNets of timm and transformers as these save them, and
    torchvision's nested and renamed as other projects do (docs/weights.md), at their true sizes; a
    line says what was taken and what was left out; others are refused with a reason;
  - the golden files of the trainer's tests load in PyTorch and NumPy.

Needs PyTorch, torchvision, NumPy, Pillow and safetensors, and scrl-prep, scrl-train and scrl-export
in the folder of --bin. Where timm or transformers is not installed, a line says that its part is
skipped. Each --numpy-python is another interpreter, such as one with NumPy 1, which must load the
.pkl as well.
"""

import argparse
import importlib
import importlib.util
import os
import pathlib
import pickle
import re
import subprocess
import tempfile
import warnings

import numpy
import safetensors.torch
import torch
import torchvision

import synthetic_images

# Read by huggingface_hub when timm or transformers imports it.
os.environ["HF_HUB_OFFLINE"] = "1"

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
GOLDENS = REPOSITORY / "trainer/tests/goldens/weights"
FIRST = "checkpoints/step-00000000.safetensors"
LAST = "checkpoints/step-00000001.safetensors"
ARCHS = ["resnet18", "resnet34", "resnet50", "resnet101"]
# Of the largest value of a feature map.
TOLERANCE = 1e-6


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bin", type=pathlib.Path, default=REPOSITORY / "target/debug")
    parser.add_argument("--numpy-python", action="append", default=[], metavar="PYTHON")
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs(arguments.bin.resolve(), pathlib.Path(folder))
        programs.prepare()
        programs.train("run")
        torchvision_loads_what_is_exported(programs)
        transformers_loads_what_is_exported(programs)
        documented_detectors_have_the_exported_weights(programs)
        detectron2_would_load_what_is_exported(programs, arguments.numpy_python)
        runs_start_from_exported_weights(programs)
        runs_start_from_weights_of_other_programs(programs)
        weights_of_other_packages_are_read(programs)
        wrong_weights_are_refused(programs)
    goldens_load()
    print("test_export: all checks passed")


class Programs:
    """The programs, run in a folder."""

    def __init__(self, binaries, folder):
        self.binaries = binaries
        self.folder = folder
        self.started = 0

    def run(self, program, *arguments, code=0):
        """Runs a program and returns its standard error."""
        command = [self.binaries / program, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        output = done.stdout + done.stderr
        assert done.returncode == code, f"{command}: exit code {done.returncode}\n{output}"
        return done.stderr

    def prepare(self):
        synthetic_images.write_class_folders(self.folder / "images", 4, ["one", "two"])
        self.run("scrl-prep", "--size", 64, "--min-box", 16, "images", "shards")

    def train(self, out, *options, arch="resnet18", code=0):
        small = ["--device", "cpu", "--preset", "paper", "--arch", arch, "--batch-size", 4, "--max-steps", 1]
        small += ["--projection", 32, "--hidden", 64, "--online-eval", "off"]
        return self.run("scrl-train", *small, *options, "--out", out, "shards", code=code)

    def export(self, to, checkpoint, out, *options):
        self.run("scrl-export", "--to", to, "--checkpoint", checkpoint, *options, out)
        return self.folder / out

    def refuses(self, checkpoint, words):
        options = ["--to", "torchvision", "--checkpoint", checkpoint, "refused.pth"]
        messages = self.run("scrl-export", *options, code=1)
        assert words in messages, messages

    def tensors(self, name):
        return safetensors.torch.load_file(self.folder / name)

    def starts_with(self, weights, expected, *options, arch="resnet18", says=()):
        """Expects a run from a file to start with these tensors."""
        self.started += 1
        out = f"start-{self.started}"
        messages = self.train(out, "--seed", 7, "--init", weights, *options, arch=arch)
        line = next(line for line in messages.splitlines() if line.startswith("init: "))
        assert all(words in line for words in says), line
        found = self.tensors(f"{out}/{FIRST}")
        for name, tensor in expected.items():
            assert same(found[name], tensor), f"{weights}: {name} differs"
        print(f"--init {weights}: {len(expected)} tensors are the same. {line}")
        return found


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def below(prefix, tensors):
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def weights_of(module):
    """Without the counters of batches."""
    state = module.state_dict().items()
    return {k: v.clone() for k, v in state if not k.endswith("num_batches_tracked")}


def backbone_of(model):
    return {k: v for k, v in weights_of(model).items() if not k.startswith("fc.")}


def torchvision_loads_what_is_exported(programs):
    views = torch.rand(2, 3, 64, 64)
    for network in ["online", "target"]:
        expected = below(f"{network}.backbone.", programs.tensors(f"run/{LAST}"))
        features = []
        for ending in ["safetensors", "pth", "pt"]:
            out = f"{network}.{ending}"
            path = programs.export("torchvision", f"run/{LAST}", out, "--network", network)
            for state in loaded(path):
                # Before load_state_dict, which adds what is missing to a dictionary.
                assert state.keys() == expected.keys(), path
                assert all(same(state[name], tensor) for name, tensor in expected.items()), path
                model = torchvision.models.resnet18()
                result = model.load_state_dict(dict(state), strict=False)
                assert sorted(result.missing_keys) == ["fc.bias", "fc.weight"], result.missing_keys
                assert not result.unexpected_keys, result.unexpected_keys
                found = model.state_dict()
                assert all(same(found[name], tensor) for name, tensor in expected.items())
                model.fc = torch.nn.Identity()
                with torch.no_grad():
                    features.append(model.eval()(views))
        reference = torchvision.models.resnet18()
        reference.load_state_dict(dict(expected), strict=False)
        reference.fc = torch.nn.Identity()
        with torch.no_grad():
            features.append(reference.eval()(views))
        assert all(torch.equal(features[0], other) for other in features[1:])
        assert torch.isfinite(features[0]).all() and features[0].std() > 0
        tensors = f"{len(expected)} tensors, only fc.* missing"
        print(f"torchvision {torchvision.__version__}, {network}: {tensors}")


def loaded(path):
    """The state dict of a file, read in each possible way."""
    if path.suffix == ".safetensors":
        return [safetensors.torch.load_file(path)]
    return [
        torch.load(path, weights_only=True),
        torch.load(path, weights_only=False),
        torch.load(path, weights_only=True, mmap=True),
    ]


def installed(package, what):
    """Whether a package is installed; says that something is skipped if not."""
    if importlib.util.find_spec(package):
        return True
    print(f"{package}: {what} skipped, as the package is not installed")
    return False


def transformers_loads_what_is_exported(programs):
    if not installed("transformers", "the test of the exported folder is"):
        return
    cases = [("resnet18", f"run/{LAST}", network) for network in ["online", "target"]]
    for arch in ARCHS:
        model = getattr(torchvision.models, arch)()
        fill_batch_norms(model)
        file = f"{arch}.filled.pth"
        torch.save(model.state_dict(), programs.folder / file)
        cases.append((arch, file, "online"))
    with warnings.catch_warnings():
        # transformers and what it imports have their own.
        warnings.simplefilter("default")
        import transformers

        transformers.logging.disable_progress_bar()
        for number, (arch, checkpoint, network) in enumerate(cases):
            options = ["--network", network]
            folder = programs.export("transformers", checkpoint, f"folder-{number}/", *options)
            state = programs.export("torchvision", checkpoint, f"{number}.pth", *options)
            model = getattr(torchvision.models, arch)()
            model.load_state_dict(torch.load(state, weights_only=True), strict=False)
            loaders = compare_with_transformers(model.eval(), str(folder), f"{arch}, {network}")
    if "AutoBackbone" not in loaders:
        print(f"transformers {transformers.__version__}: its AutoBackbone takes no folder")


def fill_batch_norms(model):
    """As after training: all different, with features that are neither zero nor too large."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


def compare_with_transformers(model, folder, name):
    import transformers
    from huggingface_hub.errors import HFValidationError

    version = transformers.__version__
    backbone, info = transformers.ResNetBackbone.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    backbones = {"ResNetBackbone": backbone}
    try:
        backbones["AutoBackbone"] = transformers.AutoBackbone.from_pretrained(folder)
    except HFValidationError:
        # transformers 5.1 to 5.24 take the folder for a name on the Hub.
        pass
    views = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        expected, x = [], model.maxpool(model.relu(model.bn1(model.conv1(views))))
        for stage in [model.layer1, model.layer2, model.layer3, model.layer4]:
            x = stage(x)
            assert torch.isfinite(x).all() and x.std() > 0
            expected.append(x)
        for kind, backbone in backbones.items():
            assert type(backbone) is transformers.ResNetBackbone and not backbone.training
            found = backbone(views).feature_maps
            assert [f.shape for f in found] == [e.shape for e in expected]
            assert backbone.channels == [e.shape[1] for e in expected]
            pairs = list(zip(found, expected))
            worst = max(((f - e).abs().max() / e.abs().max()).item() for f, e in pairs)
            assert worst <= TOLERANCE, f"{kind} {name}: relative error {worst}"
            print(
                f"transformers {version}, {kind}, {name}: relative error {worst:.1e} in 4 stages,"
                f" {sum(torch.equal(f, e) for f, e in pairs)} of them bit for bit"
            )
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    gray = numpy.full((300, 400, 3), 128, numpy.uint8)
    pixels = processor(gray, return_tensors="pt").pixel_values
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = ((128 / 255 - mean) / std)[:, None, None].expand(1, 3, 224, 224)
    torch.testing.assert_close(pixels, normalized, rtol=0, atol=1e-5)
    return backbones.keys()


def documented_detectors_have_the_exported_weights(programs):
    """Runs the Python of docs/detectors.md in a folder with resnet50.pth and resnet50/."""
    model = torchvision.models.resnet50()
    fill_batch_norms(model)
    torch.save(model.state_dict(), programs.folder / "of-torchvision.pth")
    programs.export("torchvision", "of-torchvision.pth", "resnet50.pth")
    programs.export("transformers", "of-torchvision.pth", "resnet50/")
    expected = {tensor.numpy().tobytes() for tensor in backbone_of(model).values()}
    text = (REPOSITORY / "docs/detectors.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    start = os.getcwd()
    os.chdir(programs.folder)
    for package in ["torchvision", "timm", "transformers"]:
        blocks = re.findall(r"```python\n(.*?)```", sections[package], re.S)
        assert blocks, package
        if not installed(package, "its part of docs/detectors.md is"):
            continue
        names = {}
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            for block in blocks:
                exec(compile(block, f"docs/detectors.md, {package}", "exec"), names)
        modules = {n: m for n, m in names.items() if isinstance(m, torch.nn.Module)}
        for name, module in modules.items():
            tensors = {tensor.numpy().tobytes() for tensor in module.state_dict().values()}
            assert expected <= tensors, f"{package}: {name} lacks weights of the backbone"
            frozen = [n for n, p in module.named_parameters() if not p.requires_grad]
            assert not frozen, f"{package}: {name} has frozen parameters, the first is {frozen[0]}"
        version = importlib.import_module(package).__version__
        print(f"docs/detectors.md, {package} {version}: {', '.join(modules)} have the weights")
    os.chdir(start)


def detectron2_would_load_what_is_exported(programs, other_pythons):
    path = programs.export("detectron2", f"run/{LAST}", "online.pkl")
    expected = below("online.backbone.", programs.tensors(f"run/{LAST}"))
    check_pickle(path, expected)
    script = (
        "import pickle, sys, warnings, numpy; warnings.simplefilter('error'); "
        "model = pickle.load(open(sys.argv[1], 'rb'), encoding='latin1')['model']; "
        "assert all(type(v) is numpy.ndarray and v.dtype == 'f4' for v in model.values()); "
        "total = sum(float(abs(v).sum()) for v in model.values()); "
        "print('NumPy', numpy.__version__, len(model), 'arrays,', total)"
    )
    for python in other_pythons:
        done = subprocess.run([python, "-c", script, path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        print(done.stdout.strip())
    for arch in ARCHS:
        model = getattr(torchvision.models, arch)()
        expected, file = backbone_of(model), f"{arch}.safetensors"
        safetensors.torch.save_file(model.state_dict(), programs.folder / file)
        check_pickle(programs.export("detectron2", file, f"{arch}.pkl"), expected)
        again = programs.export("torchvision", file, f"{arch}.pth")
        model.load_state_dict(torch.load(again, weights_only=True), strict=False)
        print(f"detectron2 {arch}: {len(expected)} names and arrays are right")


def check_pickle(path, expected):
    # As Detectron2's DetectionCheckpointer reads it.
    with open(path, "rb") as file:
        data = pickle.load(file, encoding="latin1")
    assert data.keys() == {"model", "__author__", "matching_heuristics"}, data.keys()
    assert data["matching_heuristics"] is True and data["__author__"] != "Caffe2"
    arrays = data["model"]
    assert list(arrays) == [detectron2_name(name) for name in arrays_order(arrays, expected)]
    for name, tensor in expected.items():
        array = arrays[detectron2_name(name)]
        assert type(array) is numpy.ndarray and array.flags.writeable
        assert array.dtype == numpy.float32
        assert same(torch.from_numpy(array), tensor), name


def arrays_order(arrays, expected):
    """The expected names, all of which must be there, in the order of the arrays."""
    names = {detectron2_name(name): name for name in expected}
    assert len(names) == len(expected) and names.keys() == arrays.keys()
    return [names[name] for name in arrays]


def detectron2_name(name):
    """The rule of Detectron2's tools/convert-torchvision-to-d2.py, rewritten: stages 1 to 4 are
    res2 to res5, everything else is below `stem`; a batch norm is the `norm` of the convolution of
    its number; downsample is the shortcut."""
    name = name if "layer" in name else f"stem.{name}"
    name = re.sub(r"layer([1-4])", lambda stage: f"res{int(stage[1]) + 1}", name)
    name = re.sub(r"bn([1-3])", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def runs_start_from_exported_weights(programs):
    checkpoint = programs.tensors(f"run/{LAST}")
    backbone = prefixed("online.backbone.", below("online.backbone.", checkpoint))
    random = programs.train("random", "--seed", 7) and programs.tensors(f"random/{FIRST}")
    words = ["resnet18 backbone (100 tensors)", "target random"]
    for name in ["online.safetensors", "online.pth", "online.pt", "run/backbone.safetensors"]:
        found = programs.starts_with(name, backbone, says=words)
        for other in found.keys() - backbone.keys():
            assert same(found[other], random[other]), f"{name}: {other} is not --seed's"
    networks = {n: tensor for n, tensor in checkpoint.items() if not n.startswith("momentum.")}
    words = ["projector, predictor", "target from the same file"]
    found = programs.starts_with(f"run/{LAST}", networks, says=words)
    assert all(not tensor.any() for name, tensor in found.items() if name.startswith("momentum."))


def runs_start_from_weights_of_other_programs(programs):
    model = torchvision.models.resnet18()
    fill_statistics(model)
    backbone = prefixed("online.backbone.", backbone_of(model))
    torch.save(model.state_dict(), programs.folder / "torchvision.pth")
    wrapped = torch.nn.DataParallel(model).state_dict()
    torch.save({"state_dict": wrapped}, programs.folder / "wrapped.pth")
    legacy = programs.folder / "legacy.pth"
    torch.save(model.state_dict(), legacy, _use_new_zipfile_serialization=False)
    channels_last = torchvision.models.resnet18().to(memory_format=torch.channels_last)
    channels_last.load_state_dict(model.state_dict())
    torch.save(channels_last.state_dict(), programs.folder / "channels_last.pth")
    for name in ["torchvision.pth", "wrapped.pth", "legacy.pth", "channels_last.pth"]:
        programs.starts_with(name, backbone)
    copied = prefixed("target.backbone.", backbone_of(model))
    programs.starts_with("torchvision.pth", backbone | copied, "--target-init", "online")
    for arch in ["resnet18", "resnet50"]:
        checkpoint, expected = authors_checkpoint(arch)
        name = f"authors-{arch}.pth"
        torch.save(checkpoint, programs.folder / name)
        programs.starts_with(name, expected, arch=arch, says=["target from the same file"])
        path = programs.export("detectron2", name, "authors.pkl", "--network", "target")
        check_pickle(path, below("target.backbone.", expected))


def weights_of_other_packages_are_read(programs):
    resnet, ema = torchvision.models.resnet50(), torchvision.models.resnet50()
    for model in [resnet, ema]:
        fill_batch_norms(model)
    online, target = backbone_of(resnet), backbone_of(ema)

    def nested(**modules):
        module = torch.nn.Module()
        for name, inner in modules.items():
            module.add_module(name, inner)
        return module

    moco = nested(encoder_q=resnet, encoder_k=ema)
    moco.register_buffer("queue", torch.randn(128, 65536))
    dino = {
        "student": torch.nn.DataParallel(nested(backbone=resnet)).state_dict(),
        "teacher": nested(backbone=ema).state_dict(),
    }
    numbered = nested(backbone=torch.nn.Sequential(*list(resnet.children())[:-1]))
    half = {name: tensor.half() for name, tensor in online.items()}
    arrays = {detectron2_name(name): tensor.numpy() for name, tensor in online.items()}
    saved = {
        "moco.pth.tar": {"state_dict": torch.nn.DataParallel(moco).state_dict()},
        "dino.pth": dino,
        "lightly.ckpt": {"state_dict": numbered.state_dict()},
        "half.pth": half,
    }
    for name, content in saved.items():
        torch.save(content, programs.folder / name)
    for protocol in range(2, 6):
        with open(programs.folder / f"protocol{protocol}.pkl", "wb") as file:
            pickle.dump({"model": arrays, "__author__": "someone"}, file, protocol)
    rounded = {name: tensor.float() for name, tensor in half.items()}
    cases = [
        ("moco.pth.tar", online, ["encoder_q of MoCo", "4 of fc", "1 of queue"]),
        ("moco.pth.tar", target, ["encoder_k of MoCo"], "--network", "target"),
        ("dino.pth", target, ["teacher.backbone of DINO"]),
        ("dino.pth", online, ["student.backbone of DINO"], "--network", "online"),
        ("lightly.ckpt", online, ["backbone of Lightly"]),
        ("half.pth", rounded, ["torchvision's names"]),
    ]
    cases += [(f"protocol{n}.pkl", online, ["Detectron2's names"]) for n in range(2, 6)]
    if installed("timm", "the test of its weights is"):
        import timm

        model = timm.create_model("resnet50")
        fill_batch_norms(model)
        safetensors.torch.save_file(model.state_dict(), programs.folder / "timm.safetensors")
        cases.append(("timm.safetensors", backbone_of(model), ["2 of fc"]))
        torch.save(timm.create_model("resnet50d").state_dict(), programs.folder / "resnet50d.pth")
        programs.refuses("resnet50d.pth", "a stem of three convolutions")
    if installed("transformers", "the test of its weights is"):
        import transformers

        config = transformers.ResNetConfig()
        model = transformers.ResNetForImageClassification(config)
        fill_batch_norms(model)
        model.save_pretrained(programs.folder / "of-transformers")
        cases.append(("of-transformers", of_transformers(model), ["resnet of transformers"]))
        divided = programs.folder / "divided"
        model.save_pretrained(divided, max_shard_size="30MB")
        programs.refuses("divided", "max_shard_size")
    for name, expected, words, *options in cases:
        out = "read.safetensors"
        line = programs.run(
            "scrl-export", "--to", "torchvision", "--checkpoint", name, *options, out
        ).splitlines()[0]
        found = programs.tensors(out)
        assert found.keys() == expected.keys(), name
        assert all(same(found[key], tensor) for key, tensor in expected.items()), name
        assert line.startswith("weights: ") and all(word in line for word in words), line
        print(line)


def of_transformers(model):
    """The tensors of a ResNet of transformers under torchvision's names."""
    rules = [
        (r"^resnet\.", ""),
        (r"embedder\.embedder\.convolution", "conv1"),
        (r"embedder\.embedder\.normalization", "bn1"),
        (r"encoder\.stages\.(\d)\.layers", lambda stage: f"layer{int(stage[1]) + 1}"),
        (r"layer\.(\d)\.convolution", lambda layer: f"conv{int(layer[1]) + 1}"),
        (r"layer\.(\d)\.normalization", lambda layer: f"bn{int(layer[1]) + 1}"),
        (r"shortcut\.convolution", "downsample.0"),
        (r"shortcut\.normalization", "downsample.1"),
    ]
    renamed = {}
    for name, tensor in weights_of(model).items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if not name.startswith("classifier"):
            renamed[name] = tensor
    return renamed


def fill_statistics(module):
    for name, tensor in module.state_dict().items():
        if "running_" in name:
            tensor.copy_(torch.rand(tensor.shape))


def authors_checkpoint(arch):
    """A checkpoint in the format of the authors' code, and the tensors expected from it."""

    def head(inputs):
        layers = [torch.nn.Linear(inputs, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU()]
        module = torch.nn.Module()
        module.net = torch.nn.Sequential(*layers, torch.nn.Linear(64, 32, bias=False))
        return module

    checkpoint, expected = {"tag": "1", "epoch": 1, "max_eval_score": 0.5}, {}
    for network in ["online", "target"]:
        resnet = getattr(torchvision.models, arch)()
        module = torch.nn.Module()
        module.encoder = torch.nn.Sequential(*list(resnet.children())[:-1])
        module.projector = head(resnet.fc.in_features)
        fill_statistics(module)
        checkpoint[f"{network}_network_state_dict"] = module.state_dict()
        expected |= prefixed(f"{network}.backbone.", backbone_of(resnet))
        expected |= prefixed(f"{network}.projector.", weights_of(module.projector.net))
    predictor = head(32)
    optimizer = torch.optim.SGD(predictor.parameters(), lr=0.1, momentum=0.9)
    predictor.net(torch.rand(4, 32)).sum().backward()
    optimizer.step()
    checkpoint["predictor_state_dict"] = predictor.state_dict()
    checkpoint["optimizer_state_dict"] = optimizer.state_dict()
    return checkpoint, expected | prefixed("predictor.", weights_of(predictor.net))


def wrong_weights_are_refused(programs):
    torch.save(torchvision.models.resnet18(), programs.folder / "object.pth")
    torch.save({"epoch": 3}, programs.folder / "empty.pth")
    qkv = {"blocks.0.attn.qkv.weight": torch.zeros(12, 4)}
    torch.save({"model": qkv}, programs.folder / "vit.pth")
    for name, words in [
        ("authors-resnet50.pth", ["not a complete resnet18", "resnet50"]),
        ("object.pth", ["state_dict()"]),
        ("empty.pth", ["no ResNet among its 0 tensors"]),
        ("vit.pth", ["a vision transformer", "blocks.0.attn.qkv.weight"]),
        ("nowhere.pth", ["No such file"]),
    ]:
        messages = programs.train("refused", "--init", name, code=1)
        line = next(line for line in messages.splitlines() if line.startswith("scrl-train: "))
        assert name in line and all(word in line for word in words), messages
        assert not (programs.folder / "refused").exists()
        print(f"refused: {line}")


def goldens_load():
    expected = safetensors.torch.load_file(GOLDENS / "tiny.safetensors")
    state = torch.load(GOLDENS / "tiny.pth", weights_only=True)
    assert state.keys() == expected.keys()
    assert all(same(state[name], tensor) for name, tensor in expected.items())
    check_pickle(GOLDENS / "tiny.pkl", expected)


if __name__ == "__main__":
    main()
