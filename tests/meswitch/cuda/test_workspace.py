"""The workspace bounds what a step and a chunk of a prompt take."""

import torch

from meswitch.cuda.workspace import context_bytes, workspace_bytes
from meswitch.families import load_shape_family


def test_the_workspace_holds_the_largest_merged_matrix_and_grows_with_the_chunk() -> None:
    shape = load_shape_family("mistral-7b").shape
    sizes = [
        workspace_bytes(shape, torch.bfloat16, max_rows=16, chunk_tokens=chunk, context_tokens=2048)
        for chunk in (1, 512, 2048)
    ]
    # gate and up together, 28672 x 4096 in two bytes each
    assert 2 * 28672 * 4096 < sizes[0] < sizes[1] < sizes[2]
    # it is small beside what it serves
    assert sizes[2] < 2 << 30


def test_a_cpu_has_no_context() -> None:
    assert context_bytes(torch.device("cpu")) == 0
