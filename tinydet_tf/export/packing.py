"""Writing a .tflite's flatbuffer again, smaller: whatever is stored twice is stored once, and nothing lies outside it.

Of an int8 model's bytes one in seven is zero points: eight bytes a channel, all zero. And litert-quantizer
puts constants behind the flatbuffer, where runtimes before 2024 do not look.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

#: Of constants, as the schema asks for.
_ALIGNMENT = 16


class _SharingBuilder(flatbuffers.Builder):
    """Equal vectors and strings of different tables become one: a flatbuffer's offsets may point to the same place."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            # The library's own method would not align bytes.
            self.StartVector(x.itemsize, x.size, _ALIGNMENT if x.dtype == np.uint8 else x.dtype.alignment)
            self.head -= len(key[1])
            self.Bytes[self.head : self.head + len(key[1])] = key[1]
            self.vectorNumElems = x.size
            self._written[key] = self.EndVector()
        return self._written[key]

    def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:
        content = s if isinstance(s, bytes) else s.encode(encoding, errors)
        key = ("string", content)
        if key not in self._written:
            self._written[key] = super().CreateString(content)
        return self._written[key]


def read(model: bytes) -> schema.ModelT:
    """A .tflite without metadata behind it, parsed, with the constants that lie behind its flatbuffer."""
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    for buffer in parsed.buffers:
        if buffer.data is None and buffer.size:
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    return parsed


def add_entry(parsed: schema.ModelT, name: bytes, content: bytes) -> None:
    """Puts an entry into the metadata inside a flatbuffer."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    parsed.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, len(parsed.buffers) - 1
    parsed.metadata = [*(parsed.metadata or []), entry]


def write(parsed: schema.ModelT) -> bytes:
    """The flatbuffer of what `read` gave."""
    builder = _SharingBuilder()
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())
