"""Assigns rows to ranks: equal tokens, and groups kept together unless that unbalances the ranks."""

from collections.abc import Sequence

from rlvr.batch import Batch

# A piece is at most a quarter of a rank's fair share, so that pieces can be spread evenly.
_PIECES = 4


_BACKWARD_COST = 3  # of a pass forward and backward, in forward passes


def split_over_ranks(batch: Batch, num_ranks: int, *, is_forward_only: Sequence[bool] = ()) -> list[list[int]]:
    """Row indices of each rank, in order; some are empty if there are fewer rows than ranks.

    Rows of one group share a prompt, so a group stays whole up to a quarter of a rank's fair share of the tokens; a
    larger one is cut. Pieces go, the largest first, to the rank with the fewest tokens so far.

    Args: is_forward_only: for each row, whether it needs only a forward pass; () if all need the same.
    """
    tokens = batch.attention_mask.sum(1).tolist()
    if any(is_forward_only):
        pairs = zip(tokens, is_forward_only, strict=True)
        tokens = [count * (1 if is_forward else _BACKWARD_COST) for count, is_forward in pairs]
    most = max(1, sum(tokens) // (num_ranks * _PIECES))
    by_group: dict[int, list[int]] = {}
    for row, group in enumerate(batch.group_index.tolist()):
        by_group.setdefault(group, []).append(row)
    pieces: list[list[int]] = []
    for rows in by_group.values():
        piece: list[int] = []
        for row in rows:
            if piece and sum(tokens[r] for r in piece) + tokens[row] > most:
                pieces.append(piece)
                piece = []
            piece.append(row)
        pieces.append(piece)
    pieces.sort(key=lambda piece: (-sum(tokens[row] for row in piece), piece[0]))
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for piece in pieces:
        rank = loads.index(min(loads))
        shares[rank] += piece
        loads[rank] += sum(tokens[row] for row in piece)
    return [sorted(share) for share in shares]
