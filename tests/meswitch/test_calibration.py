import pytest
import torch
from torch import nn

from meswitch.calibration import collect_input_second_moments, collect_input_square_sums


class TwoLinears(nn.Module):
    """A token's embedding, one linear, a second one behind it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, -1.0]]))
        self.first = nn.Linear(2, 3, bias=False)
        self.second = nn.Linear(3, 1)
        self.idle = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.9)
        nn.init.constant_(self.first.weight, 1.0)

    def forward(self, input_ids):
        return self.second(self.first(self.drop(self.embed(input_ids))))


def tokenizer(text: str) -> dict[str, list[int]]:
    return {"input_ids": [int(c) for c in text]}


def test_squares_are_summed_over_tokens_and_texts():
    sums = collect_input_square_sums(TwoLinears(), tokenizer, ["01", "2"])
    # inputs (1, 2), (3, 0), (0, -1); behind them 3, 3, -1 in each channel
    assert sums["first.weight"].tolist() == [10.0, 5.0]
    assert sums["second.weight"].tolist() == [19.0, 19.0, 19.0]
    assert sums["first.weight"].dtype == torch.float32


def test_second_moments_are_summed_over_tokens_and_texts():
    moments = collect_input_second_moments(TwoLinears(), tokenizer, ["01", "2"])
    # inputs (1, 2), (3, 0), (0, -1)
    assert moments["first.weight"].tolist() == [[10.0, 2.0], [2.0, 5.0]]
    assert moments["second.weight"].tolist() == [[19.0] * 3] * 3
    assert moments["idle.weight"].tolist() == [[0.0] * 4] * 4
    assert moments["first.weight"].dtype == torch.float32


def test_second_moments_of_some_linears():
    model = TwoLinears()
    moments = collect_input_second_moments(model, tokenizer, ["012"], names=["second.weight"], skip_tokens=1)
    # behind (3, 0), (0, -1): 3 and -1
    assert {name: moment.tolist() for name, moment in moments.items()} == {"second.weight": [[10.0] * 3] * 3}
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_second_moments_of_what_is_no_linear_are_refused():
    with pytest.raises(ValueError, match=r"names must be those of linears of the model, got 'embed\.weight'"):
        collect_input_second_moments(TwoLinears(), tokenizer, ["0"], names=["embed.weight"])


def test_a_linear_that_no_token_reaches_has_zeros():
    assert collect_input_square_sums(TwoLinears(), tokenizer, ["0"])["idle.weight"].tolist() == [0.0] * 4


def test_tokens_beyond_the_limit_are_cut_off():
    sums = collect_input_square_sums(TwoLinears(), tokenizer, ["012"], max_tokens=2)
    assert sums["first.weight"].tolist() == [10.0, 4.0]


def test_first_tokens_can_be_left_out():
    sums = collect_input_square_sums(TwoLinears(), tokenizer, ["01", "02"], skip_tokens=1)
    assert sums["first.weight"].tolist() == [9.0, 1.0]


def test_an_empty_text_adds_nothing():
    sums = collect_input_square_sums(TwoLinears(), tokenizer, ["", "1"])
    assert sums["first.weight"].tolist() == [9.0, 0.0]


def test_progress_counts_texts():
    seen: list[int] = []
    collect_input_square_sums(TwoLinears(), tokenizer, ["0", "1"], on_text=seen.append)
    assert seen == [1, 2]


def test_the_model_is_left_as_it_was():
    model = TwoLinears()
    model.second.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    collect_input_square_sums(model, tokenizer, ["012"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not model.second.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_hooks_are_removed_when_the_model_fails():
    model = TwoLinears()
    with pytest.raises(IndexError):
        collect_input_square_sums(model, tokenizer, ["9"])
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("texts", "skip"), [([], 0), ([""], 0), (["0", "1"], 1)])
def test_texts_without_tokens_to_count_are_refused(texts, skip):
    with pytest.raises(ValueError, match=f"calibration needs texts of more than {skip} tokens, got none"):
        collect_input_square_sums(TwoLinears(), tokenizer, texts, skip_tokens=skip)


def test_inputs_that_are_not_finite_are_refused():
    model = TwoLinears()
    model.embed.weight.data[1, 1] = torch.nan
    for collect in (collect_input_square_sums, collect_input_second_moments):
        with pytest.raises(ValueError, match=r"must be finite, got nan in channel 1 of first\.weight"):
            collect(model, tokenizer, ["01"])


@pytest.mark.parametrize(("max_tokens", "skip_tokens"), [(0, 0), (1, -1)])
def test_impossible_limits_are_refused(max_tokens, skip_tokens):
    with pytest.raises(ValueError, match="max_tokens must be at least 1 and skip_tokens at least 0"):
        collect_input_square_sums(TwoLinears(), tokenizer, ["0"], max_tokens=max_tokens, skip_tokens=skip_tokens)


def test_a_transformer_gives_its_parameter_names():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=10)
    )
    sums = collect_input_square_sums(model, tokenizer, ["0123", "45"])
    names = {name for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name}
    assert sums.keys() == names
    assert all(sums[name].shape == (model.get_parameter(name).shape[1],) for name in names)
    # q, k and v read the same input
    layer = "model.layers.0.self_attn"
    assert torch.equal(sums[f"{layer}.q_proj.weight"], sums[f"{layer}.v_proj.weight"])
    hidden = [model(input_ids=torch.tensor([ids]), output_hidden_states=True) for ids in ([0, 1, 2, 3], [4, 5])]
    expected = sum(h.hidden_states[-1].square().sum(dim=(0, 1)) for h in hidden)
    torch.testing.assert_close(sums["lm_head.weight"], expected.detach(), rtol=1e-4, atol=1e-6)
    moments = collect_input_second_moments(model, tokenizer, ["0123", "45"])
    assert moments.keys() == names
    for name in names:
        torch.testing.assert_close(moments[name].diagonal(), sums[name])
