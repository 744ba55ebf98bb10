import torch

from meswitch.slot_cache import SlotCache


def cache(slots: int = 3, tokens: int = 64) -> SlotCache:
    return SlotCache(layers=2, slots=slots, kv_heads=1, head_dim=1, tokens=tokens)


def column(*values: float) -> torch.Tensor:
    """Keys `[1, 1, T, 1]` of one row."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, -1, 1)


def prefill(held: SlotCache, slot: int, *values: float) -> None:
    held.begin_prefill(slot, len(values))
    for layer in range(2):
        held.update(column(*values), -column(*values), layer)


def decode(held: SlotCache, positions: list[int], *values: float) -> tuple[torch.Tensor, torch.Tensor]:
    mask = held.begin_decode(torch.tensor(positions), max(positions))
    new = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
    held.update(new, -new, 0)
    keys, _ = held.update(new, -new, 1)
    return keys[:, 0, :, 0], mask[:, 0, 0]


def seen(keys: torch.Tensor, mask: torch.Tensor) -> list[list[float]]:
    return [row[allowed].tolist() for row, allowed in zip(keys, mask, strict=True)]


def test_each_row_sees_its_own_prompt_up_to_its_own_position() -> None:
    held = cache()
    prefill(held, 0, 1, 2, 3)
    prefill(held, 1, 4)
    assert seen(*decode(held, [3, 1], 5, 6)) == [[1, 2, 3, 5], [4, 6]]


def test_a_prompt_is_masked_causally() -> None:
    mask = cache().begin_prefill(0, 3)
    assert mask[0, 0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_nothing_of_a_slots_last_request_is_seen() -> None:
    held = cache()
    prefill(held, 0, 9, 9, 9, 9, 9)
    prefill(held, 0, 1)
    assert seen(*decode(held, [1], 2)) == [[1, 2]]


def test_moved_slots_keep_what_they_hold() -> None:
    held = cache()
    for slot, value in enumerate([1.0, 2.0, 3.0]):
        prefill(held, slot, value, value)
    held.reorder([2, 0], 2)
    assert seen(*decode(held, [2, 2], 7, 8)) == [[3, 3, 7], [1, 1, 8]]


def test_what_ended_or_moved_away_leaves_zeros() -> None:
    held = cache()
    prefill(held, 0, 9, torch.nan)
    prefill(held, 2, torch.nan, torch.nan, 4)
    held.clear(0, 2)
    held.reorder([2], 3)
    held.clear(0, 3)
    for slot in range(3):
        prefill(held, slot, 1)
    keys, _ = decode(held, [1, 1, 1], 5, 6, 7)
    assert keys[:, :3].tolist() == [[1, 5, 0], [1, 6, 0], [1, 7, 0]]


def test_attention_reads_whole_blocks_within_the_capacity() -> None:
    held = cache(tokens=40)
    assert held.begin_decode(torch.tensor([3, 31]), 31).shape == (2, 1, 1, 32)
    assert held.begin_decode(torch.tensor([3, 32]), 32).shape == (2, 1, 1, 40)


def test_bytes_are_layers_slots_heads_tokens_and_width_twice_in_float32() -> None:
    assert SlotCache(layers=2, slots=3, kv_heads=5, head_dim=7, tokens=11).nbytes == 2 * 2 * 3 * 5 * 7 * 11 * 4
