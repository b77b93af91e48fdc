"""The folder of a run: who may use it, what it holds, what a killed run leaves in it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write, remove_leftovers
from tinydet_tf.config import Config, load_config, save_config
from tinydet_tf.weights import BEST, CALIBRATION, CONFIG, LAST

METRICS, LOGS, BACKUP = "metrics.json", "logs", "backup"
#: The only values of its configuration that a resumed run may change.
RESUMABLE = ("train.epochs", "train.validate_every", "train.early_stopping_patience")
_OURS = (CONFIG, METRICS, LOGS, BACKUP, BEST, LAST, CALIBRATION)


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Makes sure that a new run may use the folder; writes nothing.

    Raises:
      UserError: the folder is taken.
    """
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
    return load_config(folder / CONFIG, assignments=assignments)


def finished_epochs(folder: Path) -> int:
    """How many epochs the backup of a run holds; 0 where there is none yet.

    Raises:
      UserError: it is damaged. All of it is read here, because Keras would only find out in the middle of restoring.
    """
    checkpoint = tf.train.latest_checkpoint(str(folder / BACKUP / "chief"))
    if checkpoint is None:
        return 0
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        saved = reader.get_tensor("ckpt_saved_epoch/.ATTRIBUTES/VARIABLE_VALUE")
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder / BACKUP} is damaged; start a new run with --init {folder / LAST}") from error
    return int(saved) + 1


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
