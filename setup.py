"""Puts configs/ into the wheel, as tinydet_tf/configs, and the weights to start from; all else is in pyproject.toml."""

from setuptools import find_namespace_packages, find_packages, setup

setup(
    packages=[
        *find_packages(include=["tinydet_tf*"]),
        "tinydet_tf.configs",
        *(f"tinydet_tf.configs.{folder}" for folder in find_namespace_packages("configs")),
    ],
    package_dir={"tinydet_tf.configs": "configs"},
    package_data={"": ["*.yaml", "*.weights.h5"]},
)
