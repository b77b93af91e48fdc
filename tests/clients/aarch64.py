"""An aarch64 Linux to run Python programs in, on any machine with qemu-user: built once, then cached.

It is Debian's Python 3.11 for arm64, unpacked and never booted, and the aarch64 wheels of each TFLite runtime beside
it. qemu-user runs its programs one by one; they see the host's files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SUITE = "bookworm"
DEBIAN = ("python3.11", "libstdc++6")
PYTHON = "3.11"
#: Runtime -> what pip installs for it.
WHEELS = {
    "ai_edge_litert": ("ai-edge-litert==2.3.0", "numpy>=2,<3", "pillow>=10.1"),
    "tflite_runtime": ("tflite-runtime==2.14.0", "numpy<2", "pillow>=10.1"),
}
#: qemu's CPU -> (the board that has it, part number, features) for /proc/cpuinfo. Pis before the fifth have no AES.
CPUS = {
    "cortex-a72": ("Raspberry Pi 4", 0xD08, "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "Raspberry Pi 5",
        0xD0B,
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}
_CORES = 4
_GLIBC = (36, 35, 34, 31, 28, 27, 17)  # manylinux_2_N: what bookworm's C library runs
_TOOLS = ("qemu-aarch64", "mmdebstrap")
_BUILD_SECONDS = 600


class Unavailable(Exception):
    """Why there is no aarch64 here, in one line."""


def root() -> Path:
    """The folder with all of it, built if it is not in the user's cache yet.

    Raises:
        Unavailable: a tool is missing, or the archives cannot be reached.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"no {' and no '.join(missing)} here (apt-get install qemu-user mmdebstrap)")
    recipe = json.dumps([SUITE, DEBIAN, PYTHON, WHEELS, CPUS]).encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinydet_tf"
    final = cache / f"aarch64-{hashlib.sha256(recipe).hexdigest()[:12]}"
    if not final.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix="aarch64-", dir=cache))
        try:
            _build(building)
            building.rename(final)
        except OSError:
            if not final.is_dir():  # another process was faster
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return final


def run_python(
    arguments: Sequence[str], runtime: str, cpu: str, paths: Sequence[Path], timeout: float
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` on an emulated CPU.

    Args:
        arguments: of Python.
        runtime: one of WHEELS.
        cpu: one of CPUS.
        paths: folders to import from, beside the runtime's.
        timeout: seconds.

    Raises:
        Unavailable: as `root`.
    """
    folder = root()
    sysroot = folder / cpu
    environment: Mapping[str, str] = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "QEMU_CPU": cpu,
        "PYTHONPATH": os.pathsep.join(map(str, [folder / runtime, *paths])),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = ["qemu-aarch64", "-L", str(sysroot), str(sysroot / f"usr/bin/python{PYTHON}"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def _build(folder: Path) -> None:
    system = folder / "system"
    include = f"--include={','.join(DEBIAN)}"
    _call(["mmdebstrap", "--quiet", "--variant=extract", "--architectures=arm64", include, SUITE, str(system)])
    platforms = [f"--platform=manylinux_2_{number}_aarch64" for number in _GLIBC]
    for runtime, packages in WHEELS.items():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
        target = ["--implementation=cp", f"--python-version={PYTHON}", "--target", str(folder / runtime)]
        _call([*pip, *target, *platforms, "--platform=manylinux2014_aarch64", *packages])
    for cpu in CPUS:
        _sysroot(folder / cpu, cpu)


def _sysroot(folder: Path, cpu: str) -> None:
    """The system as one CPU's programs see it.

    qemu-user shows its programs the host's /proc/cpuinfo and /sys, and LiteRT's look at the CPU then crashes; what is
    in this folder goes before the host's.
    """
    folder.mkdir()
    for entry in (folder.parent / "system").iterdir():
        if entry.name not in ("proc", "sys"):
            (folder / entry.name).symlink_to(Path("..", "system", entry.name))
    _, part, features = CPUS[cpu]
    (folder / "proc").mkdir()
    (folder / "proc" / "cpuinfo").write_text(
        "".join(
            f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part:#x}\nCPU revision\t: 3\n\n"
            for core in range(_CORES)
        )
    )
    cores = folder / "sys" / "devices" / "system" / "cpu"
    cores.mkdir(parents=True)
    for name in ("possible", "present"):
        (cores / name).write_text(f"0-{_CORES - 1}\n")


def _call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} took longer than {_BUILD_SECONDS} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise Unavailable(f"{Path(command[0]).name} ended with code {done.returncode} ({lines[-1]})")
