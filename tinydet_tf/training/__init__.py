"""Between a batch and a gradient: assignment, sampling, losses, schedule, the Keras train step, the run."""
