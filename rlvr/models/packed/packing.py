"""Rows as one stream of tokens without padding: the common prompt of a group once, then each row's own tokens.

    rows          0: a b c x y      1: a b c z        (a b c = the prompt, one group; the last token predicts nothing)
    stream        a b c | x         row 1 adds nothing: its only completion token is predicted by c
    sequences     0: a b c          1: x, whose prefix is sequence 0
    sources       x <- c, y <- x, z <- c

Everything here is index arithmetic on the CPU; it affects speed and memory, never the results.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlvr.batch import on_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Which hidden states predict which tokens. Targets are sorted by source, so equal sources are adjacent.

    positions: place of each distinct source among the hidden states; its logits are computed once.
    source: for each target, the index into `positions`; ascending.
    first_target: for each source, the index of its first target, and at the end their number.
    token_ids: the token that each target is.
    column: for each target, its place in the flattened [batch, seq].
    """

    positions: Int[Tensor, " sources"]
    source: Int[Tensor, " targets"]
    first_target: Sequence[int]
    token_ids: Int[Tensor, " targets"]
    column: Int[Tensor, " targets"]

    def to(self, device: torch.device) -> "Targets":
        """This record on a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: on_device(v, device) for k, v in moved.items() if isinstance(v, Tensor)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One micro-batch as a stream.

    lengths: of the sequences, in stream order; those without a prefix come first, each kind from short to long.
    prefixes: for each sequence, the sequence that it continues, or -1.
    """

    token_ids: Int[Tensor, " tokens"]
    position_ids: Int[Tensor, " tokens"]
    lengths: tuple[int, ...]
    prefixes: tuple[int, ...]
    targets: Targets


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens [start, stop) of a row; `prefix` is the index of the piece they continue, or -1."""

    row: int
    start: int
    stop: int
    prefix: int = -1

    @property
    def length(self) -> int:
        return self.stop - self.start


def pack(
    *,
    token_ids: Int[Tensor, "batch seq"],
    loss_mask: Bool[Tensor, "batch seq"],
    group_index: Int[Tensor, " batch"],
    share_prompt_prefix: bool,
) -> Stream:
    """The shortest stream that predicts every loss token; without any, one token that predicts none.

    Args: all on the CPU; column 0 holds no loss token.

    Raises: ValueError when rows of one group differ before their first loss token.

    >>> ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 4, 0]])
    >>> mask = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 1, 0]]).bool()
    >>> found = pack(token_ids=ids, loss_mask=mask, group_index=torch.tensor([0, 0]), share_prompt_prefix=True)
    >>> found.token_ids.tolist(), found.position_ids.tolist(), found.lengths, found.prefixes
    ([5, 6, 7, 8], [0, 1, 2, 3], (3, 1), (-1, 0))
    >>> found.targets.positions.tolist(), found.targets.source.tolist(), found.targets.token_ids.tolist()
    ([2, 3], [0, 0, 1], [8, 4, 9])
    """
    ids, mask = token_ids.numpy(), loss_mask.numpy()
    starts = mask.argmax(1)  # the first loss token
    stops = _stops(mask)
    groups = group_index.tolist()
    members: dict[int, list[int]] = {}
    for row in np.nonzero(mask.any(1))[0].tolist():
        members.setdefault(groups[row] if share_prompt_prefix else row, []).append(row)

    pieces: list[_Piece] = [] if members else [_Piece(0, 0, 1)]
    shared: list[list[_Piece]] = []
    for rows in members.values():
        first = rows[0]
        if len(rows) == 1:
            pieces.append(_Piece(first, 0, int(stops[first])))
            continue
        _check_common_prompt(ids, starts, rows)
        pieces.append(_Piece(first, 0, int(starts[first])))
        shared.append([_Piece(row, int(starts[row]), int(stops[row])) for row in rows])

    # Sorted by length, so that sequences of one attention block have similar lengths and are adjacent in the stream.
    order = sorted(range(len(pieces)), key=lambda i: pieces[i].length)
    place = {pieces[i].row: k for k, i in enumerate(order)}
    roots = [pieces[i] for i in order]
    branches = [
        _Piece(piece.row, piece.start, piece.stop, prefix=place[group[0].row])
        for group in shared
        for piece in group
        if piece.length
    ]
    branches.sort(key=lambda piece: (piece.length * piece.stop, piece.row))
    sequences = [*roots, *branches]

    where = np.full(ids.shape, -1)  # the place in the stream of each token that is run
    at = 0
    for piece in sequences:
        where[piece.row, piece.start : piece.stop] = np.arange(at, at + piece.length)
        at += piece.length
    for group in shared:
        start = group[0].start
        where[[piece.row for piece in group], :start] = where[group[0].row, :start]
    return Stream(
        token_ids=torch.from_numpy(np.concatenate([ids[p.row, p.start : p.stop] for p in sequences])),
        position_ids=torch.from_numpy(np.concatenate([np.arange(p.start, p.stop) for p in sequences])),
        lengths=tuple(piece.length for piece in sequences),
        prefixes=tuple(piece.prefix for piece in sequences),
        targets=_targets(ids, mask, where),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedRows:
    """The rows and columns to run in the padded layout; positions are of [rows, width], flattened."""

    rows: Int[Tensor, " rows"]
    width: int
    targets: Targets


def pad(*, token_ids: Int[Tensor, "batch seq"], loss_mask: Bool[Tensor, "batch seq"]) -> PaddedRows:
    """The rows that have a loss token (else the first one), up to the last token that predicts one.

    >>> mask = torch.tensor([[False, False, False], [False, True, True]])
    >>> found = pad(token_ids=torch.tensor([[4, 5, 6], [7, 8, 9]]), loss_mask=mask)
    >>> found.rows.tolist(), found.width, found.targets.positions.tolist(), found.targets.column.tolist()
    ([1], 2, [0, 1], [4, 5])
    """
    ids, mask = token_ids.numpy(), loss_mask.numpy()
    rows = np.nonzero(mask.any(1))[0]
    width = int(_stops(mask[rows]).max()) if len(rows) else 1
    rows = rows if len(rows) else np.zeros(1, dtype=np.int64)
    where = np.full(ids.shape, -1)
    where[rows, :width] = np.arange(len(rows) * width).reshape(len(rows), width)
    return PaddedRows(rows=torch.from_numpy(rows), width=width, targets=_targets(ids, mask, where))


def _stops(mask: np.ndarray) -> np.ndarray:
    """The column of each row's last loss token, which is predicted but predicts nothing needed."""
    return mask.shape[1] - 1 - mask[:, ::-1].argmax(1)


def _targets(ids: np.ndarray, mask: np.ndarray, where: np.ndarray) -> Targets:
    rows, columns = np.nonzero(mask)
    sources = where[rows, columns - 1]
    order = np.argsort(sources, kind="stable")
    rows, columns = rows[order], columns[order]
    positions, first, source = np.unique(sources[order], return_index=True, return_inverse=True)
    return Targets(
        positions=torch.from_numpy(positions),
        source=torch.from_numpy(source),
        first_target=(*first.tolist(), len(order)),
        token_ids=torch.from_numpy(ids[rows, columns]),
        column=torch.from_numpy(rows * mask.shape[1] + columns),
    )


def _check_common_prompt(ids: np.ndarray, starts: np.ndarray, rows: list[int]) -> None:
    first = rows[0]
    length = int(starts[first])
    if any(starts[row] != length for row in rows):
        raise ValueError(
            f"rows {rows} of one group_index differ in the length of their prompt "
            f"({sorted({int(starts[row]) for row in rows})}); they must agree before their first loss token"
        )
    if (ids[rows, :length] != ids[first, :length]).any():
        raise ValueError(
            f"rows {rows} of one group_index differ in the tokens of their prompt; they must agree before their "
            "first loss token"
        )
