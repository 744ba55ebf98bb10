"""The whole recipe in seconds on a tiny model: train, package, load, measure; and the data it trains on."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from meswitch.codecs import decompress
from meswitch.errors import FamilyError
from meswitch.families import Family, load_family, materialise
from meswitch.families.evaluation import evaluate_family
from meswitch.families.family import FAMILY_FILE
from meswitch.families.pocket.datasets import corpus_arrays, routing_arrays, task_arrays
from meswitch.families.pocket.packaging import package_family
from meswitch.families.pocket.recipe import HELD_OUT, RecipeConfig, default_stages, train_stages
from meswitch.families.pocket.routing_data import DESCRIPTIONS, routing_pairs
from meswitch.families.pocket.tokens import ANSWER, BOS, EOS
from meswitch.families.pocket.trainer import TrainConfig
from meswitch.format import load_expert
from meswitch.router.prompt import NONE_LETTER
from workloads.tasks import TASKS, get_task, sample_split
from workloads.tasks.out_of_scope import sample_out_of_scope

STEPS = (TrainConfig(steps=2, batch=4, learning_rate=1e-3),)
NOISY = (*STEPS, TrainConfig(steps=2, batch=4, learning_rate=1e-3, noise=0.3, pull=0.3))
CONFIG = RecipeConfig(
    hidden=96,
    layers=1,
    intermediate=64,
    rows=64,
    stages={"base": STEPS, "router": STEPS, "sorting": NOISY, "numerals": STEPS},
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, int, int]]]:
    root, seen = tmp_path_factory.mktemp("recipe") / "family", []
    stages = train_stages(CONFIG, "cpu", lambda name, step, steps, loss: seen.append((name, step, steps)))
    package_family(CONFIG.model, ((stage.name, stage.weights) for stage in stages), root)
    return root, seen


@pytest.fixture
def family(trained: tuple[Path, object]) -> Family:
    return load_family(trained[0])


def test_recipe_reports_every_step_of_every_stage(trained: tuple[Path, list[tuple[str, int, int]]]) -> None:
    assert [x for x in trained[1] if x[0] == "sorting"] == [("sorting", i, 4) for i in (1, 2, 3, 4)]
    assert list(dict.fromkeys(name for name, _, _ in trained[1])) == ["base", "router", "sorting", "numerals"]


def test_recipe_gives_the_same_weights_again(trained: tuple[Path, object], tmp_path: Path) -> None:
    stages = train_stages(CONFIG, "cpu", lambda *_: None)
    package_family(CONFIG.model, ((stage.name, stage.weights) for stage in stages), tmp_path / "again")
    for part in ("base/model.safetensors", "experts/sorting/delta.safetensors", "router/delta.safetensors"):
        assert (tmp_path / "again" / part).read_bytes() == (trained[0] / part).read_bytes()


def test_packaged_family_lists_its_experts_and_what_the_router_knows(family: Family) -> None:
    assert {name: expert.known_to_router for name, expert in family.experts.items()} == {
        "numerals": False,
        "sorting": True,
    }
    assert family.experts["sorting"].description == get_task("sorting").description
    assert family.nbytes == sum(p.stat().st_size for p in family.root.rglob("*") if p.is_file())


def test_materialised_expert_is_base_plus_delta_and_is_made_once(family: Family, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = materialise(family, tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    base = load_file(family.base_dir / "model.safetensors")[name].float()
    delta = load_expert(family.experts["sorting"].delta_dir, base_identity=None)
    merged = load_file(made.experts["sorting"] / "model.safetensors")[name]
    torch.testing.assert_close(merged, (base + decompress(delta.matrices[name])).half(), rtol=0, atol=0)
    before = (made.router / "model.safetensors").stat().st_mtime_ns
    assert materialise(family, tmp_path) == made
    assert (made.router / "model.safetensors").stat().st_mtime_ns == before


def test_damaged_delta_is_a_family_error_and_leaves_nothing(trained: tuple[Path, object], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained[0], tmp_path / "family")
    tensors = tmp_path / "family" / "experts" / "sorting" / "delta.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(FamilyError, match=r"family pocket: .*delta\.safetensors"):
        materialise(load_family(tmp_path / "family"), tmp_path / "home")
    assert not [p for p in (tmp_path / "home").rglob("*") if p.is_file()]


def test_checkpoint_that_changed_after_it_was_made_is_named_and_made_again_once_deleted(
    family: Family, tmp_path: Path
) -> None:
    import shutil

    made = materialise(family, tmp_path)
    weights = made.experts["sorting"] / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FamilyError, match="is damaged: sorting changed after it was made; delete the directory"):
        materialise(family, tmp_path)
    weights.write_bytes(whole[:-1000])
    with pytest.raises(FamilyError, match=r"is damaged \(.*model\.safetensors.*; delete it"):
        materialise(family, tmp_path)
    shutil.rmtree(made.router.parent)
    assert materialise(family, tmp_path) == made
    assert weights.read_bytes() == whole


def test_evaluation_writes_figures_and_every_item_behind_them(family: Family, tmp_path: Path) -> None:
    checkpoints = materialise(family, tmp_path / "home")
    result = evaluate_family(family, checkpoints, tmp_path / "out", count=3, device="cpu", progress=lambda *_: None)
    assert json.loads((tmp_path / "out" / "family.json").read_text()) == result
    answers = [json.loads(x) for x in gzip.decompress((tmp_path / "out/answers.jsonl.gz").read_bytes()).splitlines()]
    assert [(x["model"], x["task"], x["index"]) for x in answers] == [
        (model, task, index)
        for model in ("base", "numerals", "sorting")
        for task in ("numerals", "sorting")
        for index in range(3)
    ]
    routes = [json.loads(x) for x in gzip.decompress((tmp_path / "out/routes.jsonl.gz").read_bytes()).splitlines()]
    added = [x for x in routes if x["scenario"] == "added:numerals"]
    assert len(added) == 3
    assert all(x["wanted"] == "numerals" and x["options"] == 2 for x in added)


def test_recipe_must_begin_with_the_base() -> None:
    with pytest.raises(ValueError, match="must begin with 'base'"):
        RecipeConfig(stages={"velm": STEPS})


def test_published_recipe_trains_every_task_and_scales() -> None:
    whole, tenth = default_stages(1.0), default_stages(0.1)
    assert set(whole) == {"base", "router", *TASKS}
    assert tenth["base"][0].steps == whole["base"][0].steps // 10


def test_training_rows_hold_no_test_problem() -> None:
    test = {p.prompt for p in sample_split(get_task("sorting"), "test", 500, 0)}
    ids, starts = task_arrays("sorting", 500, 0)
    prompts = {bytes(row[1 : start - 1].tolist()).decode() for row, start in zip(ids, starts, strict=True)}
    assert len(prompts) == 500
    assert not prompts & test
    assert (ids[range(500), starts - 1] == ANSWER).all()


def test_corpus_rows_are_full_and_every_token_is_a_target() -> None:
    ids, starts = corpus_arrays(20, 64, 0)
    assert ids.shape == (20, 64)
    assert (ids[:, 0] == BOS).all()
    assert (starts == 1).all()
    assert (ids == EOS).any()


def routing() -> Iterator[tuple[str, str]]:
    problems = [p for name in DESCRIPTIONS for p in sample_split(get_task(name), "train", 30, 0)]
    yield from routing_pairs(problems, 1500, 0)


def test_router_rows_point_to_the_description_of_the_querys_own_domain() -> None:
    owner = {p.prompt: name for name in DESCRIPTIONS for p in sample_split(get_task(name), "train", 30, 0)}
    known = 0
    for text, letter in routing():
        *options, query = text.split("\n")
        listed = dict(line.split(" ", 1) for line in options)
        own = DESCRIPTIONS.get(owner.get(query.removeprefix("? "), ""), ())
        if own:
            known += 1
            right = [x for x, description in listed.items() if description in own]
            assert letter == (right[0] if right else NONE_LETTER)
    # 45 % of 1500, within 4 standard errors
    assert known == pytest.approx(675, abs=4 * (1500 * 0.45 * 0.55) ** 0.5)


def test_router_never_sees_a_held_out_domain_or_a_tested_stranger() -> None:
    assert set(HELD_OUT) == {"numerals", "slugs"}
    strangers = set(sample_out_of_scope("test", 1000, 0))
    for text, _ in routing():
        query = text.rsplit("? ", 1)[1]
        assert query not in strangers
        assert "slug" not in text
        assert "digits" not in text


def test_descriptions_are_short_and_begin_with_the_tasks_own() -> None:
    for name, wordings in DESCRIPTIONS.items():
        assert wordings[0] == get_task(name).description
        assert len(set(wordings)) == len(wordings)
    assert (
        max(len(x.encode()) for x in (*sum(DESCRIPTIONS.values(), ()), *(t.description for t in TASKS.values()))) <= 24
    )


def test_rows_of_the_router_have_one_length() -> None:
    assert routing_arrays(50, 0)[0].shape[1] == routing_arrays(50, random.Random(0).randrange(100))[0].shape[1] == 320


def test_family_file_is_written_last(trained: tuple[Path, object]) -> None:
    newest = max((p for p in trained[0].rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    assert newest.name == FAMILY_FILE
