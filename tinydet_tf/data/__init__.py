"""Data: COCO-format folders, the embedded digits set, and the input pipeline."""
