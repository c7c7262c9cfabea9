"""The console output of a run: plain lines that also read well in a log file, coloured on a terminal."""

import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol, cast

from rich.console import Console as RichConsole
from rich.panel import Panel
from rich.text import Text

from rlvr.records import Rollout, Status
from rlvr.run.activity import Activity
from rlvr.run.record.stdout import LOG_FILE, Output

Cell = tuple[str, str]  # text and style
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STATUS_STYLE = {
    Status.PASS: "bold green",
    Status.FAIL: "bold red",
    Status.UNPARSED: "bold yellow",
    Status.ERROR: "bold magenta",
    Status.SKIPPED: "dim",
}
_MAX_SHOWN = 800  # characters of a completion
_RECENT_STEPS = 20


class EvaluationLike(Protocol):
    """The parts of an evaluation that are shown; `metrics` holds `eval/<name>/pass@1` or another headline."""

    @property
    def name(self) -> str: ...
    @property
    def num_prompts(self) -> int: ...
    @property
    def headline(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...


class Console:
    """Shows a run. Text from models and files is never read as markup, and its control codes are removed.

    Args:
        file: where to write; None for standard output.
        width: columns; None asks the terminal.
        is_terminal: whether `file` is a terminal; None asks it.
        is_steady: continues when the output cannot be written; lines then go to a file in the run directory.
    """

    def __init__(
        self,
        *,
        file: IO[str] | None = None,
        width: int | None = None,
        is_terminal: bool | None = None,
        is_steady: bool = False,
    ) -> None:
        self._output = Output(file, is_steady=is_steady)
        self._out = RichConsole(
            file=cast(IO[str], self._output),
            width=width,
            force_terminal=is_terminal,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self.activity = Activity(self._out)
        self._num_steps = 0
        self._rewards: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._step_times: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._curves: dict[str, list[tuple[int, float, float, float]]] = {}
        self._labels: dict[str, str] = {}
        self._run_dir = ""

    def start(
        self, *, recipe_name: str, run_dir: Path | str, model: str, rows: Sequence[tuple[str, ...]], num_steps: int = 0
    ) -> None:
        """The banner. rows: (quantity, value, how computed). num_steps: 0 when unknown; no time left is shown then."""
        self._num_steps = num_steps
        self._run_dir = str(run_dir)
        self._output.log = Path(run_dir) / LOG_FILE
        self._line(("rlvr", "bold cyan"), (f"  {recipe_name}", "bold"))
        self._line(("  model    ", "dim"), (model, ""))
        self._line(("  run      ", "dim"), (self._run_dir, ""))
        self._rows(rows)
        self._line(("", ""))

    def table(self, title: str, rows: Sequence[tuple[str, ...]]) -> None:
        """Aligned rows under a title."""
        self._line((title, "bold"))
        self._rows(rows)

    def note(self, text: str) -> None:
        """Prints one line."""
        self._line((text, "dim"))

    def warning(self, text: str) -> None:
        """One line that asks the user to act."""
        self._line((text, "bold yellow"))

    def cold_start(self, step: int, num_steps: int, loss: float) -> None:
        """The progress of the cold start: its first step, each tenth, and the last."""
        every = max(1, num_steps // 10)
        if step in (1, num_steps) or step % every == 0:
            width = len(str(num_steps))
            self._line(("cold start ", "cyan"), (f"{step:>{width}}/{num_steps}", "bold"), (f"  loss {loss:.4f}", ""))

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line: reward with its recent trend, length, speed, time, time left."""
        reward = metrics.get("reward/mean")
        if reward is not None and not math.isfinite(reward):
            reward = None  # no rollout could be judged
        trend = ""
        if reward is not None:
            trend = " " + _arrow(reward, self._rewards, is_ascii=self._is_ascii)
            self._rewards.append(reward)
            trend += " " + self._spark(list(self._rewards)[-8:], low=0.0, high=1.0)
        seconds = metrics.get("time/step_s")
        if seconds is not None:
            self._step_times.append(seconds)
        width = len(str(self._num_steps)) if self._num_steps else 4
        place = f"{step:>{width}}" + (f"/{self._num_steps}" if self._num_steps else "")
        cells: list[Cell] = [("step ", "cyan"), (place, "bold")]
        if reward is not None:
            cells += [("  reward ", "dim"), (f"{reward:.3f}", "bold"), (trend, "green")]
        shown = (
            ("no signal", "reward/zero_variance_rate", "{:.0%}", 0.999),
            ("length", "rollout/length_mean_tokens", "{:.0f}", math.inf),
            ("cut", "rollout/truncated_rate", "{:.0%}", 0.5),
            ("tok/s", "rollout/tokens_per_s", "{:,.0f}", math.inf),
        )
        for label, name, form, most in shown:
            if name in metrics:
                style = "bold yellow" if metrics[name] > most else ""
                cells += [(f"  {label} ", "dim"), (form.format(metrics[name]), style)]
        if seconds is not None:
            cells.append((f"  {seconds:.1f}s", "dim"))
        left = self._num_steps - step
        if left > 0 and self._step_times:
            cells.append((f"  left {_duration(left * sum(self._step_times) / len(self._step_times))}", "dim"))
        if metrics.get("verifier/error_rate", 0.0) > 0.0:
            cells.append((f"  verifier errors {metrics['verifier/error_rate']:.0%}", "bold magenta"))
        self._line(*cells)

    def rollout(self, step: int, prompt_text: str, rollout: Rollout) -> None:
        """One rollout with its verdicts: the prompt's end, the completion, the verdicts and their reasons."""
        body = Text()
        body.append(_tail(_clean(prompt_text).strip(), 300), style="dim")
        body.append("\n")
        body.append(_tail(_clean(rollout.completion.text), _MAX_SHOWN))
        body.append(f"  [{rollout.completion.finish_reason.value}]\n", style="dim")
        for check, verdict in rollout.verdicts.items():
            body.append(verdict.status.value.upper(), style=_STATUS_STYLE[verdict.status])
            body.append(f"  {_clean(check)}: {_clean(verdict.reason)}\n")
        reward = "none: could not be judged" if rollout.reward is None else f"{rollout.reward:g}"
        body.append(f"reward {reward}", style="bold")
        if self._out.is_terminal:
            self._out.print(
                Panel(body, title=Text(f"a rollout of step {step}"), title_align="left", border_style="dim")
            )
            return
        self._line((f"a rollout of step {step}", "bold"))
        for line in body.plain.splitlines():
            self._line((f"  | {line}", ""))

    def evaluation(self, step: int, evaluation: EvaluationLike) -> None:
        """One line: the headline with its 95 % interval and the change since the first evaluation."""
        name = evaluation.name
        if not math.isfinite(evaluation.headline):
            self._line(("eval ", "magenta"), (f"{_clean(name)}: nothing could be judged", "bold red"))
            return
        label = _headline_label(evaluation)
        curve = self._curves.setdefault(name, [])
        self._labels[name] = label
        curve.append((step, evaluation.headline, evaluation.low, evaluation.high))
        cells: list[Cell] = [
            ("eval ", "magenta"),
            (f"{_clean(name)} {label} ", "bold"),
            (f"{evaluation.headline:.3f}", "bold green"),
            (f"  [{evaluation.low:.3f}, {evaluation.high:.3f}]  n={evaluation.num_prompts}  step {step}", "dim"),
        ]
        if len(curve) > 1:
            change = evaluation.headline - curve[0][1]
            cells.append((f"  {change:+.3f} since step {curve[0][0]}", "green" if change >= 0 else "red"))
        formatted = evaluation.metrics.get(f"eval/{name}/format_rate")
        if formatted is not None:
            cells.append((f"  format {formatted:.0%}", "dim"))
        self._line(*cells)

    def finish(self) -> None:
        """The end of the run: each evaluation over the steps, and the run directory."""
        self.activity.end()
        self._line(("", ""))
        for name, curve in self._curves.items():
            first, last = curve[0], curve[-1]
            self._line(
                (f"{_clean(name)} {self._labels[name]}  ", "bold"),
                (f"{first[1]:.3f} -> {last[1]:.3f}  ", "bold green"),
                (f"({last[1] - first[1]:+.3f}; now [{last[2]:.3f}, {last[3]:.3f}])", "dim"),
            )
            if len(curve) > 1:
                width = max(len(str(step)) for step, *_ in curve)
                for step, value, _, _ in curve:
                    bar = ("#" if self._is_ascii else "█") * round(40 * value)
                    self._line((f"  step {step:>{width}}  {value:.3f}  ", "dim"), (bar, "green"))
        if self._run_dir:
            self._line(("done  ", "bold cyan"), (self._run_dir, ""))

    @property
    def _is_ascii(self) -> bool:
        return not self._out.encoding.lower().startswith("utf")

    def _spark(self, values: Sequence[float], *, low: float, high: float) -> str:
        """A row of bars; rewards outside low..high widen the range."""
        bars = ".:-=+*#@" if self._is_ascii else "▁▂▃▄▅▆▇█"
        low, high = min(low, *values), max(high, *values)
        return "".join(bars[min(7, int(8 * (value - low) / (high - low)))] for value in values)

    def _rows(self, rows: Sequence[tuple[str, ...]]) -> None:
        if not rows:
            return
        widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(max(map(len, rows)))]
        for row in rows:
            styles = ("dim", "", "dim")
            cells = [
                (cell if i == len(row) - 1 else cell.ljust(widths[i] + 2), styles[min(i, 2)])
                for i, cell in enumerate(row)
            ]
            self._line(("  ", ""), *cells)

    def _line(self, *cells: Cell) -> None:
        line = Text()
        for text, style in cells:
            line.append(_clean(text), style=style)
        line.rstrip()
        if self._is_ascii:
            line = Text(line.plain.encode("ascii", "replace").decode())
        self._out.print(line, soft_wrap=True)


def _clean(text: str) -> str:
    """The text without control codes, which could move the cursor or recolour the terminal."""
    return _CONTROL.sub("", text)


def _tail(text: str, limit: int) -> str:
    return text if len(text) <= limit else "..." + text[-limit:]


def _arrow(value: float, before: Sequence[float], *, is_ascii: bool) -> str:
    """An arrow: the reward is above, below or near the mean of the previous steps."""
    if not before:
        return " "
    change = value - sum(before) / len(before)
    up, down, level = ("^", "v", "-") if is_ascii else ("↑", "↓", "→")
    return level if abs(change) < 0.01 else up if change > 0 else down


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _headline_label(evaluation: EvaluationLike) -> str:
    start = f"eval/{evaluation.name}/"
    names = [name.removeprefix(start) for name in evaluation.metrics if name.startswith(start)]
    return next((n for n in names if re.fullmatch(r"(avg|pass)@\d+", n)), "pass@1")
