"""Rules that hold themselves: what is added to a list in the product must be tested, read and explained."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.config.document.paths import annotation_at, kinds
from rlvr.config.recipe import Recipe
from rlvr.config.sections.algorithm import AlgorithmConfig
from tests.unit.config.recipe_cases import leaf_paths

ROOT = Path(__file__).resolve().parents[3]
AREAS = "reward|policy|mismatch|verifier|rollout|learner|sync|time|eval|data|check"
NAME = re.compile(rf"(?:{AREAS})/[a-z][\w@]*[a-z0-9]")
INTERNAL = {"mismatch/weight_sum", "mismatch/weight_square_sum"}  # summed over ranks, then made `ess`


def sources(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("union", "file", "table"),
    [
        ("loss", "tests/unit/algorithms/test_losses.py", "LOSSES"),
        ("loss", "tests/unit/algorithms/test_token_losses.py", ""),
        ("advantage", "tests/unit/algorithms/test_advantages.py", "CONFIGS"),
    ],
)
def test_every_loss_and_advantage_is_in_the_numerical_tests(union: str, file: str, table: str) -> None:
    """`LOSSES` and `CONFIGS` feed the property tests; test_token_losses has the worked examples."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if table:
        text = text[text.index(f"\n{table}: ") :]
        text = text[: text.index("\n]")]
    sections = kinds(annotation_at(AlgorithmConfig, (union,)))
    missing = [
        kind
        for kind, section in sections.items()
        if kind != "plugin" and not re.search(rf"\b{section.__name__ if table else kind}\b", text)
    ]
    assert not missing


def unread_keys(product: Path, keys: tuple[str, ...]) -> list[str]:
    """The recipe keys that no code reads as an attribute, but for the checks of the sections themselves."""
    read: set[str] = set()
    for _, text in sources(product):
        tree = ast.parse(text)
        checks = {
            node
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            and any("validator" in ast.unparse(item) for item in function.decorator_list)
            for node in ast.walk(function)
        }
        called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}  # a method, not a key's value
        attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        read |= {node.attr for node in attributes if node not in checks and node not in called}
    return [key for key in keys if key.rpartition(".")[2] not in read]


def test_every_recipe_key_is_read_somewhere() -> None:
    assert unread_keys(ROOT / "rlvr", leaf_paths(Recipe)) == []


def test_a_key_that_nobody_reads_is_found(tmp_path: Path) -> None:
    (tmp_path / "section.py").write_text(
        "class Section:\n    steps: int = 1\n    unused: int = 2\n\n"
        "    @model_validator(mode='after')\n    def check(self):\n        assert self.unused > 0\n\n\n"
        "def run(section, outcome):\n    return section.steps + outcome.report()\n",
        encoding="utf-8",
    )
    assert unread_keys(tmp_path, ("run.steps", "run.unused", "run.report")) == ["run.unused", "run.report"]


def explained(page: str) -> set[str]:
    """The metrics of the table in rlvr/README.md; a name without an area has that of the one before it."""
    names: set[str] = set()
    for line in page.splitlines():
        area = ""
        for name in re.findall(r"`([^`]+)`", line.split("|")[1]) if line.startswith("| `") else []:
            area = name.rpartition("/")[0] if "/" in name else area
            names.add(name if "/" in name else f"{area}/{name}")
    return names


def unexplained(product: Path, page: str) -> list[str]:
    """The metrics that code names and the page does not."""
    known = [re.sub(r"[A-Z]{2,}", r"[^/]+", name) for name in explained(page)]
    named = {
        node.value
        for _, text in sources(product)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value)
    }
    return sorted(name for name in named - INTERNAL if not any(re.fullmatch(pattern, name) for pattern in known))


def test_every_metric_has_a_line_in_the_glossary() -> None:
    page = (ROOT / "rlvr" / "README.md").read_text(encoding="utf-8")
    assert len(explained(page)) > 70
    assert unexplained(ROOT / "rlvr", page) == []


def test_a_metric_without_a_line_is_found(tmp_path: Path) -> None:
    (tmp_path / "metrics.py").write_text('METRICS = {"reward/mean": 1.0, "reward/new_rate": 2.0}\n', encoding="utf-8")
    page = "| metric |\n|---|\n| `reward/std`, `mean` | over rollouts |\n"
    assert unexplained(tmp_path, page) == ["reward/new_rate"]


def test_every_figure_of_an_evaluation_has_a_line_in_the_glossary() -> None:
    page = (ROOT / "rlvr" / "README.md").read_text(encoding="utf-8")
    known = {name.removeprefix("eval/NAME/") for name in explained(page)}
    tree = ast.parse((ROOT / "rlvr" / "run" / "step" / "evaluation.py").read_text(encoding="utf-8"))
    named = {
        str(key.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert {"format_rate", "truncated_rate"} <= named
    assert named <= known
