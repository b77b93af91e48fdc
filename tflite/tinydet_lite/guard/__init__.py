"""The guard against damaged and forged models: structure checked, and tried in a child process first."""
