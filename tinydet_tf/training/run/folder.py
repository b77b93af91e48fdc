"""The folder of a run: who may use it, what it holds, what a killed run leaves in it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write, remove_leftovers
from tinydet_tf.config import Config, load_config, save_config
from tinydet_tf.data.splits import found, not_found
from tinydet_tf.weights import BEST, CALIBRATION, CONFIG, LAST

METRICS, LOGS, BACKUP = "metrics.json", "logs", "backup"
#: The only values of its configuration that a resumed run may change; those of the data say where it lies by now.
RESUMABLE = (
    "train.epochs", "train.validate_every", "train.early_stopping_patience", "data.root", "data.train_json",
    "data.train_images", "data.val_json", "data.val_images",
)  # fmt: skip
#: Where TensorFlow looks for a checkpoint, it takes these in the path of a folder for a pattern.
_PATTERN = "*?[" if os.sep == "\\" else "*?[\\"
#: Behind the name of a variable in a checkpoint.
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_OURS = (CONFIG, METRICS, LOGS, BACKUP, BEST, LAST, CALIBRATION)


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """A path of the run folder under which TensorFlow finds checkpoints: its own, or a link without _PATTERN.

    As a pattern `runs/exp[1]` is not itself and is `runs/exp1`, whose checkpoints would be read and removed.

    Raises:
      UserError: a link is needed and cannot be made.
    """
    if not any(letter in str(folder) for letter in _PATTERN):
        yield folder
        return
    with _plain_folder(folder) as place:
        link = place / "run"
        try:
            link.symlink_to(folder.absolute(), target_is_directory=True)
        except (OSError, NotImplementedError) as error:
            raise UserError(f"{_refused(folder)}, and a link to it cannot be made ({error})") from error
        yield link


@contextmanager
def _plain_folder(folder: Path) -> Iterator[Path]:
    place = tempfile.gettempdir()
    if any(letter in place for letter in _PATTERN):
        raise UserError(f"{_refused(folder)}, and so does the folder for temporary files, {place}; set TMPDIR")
    with tempfile.TemporaryDirectory(prefix="tinydet-") as made:
        yield Path(made)


def _refused(folder: Path) -> str:
    return f"the path of the run {folder} holds one of {' '.join(_PATTERN)}, which TensorFlow takes for a pattern"


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Makes sure that a new run may use the folder; writes nothing.

    Raises:
      UserError: the folder is taken.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"--output {folder} is no UTF-8, and TensorFlow writes to no such folder; give another"
        ) from error
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / CONFIG).is_file():
            raise UserError(f"--output {folder} is not empty and not a run; give a new folder")
        if not overwrite:
            raise UserError(f"{folder} already holds a run; add --resume to go on, --overwrite to start anew")


def resumed_config(folder: Path, assignments: Sequence[str] = ()) -> Config:
    """The configuration of the run in a folder, with what may change in between.

    Args:
      assignments: `key=value` of RESUMABLE keys.

    Raises:
      UserError: there is no run, or another key is to change.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no run to resume (no {CONFIG}); start it without --resume")
    for assignment in assignments:
        if assignment.partition("=")[0] not in RESUMABLE:
            raise UserError(f"--resume keeps the run's configuration; only {', '.join(RESUMABLE)} may be --set")
    config = load_config(folder / CONFIG, assignments=assignments)
    data = found(config.data, folder / CONFIG)
    if data is None:
        raise not_found(config.data, folder, "add --set data.root=DIR, where it lies by now")
    return dataclasses.replace(config, data=data)


def finished_epochs(folder: Path, steps: int) -> int:
    """How many epochs the backup of a run holds; 0 where there is none yet.

    Args:
      steps: of an epoch of the data as it is now.

    Raises:
      UserError: it is damaged or gone, or its epochs had another number of steps. All of it is read here, because Keras
        would only find out in the middle of restoring.
    """
    anew = f"start a new run with --init {folder / LAST}"
    try:
        with plain_path(folder) as plain:
            checkpoint = tf.train.latest_checkpoint(str(plain / BACKUP / "chief"))
            if checkpoint is None:
                if _had_backup(folder):
                    raise UserError(f"{folder / BACKUP} is damaged or gone; {anew}")
                return 0
            reader = tf.train.load_checkpoint(checkpoint)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
            epoch, batch = (int(reader.get_tensor(f"ckpt_saved_{last}{_VALUE}")) for last in ("epoch", "batch"))
    except UserError:
        raise
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder / BACKUP} is damaged; {anew}") from error
    if batch + 1 != steps:
        # The learning rate follows from the number of the step.
        raise UserError(
            f"{folder} had {batch + 1} steps an epoch, its data gives {steps} by now: the pictures are others; {anew}"
        )
    return epoch + 1


def _had_backup(folder: Path) -> bool:
    """Whether a run without a checkpoint had one: TensorFlow lists those that are whole, and an epoch is noted before
    its backup, the next one after it."""
    if (folder / BACKUP / "chief" / "checkpoint").exists():
        return True
    try:
        return len(json.loads((folder / METRICS).read_text())["history"]) > 1
    except (OSError, ValueError, KeyError, TypeError):
        return False


def prepare_folder(folder: Path, config: Config, *, resume: bool) -> None:
    """Makes the run folder and writes config.yaml; an old run's files are removed first unless it is resumed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        _remove_partial_backups(folder / BACKUP)
        # First, so that a killed run's folder is recognized as a run's.
        atomic_write(folder / CONFIG, save_config(config).encode())
        if not resume:
            _remove(folder, keep=CONFIG)
    except OSError as error:
        raise UserError(f"the run folder {folder} cannot be written: {error.strerror}") from error


def _remove_partial_backups(backup: Path) -> None:
    """What a kill during the writing of a checkpoint leaves. The whole one beside it is not touched."""
    # In this order: TensorFlow's shards before they are merged, its list of checkpoints before it is renamed, and the
    # folder of a worker that is not the chief.
    for pattern in ("chief/*_temp", "chief/*.tmp*", "workertemp_*"):
        for path in backup.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def clear_folder(folder: Path) -> None:
    """Removes a run's files, and the folder where nothing else is in it."""
    _remove(folder)
    if not any(folder.iterdir()):
        folder.rmdir()


def _remove(folder: Path, *, keep: str | None = None) -> None:
    for name in _OURS:
        path = folder / name
        if name == keep:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
