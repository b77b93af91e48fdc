"""torchvision's SSDLite320-MobileNetV3-Large from random weights: trains, detects, exports.

A program for the environment that run.py builds (torch, torchvision, litert-torch, ai-edge-quantizer); the project does
not import it. The recipe is torchvision's own (references/detection: SGD, momentum 0.9, weight decay 4e-5, cosine
learning rate over the epochs, linear warm-up in the first one, random crops by IoU and flips). Its learning rate of
0.15 is for 8 devices with 24 pictures each; here one process has 24, and an eighth of it.

Shape letters: N pictures of a batch, C classes without the background, A anchors of a cell, H, W a level's cells.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.image_list import ImageList
from torchvision.transforms import v2

INPUT_SIZE = 320
BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 24, 0.15 / 8, 0.9, 4e-5
WARM_UP_STEPS, WARM_UP_START = 1000, 1e-3
CALIBRATION_PICTURES = 32


class Pictures(Dataset):
    """Pictures uint8 [3, height, width] with boxes float32 [M, 4] x1, y1, x2, y2 and labels int64 [M], 1 to C."""

    def __init__(self, data: Path, split: str, *, boxes_only: bool = False) -> None:
        content = json.loads((data / f"{split}.json").read_text())
        self.folder, self.classes = data / split, len(content["categories"])
        self.boxes = {image["id"]: [] for image in content["images"]}
        self.labels = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            self.boxes[annotation["image_id"]].append([x, y, x + width, y + height])
            self.labels[annotation["image_id"]].append(annotation["category_id"] + 1)
        # As the recipe does in training: a picture without an object teaches nothing there.
        self.images = [image for image in content["images"] if self.boxes[image["id"]] or not boxes_only]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        image = self.images[index]
        pixels = tv_tensors.Image(decode_image(str(self.folder / image["file_name"]), ImageReadMode.RGB))
        boxes = torch.tensor(self.boxes[image["id"]], dtype=torch.float32).reshape(-1, 4)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=pixels.shape[-2:]),
            "labels": torch.tensor(self.labels[image["id"]], dtype=torch.int64),
        }
        return pixels, target


class Augmented(Dataset):
    """The same with torchvision's preset "ssdlite": pixels float32 0..1."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.transform = v2.Compose([
            v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), v2.SanitizeBoundingBoxes(),
            v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor(),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.transform(*self.pictures[index])


def build(classes: int) -> nn.Module:
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes + 1)


def train(data: Path, output: Path, epochs: int, seed: int) -> None:
    torch.manual_seed(seed)
    pictures = Pictures(data, "train", boxes_only=True)
    model = build(pictures.classes).train()
    # Batch normalization needs two pictures: a last batch of one is left out.
    loader = DataLoader(
        Augmented(pictures), min(BATCH, len(pictures)), shuffle=True, drop_last=len(pictures) % BATCH == 1,
        collate_fn=lambda items: tuple(zip(*items, strict=True)),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for epoch in range(epochs):
        warm_up = None
        if epoch == 0 and len(loader) > 1:
            steps = min(WARM_UP_STEPS, len(loader) - 1)
            warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, WARM_UP_START, total_iters=steps)
        total = 0.0
        for images, targets in loader:
            loss = sum(model(list(images), list(targets)).values())
            if not math.isfinite(loss.item()):
                sys.exit(f"the loss is {loss.item()} in epoch {epoch + 1}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            if warm_up is not None:
                warm_up.step()
        schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(loader):.4f}", flush=True)
    partial = output.with_name(output.name + ".partial")
    torch.save(model.state_dict(), partial)
    partial.replace(output)
    print("parameters", sum(parameter.numel() for parameter in model.parameters()))


def restored(weights: Path, classes: int) -> nn.Module:
    model = build(classes)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


class Levels(nn.Module):
    """What a .tflite has to compute: the classes' logits and the boxes' deltas of every level, before any is joined, so
    that int8 gives each its own scale. Input float32 [1, 3, 320, 320], normalized."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = list(self.backbone(images).values())
        classes = [m(x) for m, x in zip(self.head.classification_head.module_list, features, strict=True)]
        deltas = [m(x) for m, x in zip(self.head.regression_head.module_list, features, strict=True)]
        return (*classes, *deltas)  # [1, A (C + 1), H, W] each, then [1, 4 A, H, W]


def joined(levels: list[torch.Tensor], columns: int) -> torch.Tensor:
    """[1, A columns, H, W] of every level -> [1, anchors, columns], in the order of the anchors."""
    rows = []
    for level in levels:
        n, _, height, width = level.shape
        rows.append(level.view(n, -1, columns, height, width).permute(0, 3, 4, 1, 2).reshape(n, -1, columns))
    return torch.cat(rows, 1)


def detect(model_file: Path, weights: Path, data: Path, split: str, output: Path) -> None:
    """Writes [{"image_id", "category_id" from 0, "bbox" x, y, width, height in the picture's pixels, "score"}]."""
    pictures = Pictures(data, split)
    model = restored(weights, pictures.classes)
    run = Levels(model) if model_file == weights else litert(model_file)
    results = []
    with torch.inference_mode():
        for index, image in enumerate(pictures.images):
            pixels = pictures[index][0].as_subclass(torch.Tensor).float() / 255
            resized, _ = model.transform([pixels])  # float32 [1, 3, 320, 320], normalized
            outputs = run(resized.tensors)
            half = len(outputs) // 2
            head = {
                "cls_logits": joined(outputs[:half], pictures.classes + 1),
                "bbox_regression": joined(outputs[half:], 4),
            }
            anchors = model.anchor_generator(ImageList(resized.tensors, resized.image_sizes), outputs[:half])
            found = model.postprocess_detections(head, anchors, resized.image_sizes)
            found = model.transform.postprocess(found, resized.image_sizes, [tuple(pixels.shape[-2:])])[0]
            columns = (found[name].tolist() for name in ("boxes", "labels", "scores"))
            for (x1, y1, x2, y2), label, score in zip(*columns, strict=True):
                results.append({
                    "image_id": image["id"], "category_id": label - 1, "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                })  # fmt: skip
    output.write_text(json.dumps(results))


def litert(path: Path):
    """A .tflite of `Levels` as a function like it; its outputs come in the order of their names."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    runner = interpreter.get_signature_runner()
    names = sorted(runner.get_output_details(), key=lambda name: int(name.rpartition("_")[2]))

    def run(images: torch.Tensor) -> list[torch.Tensor]:
        outputs = runner(args_0=images.numpy())
        return [torch.from_numpy(outputs[name].copy()) for name in names]

    return run


def export(weights: Path, data: Path, float_file: Path, int8_file: Path) -> None:
    """Writes both; int8 is calibrated on training pictures, its inputs and outputs stay float32."""
    import litert_torch

    pictures = Pictures(data, "train")
    model = restored(weights, pictures.classes)
    example = (torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE),)
    litert_torch.convert(Levels(model).eval(), example).export(str(float_file))
    step = max(1, len(pictures) // CALIBRATION_PICTURES)
    samples = []
    for index in range(0, len(pictures), step):
        resized, _ = model.transform([pictures[index][0].as_subclass(torch.Tensor).float() / 255])
        samples.append({"args_0": resized.tensors.numpy()})
    quantize(float_file, samples[:CALIBRATION_PICTURES], int8_file)


def quantize(float_file: Path, samples: list[dict[str, np.ndarray]], int8_file: Path) -> None:
    """Writes the file in int8, calibrated on `samples`, an input by its name each; inputs and outputs stay float32."""
    from ai_edge_quantizer import qtyping, quantizer, recipe

    converter = quantizer.Quantizer(str(float_file))
    converter.load_quantization_recipe(recipe.static_wi8_ai8())
    for operation in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        converter.update_quantization_recipe(
            regex=".*", operation_name=operation, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE
        )
    ranges = converter.calibrate({"serving_default": samples})
    converter.quantize(calibration_result=ranges).export_model(str(int8_file), overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, paths in (("train", ("output",)), ("detect", ("model", "weights", "output")),
                        ("export", ("weights", "float_file", "int8_file"))):  # fmt: skip
        command = commands.add_parser(name)
        for path in ("data", *paths):
            command.add_argument(path, type=Path)
        if name == "train":
            command.add_argument("--epochs", type=int, required=True)
            command.add_argument("--seed", type=int, required=True)
        if name == "detect":
            command.add_argument("--split", required=True)
    args = parser.parse_args()
    if args.command == "train":
        train(args.data, args.output, args.epochs, args.seed)
    elif args.command == "detect":
        detect(args.model, args.weights, args.data, args.split, args.output)
    else:
        export(args.weights, args.data, args.float_file, args.int8_file)


if __name__ == "__main__":
    main()
