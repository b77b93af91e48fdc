"""From a trained detector to one .tflite: what is traced, how it is converted, what travels in the file."""
