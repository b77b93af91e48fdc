"""Sums over all replicas, which are the copies of a detector that train on parts of one batch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def sum_over_replicas(values: Any) -> Any:
    """The sum of every tensor of a structure over all replicas; the values themselves where there is but one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
