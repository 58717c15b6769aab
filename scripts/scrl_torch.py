"""SCRL's training step in PyTorch: networks, loss, SGD and LARS, EMA and schedules.

Written for clarity, independent of the Rust code: make_goldens_trainer.py takes its golden values
from here, replay_in_pytorch.py compares runs of scrl-train with it, and bench_pytorch.py shares its
formulas. torchvision is imported where it is used, since bench_pytorch.py runs without it.
"""
import collections
import math

import torch
from torch import nn
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FEATURE_STRIDE = 32
MOMENTUM, TRUST, EPSILON = 0.9, 1e-3, 1e-8
# The class of a pair without a label.
UNKNOWN = -1

# views: normalized, [2B, 3, S, S], all first views, then all second.
# rois: [2K, 5] (view, x0, y0, x1, y1), the K boxes of the first views, then their counterparts in
#     the same order; None compares whole views (BYOL).
# classes: [B], only read by networks with a classifier.
MicroBatch = collections.namedtuple("MicroBatch", "views rois classes", defaults=[None])


def roi_align(features, rois):
    """RoIAlign to one cell: [N, C, H, W] and rois [R, 5] give [R, C]. A box without size is a point,
    which is read bilinearly where it is; with aligned=False it would be read a cell off."""
    from torchvision.ops import roi_align

    scale = 1.0 / FEATURE_STRIDE
    boxes = roi_align(features, rois, (1, 1), scale, sampling_ratio=-1, aligned=False)
    points = roi_align(features, rois, (1, 1), scale, sampling_ratio=1, aligned=True)
    is_point = (rois[:, 1:3] == rois[:, 3:5]).all(1)
    return torch.where(is_point[:, None], points.flatten(1), boxes.flatten(1))


def head(inputs, hidden, outputs):
    """Projector and predictor: Linear, BatchNorm, ReLU, Linear without bias."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs, bias=False),
    )


class Encoder(nn.Module):
    """torchvision's ResNet up to layer4, RoIAlign or global average pooling, and the projector."""

    def __init__(self, arch, hidden, projection):
        import torchvision

        super().__init__()
        self.backbone = getattr(torchvision.models, arch)(weights=None)
        channels = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        self.projector = head(channels, hidden, projection)

    def feature_map(self, views):
        r = self.backbone
        stem = r.maxpool(r.relu(r.bn1(r.conv1(views))))
        return r.layer4(r.layer3(r.layer2(r.layer1(stem))))

    def forward(self, views, rois):
        """Projections of the boxes (of whole views without rois), and the detached global average
        of the feature map, which the classifier reads."""
        features = self.feature_map(views)
        average = features.mean(dim=(2, 3))
        if rois is None:
            pooled = average
        else:
            pooled = roi_align(features, rois.to(features.dtype))
        return self.projector(pooled), average.detach()


class Networks(nn.Module):
    """Online and target network, predictor and classifier.

    The keys of its state dict are the names of a checkpoint's tensors."""

    def __init__(self, arch, hidden, projection, classes=None):
        super().__init__()
        self.online = Encoder(arch, hidden, projection)
        self.target = Encoder(arch, hidden, projection)
        self.predictor = head(projection, hidden, projection)
        if classes:
            self.classifier = nn.Linear(self.online.projector[0].in_features, classes)
        self.target.requires_grad_(False)
        self.train()

    def tensors(self):
        """Name -> tensor (no copy), without PyTorch's counters of batches."""
        state = self.state_dict().items()
        return {name: tensor for name, tensor in state if not name.endswith("num_batches_tracked")}

    def load(self, tensors):
        wanted = self.tensors()
        missing = sorted(wanted.keys() - tensors.keys())
        if missing:
            raise KeyError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
        with torch.no_grad():
            for name, tensor in wanted.items():
                found = tensors[name]
                if tensor.shape != found.shape:
                    raise ValueError(f"{name} is {list(found.shape)}, not {list(tensor.shape)}")
                tensor.copy_(found)


def without_gradient(name):
    """Whether a tensor is the bias of a Linear in front of a BatchNorm: its gradient is 0."""
    return name in ("online.projector.0.bias", "predictor.0.bias")


def normalize(views, dtype=torch.float32):
    """uint8 [N, S, S, 3] -> [N, 3, S, S]."""
    x = views.to(dtype) / 255
    x = (x - torch.tensor(MEAN, dtype=dtype)) / torch.tensor(STD, dtype=dtype)
    return x.permute(0, 3, 1, 2).contiguous()


def distance(predictions, targets):
    """2 - 2 cos of each row, Eq. 2."""
    return 2 - 2 * F.cosine_similarity(predictions, targets, dim=1, eps=1e-12)


def trust_ratio(weight_norm, gradient_norm, weight_decay, trust=TRUST):
    """LARS's factor of the learning rate, elementwise; 1 where either norm is 0."""
    ratio = trust * weight_norm / (gradient_norm + weight_decay * weight_norm + EPSILON)
    return torch.where((weight_norm > 0) & (gradient_norm > 0), ratio, 1.0)


def sgd_update(parameter, gradient, velocity, lr, weight_decay, trust):
    """SGD with momentum, in place, and with a trust coefficient LARS around it; tensors of rank 1
    are neither scaled nor decayed."""
    step = gradient
    if parameter.ndim > 1:
        step = gradient + weight_decay * parameter
        if trust is not None:
            step = step * trust_ratio(parameter.norm(), gradient.norm(), weight_decay, trust)
    velocity.mul_(MOMENTUM).add_(step)
    parameter.sub_(lr * velocity)


def learning_rate(t, peak, warmup_steps, total_steps):
    """The learning rate of step t = 1, 2, …: linear warm-up, then half a cosine."""
    if t <= warmup_steps:
        return peak * t / warmup_steps
    progress = (t - warmup_steps) / (total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def ema_tau(t, initial, total_steps):
    """The EMA's tau after step t = 1, 2, …: from its initial value to 1 along half a cosine."""
    return 1 - (1 - initial) * 0.5 * (math.cos(math.pi * (t - 1) / total_steps) + 1)


class Trainer:
    def __init__(self, networks, weight_decay, trust=TRUST):
        self.networks = networks
        self.weight_decay = weight_decay
        # None for SGD.
        self.trust = trust
        # Of the last step's online evaluation: its loss, and the number of views classified right.
        self.online_loss, self.right = 0.0, 0
        trained = ((n, p) for n, p in networks.named_parameters() if p.requires_grad)
        self.velocity = {name: torch.zeros_like(parameter) for name, parameter in trained}

    def step(self, micro_batches, lr, tau):
        """One optimizer step; returns the loss before it."""
        net = self.networks
        pairs = sum((len(m.views) if m.rois is None else len(m.rois)) // 2 for m in micro_batches)
        net.zero_grad(set_to_none=True)
        total = 0.0
        self.online_loss, self.right = 0.0, 0
        for views, rois, classes in micro_batches:
            with torch.no_grad():
                targets1, targets2 = net.target(views, rois)[0].chunk(2)
            projections, features = net.online(views, rois)
            predictions1, predictions2 = net.predictor(projections).chunk(2)
            both = distance(predictions1, targets2) + distance(predictions2, targets1)
            loss = both.sum() / pairs
            loss.backward()
            total += loss.item()
            if hasattr(net, "classifier"):
                self.classify(features, classes.repeat(2), micro_batches)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if parameter.grad is not None:
                    given = parameter, parameter.grad, self.velocity[name]
                    sgd_update(*given, lr, self.weight_decay, self.trust)
            update_ema(net.target, net.online, tau)
        return total

    def classify(self, features, classes, micro_batches):
        """The classifier's gradients from one micro-batch's features and classes of its views."""
        labeled = 2 * sum((m.classes != UNKNOWN).sum().item() for m in micro_batches)
        if not labeled:
            return
        logits = self.networks.classifier(features)
        loss = F.cross_entropy(logits, classes, ignore_index=UNKNOWN, reduction="sum") / labeled
        loss.backward()
        self.online_loss += loss.item()
        self.right += (logits.argmax(1) == classes).sum().item()


def update_ema(target, online, tau):
    for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
        slow.mul_(tau).add_(fast, alpha=1 - tau)
