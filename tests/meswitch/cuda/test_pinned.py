"""Images of host memory are made once, handed out and taken back; what the system refuses is said with its bytes."""

import itertools
import mmap
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from meswitch.cuda import pinned
from meswitch.cuda.kept_images import KeptImages
from meswitch.cuda.pinned import PinnedArena
from meswitch.errors import CapacityError
from tests.meswitch.cuda.delta_experts import CPU


def test_images_are_apart_aligned_and_of_the_size_asked_for() -> None:
    arena = PinnedArena(1000, images=3, device=CPU)
    assert arena.nbytes == 3000
    assert arena.image_bytes == 1000
    for i, image in enumerate(arena.images):
        assert image.shape == (1000,)
        assert image.dtype == torch.uint8
        assert image.data_ptr() % mmap.PAGESIZE == 0
        image.fill_(i)
    assert [image.unique().tolist() for image in arena.images] == [[0], [1], [2]]


def test_an_image_is_taken_once_until_it_is_given_back() -> None:
    arena = PinnedArena(16, images=2, device=CPU)
    first, second = arena.take(), arena.take()
    assert first.data_ptr() != second.data_ptr()
    assert arena.free == 0
    arena.give(first)
    assert arena.free == 1
    assert arena.take().data_ptr() == first.data_ptr()


def test_an_arena_may_be_empty() -> None:
    arena = PinnedArena(16, images=0, device=CPU)
    assert arena.nbytes == 0
    assert arena.free == 0


def test_more_than_the_machine_has_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "available_bytes", lambda: 59)
    with pytest.raises(CapacityError, match="3 images of 20 bytes = 60, 59 are left"):
        PinnedArena(20, images=3, device=CPU)
    PinnedArena(20, images=2, device=CPU)


def test_memory_that_the_system_refuses_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "available_bytes", lambda: 1 << 62)
    with pytest.raises(CapacityError, match=f"host memory must hold {1 << 60} bytes more"):
        PinnedArena(1 << 60, images=1, device=CPU)


def test_closing_twice_does_nothing() -> None:
    arena = PinnedArena(16, images=1, device=CPU)
    arena.close()
    arena.close()


class FakeRuntime:
    """Pins every image but the third, and remembers what is pinned."""

    cudaError = SimpleNamespace(success=0)  # noqa: N815

    def __init__(self) -> None:
        self.pinned: set[int] = set()
        self._calls = itertools.count(1)

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
        if next(self._calls) == 3:
            return 2
        self.pinned.add(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        self.pinned.remove(address)
        return 0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    found = FakeRuntime()
    monkeypatch.setattr(pinned, "_cuda", lambda: found)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    return found


def test_what_was_pinned_before_an_image_that_cannot_be_is_unpinned_and_freed(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = []

    def mapping(*arguments: int, **options: int) -> mmap.mmap:
        made = mmap_type(*arguments, **options)
        maps.append(weakref.ref(made))
        return made

    mmap_type = mmap.mmap
    monkeypatch.setattr(mmap, "mmap", mapping)
    with pytest.raises(CapacityError, match="must be pinnable, CUDA answers 2"):
        PinnedArena(64, images=4, device=torch.device("cuda", 0))
    assert len(maps) >= 3
    assert runtime.pinned == set()
    assert not any(reference() for reference in maps)


def test_what_was_pinned_before_a_failure_is_kept_where_images_outlive_their_arena(runtime: FakeRuntime) -> None:
    kept = KeptImages()
    with pytest.raises(CapacityError, match="must be pinnable"):
        PinnedArena(64, images=3, device=torch.device("cuda", 0), kept=kept)
    assert kept.nbytes == 2 * 64
    assert {image.data_ptr() for image in kept.take(64, 2)} == runtime.pinned


@pytest.mark.gpu
def test_pinned_images_copy_without_the_host_waiting() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    arena = PinnedArena((8 << 20) + 5, images=2, device=device)
    assert all(image.is_pinned() for image in arena.images)
    arena.images[1].fill_(7)
    on_device = arena.images[1].to(device, non_blocking=True)
    torch.cuda.synchronize()
    assert bool((on_device == 7).all())
    arena.close()
    assert not any(image.is_pinned() for image in arena.images)


def test_images_of_an_arena_that_is_gone_are_the_first_of_the_next_one() -> None:
    kept = KeptImages()
    first = PinnedArena(64, images=2, device=CPU, kept=kept)
    addresses = [image.data_ptr() for image in first.images]
    first.images[1].fill_(7)
    first.close()
    first.close()
    assert kept.nbytes == 128
    second = PinnedArena(64, images=3, device=CPU, kept=kept)
    assert [image.data_ptr() for image in second.images][:2] == addresses
    assert second.images[1].unique().tolist() == [7]
    assert kept.nbytes == 0


def test_what_is_kept_makes_room_for_images_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptImages()
    PinnedArena(64, images=2, device=CPU, kept=kept).close()
    kept.drawn[1] = "of others"
    monkeypatch.setattr(pinned, "available_bytes", lambda: 200 - kept.nbytes)
    arena = PinnedArena(100, images=2, device=CPU, kept=kept)
    assert kept.nbytes == 0
    assert len(arena.images) == 2
    with pytest.raises(CapacityError, match="2 images of 150 bytes = 300, 200 are left"):
        PinnedArena(150, images=2, device=CPU, kept=kept)
