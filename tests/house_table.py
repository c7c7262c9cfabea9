"""Figures about the structure of the code, for one or several commits side by side.

python tests/house_table.py                 the files as they are now
python tests/house_table.py 73cae1d HEAD    two commits, a column each

Product code is all Python below rlvr, verifiers and sandboxes; documentation is every Markdown file.
"""

import ast
import io
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rlvr", "verifiers/rlvr_verifiers", "sandboxes/rlvr_sandboxes")
MAX_FUNCTION, MAX_DOC_LINE, MAX_FILES = 80, 150, 15
DIALECT = ("mend", "mends", "mended", "told", "dear", "for ever", "stands", "beside", "at hand", "of now",
           "its own word", "so many")  # fmt: skip
_DIALECT = re.compile(rf"\b(?:{'|'.join(DIALECT)})\b", re.IGNORECASE)
_HEADERS = re.compile(r"struct\.(?:unpack|Struct)|int\.from_bytes|_HEADER\.unpack|HEADER\.unpack")


def measure(root: Path) -> dict[str, str]:
    """The table's rows for the checkout at `root`."""
    files = {
        path: path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    trees = {path: ast.parse(text) for path, text in files.items()}
    lines = {path: text.count("\n") for path, text in files.items()}
    folders = Counter(path.parent for path in files if path.name != "__init__.py")
    functions = [node for tree in trees.values() for node in _functions(tree)]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    public = [node for tree in trees.values() for node in _public(tree)]
    importers = _importers(root, trees)
    docs = [path for path in root.rglob("*.md") if not {".venv", ".ci", ".git"} & set(path.parts)]
    prose = [line for path in docs for line in path.read_text(encoding="utf-8").splitlines()]
    docstrings = [text for tree in trees.values() for text in _docstrings(tree)]
    largest, count = folders.most_common(1)[0]
    return {
        "product files": f"{len(files)}",
        "product lines": f"{sum(lines.values()):,}",
        "longest file, lines": f"{max(lines.values())}",
        "most files in a folder": f"{count} ({largest.relative_to(root)})",
        f"folders over {MAX_FILES} files": f"{sum(n > MAX_FILES for n in folders.values())}",
        "functions": f"{len(functions):,}",
        "mean function, lines": f"{statistics.mean(lengths):.1f}",
        f"functions over {MAX_FUNCTION} lines": f"{sum(n > MAX_FUNCTION for n in lengths)}",
        "public functions without docstring": f"{_share(public)}",
        "files with one importer": f"{sum(len(found) == 1 for found in importers.values())}",
        "engine kinds named outside config": f"{_engine_branches(root, files)}",
        "files that read binary frames": f"{sum(bool(_HEADERS.search(text)) for text in files.values())}",
        f"prose lines over {MAX_DOC_LINE} characters": f"{sum(len(x) > MAX_DOC_LINE and x[0] != '|' for x in prose)}",
        'docstrings that begin with "As "': f"{sum(text.startswith('As ') for text in docstrings)}",
        "dialect in documentation": f"{sum(len(_DIALECT.findall(x)) for x in prose)}",
        "dialect in docstrings": f"{sum(len(_DIALECT.findall(x)) for x in docstrings)}",
    }


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for owner in [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_")]:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                yield node


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def _share(public: list[ast.FunctionDef | ast.AsyncFunctionDef]) -> str:
    without = sum(ast.get_docstring(node) is None for node in public)
    return f"{without} of {len(public)} ({100 * without / len(public):.0f} %)"


def _importers(root: Path, trees: dict[Path, ast.Module]) -> dict[str, set[str]]:
    """For each module the modules that import it."""
    names = {_module(root, path): path for path in trees}
    found: dict[str, set[str]] = defaultdict(set)
    for importer, path in names.items():
        package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        for node in ast.walk(trees[path]):
            for target in _targets(node, package):
                if target in names and target != importer and names[target].name != "__init__.py":
                    found[target].add(importer)
    return found


def _targets(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        parts = package.split(".")[: len(package.split(".")) - (node.level - 1)]
        base = ".".join([*parts, *filter(None, [node.module])]) if node.level else node.module
        yield str(base)
        yield from (f"{base}.{alias.name}" for alias in node.names)


def _module(root: Path, path: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    parts = parts[1:] if parts[0] != "rlvr" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _engine_branches(root: Path, files: dict[Path, str]) -> int:
    return sum(
        len(re.findall(r"EngineKind\.[A-Z]", text))
        for path, text in files.items()
        if path.relative_to(root).parts[:2] != ("rlvr", "config")
    )


def _checkout(commit: str, folder: Path) -> Path:
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder / commit, filter="data")
    return folder / commit


def main(commits: list[str]) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        roots = [_checkout(commit, Path(folder)) for commit in commits] or [ROOT]
        columns = [measure(root) for root in roots]
    out = ["| | " + " | ".join(commits or ["now"]) + " |", "|---" * (len(columns) + 1) + "|"]
    out += [f"| {row} | " + " | ".join(column[row] for column in columns) + " |" for row in columns[0]]
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
