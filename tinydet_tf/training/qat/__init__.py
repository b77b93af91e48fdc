"""Quantization-aware training: a detector that rounds as its int8 .tflite will."""
