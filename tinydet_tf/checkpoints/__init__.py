"""The authors' published PyTorch weights, read into this project's Keras layers."""
