"""The words of a report and what exactly each number is."""

__all__ = ["DEFINITIONS"]

DEFINITIONS: tuple[tuple[str, str], ...] = (
    (
        "arm",
        "One system under comparison. All arms of a run replay the same trace on the same schedule.",
    ),
    (
        "time to first token (TTFT)",
        "First token − scheduled time. It counts from when the trace said the request was due, not from when "
        "the client got round to sending it, so queueing, routing and switching are inside.",
    ),
    (
        "time per output token (TPOT)",
        "(last token − first token) ÷ (output tokens − tokens of the first chunk). Undefined, not zero, when "
        "nothing follows the first chunk.",
    ),
    (
        "end to end",
        "Last token − scheduled time.",
    ),
    (
        "send lag",
        "Sent − scheduled: the client's own lateness. Too much of it makes the run invalid.",
    ),
    (
        "switch",
        "Making an expert ready that was not. Its time runs from the decision to the moment a row can be "
        "computed with it.",
    ),
    (
        "residency class",
        "Where the expert was when its request was first considered: resident, in host memory, on disk.",
    ),
    (
        "right answer",
        "The verdict of the task's verifier on the output. A failed, timed out or unsent request is not right"
        " and stays in the denominator.",
    ),
    (
        "router right",
        "The expert chosen is the expert the trace wanted.",
    ),
    (
        "goodput; correct goodput",
        "Requests within every limit they carry, per second of the window; of these, the ones answered right.",
    ),
    (
        "N whole models",
        "N × the bytes of the base, plus the router: by arithmetic, nobody loaded them.",
    ),
    (
        "weight memory",
        "Bytes of weights that the engine holds: base, codes, dense cache (weights unpacked for use) and router.",
    ),
    (
        "interval",
        "95 %. A bound that the sample is too small to give is a dash. A percentile that the sample is too "
        "small to give is a dash too.",
    ),
    (
        "no significant difference",
        "The interval includes no difference. It does not say that the arms are the same.",
    ),
)
"""Term and meaning, in the order of the page."""
