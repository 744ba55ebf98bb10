"""A copy into a slot: in place segment by segment, and never under what still reads the slot."""

import pytest
import torch

from meswitch.cuda.copies import segment_copies
from meswitch.cuda.pinned import PinnedArena
from tests.meswitch.cuda.delta_experts import CPU

SEGMENTS = ((0, 512), (512, 768), (768, 2048))


def test_on_the_cpu_a_copy_is_complete_when_it_has_started() -> None:
    memory = torch.zeros(2, 2048, dtype=torch.uint8)
    copies = segment_copies(list(memory), SEGMENTS, device=CPU)
    image = torch.arange(2048).to(torch.uint8)
    copy = copies.start(1, image)
    assert copy.complete
    assert copy.done_segments() == 3
    assert copy.elapsed_ms is None
    copy.wait(2)
    copies.mark_used(1)
    copies.close()
    assert torch.equal(memory[1], image)
    assert not memory[0].any()


def busy(device: torch.device, milliseconds: int) -> None:
    """Keep the current stream of the device busy for about so long."""
    torch.cuda._sleep(milliseconds * 1_500_000)


@pytest.fixture
def on_gpu() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.gpu
def test_a_stream_that_waits_for_a_segment_reads_its_new_bytes(on_gpu: torch.device) -> None:
    nbytes, count = 64 << 20, 8
    segments = [(i * nbytes // count, (i + 1) * nbytes // count) for i in range(count)]
    memory = torch.zeros(1, nbytes, dtype=torch.uint8, device=on_gpu)
    copies = segment_copies(list(memory), segments, device=on_gpu)
    host = PinnedArena(nbytes, images=2, device=on_gpu)
    for i in range(4):
        image = host.images[i % 2]
        image.fill_(i + 1)
        copy = copies.start(0, image)
        least = torch.empty(count, dtype=torch.uint8, device=on_gpu)
        for segment, (start, stop) in enumerate(segments):
            copy.wait(segment)
            least[segment] = memory[0, start:stop].min()
        copies.mark_used(0)
        assert least.tolist() == [i + 1] * count
        assert copy.complete
        elapsed_ms = copy.elapsed_ms
        assert elapsed_ms is not None
        # between a tenth of what the bus can do and ten times that
        assert 0.1 < elapsed_ms / (nbytes / 50e6) < 10
    copies.close()
    host.close()


@pytest.mark.gpu
def test_a_copy_does_not_overtake_what_reads_the_slot(on_gpu: torch.device) -> None:
    memory = torch.ones(2, 2048, dtype=torch.uint8, device=on_gpu)
    copies = segment_copies(list(memory), SEGMENTS, device=on_gpu)
    host = PinnedArena(2048, images=1, device=on_gpu)
    host.images[0].fill_(9)
    torch.cuda.synchronize()
    busy(on_gpu, 50)
    before = memory[0].clone()
    copies.mark_used(0)
    held = copies.start(0, host.images[0])
    assert held.done_segments() == 0
    with pytest.raises(ValueError, match="must be complete before it is overwritten"):
        copies.start(0, host.images[0])
    copies.close()
    torch.cuda.synchronize()
    assert bool((before == 1).all())
    assert bool((memory[0] == 9).all())
    # nobody reads the other slot, so its copy waits for nobody
    busy(on_gpu, 50)
    free = copies.start(1, host.images[0])
    copies.close()
    assert free.complete
    assert not torch.cuda.current_stream(on_gpu).query()
    torch.cuda.synchronize()
    host.close()


@pytest.mark.gpu
def test_an_old_copy_stays_complete_while_its_slot_is_overwritten(on_gpu: torch.device) -> None:
    memory = torch.ones(1, 2048, dtype=torch.uint8, device=on_gpu)
    copies = segment_copies(list(memory), SEGMENTS, device=on_gpu)
    host = PinnedArena(2048, images=1, device=on_gpu)
    first = copies.start(0, host.images[0])
    copies.close()
    assert first.complete
    elapsed_ms = first.elapsed_ms
    busy(on_gpu, 20)
    copies.mark_used(0)
    second = copies.start(0, host.images[0])
    assert first.complete
    assert first.elapsed_ms == elapsed_ms
    assert not second.complete
    copies.close()
    host.close()
