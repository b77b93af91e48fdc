"""A PyTorch checkpoint as numpy arrays. The only module that imports torch, and only when it reads.

Nothing of the file is executed: torch's weights_only unpickler takes tensors and plain containers and refuses the rest.
"""

from __future__ import annotations

import importlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydet_lite.errors import UserError, os_reason, shortened
from tinydet_lite.metadata import is_label

#: Keys under which training programs put the parameters, beside an optimizer's state and the like; the first one found
#: counts.
CONTAINERS = ("state_dict", "model")
#: What DataParallel puts before every name.
PARALLEL_PREFIX = "module."
#: BatchNorm's count of batches, an integer that only its cumulative average reads; nothing here needs it.
BATCH_COUNTER = "num_batches_tracked"

#: How torch names the class or function that it will not unpickle.
_REFUSED_GLOBAL = re.compile(r"GLOBAL (\S+) (?:was not an allowed global|whose module \S+ is blocked)")
_NOT_TORCH = (
    "is not a PyTorch checkpoint, or is damaged; give the .pth or .pt file as published, copied again if needed"
)


def read_torch(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """The parameters of a .pth or .pt file, in the old or the zip format.

    Args:
      path: a state_dict, bare or under one of CONTAINERS. Floats of any width become float32.

    Returns:
      name -> values, without PARALLEL_PREFIX and without BATCH_COUNTER.

    Raises:
      UserError: torch is missing; the file cannot be read, is not of torch, or holds anything but finite float tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"checkpoint {path} is a folder; give the .pth or .pt file")
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; give the .pth or .pt file")
    torch = _import_torch(path)
    entries = _entries(path, _load(torch, path))
    if all(name.startswith(PARALLEL_PREFIX) for name in entries):
        entries = {name.removeprefix(PARALLEL_PREFIX): value for name, value in entries.items()}
    return {
        name: _to_numpy(torch, path, name, value)
        for name, value in entries.items()
        if name.rpartition(".")[2] != BATCH_COUNTER
    }


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """The class names that mmdetection stores as `meta: {CLASSES: ...}`; none if these are not valid names.

    Raises:
      UserError: as `read_torch`.
    """
    path = Path(path)
    content = _load(_import_torch(path), path)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    names = meta.get("CLASSES") if isinstance(meta, Mapping) else None
    if not isinstance(names, list | tuple) or len(set(map(str, names))) != len(names):
        return ()
    return tuple(names) if all(isinstance(name, str) and is_label(name) for name in names) else ()


def _import_torch(path: Path) -> Any:
    try:
        # Not an import statement: torch is optional, and mypy has to pass with it and without.
        return importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"reading {path} needs PyTorch, which cannot be imported ({shortened(error)}); "
            "pip install torch, or pip install 'tinydet-tf[torch]'"
        ) from error


def _load(torch: Any, path: Path) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {os_reason(error)}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's warnings are followed by an error or do not matter
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle raises whatever its bytes lead to
            raise UserError(_why_not_loaded(path, str(error))) from error


def _why_not_loaded(path: Path, message: str) -> str:
    refused = _REFUSED_GLOBAL.search(message)
    if refused:
        return (
            f"checkpoint {path} holds an object of {refused[1]} beside its tensors, which is not loaded because that "
            "could run code; where you trust the file, save its tensors alone: x = torch.load(IN, weights_only=False); "
            "x = x.state_dict() if hasattr(x, 'state_dict') else x.get('state_dict', x); "
            "torch.save({k: v for k, v in x.items() if torch.is_tensor(v)}, OUT)"
        )
    if "TorchScript" in message:
        return f"checkpoint {path} is a TorchScript program; give a state_dict: torch.save(model.state_dict(), OUT)"
    return f"checkpoint {path} {_NOT_TORCH}"


def _entries(path: Path, content: Any) -> Mapping[str, Any]:
    """The state_dict: the first of CONTAINERS in the content, else the content itself."""
    if not isinstance(content, Mapping):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}; expected a state_dict (name -> tensor)")
    for container in CONTAINERS:
        if isinstance(content.get(container), Mapping):
            content = content[container]
            break
    if not content:
        raise UserError(f"checkpoint {path} holds an empty state_dict; give the file as published")
    for name in content:
        if not isinstance(name, str):
            raise UserError(
                f"checkpoint {path} has an entry named {shortened(repr(name), 40)}; expected ones like 'conv.weight'"
            )
    return content


def _to_numpy(torch: Any, path: Path, name: str, value: Any) -> NDArray[np.float32]:
    """One parameter as float32.

    Raises:
      UserError: not a tensor, no numbers of its own, not floats, or not finite.
    """
    where = f"checkpoint {path}: {name!r}"
    if not isinstance(value, torch.Tensor):
        raise UserError(f"{where} is a {type(value).__name__}; expected tensors alone, or all under 'state_dict'")
    if value.layout != torch.strided or value.device.type != "cpu":
        raise UserError(f"{where} is a sparse or empty (meta) tensor; expected a plain one")
    if not value.is_floating_point():
        raise UserError(f"{where} holds {str(value.dtype).removeprefix('torch.')}; expected floats")
    # A few bytes can claim to be a huge tensor, by a stride of zero.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise UserError(f"{where} says it is {list(value.shape)}, more than the file holds; the file is damaged")
    array = np.array(value.detach().to(torch.float32).numpy(), order="C")
    if not np.isfinite(array).all():
        raise UserError(f"{where} has values that are not finite; the weights are damaged or their training diverged")
    return array
