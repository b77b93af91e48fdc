"""Between a batch and a gradient, and everything around it: three rooms.

step/: what one training step computes. qat/: the detector with the rounding of its int8 form. run/: everything from a
configuration to a run folder. The step imports neither of the others, qat at most the step, the run both
(tests/test_imports.py).
"""
