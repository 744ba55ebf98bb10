"""The bytes of a step, by hand from the shape of Mistral-7B."""

from dataclasses import replace

import pytest
import torch

from harness.decode import DecodeCase
from harness.decode.floor import (
    delta_read_bytes,
    kv_read_bytes,
    step_read_bytes,
    whole_models_read_bytes,
    whole_read_bytes,
)
from meswitch.config import SyntheticConfig
from meswitch.cuda.synthetic_image import synthetic_layout
from meswitch.cuda.whole_layout import whole_layout
from meswitch.families import load_shape_family

SHAPE = load_shape_family("mistral-7b").shape
WHOLE = whole_layout(SHAPE, torch.bfloat16)
SLOT = synthetic_layout(SyntheticConfig(), SHAPE)

LINEAR_ROWS = 6144 + 4096 + 2 * 14336 + 4096
LINEAR_WEIGHTS = (6144 + 4096 + 2 * 14336) * 4096 + 4096 * 14336
NORM_BYTES = 4 * (2 * 32 + 1) * 4096
HEAD_WEIGHTS = 32000 * 4096


def test_the_base_is_read_without_its_embedding() -> None:
    assert whole_read_bytes(WHOLE) == 2 * (32 * LINEAR_WEIGHTS + HEAD_WEIGHTS) + NORM_BYTES


def test_a_delta_is_codes_steps_and_salient_values_without_its_embedding() -> None:
    # 2 bits a weight, a step of 4 bytes and 8 values of 2 bytes a row; q/k/v list their channels 6 times, gate/up twice
    codes = LINEAR_WEIGHTS // 4
    rows = LINEAR_ROWS * (4 + 16)
    lists = (6 + 1 + 2 + 1) * 8 * 4
    head = HEAD_WEIGHTS // 2 + 32000 * 4
    exact = 32 * (codes + rows + lists) + head + NORM_BYTES
    # parts begin at multiples of 256 bytes: lists are padded, and nothing else is
    assert exact <= delta_read_bytes(SLOT) <= exact + 32 * 4 * 256


def test_keys_and_values_of_16_rows_of_512_tokens_are_a_gibibyte() -> None:
    assert kv_read_bytes(DecodeCase(B=16, E=16, context=512), WHOLE) == 1 << 30


def test_sixteen_experts_take_three_times_the_base_and_far_less_than_whole_models() -> None:
    case = DecodeCase(B=16, E=16, context=512)
    total = step_read_bytes(case, WHOLE, SLOT)
    assert total == whole_read_bytes(WHOLE) + 16 * delta_read_bytes(SLOT) + (1 << 30)
    # the floors that the design names: 14.6 ms and 75 ms at 3.07 TB/s
    assert total / 3.07e9 == pytest.approx(14.6, abs=0.1)
    assert whole_models_read_bytes(case, WHOLE) / 3.07e9 == pytest.approx(75, abs=0.7)


def test_without_experts_the_deltas_are_not_read() -> None:
    case = DecodeCase(B=16, E=0, context=512)
    assert step_read_bytes(case, WHOLE, SLOT) == step_read_bytes(case, WHOLE, None)
    assert step_read_bytes(case, WHOLE, None) == whole_models_read_bytes(case, WHOLE)


def test_a_tied_table_is_read_once_as_the_head() -> None:
    tied = replace(SHAPE, tied=True)
    assert whole_read_bytes(whole_layout(tied, torch.bfloat16)) == whole_read_bytes(WHOLE)
    layout = synthetic_layout(SyntheticConfig(), tied)
    assert delta_read_bytes(layout) == delta_read_bytes(SLOT)
