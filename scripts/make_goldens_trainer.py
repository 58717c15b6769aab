#!/usr/bin/env python3
"""Write the numbers that the trainer's tests compare with: trainer/tests/goldens/.

    make_goldens_trainer.py [--out trainer/tests/goldens] [--only step] [--conditioning]

Everything is float32 and comes from PyTorch with fixed seeds, the steps from scrl_torch.py. The
list of the files below is the reason for the length of this one.
Feature maps are NHWC, convolution weights OIHW. Every `grad_y` is an arbitrary incoming gradient;
`grad_x` and the others are the results of PyTorch's backward.

roi_align.safetensors
    Output 1x1, spatial scale 1/32, adaptive sampling, aligned=false. For case0, case1, …:
    .map [n,h,w,c]  .rois [r,5] (image, x0, y0, x1, y1 in view pixels)  .out [r,c]
    .grad_out [r,c]  .grad_map [n,h,w,c]

batch_norm.safetensors
    Training mode, eps 1e-5, momentum 0.1 (running variance unbiased). Cases plain2d, relu2d,
    add_relu2d (x [4,5,3,6]) and plain1d, relu1d (x [9,6]): y = bn(x), relu(bn(x)), relu(bn(x) + r).
    .x .weight .bias .running_mean_before .running_var_before
    .y .running_mean_after .running_var_after
    .grad_y .grad_x .grad_weight .grad_bias, and for add_relu2d .r .grad_r

conv.safetensors
    Cases stem (7x7 s2 p3), k3s1, k3s1_wide, k3s2_odd, k3s2_even, k1s1, k1s2_odd, k1s2_even;
    no bias.
    .x [n,h,w,i]  .weight [o,i,k,k]  .y  .grad_y  .grad_x  .grad_weight  .stride [1]  .padding [1]

max_pool.safetensors
    3x3, stride 2, padding 1. Cases odd, even, ties. .x .y .grad_y .grad_x
    `ties` has few distinct values: the gradient goes to the first maximum of a window, row by row.

bottleneck.safetensors, bottleneck_identity.safetensors
basic_block.safetensors, basic_block_identity.safetensors
    torchvision's blocks in training mode; the first of each pair has stride 2 and a downsample
    branch.
    before.<name>  x  y  grad_y  grad_x  grad.<parameter>  after.<running_mean or running_var>
    Names as torchvision's: conv1.weight, bn1.weight, …, downsample.0.weight,
    downsample.1.running_mean.

lars.safetensors
    Three steps. Cases wd1e-6 and wd1e-2 (the weight decay), each with .lr [3], .weight_decay [1]
    and, for the tensors conv (rank 4), linear (2), bias (1), zero_weight (2, starts at 0),
    zero_grad (2, gradient 0 in every step) and step = 0, 1, 2:
    .before.<tensor>  .grad<step>.<tensor>  .after<step>.<tensor>  .momentum<step>.<tensor>

sgd.safetensors
    The same by torch.optim.SGD, in cases plain and nesterov, without zero_weight and zero_grad.

health.safetensors
    Features of matched boxes in two views, in cases tall (more boxes than channels), wide (fewer)
    and narrow (nearly on a line):
    .first [n,c]  .second [n,c]  .effective_rank [1]  .box_retrieval [1], computed in float64, from
    torch.linalg.svdvals of both views' features around their mean and from cosines.

schedule.json
    A list of {peak, warmup_steps, total_steps, ema, t: […], lr: […], tau: […]} with t = 1 the
    first step.

step_<arch>_<method>.safetensors      arch resnet18, resnet50; method scrl, byol
    Three complete optimizer steps. Weights and views are not stored: both sides compute them by a
    formula.

    uniform(name, i): h = FNV-1a, 32 bits, of the name's UTF-8 bytes
                      x = fmix32(h + i * 0x9E3779B9), all mod 2^32;   fmix32 is murmur3's finalizer:
                      x ^= x >> 16; x *= 0x85EBCA6B; x ^= x >> 13; x *= 0xC2B2AE35; x ^= x >> 16
                      u = (x >> 8) * 2^-24
    The tensor called NAME in a checkpoint (online.backbone.conv1.weight, target.projector.0.weight,
    predictor.1.bias, …), at flat index i of its PyTorch layout, with v = 2u - 1 and the last rule
    that fits:
        rank > 1                            v * sqrt(6 / fan_in), fan_in = product of shape[1:]
        rank 1, ends in .weight             1 + 0.1 v
        ends in .bias                       0.1 v
        contains .backbone., ends in .bias  2 + v
        and is a block's last batch norm (contains .bn3., in resnet18 .bn2.):
            .weight                         0.3 (1 + 0.1 v)
            .bias                           0.5 v
        running_mean, running_var           0, 1
    computed in float64 and rounded once to float32. (Biases near 2 keep most inputs of a ReLU away
    from 0, and a weak last batch norm keeps a block near the identity. With all of them near 0 and
    1, rounding flips enough ReLUs of a ResNet-50 that PyTorch's own float32 and float64 differ by
    half a movement within three steps.)
    The views of step s = 0, 1, 2 are uint8 [2B, size, size, 3], B first views, then the B second
    views. They consist of 8x8 px blocks of one color:
        pixel (n, y, x, c) = fmix32(h + i * 0x9E3779B9) >> 24 with name `views.step<s>` and
        i = ((n * size/8 + y/8) * size/8 + x/8) * 3 + c, normalized as (v/255 - mean) / std.

    pairs [1] (B)  size [1]  hidden [1]  projection [1]  lr [3]  tau [3]  weight_decay [1]
    boxes.step<s>  [2K,5], scrl only: index into the 2B views, x0, y0, x1, y1; rows 0..K are boxes
                   in first views, row K + k is the counterpart of row k. The last pair has none.
    loss [3]       the loss of each step, before its update
    moved.<name>   after - before over the three steps, at flat indices floor(k * n / m), k = 0..m,
                   of the PyTorch layout (n elements, m = length of this tensor)
    norm.<name>    [1], the L2 norm of the complete tensor's after - before
    <name> is each parameter and running statistic of online.…, target.… and predictor.….
    online.projector.0.bias and predictor.0.bias stand before a BatchNorm: their gradient is 0 but
    for rounding, and so is their norm here (< 1e-12). Expect less than 1e-6 of them instead of a
    relative error.
    Each value is computed in float64 from float32 inputs; --conditioning prints how far PyTorch's
    float32 is from it.

classifier.safetensors
    The online evaluation beside the three steps of step_resnet18_scrl, from weights of the same
    formula.
    classes [1]  classes.step<s> [B]: the class of each pair, -1 where it is not known
    online_loss [3]  right [3]: cross-entropy and views classified right, before each update
    moved.classifier.weight, moved.classifier.bias: after - before over the three steps, complete
"""
import argparse
import json
import math
import pathlib

import numpy
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from scrl_torch import (
    MOMENTUM,
    TRUST,
    UNKNOWN,
    MicroBatch,
    Networks,
    Trainer,
    ema_tau,
    learning_rate,
    normalize,
    roi_align,
    sgd_update,
    without_gradient,
)

GOLDENS = pathlib.Path(__file__).resolve().parent.parent / "trainer" / "tests" / "goldens"


def save(tensors, path):
    tensors = {k: v.detach().float().contiguous().clone() for k, v in sorted(tensors.items())}
    for name, tensor in tensors.items():
        assert tensor.isfinite().all(), name
    save_file(tensors, path)
    print(f"{path.name:40} {path.stat().st_size / 1000:8.1f} kB  {len(tensors)} tensors")


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def nchw(x):
    return x.permute(0, 3, 1, 2).contiguous()


def prefixed(case, tensors):
    return {f"{case}.{name}": tensor for name, tensor in tensors.items()}


# ---- Layers --------------------------------------------------------------------------------------


def roi_align_goldens(out):
    cases = [
        # Map [n, h, w, c]; boxes (image, x0, y0, x1, y1). Image 1 of the first map has no box.
        ((3, 7, 7, 5), [
            (0, 0.0, 0.0, 224.0, 224.0),  # the whole map
            (0, 32.0, 64.0, 128.0, 192.0),  # on cell borders
            (0, 40.3, 17.9, 121.4, 99.6),
            (2, 0.0, 0.0, 32.0, 32.0),  # the corner, on the border
            (2, 191.5, 150.2, 224.0, 224.0),
            (2, 100.0, 100.0, 103.0, 102.0),  # much less than a cell
            (0, 13.7, 201.1, 29.9, 223.5),
            (2, 5.0, 90.0, 219.0, 97.0),  # wide and flat
        ]),
        # Across and outside the border, degenerate and inverted boxes.
        ((2, 3, 5, 4), [
            (1, -40.0, -20.0, 70.0, 50.0),
            (0, 100.0, 60.0, 200.0, 130.0),
            (0, -200.0, -200.0, -100.0, -100.0),  # entirely outside
            (1, 400.0, 10.0, 500.0, 60.0),  # outside on the right
            (1, 10.0, 300.0, 60.0, 390.0),  # outside below
            (0, -33.0, -33.0, 5.0, 5.0),  # one cell beyond the border
            (0, 158.0, 94.0, 161.0, 97.0),  # astride the far corner
            (1, 50.0, 50.0, 50.0, 50.0),  # a point
            (1, 90.0, 70.0, 60.0, 40.0),  # inverted
            (0, -500.0, -500.0, 700.0, 700.0),
        ]),
        ((1, 1, 1, 3), [
            (0, 0.0, 0.0, 32.0, 32.0), (0, 4.0, 4.0, 20.0, 40.0), (0, -31.0, -31.0, -1.0, -1.0),
        ]),
    ]
    generator = torch.Generator().manual_seed(11)
    # Random boxes over and around the map; 19 channels are no multiple of a SIMD width.
    corner = torch.rand(24, 2, generator=generator) * 300 - 60
    side = torch.rand(24, 2, generator=generator) ** 2 * 250
    image = torch.randint(0, 4, (24, 1), generator=generator).float()
    cases.append(((4, 7, 7, 19), torch.cat([image, corner, corner + side], 1).tolist()))
    # Points: on a cell's center, between cells, on the border and in the corners, outside.
    places = [
        (48, 80), (64, 64), (100.25, 31.5), (0, 112), (224, 3), (0, 0), (224, 224), (16, 208),
        (-40, 50), (300, 50), (-10, 230),
    ]
    points = [(n % 2, *map(float, place + place)) for n, place in enumerate(places)]
    line = (0, 50.0, 20.0, 50.0, 60.0)  # no width, but no point
    cases.append(((2, 7, 7, 6), [*points, line]))

    tensors = {}
    for number, (shape, rois) in enumerate(cases):
        features = torch.randn(shape, generator=generator)
        rois = torch.tensor(rois)
        x = nchw(features).requires_grad_()
        y = roi_align(x, rois)
        grad = torch.randn(y.shape, generator=generator)
        y.backward(grad)
        case = {"map": features, "rois": rois, "out": y, "grad_out": grad, "grad_map": nhwc(x.grad)}
        tensors |= prefixed(f"case{number}", case)
    save(tensors, out / "roi_align.safetensors")


def batch_norm_goldens(out):
    generator = torch.Generator().manual_seed(12)
    tensors = {}
    for case, shape in [
        ("plain2d", (4, 5, 3, 6)), ("relu2d", (4, 5, 3, 6)), ("add_relu2d", (4, 5, 3, 6)),
        ("plain1d", (9, 6)), ("relu1d", (9, 6)),
    ]:
        to, back = (nchw, nhwc) if len(shape) == 4 else (lambda t: t.clone(), lambda t: t)
        channels = shape[-1]
        # Each channel has its own mean and variance.
        scale, offset = torch.linspace(0.3, 3, channels), torch.linspace(-2, 4, channels)
        x = torch.randn(shape, generator=generator) * scale + offset
        r, grad = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        weight = torch.randn(channels, generator=generator).requires_grad_()
        bias = torch.randn(channels, generator=generator).requires_grad_()
        mean = torch.randn(channels, generator=generator)
        var = torch.rand(channels, generator=generator) + 0.5
        before = mean.clone(), var.clone()
        xt, rt = to(x).requires_grad_(), to(r).requires_grad_()
        y = F.batch_norm(xt, mean, var, weight, bias, training=True, momentum=0.1, eps=1e-5)
        if "add" in case:
            y = y + rt
        if "relu" in case:
            y = F.relu(y)
        y.backward(to(grad))
        tensors |= prefixed(case, {
            "x": x, "weight": weight, "bias": bias, "y": back(y),
            "grad_y": grad, "grad_x": back(xt.grad),
            "grad_weight": weight.grad, "grad_bias": bias.grad,
            "running_mean_before": before[0], "running_var_before": before[1],
            "running_mean_after": mean, "running_var_after": var,
        })
        if "add" in case:
            tensors |= prefixed(case, {"r": r, "grad_r": back(rt.grad)})
    save(tensors, out / "batch_norm.safetensors")


def conv_goldens(out):
    generator = torch.Generator().manual_seed(13)
    tensors = {}
    for case, (n, h, w), (i, o), kernel, stride, padding in [
        ("stem", (2, 17, 15), (3, 8), 7, 2, 3),
        ("k3s1", (2, 6, 5), (4, 7), 3, 1, 1),
        ("k3s1_wide", (1, 9, 8), (19, 33), 3, 1, 1),
        ("k3s2_odd", (2, 7, 9), (5, 6), 3, 2, 1),
        ("k3s2_even", (2, 8, 6), (5, 6), 3, 2, 1),
        ("k1s1", (2, 5, 4), (7, 9), 1, 1, 0),
        ("k1s2_odd", (2, 7, 5), (6, 4), 1, 2, 0),
        ("k1s2_even", (2, 6, 8), (6, 4), 1, 2, 0),
    ]:
        x = torch.randn((n, h, w, i), generator=generator)
        fan_in = i * kernel * kernel
        weight = torch.randn((o, i, kernel, kernel), generator=generator) / math.sqrt(fan_in)
        xt, weight = nchw(x).requires_grad_(), weight.requires_grad_()
        y = F.conv2d(xt, weight, stride=stride, padding=padding)
        grad = torch.randn(nhwc(y).shape, generator=generator)
        y.backward(nchw(grad))
        tensors |= prefixed(case, {
            "x": x, "weight": weight, "y": nhwc(y),
            "grad_y": grad, "grad_x": nhwc(xt.grad), "grad_weight": weight.grad,
            "stride": torch.tensor([stride]), "padding": torch.tensor([padding]),
        })
    save(tensors, out / "conv.safetensors")


def max_pool_goldens(out):
    generator = torch.Generator().manual_seed(14)
    tensors = {}
    for case, shape in [("odd", (2, 9, 7, 3)), ("even", (2, 8, 6, 5)), ("ties", (2, 10, 9, 4))]:
        x = torch.randn(shape, generator=generator)
        if case == "ties":
            x = F.relu(x.round())  # mostly zeros, as after a ReLU
        xt = nchw(x).requires_grad_()
        y = F.max_pool2d(xt, 3, stride=2, padding=1)
        grad = torch.randn(nhwc(y).shape, generator=generator)
        y.backward(nchw(grad))
        tensors |= prefixed(case, {"x": x, "y": nhwc(y), "grad_y": grad, "grad_x": nhwc(xt.grad)})
    save(tensors, out / "max_pool.safetensors")


def block_goldens(out):
    for number, (name, block, inputs, planes, stride) in enumerate([
        ("bottleneck", Bottleneck, 16, 8, 2), ("bottleneck_identity", Bottleneck, 32, 8, 1),
        ("basic_block", BasicBlock, 6, 8, 2), ("basic_block_identity", BasicBlock, 8, 8, 1),
    ]):
        torch.manual_seed(20 + number)
        outputs = planes * block.expansion
        downsample = None
        if stride != 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        module = block(inputs, planes, stride, downsample).train()
        with torch.no_grad():
            for key, tensor in module.state_dict().items():
                if tensor.ndim == 1:
                    # Batch norm away from the identity.
                    tensor.add_(torch.rand(tensor.shape) - 0.5)
        state = {k: v.clone() for k, v in module.state_dict().items() if v.ndim}
        x = torch.randn(2, 7, 6, inputs)
        xt = nchw(x).requires_grad_()
        y = module(xt)
        grad = torch.randn(nhwc(y).shape)
        y.backward(nchw(grad))
        tensors = {"x": x, "y": nhwc(y), "grad_y": grad, "grad_x": nhwc(xt.grad)}
        tensors |= prefixed("before", state)
        tensors |= prefixed("grad", {k: p.grad for k, p in module.named_parameters()})
        statistics = {k: v for k, v in module.state_dict().items() if "running" in k}
        tensors |= prefixed("after", statistics)
        save(tensors, out / f"{name}.safetensors")


# ---- The optimizer and its schedules -------------------------------------------------------------


def lars_goldens(out):
    generator = torch.Generator().manual_seed(15)
    shapes = {"conv": (4, 3, 3, 3), "linear": (5, 7), "bias": (6,)}
    shapes |= {"zero_weight": (3, 4), "zero_grad": (4, 5)}
    lrs = [0.4, 1.3, 0.05]
    tensors = {}
    for case, weight_decay in [("wd1e-6", 1e-6), ("wd1e-2", 1e-2)]:
        options = {"lr": torch.tensor(lrs), "weight_decay": torch.tensor([weight_decay])}
        tensors |= prefixed(case, options)
        for name, shape in shapes.items():
            parameter = torch.randn(shape, generator=generator) * (name != "zero_weight")
            velocity = torch.zeros(shape)
            tensors[f"{case}.before.{name}"] = parameter.clone()
            for step, lr in enumerate(lrs):
                gradient = torch.randn(shape, generator=generator)
                gradient = gradient * (name != "zero_grad") * 10.0**-step
                sgd_update(parameter, gradient, velocity, lr, weight_decay, TRUST)
                tensors[f"{case}.grad{step}.{name}"] = gradient
                tensors[f"{case}.after{step}.{name}"] = parameter.clone()
                tensors[f"{case}.momentum{step}.{name}"] = velocity.clone()
    save(tensors, out / "lars.safetensors")


def sgd_goldens(out):
    generator = torch.Generator().manual_seed(16)
    shapes = {"conv": (4, 3, 3, 3), "linear": (5, 7), "bias": (6,)}
    lrs = [0.4, 1.3, 0.05]
    tensors = {}
    for case, weight_decay in [("plain", 5e-4), ("nesterov", 1e-2)]:
        options = {"lr": torch.tensor(lrs), "weight_decay": torch.tensor([weight_decay])}
        tensors |= prefixed(case, options)
        parameters = {}
        for name, shape in shapes.items():
            parameters[name] = torch.randn(shape, generator=generator).requires_grad_()
            tensors[f"{case}.before.{name}"] = parameters[name].detach().clone()
        groups = [
            {"params": [p], "weight_decay": weight_decay if p.ndim > 1 else 0.0}
            for p in parameters.values()
        ]
        optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=case == "nesterov")
        for step, lr in enumerate(lrs):
            for name, parameter in parameters.items():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
                tensors[f"{case}.grad{step}.{name}"] = parameter.grad.clone()
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            for name, parameter in parameters.items():
                velocity = optimizer.state[parameter]["momentum_buffer"]
                tensors[f"{case}.after{step}.{name}"] = parameter.detach().clone()
                tensors[f"{case}.momentum{step}.{name}"] = velocity.clone()
    save(tensors, out / "sgd.safetensors")


def health_goldens(out):
    tensors = {}
    torch.manual_seed(31)
    cases = ("tall", 40, 12, 1, 0.9), ("wide", 14, 30, 1, 2), ("narrow", 30, 16, 40, 0.9)
    for case, boxes, channels, along, noise in cases:
        scales = torch.linspace(0.2, 2, channels)
        scales[3] *= along
        first = torch.randn(boxes, channels) * scales + 3
        second = first + noise * torch.randn(boxes, channels)
        both = torch.cat([first, second]).double()
        variances = torch.linalg.svdvals(both - both.mean(0)) ** 2
        parts = variances / variances.sum()
        cosines = torch.nn.functional.cosine_similarity(
            first.double()[:, None], second.double()[None], dim=2
        )
        found = cosines.argmax(1) == torch.arange(boxes)
        tensors |= prefixed(case, {
            "first": first, "second": second,
            "effective_rank": torch.exp(-(parts * parts.log()).sum())[None],
            "box_retrieval": found.double().mean()[None],
        })
    save(tensors, out / "health.safetensors")


def schedule_goldens(out):
    cases = []
    for peak, warmup_steps, total_steps, ema in [
        (0.45 * 8192 / 256, 1560, 156000, 0.97),
        (0.2 * 4096 / 256, 3120, 312000, 0.996),
        (0.45 * 8 / 256, 160, 32, 0.97),  # ends before the warm-up does
        (0.3, 0, 10, 0.99),  # no warm-up
        (1.0, 3, 10, 0.97),
    ]:
        marks = {1, 2, 3, warmup_steps - 1, warmup_steps, warmup_steps + 1}
        marks |= {total_steps // 2, total_steps - 1, total_steps}
        t = sorted(m for m in marks if 1 <= m <= total_steps)
        cases.append({
            "peak": peak, "warmup_steps": warmup_steps, "total_steps": total_steps,
            "ema": ema, "t": t,
            "lr": [learning_rate(x, peak, warmup_steps, total_steps) for x in t],
            "tau": [ema_tau(x, ema, total_steps) for x in t],
        })
    path = out / "schedule.json"
    path.write_text(json.dumps(cases, indent=1) + "\n")
    print(f"{path.name:40} {path.stat().st_size / 1000:8.1f} kB")


# ---- Complete steps ------------------------------------------------------------------------------

PAIRS, HIDDEN, PROJECTION, BLOCK, CLASSES = 4, 64, 32, 8, 5
SIZE = 64
LRS, TAUS, WEIGHT_DECAY = [0.3, 0.25, 0.2], [0.97, 0.975, 0.98], 1e-6
SAMPLES = {"resnet18": 64, "resnet50": 32}
LAST_OF_BLOCK = {"resnet18": ".bn2.", "resnet50": ".bn3."}


def hashed(name, count):
    """uint32 for each flat index."""
    h = 0x811C9DC5
    for byte in name.encode():
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    x = numpy.arange(count, dtype=numpy.uint32) * numpy.uint32(0x9E3779B9) + numpy.uint32(h)
    x ^= x >> numpy.uint32(16)
    x *= numpy.uint32(0x85EBCA6B)
    x ^= x >> numpy.uint32(13)
    x *= numpy.uint32(0xC2B2AE35)
    return x ^ (x >> numpy.uint32(16))


def formula_weight(arch, name, shape):
    if name.endswith(("running_mean", "running_var")):
        return torch.full(shape, float(name.endswith("var")))
    v = 2 * (hashed(name, math.prod(shape)) >> numpy.uint32(8)).astype(numpy.float64) * 2.0**-24 - 1
    backbone = ".backbone." in name
    ends_a_block = backbone and ".layer" in name and LAST_OF_BLOCK[arch] in name
    if len(shape) > 1:
        value = v * math.sqrt(6 / math.prod(shape[1:]))
    elif name.endswith(".weight"):
        value = (1 + 0.1 * v) * (0.3 if ends_a_block else 1)
    elif ends_a_block:
        value = 0.5 * v
    else:
        value = 2 + v if backbone else 0.1 * v
    return torch.from_numpy(value.astype(numpy.float32)).reshape(shape)


def formula_views(name):
    blocks = SIZE // BLOCK
    x = (hashed(name, 2 * PAIRS * blocks * blocks * 3) >> numpy.uint32(24)).astype(numpy.uint8)
    x = x.reshape(2 * PAIRS, blocks, blocks, 3).repeat(BLOCK, 1).repeat(BLOCK, 2)
    return torch.from_numpy(x)


def matched_boxes(step):
    """Two to four boxes for every pair but the last; float32 represents quarter pixels exactly."""
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.cat([torch.full((2 + (pair + step) % 3,), pair) for pair in range(PAIRS - 1)])
    halves = []
    for half in range(2):
        side = SIZE * (0.4 + 0.5 * torch.rand(len(images), 2, generator=generator))
        corner = (SIZE - side) * torch.rand(len(images), 2, generator=generator)
        box = (torch.cat([corner, corner + side], 1) * 4).round() / 4
        halves.append(torch.cat([(images + half * PAIRS).float()[:, None], box], 1))
    return torch.cat(halves)


def classes_of(step):
    """The class of each pair; pair 1 has none."""
    classes = [(2 * pair + 3 * step + 4) % CLASSES for pair in range(PAIRS)]
    classes[1] = UNKNOWN
    return torch.tensor(classes)


def three_steps(arch, method, dtype, classes=None, after_step=lambda trainer: None):
    """The losses, and the movement of every tensor."""
    networks = Networks(arch, HIDDEN, PROJECTION, classes).to(dtype)
    shapes = {name: tuple(tensor.shape) for name, tensor in networks.tensors().items()}
    before = {name: formula_weight(arch, name, shape) for name, shape in shapes.items()}
    networks.load(before)
    trainer = Trainer(networks, WEIGHT_DECAY)
    losses = []
    for step, (lr, tau) in enumerate(zip(LRS, TAUS)):
        rois = matched_boxes(step) if method == "scrl" else None
        views = normalize(formula_views(f"views.step{step}"), dtype)
        losses.append(trainer.step([MicroBatch(views, rois, classes_of(step))], lr, tau))
        after_step(trainer)
    after = networks.tensors()
    return losses, {name: tensor.double() - before[name].double() for name, tensor in after.items()}


def sampled(tensor, count):
    flat = tensor.reshape(-1)
    m = min(count, len(flat))
    return flat[torch.tensor([k * len(flat) // m for k in range(m)])]


def print_conditioning(arch, method, losses, moved):
    """How far PyTorch's float32 is from its float64."""
    losses32, moved32 = three_steps(arch, method, torch.float32)
    print(f"{arch} {method}: float32 compared with float64, losses", [f"{x:.6f}" for x in losses])
    print("  losses relative", [f"{abs(a - b) / b:.1e}" for a, b in zip(losses32, losses)])
    trained = [name for name in moved if not without_gradient(name)]
    for label, pick in ("complete", lambda t: t), ("sampled", lambda t: sampled(t, SAMPLES[arch])):
        errors = []
        for name in trained:
            expected = pick(moved[name])
            error = (pick(moved32[name]) - expected).norm() / expected.norm()
            errors.append((error.item(), name))
        errors.sort()
        median, worst = errors[len(errors) // 2][0], [f"{e:.1e} {n}" for e, n in errors[:-4:-1]]
        print(f"  movement, {label}: median {median:.1e}, worst", worst)
    least = min((moved[name].norm().item(), name) for name in trained)
    biases = moved.keys() - trained
    norms = [f"{m[name].norm():.1e}" for name in sorted(biases) for m in (moved, moved32)]
    print(f"  smallest movement {least[0]:.1e} {least[1]}; biases without gradient {norms}")


def step_goldens(out, archs, conditioning):
    for arch in archs:
        for method in ("scrl", "byol"):
            losses, moved = three_steps(arch, method, torch.float64)
            if conditioning:
                print_conditioning(arch, method, losses, moved)
            tensors = {
                "pairs": torch.tensor([PAIRS]), "size": torch.tensor([SIZE]),
                "hidden": torch.tensor([HIDDEN]), "projection": torch.tensor([PROJECTION]),
                "lr": torch.tensor(LRS), "tau": torch.tensor(TAUS),
                "weight_decay": torch.tensor([WEIGHT_DECAY]), "loss": torch.tensor(losses),
            }
            if method == "scrl":
                tensors |= {f"boxes.step{s}": matched_boxes(s) for s in range(len(LRS))}
            for name, delta in moved.items():
                tensors[f"moved.{name}"] = sampled(delta, SAMPLES[arch])
                tensors[f"norm.{name}"] = delta.norm().reshape(1)
            save(tensors, out / f"step_{arch}_{method}.safetensors")


def classifier_goldens(out):
    losses, right = [], []

    def record(trainer):
        losses.append(trainer.online_loss)
        right.append(trainer.right)

    _, moved = three_steps("resnet18", "scrl", torch.float64, CLASSES, record)
    tensors = {"classes": torch.tensor([CLASSES])}
    tensors |= {"online_loss": torch.tensor(losses), "right": torch.tensor(right)}
    tensors |= {f"classes.step{step}": classes_of(step) for step in range(len(LRS))}
    tensors |= {f"moved.{name}": moved[name] for name in ("classifier.weight", "classifier.bias")}
    save(tensors, out / "classifier.safetensors")


def main():
    parser = argparse.ArgumentParser(description="Write the golden files of the trainer's tests.")
    parser.add_argument("--out", type=pathlib.Path, default=GOLDENS)
    parser.add_argument("--only", choices=["layers", "optimizer", "step", "classifier", "health"])
    parser.add_argument("--arch", choices=list(SAMPLES), help="the steps of this one only")
    conditioning = "print how far float32 is from float64"
    parser.add_argument("--conditioning", action="store_true", help=conditioning)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    if args.only in (None, "layers"):
        roi_align_goldens(args.out)
        batch_norm_goldens(args.out)
        conv_goldens(args.out)
        max_pool_goldens(args.out)
        block_goldens(args.out)
    if args.only in (None, "optimizer"):
        lars_goldens(args.out)
        sgd_goldens(args.out)
        schedule_goldens(args.out)
    if args.only in (None, "health"):
        health_goldens(args.out)
    if args.only in (None, "classifier"):
        classifier_goldens(args.out)
    if args.only in (None, "step"):
        step_goldens(args.out, [args.arch] if args.arch else list(SAMPLES), args.conditioning)


if __name__ == "__main__":
    main()
