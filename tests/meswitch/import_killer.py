"""Kills `meswitch compress --replace` at random moments and looks at what is left. Run as a program of its own.

One process imports everything once and forks a child for each trial, so that a trial takes a fraction of a second. It
starts no thread itself (whatever hashes or reads weights does so in a child), because threads do not survive a fork.
"""

import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from meswitch.errors import MeswitchError

__all__ = ["Left", "Trial", "judge", "main", "run_trials"]

Left = Literal["old", "new", "nothing", "unreadable", "wrong"]

LEFT: tuple[Left, ...] = ("old", "new", "nothing", "unreadable", "wrong")
CODEC = "rtn:bits=4"
REHEARSALS = 5
FROM_NOTHING = 0.2
AT_PUBLICATION = 0.4
# how long a publication takes depends on the disk: kills aimed at it move closer until they land
LONGEST_PUBLICATION_S = 0.03
SHORTEST_PUBLICATION_S = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One kill: what was there, when it was killed, and what is there now.

    Attributes:
        before: expert that was at the output; `None` for a first import.
        writing: expert that was being imported.
        aim: `any` moment from the fork on, or `publication`: from the moment that the new manifest is there.
        delay_s: from that moment to the kill.
        killed: whether the kill met it alive; else it had ended.
        partial: whether it left unfinished work for the next one.
        left: what the output holds.
    """

    before: str | None
    writing: str
    aim: Literal["any", "publication"]
    delay_s: float
    killed: bool
    partial: bool
    left: Left


@dataclass(frozen=True, slots=True)
class _Moment:
    at_publication: bool
    delay_s: float


def judge(output: Path, references: Mapping[str, Path], *, before: str | None, writing: str) -> Left:
    """What is at `output`: nothing but the old expert or the new one, byte for byte, is right."""
    from meswitch.format import load_expert, open_delta

    try:
        name = open_delta(output, verify=True).manifest.name
        load_expert(output, base_identity=None)
    except MeswitchError:
        return "unreadable" if output.exists() else "nothing"
    if name not in (before, writing) or contents(output) != contents(references[name]):
        return "wrong"
    return "new" if name == writing else "old"


def contents(root: Path) -> dict[str, bytes]:
    """All files of a delta but its manifest, which says when it was made."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def run_trials(base: Path, experts: Mapping[str, Path], root: Path, *, trials: int, seed: int) -> list[Trial]:
    """Import two experts over each other until `trials` imports were killed alive; all in `root`."""
    rng = random.Random(seed)
    references = {name: root / "references" / name for name in experts}
    took_s = [_timed(lambda n=name: _compress(base, experts[n], references[n], n)) for name in experts]
    rehearsal = root / "rehearsal"
    for number in range(REHEARSALS):
        name = sorted(experts)[number % 2]
        took_s.append(_timed(lambda n=name: _compress(base, experts[n], rehearsal, n)))
    longest_s = median(took_s)
    output = root / "library" / "expert"
    done: list[Trial] = []
    before: str | None = None
    publication_s = LONGEST_PUBLICATION_S
    while (landed := sum(trial.killed for trial in done)) < trials:
        from_nothing = rng.random() < FROM_NOTHING
        if before is not None and from_nothing:
            shutil.rmtree(output)
            before = None
        elif before is None and not from_nothing:
            before = rng.choice(sorted(experts))
            shutil.copytree(references[before], output)
        # always the other one, so that old and new differ
        writing = next(name for name in sorted(experts, key=lambda _: rng.random()) if name != before)
        # by the kills that landed: on a fast disk most of those aimed at the publication come too late
        landed_there = sum(trial.killed and trial.aim == "publication" for trial in done)
        at_publication = landed_there < AT_PUBLICATION * (landed + 1) and rng.random() < 2 * AT_PUBLICATION
        moment = _Moment(at_publication, rng.uniform(0, publication_s if at_publication else longest_s))
        trial = _trial(base, experts, references, output, before, writing, moment)
        done.append(trial)
        if at_publication:
            closer_s = publication_s * 1.2 if trial.killed else publication_s / 2
            publication_s = min(max(closer_s, SHORTEST_PUBLICATION_S), LONGEST_PUBLICATION_S)
        if trial.left in ("unreadable", "wrong"):
            break
        before = writing if trial.left == "new" else before
    return done


def _trial(
    base: Path,
    experts: Mapping[str, Path],
    references: Mapping[str, Path],
    output: Path,
    before: str | None,
    writing: str,
    moment: _Moment,
) -> Trial:
    partial_dir = output.parent / f".{output.name}.partial"
    child = _fork(lambda: _compress(base, experts[writing], output, writing))
    ended = moment.at_publication and _ended_before(child, partial_dir / "manifest.json")
    if not ended and not _ended_within(child, moment.delay_s):
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # it may have ended between the wait and the kill
    killed = code == -signal.SIGKILL
    if not killed and code:
        raise RuntimeError(f"an import of {writing} that nobody killed must end well, got exit code {code}")
    partial = partial_dir.exists()
    looked = _wait(_fork(lambda: LEFT.index(judge(output, references, before=before, writing=writing))))
    left = LEFT[looked]
    # nothing at all is right only where nothing was; and whatever said that it had ended must have written
    if (left == "nothing" and before is not None) or (not killed and left != "new"):
        left = "wrong"
    return Trial(
        before=before,
        writing=writing,
        aim="publication" if moment.at_publication else "any",
        delay_s=moment.delay_s,
        killed=killed,
        partial=partial,
        left=left,
    )


def _compress(base: Path, expert: Path, output: Path, name: str) -> int:
    from meswitch.cli.app import run

    options = {"--base": base, "--expert": expert, "--name": name, "--output": output, "--linear": CODEC}
    words = [str(word) for pair in options.items() for word in pair]
    return run(["compress", *words, "--replace"])


def _timed(work: Callable[[], int]) -> float:
    started_s = time.monotonic()
    code = _wait(_fork(work))
    if code:
        raise RuntimeError(f"an import that nobody kills must end well, got exit code {code}")
    return time.monotonic() - started_s


def _fork(work: Callable[[], int]) -> int:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _ended_within(child: int, timeout_s: float) -> bool:
    descriptor = os.pidfd_open(child)
    try:
        return bool(select.select([descriptor], [], [], timeout_s)[0])
    finally:
        os.close(descriptor)


def _ended_before(child: int, path: Path) -> bool:
    """Whether the child ended, rather than that `path` came into being first."""
    while not path.exists():
        if _ended_within(child, 0.0002):
            return True
    return False


def main(words: list[str]) -> None:
    """`BASE EXPERT EXPERT ROOT TRIALS SEED`: prints the trials as JSON, one a line."""
    import transformers.models.llama.modeling_llama  # noqa: F401

    import meswitch.cli.app
    import meswitch.compress
    import meswitch.format
    import meswitch.library  # noqa: F401

    base, first, second, root = map(Path, words[:4])
    experts = {path.name: path for path in (first, second)}
    for trial in run_trials(base, experts, root, trials=int(words[4]), seed=int(words[5])):
        print(json.dumps(asdict(trial)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
