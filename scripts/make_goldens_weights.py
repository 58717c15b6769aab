#!/usr/bin/env python3
"""Write the small files of weights that the trainer's tests read: trainer/tests/goldens/weights/.

    make_goldens_weights.py [--out trainer/tests/goldens/weights]

Needs PyTorch and safetensors. The tensors are far too small for a ResNet: these files test names
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
expected.safetensors, layouts.expected.safetensors, half.expected.safetensors
    The tensors expected from them, under the names of scrl's checkpoints, as contiguous float32.
tiny.safetensors
    A few tensors under torchvision's names. tiny.pth and tiny.pkl beside it are their export by
    scrl-export; the test in trainer/src/weights/tests.rs writes them with SCRL_WRITE_GOLDENS=1, and
    scripts/test_export.py loads them with PyTorch and NumPy.
"""

import argparse
import pathlib

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


if __name__ == "__main__":
    main()
