from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.fidelity.moments import collect_moments


@pytest.mark.parametrize("at_once", [3, 100])
def test_moments_leave_the_first_token_and_padding_out(
    at_once: int, tiny_family: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.fidelity.moments.ITEMS_AT_ONCE", at_once)
    subject = tiny_family().subject("t", 0)
    short = [replace(item, ids=item.ids[: 3 + i % 4]) for i, item in enumerate(subject.calibration)]
    subject = replace(subject, calibration=short)
    seen: dict[str, list[torch.Tensor]] = {"q_proj": [], "down_proj": []}
    layer = subject.model.model.layers[0]
    parts = {"q_proj": layer.self_attn.q_proj, "down_proj": layer.mlp.down_proj}
    handles = [
        part.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0][0, 1:]))
        for name, part in parts.items()
    ]
    with torch.no_grad():
        for item in short:
            subject.model(input_ids=torch.tensor([item.ids]))
    for handle in handles:
        handle.remove()
    moments = collect_moments(subject)
    for name, path in (("q_proj", "self_attn.q_proj"), ("down_proj", "mlp.down_proj")):
        x = torch.cat(seen[name]).double()
        parameter = f"model.layers.0.{path}.weight"
        torch.testing.assert_close(moments.second[parameter], (x.T @ x).float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(moments.square_sums[parameter], x.square().sum(0).float(), rtol=1e-4, atol=1e-4)


def test_linears_with_one_input_share_its_moment(tiny_family: Callable[..., Any]) -> None:
    second = collect_moments(tiny_family().subject("t", 0)).second
    q, v, o, up, gate = (
        second[f"model.layers.0.{name}.weight"]
        for name in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.gate_proj")
    )
    assert q is v
    assert gate is up
    assert q is not o
