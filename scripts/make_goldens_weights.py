#!/usr/bin/env python3
"""Write the small files of weights that the trainer's tests read: trainer/tests/goldens/weights/.

    make_goldens_weights.py [--out trainer/tests/goldens/weights]

Needs PyTorch, NumPy and safetensors. The tensors are far too small for a ResNet: these files test names
and layouts.

authors.pth
    A checkpoint in the format of the authors' code: numbers, the state dicts of both networks
    (their encoder is an nn.Sequential of a ResNet's children, their heads have their layers in
    `net`), of the predictor, of the classifier, and of an optimizer that has taken a step. The
    names of the target network start with `module.`, like those of a wrapped module.
legacy.pth
    The same in the format of PyTorch before 1.6; its bytes differ from run to run.
layouts.pth
    A state dict whose tensors have other memory layouts: channels last, a transposed view, two
    views of one storage, numbers of 16 and 64 bits, an nn.Parameter.
half.safetensors
    Numbers of 16 and 64 bits.
projects/
    A file in the layout of each project in docs/weights.md, with the names of its sources: modules
    are nested as there, wrapped as there, and saved beside the objects that its training script
    saves. All have the same two networks; the tensors of a file share one storage, so that it
    stays small. Pickles of NumPy's arrays are there in the protocols 2 to 5. refused-* are of
    networks that are no ResNet of torchvision's, though their names may be.
projects/expected.safetensors
    The two networks under the names of scrl's checkpoints.
expected.safetensors, layouts.expected.safetensors, half.expected.safetensors
    The tensors expected from them, under the names of scrl's checkpoints, as contiguous float32.
tiny.safetensors
    A few tensors under torchvision's names. tiny.pth and tiny.pkl beside it are their export by
    scrl-export; the test in trainer/src/weights/tests.rs writes them with SCRL_WRITE_GOLDENS=1, and
    scripts/test_export.py loads them with PyTorch and NumPy.
"""

import argparse
import json
import pathlib
import pickle
import re

import numpy
import safetensors.torch
import torch
from torch import nn

from scrl_torch import head


class Block(nn.Module):
    """The names of a residual block, without its computation."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))


class TinyResNet(nn.Module):
    """The children of torchvision's ResNet, in the same sequence."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3)
        self.layer1 = nn.Sequential(Block(2, 2))
        self.layer2 = nn.Sequential(Block(2, 3))
        self.layer3 = nn.Sequential(Block(3, 3))
        self.layer4 = nn.Sequential(Block(3, 4))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 5)


class Head(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.net = head(inputs, hidden, outputs)


class Encoder(nn.Module):
    """A network of the authors' code: the ResNet without its classifier, and the projector."""

    def __init__(self, resnet):
        super().__init__()
        self.encoder = nn.Sequential(*list(resnet.children())[:-1])
        self.projector = Head(4, 6, 3)


class Wrapped(nn.Module):
    """Prefixes names like nn.DataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def fill(module):
    """Fills every parameter and statistic with other values."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape))


def weights_of(module):
    state = module.state_dict().items()
    return {k: v.clone() for k, v in state if not k.endswith("num_batches_tracked")}


def expected_of(network, resnet, encoder):
    """The tensors of a network under the names of scrl's checkpoints."""
    backbone = {k: v for k, v in weights_of(resnet).items() if not k.startswith("fc.")}
    expected = {f"{network}.backbone.{k}": v for k, v in backbone.items()}
    projector = weights_of(encoder.projector.net)
    return expected | {f"{network}.projector.{k}": v for k, v in projector.items()}


def authors():
    """A checkpoint of the authors' code, and the tensors expected from it."""
    online_resnet, target_resnet = TinyResNet(), TinyResNet()
    online, target, predictor = Encoder(online_resnet), Encoder(target_resnet), Head(3, 6, 3)
    classifier = nn.Linear(4, 5)
    optimizer = torch.optim.SGD(predictor.parameters(), lr=0.1, momentum=0.9)
    for parameter in predictor.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for module in (online, target, predictor, classifier):
        fill(module)
    checkpoint = {
        "tag": "10",
        "epoch": 10,
        "max_eval_score": 12.5,
        "max_eval_epoch": 9,
        "online_network_state_dict": online.state_dict(),
        "target_network_state_dict": Wrapped(target).state_dict(),
        "predictor_state_dict": predictor.state_dict(),
        "evaluator_state_dict": classifier.state_dict(),
        "xent_loss_state_dict": nn.CrossEntropyLoss().state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict(),
    }
    expected = expected_of("online", online_resnet, online)
    expected |= expected_of("target", target_resnet, target)
    expected |= {f"predictor.{k}": v for k, v in weights_of(predictor.net).items()}
    return checkpoint, expected


def layouts():
    shared = torch.randn(10)
    return {
        "conv1.weight": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "layer1.0.conv1.weight": torch.randn(3, 2, 1, 1).transpose(0, 1),
        "bn1.weight": shared[:4],
        "bn1.bias": shared[6:],
        "bn1.running_mean": torch.randn(4).half(),
        "bn1.running_var": torch.randn(4).bfloat16(),
        "layer1.0.bn1.weight": nn.Parameter(torch.randn(4)),
        "layer1.0.bn1.bias": torch.randn(4).double(),
        "bn1.num_batches_tracked": torch.tensor(7),
    }


def plain(tensors):
    """Contiguous float32 under the names of a checkpoint's online backbone."""
    floats = {k: v.detach() for k, v in tensors.items() if v.is_floating_point()}
    return {f"online.backbone.{k}": v.float().contiguous().clone() for k, v in floats.items()}


class SmallestResNet(nn.Module):
    """The children of torchvision's ResNet with few tensors."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3)
        self.layer1 = nn.Sequential(Block(2, 2))
        self.layer2 = nn.Sequential(nn.Identity())
        self.layer3 = nn.Sequential(nn.Identity())
        self.layer4 = nn.Sequential(Block(2, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2, 3)


def nested(**modules):
    """A module with these; those called `a__b` as b of a, and `a__0` as the first of a sequence."""
    outer = nn.Module()
    for path, module in modules.items():
        *parents, last = path.split("__")
        parent = outer
        for name in parents:
            if name not in parent._modules:
                parent.add_module(name, nn.Module())
            parent = parent._modules[name]
        parent.add_module(last, module)
    return outer


def without_classifier(resnet):
    return nn.Sequential(*list(resnet.children())[:-1])


def renamed(state, rules):
    """The state dict with each rule's pattern replaced in its names."""
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


# As in the converters of Detectron2, transformers and github.com/Separius/SimCLRv2-Pytorch.
DETECTRON2 = [
    (r"^(conv1|bn1)", r"stem.\1"),
    (r"layer(\d)", lambda match: f"res{int(match[1]) + 1}"),
    (r"bn(\d)", r"conv\1.norm"),
    (r"downsample\.0", "shortcut"),
    (r"downsample\.1", "shortcut.norm"),
]
TRANSFORMERS = [
    (r"^conv1", "embedder.embedder.convolution"),
    (r"^bn1", "embedder.embedder.normalization"),
    (r"^layer(\d)\.", lambda match: f"encoder.stages.{int(match[1]) - 1}.layers."),
    (r"\.conv(\d)", lambda match: f".layer.{int(match[1]) - 1}.convolution"),
    (r"\.bn(\d)", lambda match: f".layer.{int(match[1]) - 1}.normalization"),
    (r"downsample\.0", "shortcut.convolution"),
    (r"downsample\.1", "shortcut.normalization"),
]
SIMCLR = [
    (r"^conv1", "net.0.0"),
    (r"^bn1", "net.0.1.0"),
    (r"^layer(\d)\.(\d)", r"net.\1.blocks.\2"),
    (r"\.conv(\d)", lambda match: f".net.{2 * int(match[1]) - 2}"),
    (r"\.bn(\d)", lambda match: f".net.{2 * int(match[1]) - 1}.0"),
    (r"downsample\.0", "projection.shortcut"),
    (r"downsample\.1", "projection.bn.0"),
]


def sharing(value, tensors=None):
    """The value with all its float tensors as views of one storage."""
    if tensors is None:
        found = {}
        collect(value, found)
        floats = [tensor.detach().flatten() for tensor in found.values()]
        flat, tensors, start = torch.cat(floats), {}, 0
        for key, tensor in found.items():
            part = flat[start : start + tensor.numel()]
            tensors[key] = part.view(tensor.shape)
            start += tensor.numel()
    if isinstance(value, dict):
        return {key: sharing(item, tensors) for key, item in value.items()}
    return tensors.get(value.data_ptr(), value) if is_float(value) else value


def is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def collect(value, found):
    if isinstance(value, dict):
        for item in value.values():
            collect(item, found)
    elif is_float(value):
        found[value.data_ptr()] = value


def projects():
    """The files of torch.save by name, and the two networks."""
    online, target = SmallestResNet(), SmallestResNet()
    fill(online), fill(target)
    o, t = online, target
    options = argparse.Namespace(arch="resnet50", epochs=200)
    queue = nn.Module()
    queue.register_buffer("queue", torch.randn(2, 4))
    queue.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    moco = nested(encoder_q=o, encoder_k=t)
    moco.register_buffer("queue", queue.queue)
    moco.register_buffer("queue_ptr", queue.queue_ptr)
    sequential, momentum = without_classifier(o), without_classifier(t)
    head = nn.Linear(2, 2)
    byol = nested(net=o, online_encoder__net=o, online_encoder__projector=head)
    byol.add_module("target_encoder", nested(net=t, projector=nn.Linear(2, 2)))
    config = "model = dict(type='MoCo', backbone=dict(type='ResNet', depth=50, style='pytorch'))"
    meta = {"config": config, "epoch": 200}
    lightning = {"epoch": 200, "pytorch-lightning_version": "2.0", "hyper_parameters": {"lr": 0.1}}
    trunk = {f"_feature_blocks.{k}": v for k, v in o.state_dict().items() if k[:2] != "fc"}
    files = {
        "moco.pth.tar": {
            "epoch": 200,
            "arch": "resnet50",
            "state_dict": Wrapped(moco).state_dict(),
            "optimizer": {"state": {0: {"momentum_buffer": torch.randn(2)}}, "param_groups": []},
        },
        "moco_v3.pth.tar": {
            "state_dict": Wrapped(
                nested(base_encoder=o, momentum_encoder=t, predictor=head)
            ).state_dict(),
        },
        "pixpro.pth": {
            "opt": options,
            "model": Wrapped(nested(encoder=o, encoder_k=t, projector=head)).state_dict(),
            "epoch": 400,
        },
        "infomin.pth": {
            "opt": options,
            "model": Wrapped(nested(encoder=o, head=head)).state_dict(),
            "model_ema": nested(encoder=t, head=head).state_dict(),
        },
        "dino.pth": {
            "student": Wrapped(nested(backbone=o, head=head)).state_dict(),
            "teacher": nested(backbone=t, head=nn.Linear(2, 2)).state_dict(),
            "epoch": 800,
            "args": options,
            "dino_loss": {"center": torch.randn(1, 4)},
        },
        "vissl.torch": {
            "phase_idx": 100,
            "classy_state_dict": {
                "base_model": {"model": {"trunk": trunk, "heads": head.state_dict()}, "meta": {}}
            },
        },
        "lightly.ckpt": {
            **lightning,
            "state_dict": nested(
                backbone=sequential, backbone_momentum=momentum, projection_head=head
            ).state_dict(),
        },
        "lightly_backbone.pth": sequential.state_dict(),
        "byol_pytorch.pt": byol.state_dict(),
        "simclr_v2.pth": {
            "resnet": renamed(o.state_dict(), SIMCLR),
            "head": {"layers.0.weight": torch.randn(2, 2)},
        },
        "insloc.pth": {
            "meta": meta,
            "state_dict": nested(backbone=o, backbone_k=t, neck__conv=head).state_dict(),
        },
        "solo_learn.ckpt": {
            **lightning,
            "state_dict": nested(
                backbone=o, momentum_backbone=t, projector=head, predictor=nn.Linear(2, 2)
            ).state_dict(),
        },
        "openselfsup.pth": {
            "meta": meta,
            "state_dict": nested(
                online_net__0=o, online_net__1=head, target_net__0=t, backbone=o
            ).state_dict(),
        },
        "mmselfsup.pth": {
            "meta": meta,
            "state_dict": nested(
                backbone=o, neck__fc0=head, momentum_encoder__module__0=t
            ).state_dict(),
        },
        "timm.pth.tar": {
            "state_dict": o.state_dict(),
            "state_dict_ema": t.state_dict(),
            "args": options,
        },
        "detector.pth": {
            "model": nested(backbone__body=o, backbone__fpn=head).state_dict(),
            "args": options,
        },
        "refused-caffe-style.pth": {
            "meta": {"config": config.replace("pytorch", "caffe")},
            "state_dict": nested(backbone=o).state_dict(),
        },
    }
    networks = {"online": online, "target": target}
    expected = {
        f"{network}.backbone.{name}": tensor
        for network, resnet in networks.items()
        for name, tensor in weights_of(resnet).items()
        if not name.startswith("fc.")
    }
    return {name: sharing(content) for name, content in files.items()}, expected


def pickles(resnet):
    """The bytes of pickles by name."""
    names = renamed(weights_of(resnet), DETECTRON2)
    arrays = {name: tensor.numpy() for name, tensor in names.items()}
    whole = {"model": arrays, "__author__": "Tester", "matching_heuristics": True}
    detector = {f"backbone.bottom_up.{name}": array for name, array in arrays.items()}
    detector["roi_heads.box_head.fc1.weight"] = numpy.ones((2, 2), numpy.float32)
    fortran = {name: numpy.asfortranarray(array) for name, array in arrays.items()}
    caffe2 = {"res2_0_branch2a_w": numpy.ones((2, 2, 1, 1), numpy.float32)}
    files = {
        f"detectron2.protocol{protocol}.pkl": pickle.dumps(whole, protocol)
        for protocol in range(2, 6)
    }
    # NumPy 1 has its modules elsewhere.
    old = files["detectron2.protocol2.pkl"].replace(b"numpy._core", b"numpy.core")
    assert old != files["detectron2.protocol2.pkl"]
    files["detectron2.numpy1.pkl"] = old
    files["detectron2.detector.pkl"] = pickle.dumps({"model": detector, "__author__": "T"}, 4)
    files["detectron2.fortran.pkl"] = pickle.dumps({"model": fortran}, 4)
    files["detectron2.fortran5.pkl"] = pickle.dumps({"model": fortran}, 5)
    files["refused-caffe2.pkl"] = pickle.dumps({"blobs": caffe2}, 2)
    zoo = {"model": detector, "__author__": "Detectron2 Model Zoo"}
    files["refused-model-zoo.pkl"] = pickle.dumps(zoo, 4)
    std = {"pixel_std": numpy.ones((3, 1, 1), numpy.float32)}
    files["refused-bgr.pkl"] = pickle.dumps({"model": detector | std}, 4)
    integers = {name: array.astype(numpy.int8) for name, array in arrays.items()}
    files["refused-int8.pkl"] = pickle.dumps({"model": integers}, 4)
    return files


def write_projects(out):
    out.mkdir(exist_ok=True)
    files, expected = projects()
    for name, content in files.items():
        torch.save(content, out / name)
    safetensors.torch.save_file(expected, out / "expected.safetensors")
    resnet = SmallestResNet()
    resnet.load_state_dict(
        {k.removeprefix("online.backbone."): v for k, v in expected.items()}, strict=False
    )
    for name, content in pickles(resnet).items():
        (out / name).write_bytes(content)
    folder = out / "transformers"
    folder.mkdir(exist_ok=True)
    state = renamed({k: v for k, v in weights_of(resnet).items() if k[:2] != "fc"}, TRANSFORMERS)
    state = {f"resnet.{name}": tensor for name, tensor in state.items()}
    state["classifier.1.weight"] = torch.randn(2, 2)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    config = {"model_type": "resnet", "downsample_in_bottleneck": False, "hidden_act": "relu"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    goldens = pathlib.Path("trainer/tests/goldens/weights")
    parser.add_argument("--out", type=pathlib.Path, default=goldens)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    checkpoint, expected = authors()
    torch.save(checkpoint, out / "authors.pth")
    torch.save(checkpoint, out / "legacy.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(expected, out / "expected.safetensors")

    tensors = layouts()
    torch.save(tensors, out / "layouts.pth")
    safetensors.torch.save_file(plain(tensors), out / "layouts.expected.safetensors")

    half = {k: v.detach().contiguous() for k, v in tensors.items() if v.dtype != torch.float32}
    safetensors.torch.save_file(half, out / "half.safetensors")
    safetensors.torch.save_file(plain(half), out / "half.expected.safetensors")

    resnet = TinyResNet()
    fill(resnet)
    tiny = {k: v for k, v in weights_of(resnet).items() if k.startswith(("conv1", "bn1", "layer4"))}
    safetensors.torch.save_file(tiny, out / "tiny.safetensors")
    write_projects(out / "projects")


if __name__ == "__main__":
    main()
