"""Puts configs/ into the wheel, as tinydet_tf/configs; all else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tinydet_tf*"]), "tinydet_tf.configs"],
    package_dir={"tinydet_tf.configs": "configs"},
    package_data={"tinydet_tf.configs": ["*.yaml", "*/*.yaml"]},
)
