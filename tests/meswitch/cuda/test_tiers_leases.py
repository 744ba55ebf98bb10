"""Whoever holds an expert reads that expert: hundreds of random leases, with fakes and on a GPU."""

import random
from collections import Counter
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest
import torch

from meswitch.config import StoreConfig
from meswitch.cuda.copies import segment_copies
from meswitch.cuda.pinned import PinnedArena
from meswitch.cuda.tiers import Tiers
from meswitch.store import LoadFailed
from tests.meswitch.cuda.tier_bench import Bench, sources
from tests.meswitch.cuda.tier_fakes import FakeSource
from tests.meswitch.serving_models import InlineExecutor


@pytest.mark.parametrize("policy", ["lru", "lfu", "cost-aware"])
@pytest.mark.parametrize("threaded", [False, True])
def test_whoever_holds_an_expert_reads_that_expert_whatever_happens(policy: str, threaded: bool) -> None:
    """More experts than images than slots, damaged files, random leases: 300 of them, as an engine would."""
    rng = random.Random(0)
    given = sources("abcdefghij")
    executor: Executor = ThreadPoolExecutor(max_workers=1) if threaded else InlineExecutor()
    bench = Bench(given, slots=3, images=5, executor=executor, real_copies=True, policy=policy, pinned=("j",))
    held: list[tuple[str, int]] = []
    wanted: list[str] = []
    served: Counter[str] = Counter()
    failed = 0
    # as long as it takes, however slowly a thread reads
    while served.total() < 300:
        bench.tiers.eager = not held
        for source in given.values():
            source.damaged = rng.random() < 0.1
        for ended in bench.poll():
            if isinstance(ended, LoadFailed):
                failed += 1
                # one of them may be pinned, and wanted by nobody
                wanted = [name for name in wanted if name != ended.expert]
        for name in [name for name in wanted if name in bench.tiers.resident]:
            held.append((name, bench.tiers.hold(name)[0]))
            served[name] += 1
            wanted.remove(name)
        for i, name in enumerate(wanted):
            if name not in bench.tiers.loading and not bench.tiers.request(name, keep=wanted[:i]):
                break
        bench.tiers.check_integrity()
        for name, slot in held:
            assert bench.memory[slot].unique().tolist() == [given[name].value], name
        while held and (len(held) > 4 or rng.random() < 0.5):
            bench.tiers.release(held.pop(rng.randrange(len(held)))[0])
        wanted += rng.sample(sorted(given.keys() - set(wanted)), 3 - len(wanted))
    assert failed > 5
    assert served.keys() == given.keys()
    assert bench.tiers.counters["evictions"] > 20
    assert bench.tiers.tier_counters["host_evictions"] > 10
    bench.tiers.close()
    executor.shutdown()


@pytest.mark.gpu
def test_on_a_gpu_no_copy_overtakes_a_reader_and_no_reader_a_copy() -> None:
    """The host never waits: experts are read segment by segment while they come, and given up while they are read."""
    device, rng = torch.device("cuda", torch.cuda.current_device()), random.Random(0)
    nbytes, count, leases = 8 << 20, 8, 300
    segments = [(i * nbytes // count, (i + 1) * nbytes // count) for i in range(count)]
    given = {name: FakeSource(value, nbytes=nbytes) for value, name in enumerate("abcdefghij", start=1)}
    memory = torch.zeros(3, nbytes, dtype=torch.uint8, device=device)
    found = torch.zeros(leases, count, 2, dtype=torch.uint8, device=device)
    want = []
    with ThreadPoolExecutor(max_workers=1) as executor:
        tiers = Tiers(
            given,
            slots=3,
            segments=count,
            serving_segments=count,
            host=PinnedArena(nbytes, images=5, device=device),
            copies=segment_copies(list(memory), segments, device=device),
            executor=executor,
            config=StoreConfig(),
            ready_share=0.5,
        )
        for lease in range(leases):
            name = rng.choice(sorted(given))
            tiers.eager = rng.random() < 0.5
            while name not in tiers.resident:
                tiers.request(name)
                tiers.poll()
            slot, wait, _ = tiers.hold(name)
            want.append(given[name].value)
            for segment, (start, stop) in enumerate(segments):
                wait(segment)
                if rng.random() < 0.1:
                    torch.cuda._sleep(200_000)
                found[lease, segment] = torch.stack(memory[slot, start:stop].aminmax())
            tiers.release(name)
        tiers.check_integrity()
        tiers.close()
    assert found.tolist() == [[[value, value]] * count for value in want]
    assert tiers.counters["evictions"] > 100
