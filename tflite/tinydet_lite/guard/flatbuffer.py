"""Checks a .tflite's flatbuffer before a runtime reads it: every offset stays inside, every number names what is there.

TFLite's runtimes follow the offsets of a file unchecked, so a damaged file crashes them. This follows them first, and
then looks at what the runtimes take for granted: that buffers and subgraphs exist, and that an operator reads only what
was written before it and writes only what nobody else does. What an operator's own numbers mean (strides, axes) is left
to the runtime.

Shape letters: none; positions and lengths are bytes.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Union

from ..errors import UserError, shortened
from ..files import PathLike
from ..metadata import IDENTIFIER, INFO_MEMBER, parse_model, read_bytes

_VERSION = 3
_STRING = "string"
# No tensor that a phone or a board can hold is larger, and TFLite counts its bytes in signed integers here and there.
_MAX_TENSOR_BYTES = 2**31 - 1
_MAX_RANK = 8
_MAX_SUBGRAPHS = 1000

_READERS = {kind: struct.Struct(f"<{kind}").unpack_from for kind in "bBHiIQ"}

# What a table's slots point at, by TFLite's schema: a number is a vector of items of so many bytes, a text that begins
# with "[" a vector of tables, another text a table. Slots that are not listed hold numbers.
_Slot = Union[int, str]
SLOTS: dict[str, dict[int, _Slot]] = {
    "Model": {
        1: "[OperatorCode",
        2: "[SubGraph",
        3: _STRING,
        4: "[Buffer",
        5: 4,
        6: "[Metadata",
        7: "[SignatureDef",
        8: "[ExternalBufferGroup",
        9: "[ExternalBuffer",
    },
    "OperatorCode": {1: _STRING},
    "SubGraph": {0: "[Tensor", 1: 4, 2: 4, 3: "[Operator", 4: _STRING},
    "Buffer": {0: 1},
    "Metadata": {0: _STRING},
    "SignatureDef": {0: "[TensorMap", 1: "[TensorMap", 2: _STRING},
    "TensorMap": {0: _STRING},
    "ExternalBufferGroup": {0: _STRING},
    "ExternalBuffer": {4: _STRING},
    "Tensor": {0: 4, 3: _STRING, 4: "QuantizationParameters", 6: "SparsityParameters", 7: 4, 9: "[VariantSubType"},
    "QuantizationParameters": {0: 4, 1: 4, 2: 4, 3: 8},
    "SparsityParameters": {0: 4, 1: 4, 2: "[DimensionMetadata"},
    "DimensionMetadata": {},
    "VariantSubType": {0: 4},
    "Operator": {1: 4, 2: 4, 5: 1, 7: 1, 8: 4},
}
# Table -> its unions: (slot of the type, slot of the table behind it, name).
UNIONS = {
    "Operator": ((3, 4, "BuiltinOptions"), (11, 12, "BuiltinOptions2")),
    "QuantizationParameters": ((4, 5, "QuantizationDetails"),),
    "DimensionMetadata": ((2, 3, "SparseIndexVector"), (4, 5, "SparseIndexVector")),
}
# Union -> type -> slots that are no numbers. A type that is not listed has numbers alone.
UNION_SLOTS: dict[str, dict[int, dict[int, _Slot]]] = {
    "BuiltinOptions": {
        3: {1: 4, 2: 4},  # ConcatEmbeddings
        8: {5: 1},  # FullyConnected
        17: {0: 4},  # Reshape
        30: {0: 4},  # Squeeze
        111: {0: _STRING, 1: _STRING},  # VarHandle
        115: {0: 4},  # Bucketize
    },
    "BuiltinOptions2": {  # StableHLO's
        2: {0: 8},  # BroadcastInDim
        3: {0: 8, 1: 8, 2: 8},  # Slice
        4: {0: 8, 1: 8, 2: 8, 3: 8, 4: 1, 7: 8, 10: 8, 13: 8, 16: 4},  # Convolution
        5: {0: _STRING, 2: _STRING, 4: 4, 5: 1},  # CustomCall
        6: {0: 8},  # Reduce
        7: {1: 8, 2: 8, 3: 8},  # Scatter
        9: {0: 8},  # DynamicSlice
        10: {0: 8, 1: 8, 2: 8},  # Pad
        12: {0: 8, 1: 8, 2: 8, 3: 8, 4: 4},  # DotGeneral
        13: {0: 8, 1: 8, 2: 8, 3: 8, 4: 8},  # ReduceWindow
        16: {0: 8, 1: 8, 2: 8, 4: 8},  # Gather
        17: {0: 8},  # Transpose
        21: {0: _STRING, 2: 1},  # Composite
        23: {0: 4},  # Case
    },
    "QuantizationDetails": {1: {0: 1}, 2: {3: 4}, 3: {3: 4}},
    "SparseIndexVector": {1: {0: 4}, 2: {0: 2}, 3: {0: 1}},
}
# Bits of an element by TensorType.
_BITS = {
    0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128, 12: 64, 15: 32, 16: 16, 17: 4, 18: 16,
    19: 2, 20: 4, 21: 8, 22: 8,
}  # fmt: skip
_NO_FIXED_SIZE = (5, 13, 14)  # texts, resources, variants


class _Damage(Exception):
    """What is wrong, for the end of a sentence."""


class _Table:
    """Where a table's slots are: positions in the file, 0 for a slot that is left out.

    No dataclass: a model has thousands of tables, and frozen ones are slow to make.
    """

    __slots__ = ("slots",)

    def __init__(self, slots: tuple[int, ...]) -> None:
        self.slots = slots

    def at(self, slot: int) -> int:
        return self.slots[slot] if slot < len(self.slots) else 0


def read_flatbuffer(path: PathLike) -> bytes:
    """The model in a .tflite, TinyDet's or another's, without the metadata behind TinyDet's.

    Raises:
        UserError: it cannot be read, is no .tflite, is a damaged TinyDet file, or its flatbuffer is damaged
            (`check_flatbuffer`).
    """
    content, name = read_bytes(path), str(Path(path))
    if INFO_MEMBER.encode() in content:
        content = parse_model(content, name).model
    check_flatbuffer(content, name)
    return content


def check_flatbuffer(model: bytes, name: str) -> None:
    """See that a runtime may read a .tflite.

    Args:
        model: the flatbuffer; what is behind it is not looked at.
        name: how the error calls it.

    Raises:
        UserError: no .tflite, damaged, truncated, or it asks for what no file should.
    """
    if not model:
        raise UserError(f"{name} is empty; expected a .tflite")
    if model[4:8] != IDENTIFIER:
        raise UserError(f"{name} is not a .tflite (no {IDENTIFIER.decode()} at byte 4)")
    try:
        _Checker(model).check()
    except _Damage as damage:
        raise UserError(f"{name} is damaged: {damage}; copy or export it again") from damage


class _Checker:
    def __init__(self, model: bytes) -> None:
        self._model = model
        # A shared table is checked once, and by the schema none leads into itself.
        self._tables: dict[tuple[int, str], _Table] = {}
        self._layouts: dict[int, tuple[int, tuple[int, ...]]] = {}
        # A long vector may be shared too. A sound file has fewer items than bytes, however often they are looked at.
        self._items = 2 * len(model)

    def check(self) -> None:
        model = self._table(self._pointer(0), "Model")
        if self._number("I", model, 0) != _VERSION:
            raise _Damage(f"schema version {self._number('I', model, 0)}, expected {_VERSION}")
        buffers = self._children(model, 4, "Buffer")
        graphs = self._children(model, 2, "SubGraph")
        if not 1 <= len(graphs) <= _MAX_SUBGRAPHS:
            raise _Damage(f"{len(graphs)} subgraphs")
        filled = [self._buffer(buffer) for buffer in buffers]
        codes = len(self._children(model, 1, "OperatorCode"))
        counts = [self._graph(graph, filled, codes) for graph in graphs]
        for signature in self._children(model, 7, "SignatureDef"):
            graph_index = self._number("I", signature, 4)
            if graph_index >= len(graphs):
                raise _Damage(f"a signature of subgraph {graph_index} of {len(graphs)}")
            for slot in (0, 1):
                for entry in self._children(signature, slot, "TensorMap"):
                    if not entry.at(0):
                        raise _Damage("a signature's tensor has no name")
                    index = self._number("I", entry, 1)
                    if index >= counts[graph_index]:
                        raise _Damage(f"a signature names tensor {index} of {counts[graph_index]}")
            if not signature.at(2):
                raise _Damage("a signature has no name")
        for entry in self._children(model, 6, "Metadata"):
            if not entry.at(0) or self._number("I", entry, 1) >= len(buffers):
                raise _Damage("metadata without a name or a buffer")

    def _buffer(self, buffer: _Table) -> bool:
        """Whether it holds anything."""
        start, size = self._number("Q", buffer, 1), self._number("Q", buffer, 2)
        if start > 1 and start + size > len(self._model):  # 0 and 1 say that the data is in the buffer's own vector
            raise _Damage(f"a buffer of {size} bytes at {start} in a file of {len(self._model)}")
        return start > 1 or bool(buffer.at(0) and self._vector(buffer.at(0), 1)[1])

    def _graph(self, graph: _Table, filled: list[bool], codes: int) -> int:
        """How many tensors it has."""
        tensors = self._children(graph, 0, "Tensor")
        written = [self._tensor(tensor, filled) for tensor in tensors]  # constants, and variables
        count = len(tensors)
        for index in self._indices(graph, 1, count):
            if index < 0 or (written[index] and self._number("I", tensors[index], 2)):
                # A constant among the inputs would be written to by the caller.
                raise _Damage(f"tensor {index} among a graph's inputs")
            written[index] = True
        for place, operator in enumerate(self._children(graph, 3, "Operator")):
            code = self._number("I", operator, 0)
            if code >= codes:
                raise _Damage(f"operator {place} has code {code} of {codes}")
            for index in self._indices(operator, 1, count):
                if index >= 0 and not written[index]:
                    raise _Damage(f"operator {place} reads tensor {index}, which nothing wrote before")
            for slot in (8, 2):  # intermediates, outputs
                for index in self._indices(operator, slot, count):
                    if index < 0:
                        continue
                    if slot == 2 and written[index]:
                        raise _Damage(f"operator {place} writes tensor {index}, which is taken")
                    written[index] = True
        for index in self._indices(graph, 2, count):
            if index < 0 or not written[index]:
                raise _Damage(f"tensor {index} among a graph's outputs")
        return count

    def _tensor(self, tensor: _Table, filled: list[bool]) -> bool:
        """Whether it has a value before anything runs."""
        buffer = self._number("I", tensor, 2)
        if buffer >= len(filled) and buffer:
            raise _Damage(f"a tensor in buffer {buffer} of {len(filled)}")
        shape = self._integers(tensor, 0)
        if len(shape) > _MAX_RANK or any(side < -1 for side in shape):
            raise _Damage(f"a tensor of shape {shortened(shape, 60)}")
        kind = self._number("b", tensor, 1)
        size = math.prod(map(abs, shape)) * _BITS.get(kind, 8) // 8
        if size > _MAX_TENSOR_BYTES:
            raise _Damage(f"a tensor of shape {shortened(shape, 60)} takes {size} bytes, more than {_MAX_TENSOR_BYTES}")
        if kind not in _BITS and kind not in _NO_FIXED_SIZE:
            raise _Damage(f"a tensor of type {kind}")
        variable = bool(self._number("b", tensor, 5))
        return variable or (bool(buffer) and filled[buffer])

    def _indices(self, table: _Table, slot: int, count: int) -> list[int]:
        """Numbers of tensors; -1 is an optional one left out."""
        found = self._integers(table, slot)
        for index in found:
            if not -1 <= index < count:
                raise _Damage(f"tensor {index} of {count}")
        return found

    def _integers(self, table: _Table, slot: int) -> list[int]:
        if not table.at(slot):
            return []
        start, length = self._items_at(table.at(slot))
        return list(struct.unpack_from(f"<{length}i", self._model, start))

    def _children(self, table: _Table, slot: int, name: str) -> list[_Table]:
        if not table.at(slot):
            return []
        start, length = self._items_at(table.at(slot))
        offsets = struct.unpack_from(f"<{length}I", self._model, start)
        return [self._table(start + 4 * place + offset, name) for place, offset in enumerate(offsets)]

    def _number(self, kind: str, table: _Table, slot: int) -> int:
        position = table.at(slot)
        return self._read(kind, position) if position else 0

    def _read(self, kind: str, position: int) -> int:
        try:
            if position >= 0:  # else struct counts from the end
                return int(_READERS[kind](self._model, position)[0])
        except struct.error:
            pass
        raise _Damage(f"it points at byte {position} of {len(self._model)}")

    def _pointer(self, position: int) -> int:
        return position + self._read("I", position)

    def _vector(self, position: int, item: int) -> tuple[int, int]:
        """(where the items begin, how many) of the vector that the offset at a position points at."""
        start = self._pointer(position)
        length = self._read("I", start)
        if start + 4 + length * item > len(self._model):
            raise _Damage(f"it has {length} items of {item} bytes at byte {start} of {len(self._model)}")
        return start + 4, length

    def _items_at(self, position: int) -> tuple[int, int]:
        start, length = self._vector(position, 4)
        self._items -= length
        if self._items < 0:
            raise _Damage("its vectors share more than a file of its size can hold")
        return start, length

    def _string(self, position: int) -> None:
        start, length = self._vector(position, 1)
        if self._read("B", start + length):  # readers go on up to the zero
            raise _Damage(f"a text without an end at byte {start}")

    def _layout(self, position: int, name: str) -> tuple[int, tuple[int, ...]]:
        """(bytes of a table, where in it each slot is or 0); many tables share one."""
        known = self._layouts.get(position)
        if known is not None:
            return known
        layout_size, size = self._read("H", position), self._read("H", position + 2)
        if layout_size < 4 or layout_size % 2 or position + layout_size > len(self._model):
            raise _Damage(f"no {name} with its layout at byte {position}")
        offsets = struct.unpack_from(f"<{layout_size // 2 - 2}H", self._model, position + 4)
        if any(offset >= size or 0 < offset < 4 for offset in offsets):
            raise _Damage(f"a {name} with its layout at byte {position} is larger than itself")
        self._layouts[position] = size, offsets
        return size, offsets

    def _table(self, position: int, name: str, slots: dict[int, _Slot] | None = None) -> _Table:
        known = self._tables.get((position, name))
        if known is not None:
            return known
        size, offsets = self._layout(position - self._read("i", position), name)
        if position + size > len(self._model):
            raise _Damage(f"a {name} at byte {position} is longer than the file")
        table = _Table(tuple(position + offset if offset else 0 for offset in offsets))
        self._tables[position, name] = table
        for slot, kind in (SLOTS[name] if slots is None else slots).items():
            place = table.at(slot)
            if not place:
                continue
            if isinstance(kind, int):
                self._vector(place, kind)
            elif kind == _STRING:
                self._string(place)
            elif kind.startswith("["):
                self._children(table, slot, kind[1:])
            else:
                self._table(self._pointer(place), kind)
        for type_slot, value_slot, union in UNIONS.get(name, ()):
            kind = self._number("B", table, type_slot)
            if table.at(value_slot) and kind:
                members = UNION_SLOTS[union].get(kind, {})
                self._table(self._pointer(table.at(value_slot)), f"{union} {kind}", members)
        return table
