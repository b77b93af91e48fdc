"""The laboratory: speed, memory, operators and multiply-accumulates of a model on this machine."""
