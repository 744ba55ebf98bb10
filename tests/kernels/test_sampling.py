import math

import pytest
import torch

pytestmark = pytest.mark.usefixtures("poison")


def _call(B, V, device, temperature):
    torch.manual_seed(0)
    return torch.randn(B, V).to(device), {
        "vocabulary": torch.full((B,), V, dtype=torch.int32, device=device),
        "temperature": torch.tensor(temperature, dtype=torch.float32, device=device).expand(B).contiguous(),
        "seeds": torch.arange(B, device=device) * 7919 - 3,
        "positions": torch.arange(B, device=device) + (5 << 32),
    }


@pytest.mark.parametrize("V", [1, 100, 512, 1300])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 3.0])
def test_the_tokens_are_those_of_the_reference(device, V, temperature):
    from meswitch_kernels.reference import choose_tokens_ref
    from meswitch_kernels.sampling import choose_tokens

    logits, options = _call(9, V, device, temperature)
    assert choose_tokens(logits, **options).tolist() == choose_tokens_ref(logits, **options).tolist()


def test_at_temperature_zero_the_first_of_the_largest_wins(device):
    from meswitch_kernels.sampling import choose_tokens

    logits, options = _call(3, 5000, device, 0.0)
    logits.clamp_(max=0.5)
    logits[0, [4999, 2048, 17]] = 1.0
    logits[1, [4999, 2048]] = 1.0
    logits[2, 4999] = 1.0
    assert choose_tokens(logits, **options).tolist() == [17, 2048, 4999]


def test_draws_of_the_reference_follow_the_softmax():
    from meswitch_kernels.reference import choose_tokens_ref

    n = 4000
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(n, 4)
    options = _call(n, 4, "cpu", 2.0)[1] | {"seeds": torch.full((n,), 11)}
    tokens = choose_tokens_ref(logits, **options)
    want = (torch.tensor([0.0, 1.0, 2.0, -1.0]) / 2.0).softmax(0)
    got = torch.bincount(tokens, minlength=4) / n
    # four standard errors of each share
    assert ((got - want).abs() < 4 * (want * (1 - want) / n).sqrt()).all()


def test_a_draw_depends_on_its_seed_and_position_and_on_no_other_row(device):
    from meswitch_kernels.sampling import choose_tokens

    logits, options = _call(8, 1000, device, 5.0)
    together = choose_tokens(logits, **options)
    alone = choose_tokens(logits[5:6], **{name: tensor[5:6] for name, tensor in options.items()})
    assert alone[0] == together[5]
    same = logits[:1].expand(8, -1)
    zeros = torch.zeros(8, dtype=torch.int64, device=device)
    assert len(set(choose_tokens(same, **(options | {"seeds": zeros})).tolist())) > 4
    assert len(set(choose_tokens(same, **(options | {"positions": zeros})).tolist())) > 4
    assert len(set(choose_tokens(same, **(options | {"seeds": zeros, "positions": zeros})).tolist())) == 1


def test_logits_beyond_a_rows_vocabulary_are_not_looked_at(device):
    from meswitch_kernels.sampling import choose_tokens

    logits, options = _call(3, 3000, device, 0.0)
    options["vocabulary"] = torch.tensor([2500, 10, 3000], dtype=torch.int32, device=device)
    logits[:, 2500:] = float("nan")
    tokens = choose_tokens(logits, **options)
    assert tokens.tolist() == [int(logits[0, :2500].argmax()), int(logits[1, :10].argmax()), -1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_without_a_finite_maximum_there_is_no_token(device, temperature):
    from meswitch_kernels.sampling import choose_tokens

    logits, options = _call(5, 3000, device, temperature)
    logits[0, 2100] = math.inf
    logits[1, 2100] = math.nan
    logits[2] = -math.inf
    options["vocabulary"][3] = 0
    logits[4] = -math.inf
    logits[4, 2999] = -5.0
    assert choose_tokens(logits, **options).tolist() == [-1, -1, -1, -1, 2999]


def test_arguments_that_do_not_fit_together_are_refused(device):
    from meswitch_kernels.errors import UnsupportedShapeError
    from meswitch_kernels.sampling import choose_tokens

    logits, options = _call(2, 8, device, 0.0)
    with pytest.raises(UnsupportedShapeError, match="logits must be"):
        choose_tokens(logits.long(), **options)
    with pytest.raises(UnsupportedShapeError, match=r"seeds must be \[2\] torch.int64"):
        choose_tokens(logits, **(options | {"seeds": torch.zeros(2)}))


@pytest.mark.gpu
@pytest.mark.parametrize("V", [32000, 151936])
def test_the_gpu_draws_the_tokens_of_the_reference(device, V):
    from meswitch_kernels.reference import choose_tokens_ref
    from meswitch_kernels.sampling import choose_tokens

    logits, options = _call(33, V, device, 0.8)
    options["temperature"][::3] = 0.0
    logits = logits.bfloat16()
    assert choose_tokens(logits, **options).tolist() == choose_tokens_ref(logits, **options).tolist()
