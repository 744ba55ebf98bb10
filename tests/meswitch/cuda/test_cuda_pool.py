"""The pools of the device: leases that know their slot or buffer, bytes that count, and the base beside experts."""

from pathlib import Path

import pytest
import torch

from meswitch.config import StoreConfig
from meswitch.core import BASE, Residency
from meswitch.cuda.delta_image import DeltaImageSource
from meswitch.cuda.expert_layout import layout_of
from meswitch.cuda.pinned import PinnedArena
from meswitch.cuda.pool import CudaPool
from meswitch.cuda.slots import SlotArena
from meswitch.cuda.whole_image import WholeImageSource
from meswitch.cuda.whole_layout import WholeWeights, whole_layout
from meswitch.cuda.whole_pool import WholeCudaPool
from meswitch.store import Loaded, LoadFailed
from tests.meswitch.checkpoints import fine_tune
from tests.meswitch.cuda.delta_experts import CPU, make_base, make_delta, opened, shape_of
from tests.meswitch.cuda.tier_fakes import FakeCopies
from tests.meswitch.serving_models import InlineExecutor

NAMES = ("e1", "e2", "e3")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, three experts and their deltas, in directories of those names."""
    root = tmp_path_factory.mktemp("family")
    base = make_base(root / "base")
    for seed, name in enumerate(NAMES, start=1):
        make_delta(base, root / name, seed=seed, linear="salient:bits=2,channels=4")
        fine_tune(base, root / f"{name}-whole", seed=seed)
    return root


def new_weights(family: Path) -> WholeWeights:
    layout = whole_layout(shape_of(family / "base"), torch.bfloat16)
    return WholeWeights(layout, torch.zeros(layout.nbytes, dtype=torch.uint8))


def delta_pool(family: Path, *, slots: int = 2, images: int = 3, config: StoreConfig | None = None) -> CudaPool:
    directories = {name: opened(family / name) for name in NAMES}
    layout = layout_of(directories, shape_of(family / "base"))
    return CudaPool(
        new_weights(family),
        {name: DeltaImageSource(directory, layout) for name, directory in directories.items()},
        slots=SlotArena(layout, slots=slots, device=CPU),
        host=PinnedArena(layout.nbytes, images=images, device=CPU),
        executor=InlineExecutor(),
        config=config,
    )


def whole_pool(family: Path, *, buffers: int = 1, images: int = 1) -> WholeCudaPool:
    made = [new_weights(family) for _ in range(buffers)]
    layout = made[0].layout
    roots = {BASE: family / "base", **{name: family / f"{name}-whole" for name in NAMES}}
    return WholeCudaPool(
        made,
        {name: WholeImageSource(root, layout) for name, root in roots.items()},
        host=PinnedArena(layout.nbytes, images=images, device=CPU),
        executor=InlineExecutor(),
    )


def bring(pool: CudaPool | WholeCudaPool, name: str) -> Loaded | LoadFailed:
    ended: list[Loaded | LoadFailed] = []
    for _ in range(3):
        if not ended:
            assert pool.request(name)
            ended = list(pool.poll())
            pool.check_integrity()
    return ended[0]


def test_the_base_is_always_resident_without_a_slot(family: Path) -> None:
    pool = delta_pool(family, config=StoreConfig(pinned=(BASE,)))
    assert pool.request(BASE)
    assert list(pool.resident) == [BASE]
    lease = pool.lease(BASE)
    lease.wait(0)
    assert lease.slot == -1
    assert lease.vocabulary == 40
    pool.release(BASE)
    assert pool.poll() == []
    assert pool.counters == {"switches": 0, "evictions": 0, "moved_bytes": 0}


def test_an_expert_leases_the_base_and_the_slot_that_holds_its_image(family: Path) -> None:
    pool = delta_pool(family)
    for name in NAMES:
        bring(pool, name)
        lease = pool.lease(name)
        lease.wait(2)
        layout = layout_of({name: opened(family / name)}, shape_of(family / "base"))
        image = torch.empty(layout.nbytes, dtype=torch.uint8)
        DeltaImageSource(opened(family / name), layout).fill(image)
        assert lease.weights is pool.lease(BASE).weights
        assert torch.equal(pool._arena.memory[lease.slot], image)
        assert lease.vocabulary == 40
        pool.release(name)
    assert set(pool.resident) == {BASE, "e2", "e3"}
    assert pool.slots == 2


def test_an_expert_of_one_plane_is_whole_for_whoever_leases_it_early(family: Path) -> None:
    pool = delta_pool(family)
    pool._copies = FakeCopies(pool._arena.memory, pool._arena.layout.segments)
    pool.request("e1")
    while "e1" not in pool.resident:
        pool.request("e1")
        pool.poll()
    assert pool._copies.started[0].done_segments() == 0
    assert pool.lease("e1").refined()
    pool._copies.finish()
    pool.close()


def test_bytes_are_those_of_the_device_whatever_it_holds(family: Path) -> None:
    pool = delta_pool(family)
    empty = dict(pool.weight_bytes)
    assert empty == {"base": new_weights(family).nbytes, "slots": pool._arena.nbytes}
    bring(pool, "e1")
    assert pool.weight_bytes == empty


def test_a_damaged_delta_is_never_served_and_the_others_are(family: Path, tmp_path: Path) -> None:
    pool = delta_pool(family, images=1)
    file = family / "e2" / "delta.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
    try:
        failed = bring(pool, "e2")
    finally:
        file.write_bytes(whole)
    assert isinstance(failed, LoadFailed)
    assert "BLAKE3" in str(failed.error)
    assert list(pool.resident) == [BASE]
    assert isinstance(bring(pool, "e1"), Loaded)
    assert isinstance(bring(pool, "e2"), Loaded)
    pool.close()


def test_an_expert_removed_while_it_is_leased_serves_to_the_end_and_then_fails_by_name(family: Path) -> None:
    pool = delta_pool(family, slots=1, images=1)
    bring(pool, "e1")
    lease = pool.lease("e1")
    before = pool._arena.memory[lease.slot].clone()
    (family / "e1").rename(family / "moved")
    try:
        assert pool.request("e1")
        assert torch.equal(pool._arena.memory[lease.slot], before)
        pool.release("e1")
        bring(pool, "e2")
        failed = bring(pool, "e1")
    finally:
        (family / "moved").rename(family / "e1")
    assert isinstance(failed, LoadFailed)
    assert "cannot be read" in str(failed.error)
    assert isinstance(bring(pool, "e3"), Loaded)


def test_a_slot_is_not_overwritten_before_its_second_plane_is_joined_to_the_first(family: Path, tmp_path: Path) -> None:
    planes = opened(make_delta(family / "base", tmp_path / "planes", linear="nested"))
    layout = layout_of({"planes": planes}, shape_of(family / "base"))
    slots = SlotArena(layout, slots=1, device=CPU)
    copies = FakeCopies(list(slots.memory), layout.segments)
    pool = CudaPool(
        new_weights(family),
        {"planes": DeltaImageSource(planes, layout)},
        slots=slots,
        host=PinnedArena(layout.nbytes, images=1, device=CPU),
        executor=InlineExecutor(),
        copies=copies,
    )
    pool.preload()
    pool.request("planes")
    pool.poll()
    # nobody holds it: what joins the planes is all that uses the slot
    copies.started[0].advance(layout.serving_segments)
    pool.poll()
    assert copies.used == []
    copies.finish()
    pool.poll()
    assert copies.used == [0]
    upper, lower = (slots.matrix(layers[0]["o"]).steps[0] for layers in (layout.layers, layout.refinements))
    assert lower.any()
    assert torch.equal(upper, 2 * lower)


def test_whole_models_are_leased_with_their_buffer_the_base_among_them(family: Path) -> None:
    pool = whole_pool(family)
    assert pool.weight_bytes == {"experts": new_weights(family).nbytes}
    for name in (BASE, *NAMES):
        loaded = bring(pool, name)
        assert isinstance(loaded, Loaded)
        assert loaded.span.source is Residency.DISK
        lease = pool.lease(name)
        want = new_weights(family)
        root = family / (BASE if name == BASE else f"{name}-whole")
        WholeImageSource(root, want.layout).fill(want.memory)
        assert lease.slot == -1
        assert torch.equal(lease.weights.memory, want.memory)
        pool.release(name)
        assert list(pool.resident) == [name]
    pool.close()


def test_a_model_is_read_while_another_computes_though_it_has_no_buffer_yet(family: Path) -> None:
    pool = whole_pool(family)
    bring(pool, "e1")
    pool.lease("e1")
    assert pool.request("e2")
    assert list(pool.loading) == ["e2"]
    assert pool.poll() == []
    assert not pool.request("e2")
    pool.release("e1")
    assert isinstance(bring(pool, "e2"), Loaded)


def test_with_two_buffers_the_next_model_comes_while_one_computes(family: Path) -> None:
    pool = whole_pool(family, buffers=2, images=4)
    assert pool.preload() == []
    bring(pool, "e1")
    first = pool.lease("e1")
    loaded = bring(pool, "e2")
    assert isinstance(loaded, Loaded)
    assert loaded.span.source is Residency.HOST
    second = pool.lease("e2")
    assert first.weights is not second.weights
    assert not pool.request(BASE)
    pool.release("e1")
    assert isinstance(bring(pool, BASE), Loaded)
    assert pool.lease(BASE).weights is first.weights


def test_while_rows_run_a_whole_model_is_ready_only_near_its_end(family: Path) -> None:
    """Four segments: 90 % of them are all four, 75 % are three."""
    whole = whole_pool(family, images=4)
    whole._copies = copies = FakeCopies([torch.zeros(whole._host.image_bytes, dtype=torch.uint8)])
    whole.preload()
    whole.eager = False
    whole.request("e1")
    copies.started[0].done = 3
    assert whole.poll() == []
    copies.started[0].done = 4
    assert len(whole.poll()) == 1
    delta = delta_pool(family, slots=1)
    delta._copies = copies = FakeCopies([torch.zeros(delta._host.image_bytes, dtype=torch.uint8)])
    delta.preload()
    delta.eager = False
    delta.request("e1")
    copies.started[0].done = 2
    assert delta.poll() == []
    copies.started[0].done = 3
    assert len(delta.poll()) == 1
