import pytest

from meswitch.cuda.prompt_runner import padded_tokens, prompt_sizes


@pytest.mark.parametrize(
    ("chunk", "wanted"),
    [
        (4, (16,)),
        (16, (16,)),
        (33, (16, 32, 48)),
        (64, (16, 32, 64)),
        (200, (16, 32, 64, 128, 192, 208)),
        (256, (16, 32, 64, 128, 192, 256)),
    ],
)
def test_chunks_are_padded_to_a_few_lengths_and_the_longest_to_no_more_than_it_needs(chunk, wanted):
    assert prompt_sizes(chunk) == wanted


def test_no_length_is_padded_by_more_than_a_tile():
    sizes = prompt_sizes(512)
    for tokens in range(1, 513):
        size = next(size for size in sizes if size >= tokens)
        assert size - tokens < 64
        assert size % 16 == 0
    assert padded_tokens(17) == 32
