"""What switches cost those who do not wait for them: gaps between tokens of resident experts' answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.records import NS_PER_S, RequestRecord
from harness.switching.client import SwitchClient
from harness.switching.plan import SwitchingOptions

__all__ = ["PHASES", "measure_interference"]

PHASES = ("without", "with", "with", "without")
"""Whether the others' experts have to be switched to: in this order, so that a machine that drifts favours neither."""

OTHERS_TOKENS = 8
POLL_S = 0.05


@dataclass(slots=True)
class _Phase:
    """One phase: streams of pinned experts all the time, and others' requests at even times."""

    client: SwitchClient
    options: SwitchingOptions
    number: int
    kind: str
    pinned: Sequence[str]
    asked: Sequence[str]
    records: list[RequestRecord] = field(default_factory=list)
    _streams: dict[str, str] = field(default_factory=dict)
    _asked: int = 0

    def run(self) -> None:
        """Keep every stream going until the phase is over, and wait for what is in flight then."""
        clock = self.client.clock
        start_ns = clock.now_ns()
        end_ns = start_ns + round(self.options.phase_s * NS_PER_S)
        gap_ns = round(NS_PER_S / self.options.switches_per_s)
        for expert in self.pinned[: self.options.streams]:
            self._stream(expert)
        while (now_ns := clock.now_ns()) < end_ns:
            due_ns = start_ns + (self._asked + 1) * gap_ns
            if now_ns >= due_ns:
                self._other(due_ns)
                continue
            for record in self.client.receive(min(due_ns, end_ns, now_ns + round(POLL_S * NS_PER_S))):
                self._keep(record)
                if record.request_id in self._streams:
                    self._stream(self._streams.pop(record.request_id))
        self.client.drain(self._keep)

    def _stream(self, expert: str) -> None:
        name = self.client.send(
            expert,
            prompt=self._asked,
            tokens=self.options.prompt_tokens,
            output_tokens=self.options.stream_tokens,
            task=f"stream {self.kind}",
        )
        self._streams[name] = expert

    def _other(self, due_ns: int) -> None:
        self.client.send(
            self.asked[self._asked % len(self.asked)],
            prompt=self._asked,
            tokens=OTHERS_TOKENS,
            output_tokens=2,
            task=f"other {self.kind}",
            due_ns=due_ns,
        )
        self._asked += 1

    def _keep(self, record: RequestRecord) -> None:
        self.records.append(replace(record, repeat=self.number))


def measure_interference(
    client: SwitchClient, *, pinned: Sequence[str], others: Sequence[str], options: SwitchingOptions
) -> list[RequestRecord]:
    """All requests of all phases; `repeat` is the phase, `task` says what each was for.

    In either kind of phase the same short requests ask for an expert beside the streams' own, so that each batch has as
    many experts and switching alone makes the difference: in the phases without, it is always the same one, brought
    before the phase begins.

    Args:
        client: of the system.
        pinned: experts that never leave the device.
        others: the first stays while nobody asks for another; of the rest none finds a place at once, one after the
            other: more than there are slots for them.
    """
    records: list[RequestRecord] = []
    staying, moving = others[:1], others[1:]
    for number, kind in enumerate(PHASES):
        asked = moving if kind == "with" else staying
        # whatever was there: after these, the one that stays is there, and the first of the rest is not
        for expert in asked:
            client.answer(expert, prompt=0, tokens=OTHERS_TOKENS, output_tokens=2, task="bring")
        phase = _Phase(client, options, number, kind, pinned, asked)
        phase.run()
        records += phase.records
    return records
