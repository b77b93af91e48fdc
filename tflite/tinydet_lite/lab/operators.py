"""Where a .tflite's time goes: each operator's, inside the delegate too, and sums by kind and by part of the network.

Shape letters: H, W height and width of an input picture, X operators of XNNPACK in a partition, T those of the file.

LiteRT's profiler tells the place of an operator in the file for its own kernels alone. XNNPACK's operators carry kinds
and no names; they come in the file's order, though some are merged, split or added. So the two lists of a partition are
aligned by kind, and an operator that has no counterpart is booked where the next one that has is.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..files import PathLike
from ..guard.flatbuffer import read_flatbuffer
from ..guard.trial import try_model
from ..preprocess import ImageSource, as_rgb_array
from .inspection import InputTensor, Inspection, Node, inspect_model
from .litert_profiler import Event, Run, litert_version, profile_runs
from .synthetic import synthetic_image

#: Name scopes that scripts/export.py gives the parts of a detector, in the order of the data; "image", the
#: normalization, is not among them.
PARTS = ("trunk", "table", "proposals", "roi", "head", "final")
#: Where a tensor's name has no scope.
NO_SCOPE = "(no scope)"

_AGAIN = re.compile(r"_\d+$")

# XNNPACK's kinds of operators -> what they are in the file, where that is not the same name in capitals.
_COUNTERPARTS = {
    "ArgMax Pooling": ("ARG_MAX",),
    "Average Pooling": ("AVERAGE_POOL_2D",),
    "Batch Matrix Multiply": ("BATCH_MATMUL", "FULLY_CONNECTED"),
    "Clamp": ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "MINIMUM", "MAXIMUM"),
    "Constant Pad": ("PAD", "PADV2"),
    "Convert": ("QUANTIZE", "DEQUANTIZE", "CAST"),
    "Convolution": ("CONV_2D", "DEPTHWISE_CONV_2D"),
    "Copy": ("CONCATENATION", "RESHAPE", "EXPAND_DIMS", "SQUEEZE", "SPLIT", "PACK"),
    "Deconvolution": ("TRANSPOSE_CONV",),
    "Divide": ("DIV",),
    "Fully Connected": ("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL"),
    "HardSwish": ("HARD_SWISH",),
    "Logarithm": ("LOG",),
    "Max Pooling": ("MAX_POOL_2D",),
    "Maximum": ("MAXIMUM", "RELU"),
    "Minimum": ("MINIMUM", "RELU6"),
    "Multiply": ("MUL",),
    "Negate": ("NEG",),
    "Reciprocal Square Root": ("RSQRT",),
    "Sigmoid": ("LOGISTIC",),
    "Slice": ("STRIDED_SLICE", "SLICE", "SPLIT"),
    "Square Root": ("SQRT",),
    "Static Reshape": ("RESHAPE", "EXPAND_DIMS", "SQUEEZE"),
    "Subtract": ("SUB",),
}
# A convolution matched wrongly costs most, a reshape nothing.
_WEIGHTS = {"CONV_2D": 8, "DEPTHWISE_CONV_2D": 8, "FULLY_CONNECTED": 8, "BATCH_MATMUL": 8, "TRANSPOSE_CONV": 8,
            "RESHAPE": 1, "EXPAND_DIMS": 1, "SQUEEZE": 1}  # fmt: skip
_OTHER_WEIGHT = 2


@dataclass(frozen=True)
class OperatorTime:
    """One operator, as the runtime ran it.

    Attributes:
        name: the runtime's name for it; XNNPACK's tells the kernel ("Fully Connected (NC, F32) GEMM").
        partition: which partition it is in, counted in the order they run; None on the runtime's own kernels.
        operator: what it is in the file ("CONV_2D"); "" for what XNNPACK added.
        tensor: the tensor it writes in the file; "" as before.
        scope: the whole name scope that it belongs to ("trunk/block3"), or NO_SCOPE.
        macs: its multiply-accumulates; 0 where it multiplies no matrix.
        milliseconds: the median over the runs. The profiler counts whole microseconds.
    """

    name: str
    partition: int | None
    operator: str
    tensor: str
    scope: str
    macs: int
    milliseconds: float


@dataclass(frozen=True)
class Group:
    """Operators of one kind or one part: how many, their time, its share of all operators' (0..1), their MACs."""

    name: str
    count: int
    milliseconds: float
    share: float
    macs: int


@dataclass(frozen=True)
class Profile:
    """What `profile` found.

    Attributes:
        file: the model's path as given.
        runtime: "ai_edge_litert" and its version.
        threads, runs: as given.
        invoke_ms: the median time of a whole run under the profiler.
        operators: in the order they ran.
        delegation: `Inspection.lines()`.
        matched_partitions: whether the profiler's partitions are those that the inspection tells; if not, XNNPACK's
            operators have no names and no scopes.
    """

    file: str
    runtime: str
    threads: int
    runs: int
    invoke_ms: float
    operators: tuple[OperatorTime, ...]
    delegation: tuple[str, ...]
    matched_partitions: bool

    @property
    def operators_ms(self) -> float:
        """The sum of the operators' medians."""
        return sum(operator.milliseconds for operator in self.operators)

    def by_kind(self) -> list[Group]:
        """Sums by the runtime's name of the operator, the most time first."""
        return self._grouped([operator.name for operator in self.operators])

    def by_scope(self, depth: int = 1) -> list[Group]:
        """Sums by the first `depth` parts of the name scope, the most time first."""
        return self._grouped(["/".join(operator.scope.split("/")[:depth]) for operator in self.operators])

    def parts(self) -> dict[str, float] | None:
        """The share, 0..1, of each of PARTS; None for a model that was not exported with these scopes."""
        shares = {group.name: group.share for group in self.by_scope()}
        return {part: shares.get(part, 0.0) for part in PARTS} if set(PARTS) & set(shares) else None

    def _grouped(self, keys: Sequence[str]) -> list[Group]:
        members: dict[str, list[OperatorTime]] = {}
        for key, operator in zip(keys, self.operators):
            members.setdefault(key, []).append(operator)
        total = self.operators_ms or 1.0  # all of them under a microsecond
        groups = []
        for key, operators in members.items():
            milliseconds = sum(operator.milliseconds for operator in operators)
            macs = sum(operator.macs for operator in operators)
            groups.append(Group(key, len(operators), milliseconds, milliseconds / total, macs))
        return sorted(groups, key=lambda group: -group.milliseconds)


def profile(
    path: PathLike, image: ImageSource | None = None, runs: int = 20, warmup: int = 3, num_threads: int = 1
) -> Profile:
    """Time each operator of a .tflite, TinyDet's or another's, with LiteRT's profiler.

    Args:
        path: the .tflite.
        image: what to run it on; None for `synthetic_image()`. Input tensors [1, H, W, 3] get it stretched to their
            size, as it is (uint8), shifted (int8) or as float32 from -1 to 1; other inputs get zeros.
        runs: how many are recorded; an operator's time is their median.
        warmup: runs before them.
        num_threads: for XNNPACK.

    Raises:
        UserError: the file or the image cannot be used, an input has no fixed size, or ai_edge_litert or its
            profiler is not there.
    """
    pixels = synthetic_image() if image is None else as_rgb_array(image)
    try_model(path)
    model = read_flatbuffer(path)
    inspection = inspect_model(model)
    inputs = {tensor.name: input_value(tensor, pixels) for tensor in inspection.inputs}
    recorded = profile_runs(model, inputs, runs, warmup, num_threads)
    operators, matched = name_operators(recorded, inspection)
    return Profile(
        file=str(path),
        runtime=f"ai_edge_litert {litert_version()}",
        threads=num_threads,
        runs=runs,
        invoke_ms=statistics.median(run.microseconds for run in recorded) / 1e3,
        operators=operators,
        delegation=tuple(inspection.lines()),
        matched_partitions=matched,
    )


def input_value(tensor: InputTensor, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """What an input tensor is fed: the picture where one fits, else zeros.

    Args:
        tensor: of any shape and dtype.
        pixels: uint8 [any, any, 3].

    Raises:
        UserError: the tensor has no fixed shape.
    """
    if any(side < 1 for side in tensor.shape):
        raise UserError(
            f"input {tensor.name!r} has the shape {list(tensor.shape)}, which is not fixed; export it with a fixed one"
        )
    dtype = np.dtype(tensor.dtype)
    if len(tensor.shape) != 4 or tensor.shape[0] != 1 or tensor.shape[3] != 3 or dtype.kind not in "iuf":
        return np.zeros(tensor.shape, dtype)
    size = (tensor.shape[2], tensor.shape[1])
    picture = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))[np.newaxis]  # [1, H, W, 3]
    if dtype.kind == "f":
        return (picture.astype(np.float32) / 127.5 - 1.0).astype(dtype)
    return picture.astype(dtype) if dtype != np.int8 else (picture.astype(np.int16) - 128).astype(np.int8)


def name_operators(recorded: Sequence[Run], inspection: Inspection) -> tuple[tuple[OperatorTime, ...], bool]:
    """Find the file's operator, and so the scope, of each operator that ran.

    Args:
        recorded: at least one run, all of the same operators.
        inspection: of the same model by the same runtime.

    Returns:
        (the operators, whether the runs' partitions are the inspection's)
    """
    events = recorded[0].events
    medians = [
        statistics.median(run.events[place].microseconds for run in recorded) / 1e3 for place in range(len(events))
    ]
    nodes = {node.index: node for node in inspection.nodes}
    partitions = inspection.partitions or ()
    inside = sorted({event.partition for event in events if event.partition is not None})
    matched = len(inside) == len(partitions)
    found: list[Node | None] = [None if event.node is None else nodes.get(event.node) for event in events]
    scopes = [NO_SCOPE if node is None else scope_of(node.tensor) for node in found]
    if matched:
        for partition, members in zip(inside, partitions):
            places = [place for place, event in enumerate(events) if event.partition == partition]
            targets = [nodes[member] for member in members]
            pairs = align([events[place] for place in places], targets)
            scope = scope_of(targets[-1].tensor) if targets else NO_SCOPE
            for place, target in reversed(list(zip(places, pairs))):
                if target is not None:
                    found[place] = target
                    scope = scope_of(target.tensor)
                scopes[place] = scope
    operators = tuple(
        OperatorTime(
            name=event.name,
            partition=event.partition,
            operator="" if node is None else node.operator,
            tensor="" if node is None else node.tensor,
            scope=scope,
            macs=0 if node is None else node.macs,
            milliseconds=milliseconds,
        )
        for event, node, scope, milliseconds in zip(events, found, scopes, medians)
    )
    return operators, matched


def scope_of(tensor: str) -> str:
    """The name scope of a tensor: "trunk/block3" of "trunk/block3/relu;trunk/block3/conv1".

    The converter joins the names of what it fused by ";"; the first that lies in one of PARTS counts, or else the
    first. The last word of a name is the operator's, not a scope.
    """
    names = [name for name in tensor.split(";") if "/" in name]
    scopes = [name.rpartition("/")[0].split("/") for name in names]
    # A scope that TensorFlow entered again is "head_1".
    ours = [[_AGAIN.sub("", scope[0]), *scope[1:]] for scope in scopes if _AGAIN.sub("", scope[0]) in PARTS]
    for scope in ours or scopes:
        return "/".join(scope)
    return NO_SCOPE


def align(events: Sequence[Event], nodes: Sequence[Node]) -> list[Node | None]:
    """The file's operator of each of a partition's X operators.

    The longest common subsequence of the two lists, weighted by how much a wrong match would matter.

    Args:
        events: X, in the order they ran.
        nodes: T, in the file's order.

    Returns:
        X nodes; None for an operator that has no counterpart.
    """
    allowed = [_counterparts(event.name) for event in events]
    best = np.zeros((len(events) + 1, len(nodes) + 1), np.int64)
    gains = [
        [_WEIGHTS.get(node.operator, _OTHER_WEIGHT) if node.operator in kinds else 0 for node in nodes]
        for kinds in allowed
    ]  # [X, T]; 0 is no match
    for row in range(len(events) - 1, -1, -1):
        for column in range(len(nodes) - 1, -1, -1):
            gain = gains[row][column]
            taken = best[row + 1, column + 1] + gain if gain else 0
            best[row, column] = max(taken, best[row + 1, column], best[row, column + 1])
    found: list[Node | None] = [None] * len(events)
    row = column = 0
    while row < len(events) and column < len(nodes):
        gain = gains[row][column]
        if gain and best[row, column] == best[row + 1, column + 1] + gain:
            found[row] = nodes[column]
            row, column = row + 1, column + 1
        elif best[row, column] == best[row + 1, column]:
            row += 1
        else:
            column += 1
    return found


def _counterparts(name: str) -> tuple[str, ...]:
    """What an operator of XNNPACK may be in the file: "Depth To Space (NHWC, X32)" is a DEPTH_TO_SPACE."""
    kind = name.partition(" (")[0]
    return _COUNTERPARTS.get(kind, (kind.upper().replace(" ", "_"),))
