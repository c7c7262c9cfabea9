"""Loads a sequence-classification model and computes its outputs; the only module of the verifiers that imports torch.

A pair always gets the same outputs, whichever others are scored with it: by default each pair is computed alone and
without padding. With `batch_size` above 1 every computation has the same number of rows, and a row's padded length
depends on its own length alone.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

LENGTH_STEP = 64  # rows of a batch are padded to a multiple of this many tokens
_SHORTEST_CONTROL_CHARS = 3  # a shorter special token, such as "!" for padding, is also ordinary text


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The messages of a prompt ({"role", "content"}) and a completion."""

    messages: Sequence[Mapping[str, str]]
    completion: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The outputs of the model for one pair; none, with the problem, if the pair cannot be scored as a whole.

    problem: "", "too_long", "prompt_too_long" (without any completion) or "control_token".
    """

    logits: tuple[float, ...]
    num_tokens: int
    problem: str = ""


class Scorer:
    """A loaded model with its tokenizer.

    Args:
        path: a folder, or a name on the model hub.
        dtype: "float32", "bfloat16" or "float16".
        max_input_tokens: of prompt and completion with the chat template; 0: what the model can take.
        text_template: used instead of the chat template if not empty; has `{prompt}` and `{completion}`.

    Raises: ValueError with the reason and the remedy.
    """

    def __init__(
        self,
        *,
        path: str,
        revision: str = "",
        dtype: str = "float32",
        device: str = "cpu",
        max_input_tokens: int = 0,
        text_template: str = "",
        batch_size: int = 1,
        threads: int = 4,
    ) -> None:
        torch.set_num_threads(threads)
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {device!r} is not visible to this process; use device: cpu, or free a GPU for it")
        given = {"revision": revision} if revision else {}
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path, **given)
        if not text_template and not self.tokenizer.chat_template:
            raise ValueError("its tokenizer has no chat template; give a text_template with {prompt} and {completion}")
        self.model, loaded = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=getattr(torch, dtype), output_loading_info=True, use_safetensors=True, **given
        )
        require_whole(self.model, loaded["missing_keys"])
        self.model.eval().requires_grad_(False).to(device)
        self.device = device
        self.text_template = text_template
        self.batch_size = batch_size
        self.max_input_tokens = self._limit(max_input_tokens)
        self.pad_id: int | None = self.model.config.pad_token_id
        if batch_size > 1 and self.pad_id is None:
            raise ValueError(
                f"batch_size={batch_size} pads rows, and its config has no pad_token_id; use batch_size: 1"
            )
        special = {
            number: str(token)
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.special and len(str(token)) >= _SHORTEST_CONTROL_CHARS
        }
        longest_first = sorted(special.values(), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._special_ids = special.keys() - {self.tokenizer.unk_token_id}

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the outputs."""
        names = self.model.config.id2label
        return tuple(str(names[number]) for number in range(self.model.config.num_labels))

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """The outputs for each pair, in order."""
        rows = [self.token_ids(pair) for pair in pairs]
        found: dict[int, Scored] = {}
        by_length: dict[int, list[int]] = defaultdict(list)
        for number, (pair, ids) in enumerate(zip(pairs, rows, strict=True)):
            if len(ids) > self.max_input_tokens:
                empty = self.token_ids(Pair(messages=pair.messages, completion=""))
                problem = "prompt_too_long" if len(empty) > self.max_input_tokens else "too_long"
                found[number] = Scored(logits=(), num_tokens=len(ids), problem=problem)
            elif self._has_control_token(pair.completion):
                found[number] = Scored(logits=(), num_tokens=len(ids), problem="control_token")
            else:
                padded = -(-len(ids) // LENGTH_STEP) * LENGTH_STEP
                by_length[min(padded, self.max_input_tokens) if self.batch_size > 1 else len(ids)].append(number)
        for length, numbers in by_length.items():
            for start in range(0, len(numbers), self.batch_size):
                batch = numbers[start : start + self.batch_size]
                logits = self._logits([rows[number] for number in batch], length)
                for number, values in zip(batch, logits, strict=True):
                    found[number] = Scored(logits=tuple(values), num_tokens=len(rows[number]))
        return [found[number] for number in range(len(pairs))]

    def token_ids(self, pair: Pair) -> list[int]:
        """The tokens of prompt and completion in the model's chat template, or in `text_template`."""
        completion = self._plain(pair.completion)
        if self.text_template:
            asked = "\n\n".join(message["content"] for message in pair.messages)
            before, _, after = self.text_template.partition("{completion}")
            text = "".join((before.replace("{prompt}", asked), completion, after.replace("{prompt}", asked)))
            return self.tokenizer(text)["input_ids"]
        messages = [*map(dict, pair.messages), {"role": "assistant", "content": completion}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _logits(self, rows: Sequence[Sequence[int]], length: int) -> list[list[float]]:
        """The outputs of at most `batch_size` rows, computed with exactly that many rows of this length."""
        filled = [*rows, *[rows[0]] * (self.batch_size - len(rows))]
        fill = [0 if self.pad_id is None else self.pad_id]
        ids = torch.tensor([[*row, *fill * (length - len(row))] for row in filled], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in filled], device=self.device)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask).logits
        return logits[: len(rows)].float().cpu().tolist()

    def _plain(self, completion: str) -> str:
        """The completion with the tokenizer's special tokens broken up, so that it cannot end its own turn."""
        return self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", completion)

    def _has_control_token(self, completion: str) -> bool:
        """Whether the tokenizer still reads a special token, for example after it has normalised the text."""
        ids = self.tokenizer(self._plain(completion), add_special_tokens=False)["input_ids"]
        return not self._special_ids.isdisjoint(ids)

    def _limit(self, asked: int) -> int:
        most = getattr(self.model.config, "max_position_embeddings", 0) or 0
        if not (asked or most):
            raise ValueError("its config does not say how many tokens it can take; set max_input_tokens")
        if most and asked > most:
            raise ValueError(f"max_input_tokens={asked} is more than it can take ({most})")
        return asked or most


def require_whole(model: torch.nn.Module, missing_keys: Sequence[str]) -> None:
    """Raises ValueError if weights were missing in the checkpoint, and are random now, or are not finite."""
    if missing_keys:
        raise ValueError(
            f"the checkpoint lacks {', '.join(sorted(missing_keys)[:3])}, which would be random; a reward model has a "
            "trained classification head"
        )
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"its weight {name} has values that are not finite")
