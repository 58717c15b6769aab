#!/usr/bin/env python3
"""Test scrl-export and scrl-train --init with the libraries whose files they write and read.

    test_export.py [--bin target/debug] [--numpy-python PYTHON …]

Trains one step of a small ResNet-18 on synthetic images, and then checks that

  - torchvision's ResNet-18 loads the exported .safetensors, .pth and .pt (also with
    weights_only=True and mapped into memory): only fc.* is missing, nothing is unexpected, every
    tensor is the checkpoint's bit for bit, and the three give the same features;
  - the .pkl loads with the standard library's pickle alone, without a warning, as writable float32
    arrays under the names of Detectron2's converter of torchvision's weights, for the four
    architectures;
  - a run that starts from each of these files, from a complete checkpoint, from torchvision's
    models saved by torch.save and save_file, and from checkpoints in the format of the authors'
    code, starts with exactly these weights;
  - the golden files of the trainer's tests load in PyTorch and NumPy.

Needs PyTorch, torchvision, NumPy, Pillow and safetensors, and scrl-prep, scrl-train and scrl-export
in the folder of --bin. Each --numpy-python is another interpreter, such as one with NumPy 1, which
must load the .pkl as well.
"""

import argparse
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

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
GOLDENS = REPOSITORY / "trainer/tests/goldens/weights"
FIRST = "checkpoints/step-00000000.safetensors"
LAST = "checkpoints/step-00000001.safetensors"


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
        detectron2_would_load_what_is_exported(programs, arguments.numpy_python)
        runs_start_from_exported_weights(programs)
        runs_start_from_weights_of_other_programs(programs)
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
        small = ["--device", "cpu", "--arch", arch, "--batch-size", 4, "--max-steps", 1]
        small += ["--projection", 32, "--hidden", 64, "--online-eval", "off"]
        return self.run("scrl-train", *small, *options, "--out", out, "shards", code=code)

    def export(self, to, checkpoint, out, *options):
        self.run("scrl-export", "--to", to, "--checkpoint", checkpoint, *options, out)
        return self.folder / out

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
    for arch in ["resnet18", "resnet34", "resnet50", "resnet101"]:
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
    for name, words in [
        ("authors-resnet50.pth", ["not a complete resnet18", "resnet50"]),
        ("object.pth", ["state_dict()"]),
        ("empty.pth", ["no ResNet among its 0 tensors"]),
        ("online.pkl", ["neither a safetensors file"]),
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
