"""Every design choice of tables 4-7 trains a step and converts, as its own config says it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tinydet_tf.analysis.paper import ABLATIONS, Ablation
from tinydet_tf.config import load_config
from tinydet_tf.data.coco import load_coco, locate_split
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.data.pipeline import build_pipeline
from tinydet_tf.export.convert import to_flatbuffer
from tinydet_tf.export.graph import HostGraph
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.run.schedule import WarmupCosine
from tinydet_tf.training.run.train import make_optimizer
from tinydet_tf.training.step.trainer import Trainer

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "ablations"
#: Several configs are TinyDet-M under another name.
DISTINCT = [pytest.param(row, id=row.name) for row in {row.model: row for row in ABLATIONS}.values()]
#: A fifth of the side: five levels still, at a fraction of the time.
SMALL = [
    "model.input_size=64", "train.batch_size=2", "train.nms_pre=100", "train.proposals=50", "train.rcnn_samples=16",
    "train.weight_decay=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), num_train=2, num_val=1)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", DISTINCT)
def test_trains_a_step_and_converts(ablation: Ablation, folder: Path) -> None:
    config = load_config(CONFIGS / f"{ablation.name}.yaml", assignments=SMALL)
    detector = TinyDet(config.model, 10)
    before = [v.numpy() for v in detector.trainable_variables]
    trainer = Trainer(detector, config.train)
    trainer.compile(optimizer=make_optimizer(config.train, WarmupCosine(1e-3, 1e-5, 10, 0, 1.0)), run_eagerly=False)
    data = load_coco(*locate_split(folder, "train"))
    batches = build_pipeline(data, input_size=64, batch_size=2, training=True)
    history = trainer.fit(batches, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"][0])
    # Every layer is part of the loss: one that is built but not used would stay as it was.
    variables = zip(detector.trainable_variables, before, strict=True)
    still = {v.name.split("_")[0] for v, old in variables if np.array_equal(v.numpy(), old)}
    assert still <= {"fpn2", "fpn3", "fpn4"}  # whose anchors are too large for so small an image

    interpreter = tf.lite.Interpreter(model_content=to_flatbuffer(HostGraph(detector)))
    interpreter.allocate_tensors()
    image = next(iter(batches))["images"][:1]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tf.cast(image, tf.uint8).numpy())
    interpreter.invoke()
    outputs = {d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}
    assert sorted(o.shape[-1] for o in outputs.values()) == [4, 11]
    assert all(np.isfinite(o).all() for o in outputs.values())
