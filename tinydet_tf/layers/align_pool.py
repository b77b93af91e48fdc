"""The average pool that keeps strided convolutions aligned (paper, section 3.1.2 and figure 2)."""

from __future__ import annotations

from typing import Any

import tf_keras as keras


@keras.utils.register_keras_serializable("tinydet_tf")
class AlignPool(keras.layers.AveragePooling2D):
    """[B, H, W, C] -> [B, H-1, W-1, C]: 2x2 average, stride 1, no padding.

    An even side becomes odd, so that the strided convolution behind it is symmetric. A strided convolution without this
    pool moves the features by half a pixel of its input; the moves add up to 31.5 pixels at stride 64.
    """

    def __init__(self, **kwargs: Any) -> None:
        for fixed in ("pool_size", "strides", "padding", "data_format"):
            kwargs.pop(fixed, None)  # get_config() of the base class names them
        super().__init__(pool_size=2, strides=1, padding="valid", **kwargs)
