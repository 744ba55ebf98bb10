"""A base and three experts, engines over them, and what they say. No test lives here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from meswitch.architecture import describe
from meswitch.batch import Batch
from meswitch.codecs import decompress
from meswitch.config import SchedulerConfig
from meswitch.core import BASE, Event
from meswitch.delta import ExpertDelta
from meswitch.expert_profile import ExpertProfile
from meswitch.model import SwitchModel
from meswitch.pool import DeltaPool, WholePool
from meswitch.router.base import Query, Route
from meswitch.store import Source
from meswitch.switch_engine import SwitchEngine
from meswitch.weights import read_whole_model, whole_model_bytes
from tests.meswitch.serving_models import InlineExecutor, tiny_config

NAMES = (BASE, "e1", "e2", "e3")
CONFIG = tiny_config()
BIG = 10**8


@dataclass(frozen=True)
class Family:
    """A base and three experts on the disk, and the experts as 4-bit deltas."""

    roots: Mapping[str, Path]
    deltas: Mapping[str, ExpertDelta]

    def oracle(self, name: str) -> Any:
        """The expert as `transformers` runs it, with base + D̂ written into its parameters."""
        model = AutoModelForCausalLM.from_pretrained(self.roots[BASE], dtype=torch.float32)
        if name == BASE:
            return model
        parameters, delta = model.state_dict(), self.deltas[name]
        for parameter, matrix in delta.matrices.items():
            parameters[parameter].add_(decompress(matrix))
        for parameter, value in delta.exact.items():
            parameters[parameter].copy_(value)
        return model


def delta_source(delta: ExpertDelta) -> Source[ExpertDelta]:
    return Source(nbytes=delta.nbytes, read_bytes=delta.nbytes, read=lambda: delta)


class FirstWordRouter:
    """Takes the query's first word; anything it does not know goes to the base."""

    nbytes = 1000
    kv_bytes = 24

    def route(self, queries: Sequence[Query]) -> Sequence[Route]:
        return [Route(expert=q.text.split()[0], confidence=0.75) for q in queries]


def engine(
    family: Family,
    *,
    weights: str = "delta",
    capacity_bytes: int = BIG,
    executor: Any = None,
    sources: Mapping[str, Source[Any]] | None = None,
    end_tokens: Sequence[int] = (2,),
    router: Any = None,
    clock_ns: Any = None,
    **limits: Any,
) -> SwitchEngine:
    """An engine over the family, its pool's capacity given without base and router."""
    architecture, executor = describe(CONFIG), executor or InlineExecutor()
    read = {"architecture": architecture, "tied": False}
    pool: Any
    if weights == "delta":
        chosen = sources or {n: delta_source(delta) for n, delta in family.deltas.items()}
        base = read_whole_model(family.roots[BASE], **read)
        pool = DeltaPool(base, chosen, architecture=architecture, capacity_bytes=capacity_bytes, executor=executor)
    else:
        whole = {
            n: Source(
                nbytes=whole_model_bytes(root, **read),
                read_bytes=(root / "model.safetensors").stat().st_size,
                read=lambda root=root: read_whole_model(root, **read),
            )
            for n, root in family.roots.items()
        }
        pool = WholePool(whole, capacity_bytes=capacity_bytes, executor=executor)
    config = SchedulerConfig(**{"max_rows": 4, "max_context_tokens": 64, **limits})
    model = SwitchModel(CONFIG)
    cache = model.new_cache(slots=config.max_rows, tokens=config.max_context_tokens)
    profile = ExpertProfile(tokenizer=None, end_tokens=frozenset(end_tokens))
    return SwitchEngine(
        pool=pool,
        batch=Batch(model, cache, max_rows=config.max_rows),
        profiles=dict.fromkeys(NAMES, profile),
        scheduler=config,
        router=router,
        budget_bytes=capacity_bytes,
        kv_bytes=cache.nbytes,
        **({} if clock_ns is None else {"clock_ns": clock_ns}),
    )


def of(events: Sequence[Event], kind: type[Any], request_id: str | None = None) -> list[Any]:
    return [e for e in events if isinstance(e, kind) and request_id in (None, e.request_id)]
