"""EfficientDet-Lite0 of random weights as two .tflite files, to be counted beside ours: what it costs, no more.

A program for the environment that run.py builds, with some packages more; the project does not import it:

    .venvs/peers/bin/pip install --no-deps effdet==0.4.1 timm==1.0.31 omegaconf==2.4.0 antlr4-python3-runtime==4.9.3 \\
        huggingface_hub safetensors pycocotools
    .venvs/peers/bin/python benchmarks/peers/efficientdet_program.py FLOAT.tflite INT8.tflite
"""

from __future__ import annotations

import argparse
from pathlib import Path

import litert_torch
import numpy as np
import torch
from effdet import create_model
from effdet.efficientdet import FpnCombine
from torch import nn

from ssdlite_program import INPUT_SIZE, quantize

CALIBRATION_PICTURES = 8


class Levels(nn.Module):
    """float32 [1, 3, 320, 320], normalized -> the classes' logits and the boxes' deltas of the five levels, before any
    is joined; no anchors, no NMS."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = create_model(
            "tf_efficientdet_lite0", bench_task="", num_classes=classes, pretrained=False, pretrained_backbone=False
        )

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        classes, boxes = self.network(images)
        return (*classes, *boxes)


def add(self: FpnCombine, levels: list[torch.Tensor]) -> torch.Tensor:
    """What FpnCombine.forward gives of Lite0, as additions: stacked and summed, as it is written there, the converter
    would move every map twice, which the published .tflite does not."""
    resampled = [layer(levels[i]) for i, layer in zip(self.inputs_offsets, self.resample.values(), strict=True)]
    total = resampled[0]
    for other in resampled[1:]:
        total = total + other
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_file", type=Path)
    parser.add_argument("int8_file", type=Path)
    parser.add_argument("--classes", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(0)
    FpnCombine.forward = add
    model = Levels(args.classes)
    pictures = torch.randn(CALIBRATION_PICTURES, 3, INPUT_SIZE, INPUT_SIZE)
    # Random weights shrink or blow up what passes through 60 layers; batch normalization that has seen the pictures
    # gives every layer numbers of ordinary size.
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(pictures)
    model.eval()
    last = litert_torch.to_channel_last_io(model, args=[0])
    litert_torch.convert(last, (torch.zeros(1, INPUT_SIZE, INPUT_SIZE, 3),)).export(str(args.float_file))
    samples = [{"args_0": np.ascontiguousarray(p.permute(1, 2, 0).numpy()[None])} for p in pictures]
    quantize(args.float_file, samples, args.int8_file)


if __name__ == "__main__":
    main()
