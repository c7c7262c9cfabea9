"""Reads docker/Dockerfile: its stages, and what each inherits."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "USER", "WORKDIR"}


@dataclass
class Stage:
    """One FROM with what follows. base: a stage's name, or an image."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def instructions(text: str) -> list[tuple[str, str]]:
    """(word, rest) of each instruction, continued lines joined; comments and empty lines are left out.

    >>> instructions("# a\\nRUN x \\\\\\n  && y\\nUSER u")
    [('RUN', 'x   && y'), ('USER', 'u')]
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in found]


def stages() -> dict[str, Stage]:
    """The stages by name, in their order."""
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for word, rest in instructions(DOCKERFILE.read_text(encoding="utf-8")):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = found[name] = Stage(name=name, base=base)
        elif current is not None:
            current.steps.append((word, rest))
    return found


def chain(name: str) -> list[Stage]:
    """A stage and those that its image is made of, from the first to itself."""
    known = stages()
    found = [known[name]]
    while found[0].base in known:
        found.insert(0, known[found[0].base])
    return found


def copied(rest: str) -> tuple[str, list[str], str]:
    """(stage, sources, target) of a COPY; stage "" is the build context."""
    words = rest.split()
    stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
    return stage, words[:-1], words[-1]
