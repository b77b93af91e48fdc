"""The Keras layers that TinyDet is made of."""
