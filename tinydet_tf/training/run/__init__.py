"""A training run: its folder, devices, learning rate, callbacks, and what people see of it."""
