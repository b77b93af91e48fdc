"""What a runtime makes of a .tflite: its operators, which of them XNNPACK takes over, and in how many pieces.

Shape letters: none; an operator's tensors have any shape.

XNNPACK, TFLite's fast CPU library, takes over ("delegates") what it can. Every stretch of delegated operators is a
partition; each one costs a hand-over, and what is between them runs on the runtime's own kernels, which for int8 are
slow references in part.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..errors import printable
from ..runtime import build_interpreter
from .macs import operator_macs

_DELEGATE = "delegate"  # what interpreters call the node that stands for a partition, in capitals or not


@dataclass(frozen=True)
class Node:
    """One operator of the main graph, in the file's order.

    Attributes:
        index: its place.
        operator: its name in TFLite's schema, "CONV_2D".
        tensor: the name of the (first) tensor it writes: where in the network it is.
        macs: multiply-accumulates, as `macs.operator_macs` counts.
    """

    index: int
    operator: str
    tensor: str
    macs: int


@dataclass(frozen=True)
class InputTensor:
    """What the graph is fed: a tensor's name, its shape (-1 is any size) and its numpy dtype's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Inspection:
    """A model as one runtime would run it.

    Attributes:
        runtime: which one.
        inputs: what the main graph is fed.
        nodes: the main graph's operators; empty where the runtime does not tell.
        partitions: the indices of the nodes in each delegated partition, in the order in which the partitions run.
            None: the runtime does not tell.
    """

    runtime: str
    inputs: tuple[InputTensor, ...]
    nodes: tuple[Node, ...]
    partitions: tuple[tuple[int, ...], ...] | None

    @property
    def macs(self) -> int | None:
        """Of one run. None: not known. Operators inside loops and branches are not counted."""
        return sum(node.macs for node in self.nodes) if self.nodes else None

    @property
    def undelegated(self) -> tuple[Node, ...] | None:
        """What stays on the runtime's own kernels. None: not known."""
        if self.partitions is None:
            return None
        delegated = {index for partition in self.partitions for index in partition}
        return tuple(node for node in self.nodes if node.index not in delegated)

    def lines(self) -> list[str]:
        """The delegation in words, for a terminal: one line what is delegated, one what is not."""
        undelegated = self.undelegated
        if self.partitions is None or undelegated is None:
            return [f"delegation: not known ({self.runtime} does not tell)"]
        count = len(self.nodes)
        partitions = "1 partition" if len(self.partitions) == 1 else f"{len(self.partitions)} partitions"
        lines = [f"delegated to XNNPACK: {count - len(undelegated)} of {count} operators, in {partitions}"]
        if undelegated:
            kinds = Counter(node.operator for node in undelegated).most_common()
            listed = ", ".join(f"{number} {printable(operator)}" for operator, number in kinds)
            lines.append(f"on {self.runtime}'s own kernels: {listed}")
        return lines


def inspect_model(model: bytes) -> Inspection:
    """Let the first runtime that works load a flatbuffer, and ask it.

    Args:
        model: a .tflite, with or without metadata behind it.

    Raises:
        UserError: no runtime can load it.
    """
    runtime, interpreter = build_interpreter(model, 1)
    inputs = tuple(
        InputTensor(
            str(details["name"]),
            tuple(int(side) for side in _signature_shape(details)),
            getattr(details["dtype"], "__name__", str(details["dtype"])),
        )
        for details in interpreter.get_input_details()
    )
    # Private, and alike in ai_edge_litert, tflite_runtime 2.14 and TensorFlow. Nothing public tells of delegation.
    tell = getattr(interpreter, "_get_ops_details", None)
    if tell is None:
        return Inspection(runtime, inputs, (), None)
    operations = list(tell())
    tensors = {int(details["index"]): details for details in interpreter.get_tensor_details()}
    delegates = [operation for operation in operations if _DELEGATE in str(operation["op_name"]).lower()]
    originals = [operation for operation in operations if _DELEGATE not in str(operation["op_name"]).lower()]
    nodes = tuple(_node(operation, tensors) for operation in originals)
    return Inspection(runtime, inputs, nodes, _partitions(originals, delegates))


def _signature_shape(details: dict[str, Any]) -> Any:
    shape = details.get("shape_signature")
    return details["shape"] if shape is None or len(shape) != len(details["shape"]) else shape


def _node(operation: dict[str, Any], tensors: dict[int, dict[str, Any]]) -> Node:
    def shapes(indices: Any) -> list[list[int]]:
        known = (tensors.get(int(index)) for index in indices)  # -1 is an optional input left out
        return [[] if details is None else [int(side) for side in details["shape"]] for details in known]

    outputs = [int(index) for index in operation["outputs"]]
    name = str(tensors[outputs[0]]["name"]) if outputs and outputs[0] in tensors else ""
    operator = str(operation["op_name"])
    macs = operator_macs(operator, shapes(operation["inputs"]), shapes(outputs))
    return Node(int(operation["index"]), operator, name, macs)


def _partitions(originals: list[dict[str, Any]], delegates: list[dict[str, Any]]) -> tuple[tuple[int, ...], ...]:
    """Which operators each delegate's node replaced: those between its outputs and its inputs.

    An interpreter tells a partition's tensors, not its operators. Its list keeps the operators that were replaced.
    """
    producers = {int(tensor): operation for operation in originals for tensor in operation["outputs"]}
    found = []
    for delegate in delegates:
        known = {int(tensor) for tensor in delegate["inputs"]}
        open_tensors = [int(tensor) for tensor in delegate["outputs"]]
        members = set()
        while open_tensors:
            tensor = open_tensors.pop()
            producer = producers.get(tensor)
            if tensor in known or producer is None:
                continue
            known.add(tensor)
            members.add(int(producer["index"]))
            open_tensors.extend(int(source) for source in producer["inputs"])
        found.append(tuple(sorted(members)))
    return tuple(found)
