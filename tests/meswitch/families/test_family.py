"""Families by name and by directory, the damage that is named, and the weights that ship."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meswitch.errors import FamilyError
from meswitch.families import list_families, load_family, materialise
from meswitch.families.pocket.generation import greedy_answers
from meswitch.families.quality import AnswerRecord, RouteRecord, load_model, wilson
from meswitch.families.quality_summary import answer_rows, confusion, route_rows
from meswitch.format import open_delta, staging
from meswitch.home import home_dir
from workloads.tasks import TASKS, get_task, sample_split
from workloads.verifiers import verify

MAX_BYTES = 20_000_000

EXPERT = {"name": "x", "task": "velm", "description": "y", "delta": "experts/x", "known_to_router": True}


def write(root: Path, **changes: object) -> Path:
    content = {
        "schema_version": "meswitch-family/1",
        "name": "small",
        "description": "a family",
        "base": "base",
        "router": "router",
        "experts": [EXPERT],
    }
    for part in ("base", "router", "experts/x"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "family.json").write_text(json.dumps(content | changes))
    return root


def test_a_family_directory_is_read(tmp_path: Path) -> None:
    family = load_family(write(tmp_path))
    assert family.name == "small"
    assert family.base_dir == tmp_path / "base"
    assert family.experts["x"].delta_dir == tmp_path / "experts" / "x"


def test_unknown_name_says_which_families_there_are() -> None:
    with pytest.raises(FamilyError, match="unknown family 'nobody'; give pocket or a directory"):
        load_family("nobody")


def test_directory_without_description_is_no_family(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match=r"is no model family: it has no readable family\.json"):
        load_family(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": "meswitch-family/9"}, "must be of schema meswitch-family/1, got meswitch-family/9"),
        ({"experts": []}, "must list at least one expert"),
        ({"base": 3}, "family.json, base: "),
        ({"extra": 1}, "family.json, extra: "),
        ({"base": "nowhere"}, "is incomplete: nowhere is missing"),
        ({"router": "../router"}, "may only name its own directories, got '../router'"),
        ({"name": "../../small"}, "not ending with '.', got '../../small'"),
        ({"experts": [EXPERT | {"name": "../../x"}]}, "not ending with '.', got '../../x'"),
        ({"experts": [EXPERT | {"name": "base"}]}, "must not be one of auto, base, got 'base'"),
    ],
)
def test_damage_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(FamilyError) as caught:
        load_family(write(tmp_path, **changes))
    assert message in str(caught.value)


def test_truncated_description_is_a_family_error(tmp_path: Path) -> None:
    path = write(tmp_path) / "family.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(FamilyError, match="the file is damaged or of another version"):
        load_family(tmp_path)


def test_shipped_family_has_an_expert_for_every_task_in_twenty_megabytes() -> None:
    assert list_families() == ["pocket"]
    family = load_family("pocket")
    assert set(family.experts) == set(TASKS)
    assert family.nbytes <= MAX_BYTES
    for directory in (*(expert.delta_dir for expert in family.experts.values()), family.router_dir):
        assert open_delta(directory).manifest.nbytes.whole < 1_200_000


def test_shipped_experts_answer_unseen_problems() -> None:
    family = load_family("pocket")
    checkpoints = materialise(family, home_dir())
    for name, directory in checkpoints.experts.items():
        task = get_task(family.experts[name].task)
        problems = sample_split(task, "test", 16, 11)
        answers = greedy_answers(load_model(directory, "cpu"), [p.prompt for p in problems])
        right = sum(verify(task.verifier, p.answer, x) for p, x in zip(problems, answers, strict=True))
        # at a true share of 0.99, three wrong of 16 have a probability below 0.001
        assert right >= 14, name


def test_checkpoints_that_another_process_made_meanwhile_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load_family("pocket")
    made = materialise(family, home_dir()).router.parent

    @contextmanager
    def made_by_another(root: Path) -> Iterator[None]:
        shutil.copytree(made, root)
        yield

    monkeypatch.setattr(staging, "exclusive", made_by_another)
    monkeypatch.setattr("meswitch.families.checkpoints.merge_all", lambda *_: pytest.fail("it merged again"))
    assert materialise(family, tmp_path).router.is_dir()


def test_wilson_interval_by_hand() -> None:
    interval = wilson(8, 10)
    # the published example: 0.4902 to 0.9433
    assert (interval.low, interval.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(10, 10).high == pytest.approx(1)
    assert wilson(0, 10).low == 0
    with pytest.raises(ValueError, match="got 0"):
        wilson(0, 0)


def test_figures_come_from_the_records() -> None:
    answers = [AnswerRecord(model="m", task="t", index=i, output="", correct=i < 3) for i in range(4)]
    (row,) = answer_rows(answers)
    assert (row["model"], row["task"], row["value"], row["n"]) == ("m", "t", 0.75, 4)


def test_router_figures_count_refusals_like_choices() -> None:
    def record(wanted: str | None, chosen: str | None) -> RouteRecord:
        return RouteRecord(
            scenario="all", domain=wanted or "out-of-scope", index=0, wanted=wanted, chosen=chosen, confidence=1.0,
            options=2,
        )  # fmt: skip

    records = [record("a", "a"), record("a", None), record(None, None), record(None, "b")]
    shares = {row["domain"]: row["value"] for row in route_rows(records)}
    assert shares == {"a": 0.5, "all": 0.5, "out-of-scope": 0.5}
    assert {"domain": "a", "chosen": "none of these", "count": 1} in confusion(records)
