"""What is traced for the edge: the detector, batch 1, static shapes, uint8 in, normalization inside; a class a form.

Every tensor lies in one of the scopes of `tinydet_tf.export.scopes`.
"""

from __future__ import annotations

import tensorflow as tf

from tinydet_lite.detector import INPUT
from tinydet_lite.errors import UserError
from tinydet_lite.forms import BOXES, CATEGORY, CLASS_PROBS, COUNT, LOCATION, SCORE
from tinydet_tf.export.rewrites.detector import rewritten
from tinydet_tf.export.rewrites.positions import FloatPositions, Positions, WholePositions
from tinydet_tf.export.schemes import Arithmetic
from tinydet_tf.export.scopes import FINAL, scope
from tinydet_tf.export.suppression import soft_nms
from tinydet_tf.model.detector import TinyDet


class HostGraph(tf.Module):
    """The form whose soft-NMS runs on the host: image -> 200 boxes and their class probabilities.

    Signature `serving_default`: image uint8 [1, S, S, 3] RGB -> boxes float32 [1, P, 4] inclusive input pixels,
    class_probs float32 [1, P, C+1], index 0 the background.

    Args:
      detector: the trained model.
      arithmetic: whose fast forms (`tinydet_tf.export.rewrites`) it is traced in.
    """

    def __init__(self, detector: TinyDet, *, arithmetic: Arithmetic = "float32") -> None:
        super().__init__(name="tinydet")
        self.input_size = size = detector.config.input_size
        self.positions: Positions = (WholePositions if arithmetic == "float16" else FloatPositions)(size)

        # Nothing of the detector is tracked: its weights are constants of the graph (rewrites/trained.py), and with its
        # variables in the SavedModel too, conversion takes twice as long and gives the same bytes.
        def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = rewritten(detector, image, integer=arithmetic == "integer", positions=self.positions)
            return self.outputs(outputs["boxes"], outputs["class_probs"])

        spec = tf.TensorSpec([1, size, size, 3], tf.uint8, name=INPUT)
        self.serve = tf.function(serve, input_signature=[spec], autograph=False)

    def outputs(self, boxes: tf.Tensor, class_probs: tf.Tensor) -> dict[str, tf.Tensor]:
        """The signature's outputs of what the detector gives: boxes [P, 4], class_probs [P, C+1]."""
        with scope(FINAL):
            return {BOXES: self.positions.shares(boxes)[None], CLASS_PROBS: class_probs[None]}


class TasksGraph(HostGraph):
    """The form that MediaPipe Tasks and Android's Task Library read: image -> N = 100 detections, soft-NMS inside.

    Signature `serving_default`: image as `HostGraph` -> location float32 [1, N, 4] ymin, xmin, ymax, xmax as shares
    of the image in [0, 1]; category float32 [1, N] from 0; score float32 [1, N], descending; count float32 [1]. Rows
    from `count` on are zeros.

    Args:
      detector, arithmetic: as `HostGraph`.
      picture_size: (W, H) of the pictures for which boxes are exact; None: the input's own size. Inclusive boxes end
        one pixel of the picture after their last coordinate, and nothing tells the graph how large that is.
    """

    def __init__(
        self,
        detector: TinyDet,
        *,
        arithmetic: Arithmetic = "float32",
        picture_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(detector, arithmetic=arithmetic)
        width, height = picture_size or (self.input_size, self.input_size)
        self.pixel = (self.input_size / width, self.input_size / height)

    def outputs(self, boxes: tf.Tensor, class_probs: tf.Tensor) -> dict[str, tf.Tensor]:
        size = self.input_size
        with scope(FINAL):
            found = soft_nms(boxes, class_probs, image_size=size, positions=self.positions, pixel=self.pixel)
            location = self.positions.shares(tf.gather(found.boxes, [1, 0, 3, 2], axis=1), size)
            return {
                LOCATION: location[None],
                CATEGORY: found.class_ids[None],
                SCORE: found.scores[None],
                COUNT: found.count,
            }


#: Of each --postprocess what is traced.
GRAPHS: dict[str, type[HostGraph]] = {"host": HostGraph, "tasks": TasksGraph}


def build_graph(
    detector: TinyDet,
    postprocess: str = "host",
    *,
    arithmetic: Arithmetic = "float32",
    picture_size: tuple[int, int] | None = None,
) -> HostGraph:
    """The graph of a form, a key of `GRAPHS`.

    Args:
      arithmetic: see `HostGraph`.
      picture_size: see `TasksGraph`; the host knows the picture's size itself.

    Raises:
      UserError: no such form, or a picture size that is none or has no use.
    """
    if postprocess not in GRAPHS:
        raise UserError(f"--postprocess {postprocess} does not exist; use {' or '.join(GRAPHS)}")
    if picture_size is None:
        return GRAPHS[postprocess](detector, arithmetic=arithmetic)
    if postprocess != "tasks":
        raise UserError("--picture-size is for --postprocess tasks: the host sees how large the picture is")
    if min(picture_size) < 1:
        raise UserError(f"--picture-size {picture_size[0]}x{picture_size[1]} came; give at least 1x1")
    return TasksGraph(detector, arithmetic=arithmetic, picture_size=picture_size)
