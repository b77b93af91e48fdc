"""Keras layers of which TinyDet is made."""
