"""The whole network in PyTorch, written from docs/reference.md and the paper's tables: what the published weights mean.

Independent of tinydet_tf. Parameter names are the published ones. N images of S x S pixels, R rois, C classes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

#: Tables 10-12: kernel, expansion, output channels, SE, nonlinearity, stride, FPN. Row 0 is the stem.
Row = tuple[int, int | None, int, bool, str, int, bool]
TABLE_10: list[Row] = [
    (3, None, 16, False, "HS", 2, False),
    (3, 16, 16, False, "RE", 1, False),
    (3, 64, 24, False, "RE", 2, False),
    (3, 72, 24, False, "RE", 1, False),
    (5, 72, 40, True, "RE", 2, False),
    (5, 120, 40, True, "RE", 1, False),
    (5, 120, 40, True, "RE", 1, True),
    (3, 240, 80, False, "HS", 2, False),
    (3, 240, 80, False, "HS", 1, False),
    (5, 240, 80, False, "HS", 1, False),
    (5, 240, 80, False, "HS", 1, False),
    (3, 240, 112, True, "HS", 1, False),
    (3, 336, 112, True, "HS", 1, True),
    (5, 336, 160, True, "HS", 2, False),
    (5, 480, 160, True, "HS", 1, False),
    (5, 480, 160, True, "HS", 1, True),
    (5, 960, 160, True, "HS", 2, True),
]
TABLE_11: list[Row] = [
    (3, None, 24, False, "HS", 2, False),
    (3, 24, 24, False, "RE", 1, False),
    (3, 72, 36, False, "RE", 2, False),
    (3, 108, 36, False, "RE", 1, False),
    (3, 108, 36, False, "RE", 1, False),
    (3, 108, 36, False, "RE", 1, True),
    (5, 108, 60, True, "RE", 2, False),
    (5, 180, 60, True, "RE", 1, False),
    (5, 180, 60, True, "RE", 1, True),
    (3, 240, 80, False, "HS", 2, False),
    (3, 200, 80, False, "HS", 1, False),
    (3, 184, 80, False, "HS", 1, False),
    (3, 184, 80, False, "HS", 1, False),
    (3, 480, 112, True, "HS", 1, False),
    (3, 672, 112, True, "HS", 1, True),
    (5, 672, 160, True, "HS", 2, False),
    (5, 960, 160, True, "HS", 1, False),
    (5, 960, 160, True, "HS", 1, True),
    (5, 960, 160, True, "HS", 2, False),
    (5, 960, 160, True, "HS", 1, True),
]


@dataclass(frozen=True)
class Spec:
    table: list[Row]
    size: int
    strides: tuple[int, ...]
    groups: tuple[int, ...]
    pooled: int  # levels that RoIs are pooled from
    finest: float


SPECS = {
    "S": Spec(TABLE_10, 320, (8, 16, 32, 64), (7, 5, 1, 1), 2, 30.0),
    "M": Spec(TABLE_11, 320, (4, 8, 16, 32, 64), (49, 7, 5, 1, 1), 3, 22.4),
    "L": Spec(TABLE_11, 512, (4, 8, 16, 32, 64), (49, 7, 5, 1, 1), 3, 35.8),
}


class HardSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * functional.relu6(x + 3) / 6


class HardSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.relu6(x + 3) / 6


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1, bias=False),
            HardSigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se(x)


class Bneck(nn.Module):
    def __init__(self, inputs: int, row: Row, *, first: bool) -> None:
        super().__init__()
        kernel, expand, out, squeeze, nonlinearity, stride, _ = row
        self.act = HardSwish() if nonlinearity == "HS" else nn.ReLU()
        self.stride, self.residual = stride, stride == 1 and inputs == out
        if first:
            self.conv1 = self.bn1 = None
        else:
            self.conv1 = nn.Conv2d(inputs, expand, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(expand)
        self.conv2 = nn.Conv2d(expand, expand, kernel, stride, kernel // 2, groups=expand, bias=False)
        self.bn2 = nn.BatchNorm2d(expand)
        self.se = SqueezeExcite(expand) if squeeze else None
        self.conv3 = nn.Conv2d(expand, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.conv1 is not None:
            y = self.act(self.bn1(self.conv1(y)))
        if self.stride == 2:
            y = functional.avg_pool2d(y, 2, 1)
        y = self.act(self.bn2(self.conv2(y)))
        if self.se is not None:
            y = self.se(y)
        y = self.bn3(self.conv3(y))
        return x + y if self.residual else y


def backbone_blocks(table: list[Row]) -> nn.ModuleList:
    kernel, _, out, _, _, stride, _ = table[0]
    stem = nn.Sequential(
        nn.Conv2d(3, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out), HardSwish()
    )  # fmt: skip
    blocks: list[nn.Module] = [stem]
    for index, row in enumerate(table[1:], 1):
        blocks.append(Bneck(table[index - 1][2], row, first=index == 1))
    return nn.ModuleList(blocks)


class Backbone(nn.Module):
    def __init__(self, table: list[Row]) -> None:
        super().__init__()
        self.table, self.blocks = table, backbone_blocks(table)

    def forward(self, x: Tensor) -> list[Tensor]:
        taps = []
        for row, block in zip(self.table, self.blocks, strict=True):
            x = block(x)
            if row[-1]:
                taps.append(x)
        return taps


class ImageNetClassifier(nn.Module):
    """A backbone with what MobileNetV3 classifies with: one conv more among the blocks, and two FCs."""

    def __init__(self, table: list[Row]) -> None:
        super().__init__()
        self.blocks = backbone_blocks(table)
        self.blocks.append(nn.Sequential(nn.Conv2d(160, 960, 1, bias=False), nn.BatchNorm2d(960), HardSwish()))
        self.classifier = nn.Sequential(nn.Linear(960, 64), HardSwish(), nn.Linear(64, 10))


def sc_conv(groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(245, 245, 3, padding=1, groups=245), nn.Conv2d(245, 245, 1, groups=groups))


class Lateral(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 245, 1)


class TinyFPN(nn.Module):
    def __init__(self, inputs: Sequence[int], groups: Sequence[int]) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(Lateral(n) for n in inputs)
        self.fpn_convs = nn.ModuleList(sc_conv(g) for g in groups)

    def forward(self, taps: list[Tensor]) -> list[Tensor]:
        merged = [lateral.conv(tap) for lateral, tap in zip(self.lateral_convs, taps, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            merged[level - 1] = merged[level - 1] + functional.interpolate(
                merged[level], scale_factor=2, mode="nearest"
            )
        return [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=True)]


class TinyRPN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rpn_conv = sc_conv(49)
        self.rpn_cls = nn.Conv2d(245, 3, 1)
        self.rpn_reg = nn.Conv2d(245, 12, 1)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.relu(self.rpn_conv(feature))
        return self.rpn_cls(x), self.rpn_reg(x)


class RCNN(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.shared_fcs = nn.ModuleList([nn.Linear(245, 1024)])
        self.fc_cls = nn.Linear(1024, num_classes + 1)
        self.fc_reg = nn.Linear(1024, 4)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.relu(self.shared_fcs[0](pooled.flatten(1)))
        return self.fc_cls(x), self.fc_reg(x)


def hat_weights(at: Tensor, size: int) -> Tensor:
    """What each of `size` cells weighs in a linear interpolation at `at` [...]: [..., size].

    Coordinates outside [-1, size] read nothing; others are clamped to the cells.
    """
    inside = (at >= -1) & (at <= size)
    distance = (at.clamp(0, size - 1)[..., None] - torch.arange(size, dtype=at.dtype)).abs()
    return (1 - distance).clamp(min=0) * inside[..., None]


def ps_roi_align(features: Sequence[Tensor], rois: Tensor, strides: Sequence[int], finest: float) -> Tensor:
    """rois [R, 5] = (image, x1, y1, x2, y2) -> [R, 5, 7, 7]: the largest of each bin's 2x2 samples."""
    bins = torch.arange(7, dtype=rois.dtype)[:, None]
    fractions = (bins + torch.tensor([0.25, 0.75], dtype=rois.dtype)) / 7  # [7, 2]
    pooled = []
    for image, x1, y1, x2, y2 in rois:
        side = math.sqrt(max(float(x2 - x1) + 1, 0) * max(float(y2 - y1) + 1, 0))
        level = min(max(math.floor(math.log2(side / finest + 1e-6)), 0), len(features) - 1)
        feature, stride = features[level][int(image)], strides[level]
        ys = y1 / stride + fractions * ((y2 - y1) / stride).clamp(min=0.1)
        xs = x1 / stride + fractions * ((x2 - x1) / stride).clamp(min=0.1)
        rows, columns = hat_weights(ys, feature.shape[1]), hat_weights(xs, feature.shape[2])
        maps = feature.unflatten(0, (5, 7, 7))  # channel (c * 7 + i) * 7 + j
        samples = torch.einsum("cijhw,jtw->cijht", maps, columns)
        samples = torch.einsum("cijht,ish->cijst", samples, rows)
        pooled.append(samples.amax((-2, -1)))
    return torch.stack(pooled)


def decode_rcnn(rois: Tensor, deltas: Tensor, size: int) -> Tensor:
    """[R, 4] inclusive boxes moved by deltas [R, 4] of stds 0.1, 0.1, 0.2, 0.2, clipped to the image."""
    dx, dy, dw, dh = (deltas * torch.tensor([0.1, 0.1, 0.2, 0.2], dtype=deltas.dtype)).unbind(1)
    limit = math.log(1000 / 16)
    x1, y1, x2, y2 = rois.unbind(1)
    width, height = x2 - x1 + 1, y2 - y1 + 1
    centre_x, centre_y = (x1 + x2) / 2 + dx * width, (y1 + y2) / 2 + dy * height
    width, height = width * dw.clamp(-limit, limit).exp(), height * dh.clamp(-limit, limit).exp()
    corners = [centre_x - (width - 1) / 2, centre_y - (height - 1) / 2]
    corners += [centre_x + (width - 1) / 2, centre_y + (height - 1) / 2]
    return torch.stack(corners, 1).clamp(0, size - 1)


class TinyDetReference(nn.Module):
    """The detector up to its two heads; proposals come from outside."""

    def __init__(self, variant: str, num_classes: int) -> None:
        super().__init__()
        self.spec = SPECS[variant]
        self.backbone = Backbone(self.spec.table)
        self.neck = TinyFPN([row[2] for row in self.spec.table if row[-1]], self.spec.groups)
        self.rpn_head = TinyRPN()
        self.bbox_head = RCNN(num_classes)

    def features(self, images: np.ndarray) -> list[Tensor]:
        """RGB 0-255 [N, S, S, 3] -> [N, 245, H, W] a level, finest first."""
        x = torch.as_tensor(images).to(self.rpn_head.rpn_cls.weight.dtype)
        x = (x - x.new_tensor([123.675, 116.28, 103.53])) / x.new_tensor([58.395, 57.12, 57.375])
        return self.neck(self.backbone(x.permute(0, 3, 1, 2)))

    def rpn(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        outputs = [self.rpn_head(f) for f in features]
        return [o[0] for o in outputs], [o[1] for o in outputs]

    def pool(self, features: Sequence[Tensor], rois: np.ndarray) -> Tensor:
        rois = torch.as_tensor(rois).to(features[0].dtype)
        return ps_roi_align(features[: self.spec.pooled], rois, self.spec.strides, self.spec.finest)

    def rcnn(self, features: Sequence[Tensor], rois: np.ndarray) -> tuple[Tensor, Tensor]:
        """(class logits [R, C+1], deltas [R, 4])."""
        return self.bbox_head(self.pool(features, rois))


def smooth_images(size: int, count: int, seed: int) -> np.ndarray:
    """uint8 [N, S, S, 3]: noise of three coarsenesses."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, size, size)
    for side in (5, 20, 80):
        noise = torch.rand(count, 3, side, side, generator=generator) * 255
        images += functional.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False) / 3
    return images.permute(0, 2, 3, 1).clamp(0, 255).numpy().astype(np.uint8)


def randomize(module: nn.Module, generator: torch.Generator) -> None:
    """Kernels that keep the scale, biases and BN affine parameters that are not what layers start with."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                fan_in = part.weight[0].numel()
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * math.sqrt(2 / fan_in))
                if part.bias is not None:
                    part.bias.copy_(torch.randn(part.bias.shape, generator=generator) * 0.3)
            elif isinstance(part, nn.BatchNorm2d):
                part.weight.copy_(torch.rand(part.weight.shape, generator=generator) + 0.5)
                part.bias.copy_(torch.randn(part.bias.shape, generator=generator) * 0.3)


@functools.cache
def reference(variant: str, num_classes: int = 80) -> TinyDetReference:
    """A random network fitted to three images, so that its activations are of the size that a trained one's are."""
    generator = torch.Generator().manual_seed(17)
    model = TinyDetReference(variant, num_classes).eval()
    randomize(model, generator)

    def fit_statistics(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        # Channels that a ReLU has all but silenced must not be blown up where another image wakes them.
        variance = variance.clamp(min=0.5 * float(variance.mean()))
        norm.running_mean.copy_(mean + torch.randn(mean.shape, generator=generator) * 0.2 * variance.sqrt())
        norm.running_var.copy_(variance * (torch.rand(mean.shape, generator=generator) + 0.5))

    def fit_scale(layer: nn.Module, _: tuple[Tensor], output: Tensor, *, std: float) -> Tensor:
        factor = std / float(output.std())
        layer.weight *= factor
        layer.bias *= factor
        hooks.pop(layer).remove()  # the RPN serves every level, and is fitted to the first
        return output * factor

    # Deltas that rarely saturate, class probabilities that neither are all alike nor all 0 or 1.
    heads = {
        model.rpn_head.rpn_cls: 1.0,
        model.rpn_head.rpn_reg: 0.2,
        model.bbox_head.fc_cls: 0.6,
        model.bbox_head.fc_reg: 0.5,
    }
    hooks = {}
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            hooks[part] = part.register_forward_pre_hook(fit_statistics)
        elif isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            hooks[part] = part.register_forward_hook(functools.partial(fit_scale, std=heads.get(part, 1.0)))
    with torch.no_grad():
        images = smooth_images(model.spec.size, 3, seed=1)
        features = model.features(images)
        model.rpn(features)
        model.rcnn(features, random_rois(model.spec, len(images), seed=1))
    for hook in hooks.values():
        hook.remove()
    return model


def random_rois(spec: Spec, num_images: int, seed: int) -> np.ndarray:
    """float32 [R, 5] = (image, x1, y1, x2, y2): of every pooled level, some tiny, some partly or far outside."""
    rng = np.random.default_rng(seed)
    size = spec.size
    sides = np.concatenate([spec.finest * 2.0 ** rng.uniform(-1.5, spec.pooled + 0.5, 40), rng.uniform(0, 2, 6)])
    shapes = sides[:, None] * 2.0 ** (rng.uniform(-0.7, 0.7, [46, 1]) * [1, -1])
    low = rng.uniform(-0.1 * size, size, [46, 2])
    rois = np.concatenate([low, low + shapes], 1)
    fixed = [[0, 0, size - 1, size - 1], [0, 0, 0, 0], [-500, -500, -400, -400], [size - 1, 3, size + 80, 40]]
    rois = np.concatenate([rois, fixed])
    return np.concatenate([rng.integers(0, num_images, [50, 1]), rois], 1).astype(np.float32)


def published(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state_dict, as a training program saves it."""
    return {name: value.clone() for name, value in model.state_dict().items()}
