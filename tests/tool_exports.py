"""Small data sets laid out as labelling tools export them, all of the same scenes.

Each function of EXPORTS writes one into an empty folder. The file names, the folders and the odd values are those of
the tools; nothing else of their files is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

CLASSES = ("cat", "dog")
WIDTH, HEIGHT = 40, 30
#: Images of each split, by their stems.
SPLITS = {
    "train": ("red 1", "red2", "red3", "red4", "red5"),
    "val": ("green1", "green2"),
    "test": ("blue1",),
}
EVERYTHING = tuple(stem for stems in SPLITS.values() for stem in stems)


class Scene(NamedTuple):
    """One object a picture. box: continuous corners in whole pixels."""

    class_index: int
    box: tuple[int, int, int, int]


SCENES = {stem: Scene(n % 2, (4 + n, 5, 14 + n, 17 + n)) for n, stem in enumerate(EVERYTHING)}


class Export(NamedTuple):
    """write: into a folder. splits: what is found there; None: it has no splits and is divided."""

    write: Callable[[Path], None]
    splits: tuple[str, ...] | None


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (len(path.stem) * 9, 90, 50)).save(path, "JPEG")


def pictures(folder: Path, stems: Sequence[str], name: Callable[[str], str] = "{}.jpg".format) -> None:
    for stem in stems:
        picture(folder / name(stem))


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


# --- COCO's format ---


def coco(
    path: Path, stems: Sequence[str], name: Callable[[str], str] = "{}.jpg".format, root: str | None = None
) -> None:
    """A json; name: file_name of a stem; root: Roboflow's category above all others."""
    first = 0 if root is None else 1
    categories: list[dict[str, Any]] = [] if root is None else [{"id": 0, "name": root, "supercategory": "none"}]
    categories += [{"id": first + c, "name": n, "supercategory": root or ""} for c, n in enumerate(CLASSES)]
    annotations = []
    for image_id, stem in enumerate(stems):
        x1, y1, x2, y2 = SCENES[stem].box
        annotations.append({
            "id": image_id, "image_id": image_id, "category_id": first + SCENES[stem].class_index, "iscrowd": 0,
            "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "segmentation": [],
        })  # fmt: skip
    images = [{"id": i, "file_name": name(stem), "width": WIDTH, "height": HEIGHT} for i, stem in enumerate(stems)]
    text(path, json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def tinydet(root: Path) -> None:
    for split in ("train", "val"):
        coco(root / split / "instances.json", SPLITS[split])
        pictures(root / split / "images", SPLITS[split])


def coco_2017(root: Path) -> None:
    for split in ("train", "val"):
        coco(root / "annotations" / f"instances_{split}2017.json", SPLITS[split])
        pictures(root / f"{split}2017", SPLITS[split])


def coco_one_folder(root: Path) -> None:
    for split in ("train", "val"):
        coco(root / "annotations" / f"instances_{split}.json", SPLITS[split])
        pictures(root / "images", SPLITS[split])


def roboflow_coco(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        coco(root / folder / "_annotations.coco.json", SPLITS[split], root="objects")
        pictures(root / folder, SPLITS[split])
    text(root / "README.dataset.txt", "of Roboflow")


def roboflow_coco_without_splits(root: Path) -> None:
    coco(root / "_annotations.coco.json", EVERYTHING, root="cat")  # the root may be named as a class is
    pictures(root, EVERYTHING)


def cvat_coco(root: Path) -> None:
    coco(root / "annotations" / "instances_default.json", EVERYTHING)
    pictures(root / "images" / "default", EVERYTHING)


def cvat_coco_flat(root: Path) -> None:
    coco(root / "annotations" / "instances_default.json", EVERYTHING)
    pictures(root / "images", EVERYTHING)


def cvat_coco_project(root: Path) -> None:
    for split, subset in (("train", "Train"), ("val", "Validation")):
        coco(root / "annotations" / f"instances_{subset}.json", SPLITS[split])
        pictures(root / "images" / subset, SPLITS[split])


def coco_in_labels(root: Path) -> None:
    for split in ("train", "val"):
        coco(root / "labels" / f"{split}.json", SPLITS[split])
        pictures(root / "images" / split, SPLITS[split])


def uploaded(stem: str) -> str:
    """Label Studio's name of an uploaded file."""
    return f"{EVERYTHING.index(stem):08x}-{stem.replace(' ', '_')}.jpg"


def label_studio_coco(root: Path) -> None:
    coco(root / "result.json", EVERYTHING, lambda stem: f"images/{uploaded(stem)}")
    pictures(root / "images", EVERYTHING, uploaded)


def label_studio_coco_of_windows(root: Path) -> None:
    coco(root / "result.json", EVERYTHING, lambda stem: f"images\\1/{uploaded(stem)}")
    pictures(root / "images", EVERYTHING, uploaded)


def label_studio_coco_of_local_files(root: Path) -> None:
    def name(stem: str) -> str:
        return f"../../label-studio/data/local-files/?d=my%20set/{stem.replace(' ', '%20')}.jpg"

    coco(root / "result.json", EVERYTHING, name)
    pictures(root / "images", EVERYTHING)


def label_studio_coco_without_pictures(root: Path) -> None:
    """The pictures are those that were uploaded, put there by hand, without the prefix."""
    coco(root / "result.json", EVERYTHING, lambda stem: f"images/{uploaded(stem)}")
    pictures(root / "images", EVERYTHING)


def fiftyone_coco(root: Path) -> None:
    coco(root / "labels.json", EVERYTHING)
    pictures(root / "data", EVERYTHING)


def fiftyone_coco_with_splits(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "validation")):
        coco(root / folder / "labels.json", SPLITS[split])
        pictures(root / folder / "data", SPLITS[split])


# --- YOLO ---


def yolo(path: Path, stem: str) -> None:
    class_index, (x1, y1, x2, y2) = SCENES[stem]
    row = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    text(path, f"{class_index} {' '.join(f'{value:.8f}' for value in row)}\n")


def yolo_pairs(images: Path, labels: Path, stems: Sequence[str], name: Callable[[str], str] = "{}.jpg".format) -> None:
    pictures(images, stems, name)
    for stem in stems:
        yolo((labels / name(stem)).with_suffix(".txt"), stem)


def names_file(path: Path) -> None:
    text(path, "".join(f"{name}\n" for name in CLASSES))


def settings(file: Path, **values: object) -> None:
    text(file, yaml.safe_dump(values, sort_keys=False))


def roboflow_yolo(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        yolo_pairs(root / folder / "images", root / folder / "labels", SPLITS[split])
    settings(
        root / "data.yaml", train="../train/images", val="../valid/images", test="../test/images", nc=2,
        names=list(CLASSES), roboflow={"workspace": "w"},
    )  # fmt: skip


def roboflow_darknet(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        yolo_pairs(root / folder, root / folder, SPLITS[split])
        names_file(root / folder / "_darknet.labels")


def ultralytics(root: Path) -> None:
    for split in ("train", "val"):
        yolo_pairs(root / "images" / split, root / "labels" / split, SPLITS[split])
    settings(
        root / "data.yaml", path="../datasets/set", train="images/train", val="images/val", test=None,
        names=dict(enumerate(CLASSES)),
    )  # fmt: skip


def cvat_ultralytics(root: Path) -> None:
    yolo_pairs(root / "images" / "train", root / "labels" / "train", EVERYTHING)
    text(root / "train.txt", "".join(f"data/images/train/{stem}.jpg\n" for stem in EVERYTHING))
    settings(root / "data.yaml", path=".", train="train.txt", names=dict(enumerate(CLASSES)))


def cvat_yolo(root: Path) -> None:
    yolo_pairs(root / "obj_train_data", root / "obj_train_data", EVERYTHING)
    names_file(root / "obj.names")
    text(root / "train.txt", "".join(f"data/obj_train_data/{stem}.jpg\n" for stem in EVERYTHING))
    text(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")


def label_studio_yolo(root: Path) -> None:
    yolo_pairs(root / "images", root / "labels", EVERYTHING, uploaded)
    names_file(root / "classes.txt")
    text(root / "notes.json", json.dumps({"categories": [{"id": c, "name": n} for c, n in enumerate(CLASSES)]}))


def labelimg_yolo(root: Path) -> None:
    yolo_pairs(root, root, EVERYTHING)
    names_file(root / "classes.txt")


def labelimg_yolo_in_folders(root: Path) -> None:
    half = len(EVERYTHING) // 2
    for folder, stems in ((root / "yard", EVERYTHING[:half]), (root / "street" / "monday", EVERYTHING[half:])):
        yolo_pairs(folder, folder, stems)
        names_file(folder / "classes.txt")


def labelimg_yolo_with_splits(root: Path) -> None:
    for split in ("train", "test"):
        yolo_pairs(root / "images" / split, root / "images" / split, SPLITS[split])
    names_file(root / "classes.txt")


def darknet_lists(root: Path) -> None:
    yolo_pairs(root / "images", root / "labels", EVERYTHING)
    names_file(root / "classes.txt")
    for split, stems in SPLITS.items():
        text(root / f"{split}.txt", "".join(f"data/images/{stem}.jpg\n" for stem in stems))


def fiftyone_yolo(root: Path) -> None:
    for split in ("train", "val"):
        yolo_pairs(root / "images" / split, root / "labels" / split, SPLITS[split])
    settings(
        root / "dataset.yaml", path=".", train="./images/train/", val="./images/val/", names=dict(enumerate(CLASSES))
    )


# --- Pascal VOC ---


def voc(path: Path, stem: str, difficult: str = "0", first_pixel: int = 1) -> None:
    class_index, (x1, y1, x2, y2) = SCENES[stem]
    corners = {"xmin": x1 + first_pixel, "ymin": y1 + first_pixel, "xmax": x2, "ymax": y2}
    box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
    text(
        path,
        f"<annotation><folder>x</folder><filename>{stem}.jpg</filename><path>C:\\x\\{stem}.jpg</path>"
        f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size><segmented>0</segmented>"
        f"<object><name>{CLASSES[class_index]}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{difficult}</difficult><bndbox>{box}</bndbox></object></annotation>",
    )


def voc_pairs(images: Path, annotations: Path, stems: Sequence[str], difficult: str = "0") -> None:
    pictures(images, stems)
    for stem in stems:
        voc(annotations / f"{stem}.xml", stem, difficult)


def pascal_voc(root: Path) -> None:
    for split in ("train", "val"):
        voc_pairs(root / "JPEGImages", root / "Annotations", SPLITS[split])
        text(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in SPLITS[split]))


def pascal_voc_without_lists(root: Path) -> None:
    voc_pairs(root / "JPEGImages", root / "Annotations", EVERYTHING)


def pascal_voc_with_splits(root: Path) -> None:
    for split in ("train", "val"):
        voc_pairs(root / "images" / split, root / "annotations" / split, SPLITS[split])


def pascal_voc_annots(root: Path) -> None:
    voc_pairs(root / "images", root / "annots", EVERYTHING)


def pascal_voc_xmls(root: Path) -> None:
    voc_pairs(root / "images", root / "annotations" / "xmls", EVERYTHING)


def cvat_voc(root: Path) -> None:
    voc_pairs(root / "JPEGImages", root / "Annotations", EVERYTHING, "0.0")
    text(root / "ImageSets" / "Main" / "default.txt", "".join(f"{stem}\n" for stem in EVERYTHING))
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\n")


def roboflow_voc(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        voc_pairs(root / folder, root / folder, SPLITS[split])


def labelimg_voc(root: Path) -> None:
    voc_pairs(root, root, EVERYTHING, "Unspecified")


def labelimg_voc_in_folders(root: Path) -> None:
    half = len(EVERYTHING) // 2
    for folder, stems in ((root / "yard", EVERYTHING[:half]), (root / "street" / "monday", EVERYTHING[half:])):
        voc_pairs(folder, folder, stems, "Unspecified")


def labelimg_voc_with_splits(root: Path) -> None:
    for split in ("train", "test"):
        voc_pairs(root / "images" / split, root / "images" / split, SPLITS[split], "Unspecified")


def fiftyone_voc(root: Path) -> None:
    voc_pairs(root / "data", root / "labels", EVERYTHING)


TRAIN_VAL, WITH_TEST = ("train", "val"), ("train", "val", "test")

#: As docs/data.md names them.
EXPORTS: Mapping[str, Export] = {
    "TinyDet": Export(tinydet, TRAIN_VAL),
    "COCO": Export(coco_2017, TRAIN_VAL),
    "COCO, images in one folder": Export(coco_one_folder, TRAIN_VAL),
    "COCO, jsons in labels": Export(coco_in_labels, TRAIN_VAL),
    "Roboflow, COCO": Export(roboflow_coco, WITH_TEST),
    "Roboflow, COCO without splits": Export(roboflow_coco_without_splits, None),
    "CVAT, COCO": Export(cvat_coco, None),
    "CVAT, COCO, flat": Export(cvat_coco_flat, None),
    "CVAT, COCO of a project": Export(cvat_coco_project, TRAIN_VAL),
    "Label Studio, COCO": Export(label_studio_coco, None),
    "Label Studio, COCO, Windows": Export(label_studio_coco_of_windows, None),
    "Label Studio, COCO, local files": Export(label_studio_coco_of_local_files, None),
    "Label Studio, COCO, own pictures": Export(label_studio_coco_without_pictures, None),
    "FiftyOne, COCO": Export(fiftyone_coco, None),
    "FiftyOne, COCO with splits": Export(fiftyone_coco_with_splits, TRAIN_VAL),
    "Roboflow, YOLO": Export(roboflow_yolo, WITH_TEST),
    "Roboflow, Darknet": Export(roboflow_darknet, TRAIN_VAL),
    "Ultralytics": Export(ultralytics, TRAIN_VAL),
    "CVAT, Ultralytics": Export(cvat_ultralytics, None),
    "CVAT, YOLO": Export(cvat_yolo, None),
    "Label Studio, YOLO": Export(label_studio_yolo, None),
    "labelImg, YOLO": Export(labelimg_yolo, None),
    "labelImg, YOLO, folders": Export(labelimg_yolo_in_folders, None),
    "labelImg, YOLO with splits": Export(labelimg_yolo_with_splits, ("train", "test")),
    "Darknet's lists": Export(darknet_lists, WITH_TEST),
    "FiftyOne, YOLO": Export(fiftyone_yolo, TRAIN_VAL),
    "Pascal VOC": Export(pascal_voc, TRAIN_VAL),
    "Pascal VOC without lists": Export(pascal_voc_without_lists, None),
    "Pascal VOC with splits": Export(pascal_voc_with_splits, TRAIN_VAL),
    "Pascal VOC, annots": Export(pascal_voc_annots, None),
    "Pascal VOC, xmls": Export(pascal_voc_xmls, None),
    "CVAT, VOC": Export(cvat_voc, None),
    "Roboflow, VOC": Export(roboflow_voc, WITH_TEST),
    "labelImg, VOC": Export(labelimg_voc, None),
    "labelImg, VOC, folders": Export(labelimg_voc_in_folders, None),
    "labelImg, VOC with splits": Export(labelimg_voc_with_splits, ("train", "test")),
    "FiftyOne, VOC": Export(fiftyone_voc, None),
}
