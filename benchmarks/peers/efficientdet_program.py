"""EfficientDet-Lite0 of random weights as two .tflite files, to be counted beside ours: what it costs, no more.

A program for an environment with the pins of peer_process.py and effdet==0.4.1, timm==1.0.31, omegaconf==2.4.0; the
project does not import it.

    python benchmarks/peers/efficientdet_program.py FLOAT.tflite INT8.tflite
"""

from __future__ import annotations

import argparse
from pathlib import Path

import litert_torch
import numpy as np
import torch
from ai_edge_quantizer import qtyping, quantizer, recipe
from effdet import create_model
from effdet.efficientdet import FpnCombine
from torch import nn

INPUT_SIZE = 320
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
    converter = quantizer.Quantizer(str(args.float_file))
    converter.load_quantization_recipe(recipe.static_wi8_ai8())
    for operation in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        converter.update_quantization_recipe(
            regex=".*", operation_name=operation, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE
        )
    samples = [{"args_0": np.ascontiguousarray(p.permute(1, 2, 0).numpy()[None])} for p in pictures]
    ranges = converter.calibrate({"serving_default": samples})
    converter.quantize(calibration_result=ranges).export_model(str(args.int8_file), overwrite=True)


if __name__ == "__main__":
    main()
