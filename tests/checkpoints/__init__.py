"""Tests of tinydet_tf.checkpoints; the whole network in PyTorch beside them."""
