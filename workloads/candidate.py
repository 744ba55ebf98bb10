"""What runs inside the sandbox: a candidate's code and then its tests, one verdict on a channel of its own.

Run by `workloads.sandbox` as a script's text, with a job on stdin; it imports nothing but the standard library. A
verdict counts only with the job's token before it, so nothing that a candidate prints, exits with or writes to any file
descriptor can stand for one.
"""

import contextlib
import json
import os
import resource
import sys

RESERVE_BYTES = 1 << 20


def main() -> None:
    """Read the job, run it, say the verdict and end at once."""
    job = json.loads(sys.stdin.read())
    # the job, with its token, can be read no more
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for name, value in job["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    # given back when memory has run out, so that there is enough to say so
    reserve = [bytearray(RESERVE_BYTES)]
    outcome, detail = run(job["candidate"], job["tests"], reserve)
    # what was printed is shown; a stream that the candidate broke is not
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    os.write(job["channel"], f"{job['token']} {outcome} {detail[:200]}".encode(errors="replace"))
    # no exit handler of the candidate's runs any more
    os._exit(0)


def run(candidate: str, tests: list[str], reserve: list[bytearray]) -> tuple[str, str]:
    """The outcome and what there is to say of it."""
    scope: dict[str, object] = {"__name__": "candidate"}
    testing = False
    try:
        exec(compile(candidate, "candidate", "exec"), scope)
        testing = True
        for number, test in enumerate(tests, 1):
            exec(compile(test, f"test {number}", "exec"), scope)
    except MemoryError:
        scope.clear()
        reserve.clear()
        return "memory", "MemoryError"
    except AssertionError:
        return ("failed", f"test {number}") if testing else ("error", "AssertionError before the tests")
    # SystemExit and KeyboardInterrupt too: a candidate that ends early has passed nothing
    except BaseException as error:
        return "error", f"{type(error).__name__}: {error}".splitlines()[0]
    return "passed", f"{len(tests)} tests"


if __name__ == "__main__":
    main()
