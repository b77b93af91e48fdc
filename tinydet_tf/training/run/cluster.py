"""TF_CONFIG, which tells a worker of several who the others are: checked before TensorFlow is loaded.

TensorFlow itself waits for minutes, or for ever, where a host, a port or an index is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tinydet_lite.errors import UserError

_ADDRESS = re.compile(r"[^\s:/]+:([0-9]{1,5})|\[[0-9a-fA-F:]+\]:([0-9]{1,5})")
_EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'


def check_cluster(environment: Mapping[str, str]) -> None:
    """Checks that TF_CONFIG names this process's place among workers.

    Args:
      environment: os.environ.

    Raises:
      UserError: it is missing, no JSON, or does not fit together.
    """
    text = environment.get("TF_CONFIG")
    if not text:
        raise UserError(f"--strategy multiworker needs the environment variable TF_CONFIG, for example {_EXAMPLE}")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _wrong(f"is no JSON ({error})") from error
    cluster = _part(content, "cluster", dict)
    task = _part(content, "task", dict)
    if not set(cluster) <= {"chief", "worker"} or not cluster:
        raise _wrong(f"has the jobs {', '.join(map(repr, cluster)) or 'none'}, expected 'worker' and at most a 'chief'")
    addresses = [address for job in cluster for address in _part(cluster, job, list)]
    for address in addresses:
        found = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if found is None or not 0 < int(found[1] or found[2]) < 65536:
            raise _wrong(f"has the address {address!r}, expected host:port")
    if len(set(addresses)) < len(addresses):
        raise _wrong("names an address twice; each worker needs its own")
    if len(cluster.get("chief", [])) > 1:
        raise _wrong("has more than one chief")
    kind, index = task.get("type"), task.get("index")
    if kind not in cluster:
        raise _wrong(f"has the task type {kind!r}, which its cluster does not list")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(cluster[kind]):
        raise _wrong(f"has the task index {index!r}, expected 0 to {len(cluster[kind]) - 1}")


def _part(content: Any, key: str, kind: type) -> Any:
    part = content.get(key) if isinstance(content, dict) else None
    if not isinstance(part, kind) or not part:
        raise _wrong(f"has no {key!r}")
    return part


def _wrong(what: str) -> UserError:
    return UserError(f"TF_CONFIG {what}; give something like {_EXAMPLE}")
