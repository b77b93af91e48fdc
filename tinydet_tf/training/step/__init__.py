"""One training step: which boxes answer for what, which of them are trained on, the losses, the Keras train step."""
