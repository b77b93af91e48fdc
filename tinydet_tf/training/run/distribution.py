"""Many devices with TensorFlow's own engine: the strategy, each replica's part of a batch, what workers exchange.

A replica is the detector on one device; a worker is a process that holds one or more of them. B images of a global
batch, whose size does not depend on the number of devices; D detections.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import tensorflow as tf

from tinydet_lite.errors import UserError, shortened
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.run.cluster import check_cluster
from tinydet_tf.training.step.replicas import sum_over_replicas

_LOG = logging.getLogger(__name__)


def open_strategy(name: str) -> Any:
    """The tf.distribute.Strategy of 'one', 'mirrored' or 'multiworker'. To be called before TensorFlow does anything.

    'mirrored' takes all GPUs; without any, all logical CPU devices, of which there is one unless the program has
    configured more. 'multiworker' waits for the workers that TF_CONFIG names.

    Raises:
      UserError: TF_CONFIG is missing or wrong, or its port is taken.
    """
    tf.get_logger().setLevel(logging.WARNING)  # at INFO TensorFlow logs every sum over replicas
    if name == "multiworker":
        check_cluster(os.environ)
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, RuntimeError) as error:
            raise UserError(
                f"the workers of TF_CONFIG could not be joined ({shortened(error)}); check hosts and ports"
            ) from error
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) > 1:
            return tf.distribute.MirroredStrategy([device.name for device in devices])
        _LOG.info("--strategy mirrored finds one device, %s, and trains on it as --strategy one does", devices[0].name)
    return tf.distribute.get_strategy()


def is_chief(strategy: Any) -> bool:
    """Whether this process is the one that writes."""
    return bool(strategy.extended.should_checkpoint)


def worker(strategy: Any) -> tuple[int, int]:
    """This process's index among the workers, and their number."""
    resolver = strategy.cluster_resolver
    if resolver is None:
        return 0, 1
    jobs = resolver.cluster_spec().as_dict()
    chiefs = len(jobs.get("chief", ()))
    return resolver.task_id + (chiefs if resolver.task_type == "worker" else 0), chiefs + len(jobs.get("worker", ()))


def check_batch_size(batch_size: int, replicas: int) -> None:
    """
    Raises:
      UserError: the replicas' parts of a batch would not be equal.
    """
    if batch_size % replicas:
        raise UserError(
            f"train.batch_size is {batch_size}, the images of a step on all devices together; with {replicas} devices "
            f"give a multiple of {replicas}"
        )


def split_batches(pipeline: tf.data.Dataset, strategy: Any, batch_size: int) -> Any:
    """Gives each replica its part of every global batch: the first one the first B / replicas images, and so on.

    Args:
      pipeline: this worker's part of the global batches; an iteration is an epoch.
      batch_size: B.

    Returns:
      The pipeline itself for one replica; otherwise something endless, for `fit(steps_per_epoch=...)`.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return pipeline

    part = pipeline.rebatch(batch_size // replicas, drop_remainder=True).repeat()
    return strategy.distribute_datasets_from_function(lambda _: part)


def wait_for_all(strategy: Any) -> None:
    """Returns when every worker has come here."""
    if worker(strategy)[1] > 1:
        strategy.run(tf.function(lambda: sum_over_replicas(tf.constant(1.0))))


def gather_rows(rows: np.ndarray, strategy: Any) -> np.ndarray:
    """The rows of all workers, in their order: float64 [D, ...] of any D -> [D of all, ...], the same everywhere."""
    index, workers = worker(strategy)
    if workers == 1:
        return rows
    first = index * (strategy.num_replicas_in_sync // workers)

    def of_replica(context: Any) -> tf.Tensor:
        return tf.constant(rows if context.replica_id_in_sync_group == first else rows[:0])

    values = strategy.experimental_distribute_values_from_function(of_replica)
    return np.asarray(strategy.gather(values, axis=0))


class PlainCopy:
    """The detector that is evaluated and saved: as variables of this process alone, without the other replicas.

    Batch normalization's statistics are an average over all replicas that is taken when somebody reads them: outside of
    the training step every read would be a conversation between all workers.

    Attributes:
      detector: the trained one itself where there is but one replica and no moving average of its weights.
    """

    def __init__(self, trained: TinyDet, strategy: Any, *, averaged: bool = False) -> None:
        self._trained, self.detector = trained, trained
        self._averaged = averaged
        if averaged or strategy.num_replicas_in_sync > 1:
            self.detector = TinyDet(trained.config, trained.num_classes)

    def update(self, optimizer: Any) -> None:
        """Takes over the trained weights, or their moving average. All workers have to call this together."""
        if self.detector is self._trained:
            return
        trained = self._trained.get_weights()
        if self._averaged:
            optimizer.finalize_variable_values(self._trained.trainable_variables)
            self.detector.set_weights(self._trained.get_weights())
            self._trained.set_weights(trained)
        else:
            self.detector.set_weights(trained)
