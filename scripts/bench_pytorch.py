#!/usr/bin/env python3
"""Time one SCRL training step in PyTorch, to compare scrl-train with.

    bench_pytorch.py [--arch resnet50] [--batch-size 256] [--mode eager|compile] [--json FILE]

The step is the one of scrl-train, written for speed in the usual way: channels_last, autocast,
torchvision's RoIAlign, foreach kernels for LARS and the EMA. Random bytes on the device stand for
the views, so no time goes into data. On CUDA, a step takes from one event to the next and the host
does not wait for the device in between. Peak memory is that of tensors during the timed steps.

TFLOP/s count the convolutions and linear layers, a multiply-add as two: one forward pass of the
target network, and three of the online network for its forward and backward pass.

The ResNet is written out here and RoIAlign has a substitute, so that the benchmark also runs where
torchvision is missing or built for another PyTorch.
"""
import argparse
import json
import math
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from scrl_torch import FEATURE_STRIDE, MEAN, MOMENTUM, STD, head, trust_ratio

try:
    from torchvision.ops import roi_align as torchvision_roi_align
except Exception as error:  # A torchvision built for another PyTorch raises more than ImportError.
    torchvision_roi_align = None
    print(f"bench_pytorch: no torchvision ({error}); RoIAlign by matrix products", file=sys.stderr)

BOXES = 10
SMALLEST_BOX = 32
HIDDEN, PROJECTION = 4096, 256
WEIGHT_DECAY = 1e-6
TAU = 0.97
# For 256 pairs, early in the warm-up: the weights are random, and the peak would make them NaN.
LEARNING_RATE = 0.45 / 100


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, width * 4, stride)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(inputs, outputs, stride):
    """The convolution on a block's shortcut, where its shape changes."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


ARCHITECTURES = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class Backbone(nn.Sequential):
    """torchvision's ResNet up to layer4: [N, 3, H, W] to [N, features, H/32, W/32]."""

    def __init__(self, arch):
        block, depths = ARCHITECTURES[arch]
        layers = [
            nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
        ]
        inputs = 64
        for stage, depth in enumerate(depths):
            for index in range(depth):
                width = 64 << stage
                layers.append(block(inputs, width, 2 if stage > 0 and index == 0 else 1))
                inputs = width * block.expansion
        super().__init__(*layers)
        self.features = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")



class Network(nn.Module):
    """Backbone, RoIAlign to 1x1 and projector: views and their boxes to [boxes, 256]."""

    def __init__(self, arch):
        super().__init__()
        self.backbone = Backbone(arch)
        self.projector = head(self.backbone.features, HIDDEN, PROJECTION)

    def forward(self, views, boxes):
        return self.projector(roi_align(self.backbone(views).float(), boxes))


def roi_align(features, boxes):
    """RoIAlign of [rows, 5] boxes (index of the view, x0 y0 x1 y1) to [rows, channels]."""
    if torchvision_roi_align is not None:
        return torchvision_roi_align(features, boxes, (1, 1), 1 / FEATURE_STRIDE, -1).flatten(1)
    # The mean over a grid of bilinear samples is separable: weights along y times weights along x.
    # The boxes are sorted by view, so that one batched product takes all of them.
    views, channels, height, width = features.shape
    along_x = axis_weights(boxes[:, 1], boxes[:, 3], width)
    along_y = axis_weights(boxes[:, 2], boxes[:, 4], height)
    weights = (along_y[:, :, None] * along_x[:, None, :]).reshape(views, -1, height * width)
    cells = features.permute(0, 2, 3, 1).reshape(views, height * width, channels)
    # In float32 as torchvision's, whatever autocast says.
    with torch.autocast(features.device.type, enabled=False):
        return torch.bmm(weights, cells).flatten(0, 1)


def axis_weights(low, high, cells):
    """[boxes, cells]: the weight of each cell along one axis in a box's mean."""
    start = low[:, None] / FEATURE_STRIDE
    length = (high[:, None] / FEATURE_STRIDE - start).clamp(min=1)
    count = length.ceil()
    # As many sample points as a box of the full view needs; each box uses its own number.
    sample = torch.arange(cells + 1, device=low.device)
    position = (start + (sample + 0.5) * length / count).clamp(0, cells - 1)
    used = (sample < count) / count
    cell = torch.arange(cells, device=low.device)
    weight = (1 - (position[:, :, None] - cell).abs()).clamp(min=0)
    return (weight * used[:, :, None]).sum(1)


def random_boxes(pairs, size, device):
    """[2 * pairs * BOXES, 5]: the boxes of all first views, then those of all second views."""
    rows = 2 * pairs * BOXES
    sides = SMALLEST_BOX + torch.rand(rows, 2) * (size - SMALLEST_BOX)
    corner = torch.rand(rows, 2) * (size - sides)
    view = torch.arange(2 * pairs).repeat_interleave(BOXES)[:, None]
    return torch.cat([view, corner, corner + sides], 1).to(device)


class Lars:
    """LARS of scrl_torch.sgd_update over all tensors at once, with foreach kernels."""

    def __init__(self, parameters, learning_rate):
        self.scaled = [p for p in parameters if p.ndim > 1]
        self.plain = [p for p in parameters if p.ndim <= 1]
        self.velocity = [torch.zeros_like(p) for p in self.scaled + self.plain]
        self.learning_rate = learning_rate

    @torch.no_grad()
    def step(self):
        gradients = [p.grad for p in self.scaled]
        weight_norm = torch.stack(torch._foreach_norm(self.scaled))
        gradient_norm = torch.stack(torch._foreach_norm(gradients))
        ratio = trust_ratio(weight_norm, gradient_norm, WEIGHT_DECAY)
        torch._foreach_add_(gradients, self.scaled, alpha=WEIGHT_DECAY)
        torch._foreach_mul_(gradients, list(ratio.unbind()))
        torch._foreach_mul_(self.velocity, MOMENTUM)
        torch._foreach_add_(self.velocity, gradients + [p.grad for p in self.plain])
        torch._foreach_add_(self.scaled + self.plain, self.velocity, alpha=-self.learning_rate)
        for parameter in self.scaled + self.plain:
            parameter.grad = None


class Trainer:
    """Both networks, the predictor and the optimizer; `step` is timed."""

    def __init__(self, options):
        self.device = torch.device(options.device)
        self.bf16 = options.precision == "bf16"
        # The target starts from its own random weights, as in the authors' code.
        networks = [Network(options.arch), Network(options.arch)]
        networks.append(head(PROJECTION, HIDDEN, PROJECTION))
        self.online, self.target, self.predictor = [
            network.to(self.device, memory_format=torch.channels_last) for network in networks
        ]
        self.target.requires_grad_(False)
        self.mean, self.std = [
            torch.tensor(v, device=self.device).view(1, 3, 1, 1) * 255 for v in (MEAN, STD)
        ]
        trained = [*self.online.parameters(), *self.predictor.parameters()]
        self.optimizer = Lars(trained, LEARNING_RATE * options.batch_size / 256)
        self.ema = list(self.target.parameters()), list(self.online.parameters())
        self.forward = torch.compile(self.loss) if options.mode == "compile" else self.loss

    def loss(self, views, boxes):
        views = ((views - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            predictions = self.predictor(self.online(views, boxes))
            with torch.no_grad():
                targets = self.target(views, boxes)
        # Each prediction meets the target of the same box in the other view.
        targets = torch.cat(targets.float().chunk(2)[::-1])
        cosine = F.cosine_similarity(predictions.float(), targets, dim=1)
        # The mean over boxes of the sum of both directions.
        return 2 * (2 - 2 * cosine).mean()

    def step(self, views, boxes):
        loss = self.forward(views, boxes)
        loss.backward()
        self.optimizer.step()
        torch._foreach_lerp_(*self.ema, 1 - TAU)
        return loss.detach()

    @torch.no_grad()
    def flops_per_pair(self, size):
        """Floating-point operations of a step for one pair."""
        counted = 0

        def count(module, inputs, output):
            nonlocal counted
            counted += 2 * output.numel() * math.prod(module.weight.shape[1:])

        weighted = [(self.target, 1), (self.online, 3), (self.predictor, 3)]
        total = 0
        x = torch.zeros(2, 3, size, size, device=self.device)
        boxes = random_boxes(1, size, self.device)
        for network, passes in weighted:
            layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
            hooks = [layer.register_forward_hook(count) for layer in layers]
            counted = 0
            if network is self.predictor:
                network(torch.zeros(2 * BOXES, PROJECTION, device=self.device))
            else:
                network(x, boxes)
            total += passes * counted
            for hook in hooks:
                hook.remove()
        return total


def measure(trainer, views, boxes, warmup, steps):
    """Milliseconds of each timed step, peak bytes, and the last loss."""
    cuda = trainer.device.type == "cuda"
    for _ in range(warmup):
        trainer.step(views, boxes)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    else:
        marks = [0.0] * (steps + 1)
    for index in range(steps + 1):
        if index > 0:
            loss = trainer.step(views, boxes)
        if cuda:
            marks[index].record()
        else:
            marks[index] = time.perf_counter()
    if cuda:
        torch.cuda.synchronize()
        times = [before.elapsed_time(after) for before, after in zip(marks, marks[1:])]
        return times, torch.cuda.max_memory_allocated(), loss.item()
    times = [(after - before) * 1e3 for before, after in zip(marks, marks[1:])]
    return times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, loss.item()


def positive(text):
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=ARCHITECTURES, default="resnet50")
    parser.add_argument("--batch-size", type=positive, default=256, help="pairs of views (256)")
    parser.add_argument("--size", type=positive, default=224, help="side of a view in pixels (224)")
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16", help="no TF32")
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--steps", type=positive, default=20, help="timed steps (20)")
    parser.add_argument("--warmup", type=positive, default=5, help="steps before them (5)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE")
    options = parser.parse_args()
    if options.size < SMALLEST_BOX or options.size % FEATURE_STRIDE:
        parser.error(f"--size must be a multiple of {FEATURE_STRIDE}")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench_pytorch: PyTorch finds no GPU; --device cpu runs without one")

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    # Like scrl-train, float32 means float32.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    trainer = Trainer(options)
    pairs, size = options.batch_size, options.size
    flops = trainer.flops_per_pair(size) * pairs
    shape = 2 * pairs, 3, size, size
    views = torch.randint(0, 256, shape, dtype=torch.uint8, device=trainer.device)
    boxes = random_boxes(pairs, size, trainer.device)
    times, memory, loss = measure(trainer, views, boxes, options.warmup, options.steps)
    if not math.isfinite(loss):
        sys.exit(f"bench_pytorch: the loss is {loss}, so the time is not reported")

    median = statistics.median(times)
    results = {
        "arch": options.arch,
        "batch_size": pairs,
        "precision": options.precision,
        "steps": options.steps,
        "ms_median": median,
        "ms_min": min(times),
        "ms_max": max(times),
        "pairs_per_s": pairs / median * 1e3,
        "tflops": flops / median / 1e9,
        "peak_memory_bytes": memory,
        "mode": options.mode,
        "size": size,
        "device": options.device,
        "roi_align": "matrix products" if torchvision_roi_align is None else "torchvision",
        "loss": loss,
        "torch": torch.__version__,
    }
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    print(
        f"PyTorch {torch.__version__} {options.mode}, {options.arch}, {pairs} pairs of {size} px, "
        f"{options.precision}, {options.device}, RoIAlign by {results['roi_align']}: "
        f"median {median:.1f} ms a step ({min(times):.1f}-{max(times):.1f}), "
        f"{results['pairs_per_s']:.1f} pairs/s, {results['tflops']:.2f} TFLOP/s, "
        f"{memory / 2**30:.2f} GiB, loss {loss:.3f}"
    )


if __name__ == "__main__":
    main()
