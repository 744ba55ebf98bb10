"""The house's structure, held by tests: one-way imports, light modules, sorted public names."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "harness": ROOT / "harness",
    "meswitch": ROOT / "meswitch",
    "meswitch_kernels": ROOT / "kernels" / "meswitch_kernels",
    "reports": ROOT / "reports",
    "workloads": ROOT / "workloads",
}
# package -> the packages it may import from, itself apart
ALLOWED: dict[str, set[str]] = {
    "meswitch_kernels": set(),
    "workloads": set(),
    "meswitch": {"meswitch_kernels"},
    "harness": {"meswitch", "meswitch_kernels", "workloads"},
    "reports": {"harness"},
}
# narrower doors: source prefix -> what else that part may import
DOORS = {"meswitch.families": "workloads", "meswitch.cli": "workloads", "harness.cli": "reports"}
# the only modules of harness that reports may read
REPORTS_READS = (
    "harness.claims",
    "harness.errors",
    "harness.headline",
    "harness.metrics",
    "harness.records",
    "harness.results",
    "harness.statistics",
    "harness.summary",
    "harness.sweep.",
    "harness.switching.",
    "harness.telemetry.sample",
    "harness.units",
    "harness.weights",
)
LIGHT = [
    "workloads.trace",
    "workloads.tasks",
    "workloads.generate",
    "harness.records",
    "harness.metrics",
    "harness.statistics",
    "reports.build",
    "meswitch",
    "meswitch.errors",
    "meswitch.core",
    "meswitch.config",
    # what these import is counted in no phase of an engine's start
    "meswitch.cuda.kept_images",
    "meswitch.service",
    "harness.cli",
    "meswitch.cli",
]


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(p for p in parts if p != "__init__")
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def may_import(source: str, target: str) -> bool:
    package, other = source.split(".")[0], target.split(".")[0]
    if other == package or other not in PACKAGES:
        return True
    if any(source.startswith(prefix) and other == door for prefix, door in DOORS.items()):
        return True
    if package == "reports" and other == "harness":
        return target.startswith(REPORTS_READS)
    return other in ALLOWED[package]


def test_imports_between_packages_point_one_way() -> None:
    wrong = [
        f"{source} imports {target}"
        for source, tree in sources()
        for target in imported(tree)
        if not may_import(source, target)
    ]
    assert wrong == []


def test_public_names_are_sorted_and_exist() -> None:
    for source, tree in sources():
        for node in tree.body:
            is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            if is_all:
                names = ast.literal_eval(node.value)
                assert names == sorted(names, key=_isort_key), source


def _isort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions: the order that ruff keeps (RUF022)."""
    if name.isupper():
        return 0, name
    return (1, name) if name[0].isupper() else (2, name)


@pytest.mark.parametrize("module", LIGHT)
def test_light_module_imports_neither_torch_nor_transformers(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert run_python(code) == "[]"


def test_kernels_folder_is_not_a_package() -> None:
    """The top-level name `kernels` belongs to a package that transformers imports."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_transformers_imports_beside_our_packages() -> None:
    """From the repository root, where a folder `kernels` is on the path."""
    code = (
        "import harness, meswitch, meswitch_kernels, reports, workloads;"
        "from transformers import LlamaConfig, LlamaForCausalLM; print(LlamaConfig.model_type)"
    )
    assert run_python(code) == "llama"


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
