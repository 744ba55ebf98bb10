"""Triton kernels that apply compressed deltas to activations.

Nothing is imported here: `packing` and `reference` must not cost an import of Triton. Users import
`meswitch_kernels.delta_matmul`, `.fused_matmul`, `.embedding`, `.grouping`, `.activations` and `.arena`.
"""
