"""The engine's path on an NVIDIA GPU: compressed deltas in slots, kernels that read them, switches beside the step."""
