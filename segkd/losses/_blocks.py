"""A sum over rows that is taken a block at a time, so that no temporary of all rows is ever made."""

from collections.abc import Callable

from torch import Tensor
from torch.utils.checkpoint import checkpoint

ENTRIES = 2**22
"""Values that a temporary of one block has: 16 MB in float32."""


def sum_in_blocks(of_rows: Callable[..., Tensor], entries: int, *tensors: Tensor) -> Tensor:
    """Return the sum of ``of_rows(*block)``, each a scalar, over blocks of the tensors' first dimension.

    Backward computes each block again rather than keep what it made; the values are those of one block of all rows.

    Args:
        of_rows: what is summed.
        entries: how many values its largest temporary has for each row.
        tensors: of one length at least; all have as many rows.
    """
    rows = max(ENTRIES // entries, 1)
    if len(tensors[0]) <= rows:
        return of_rows(*tensors)
    total = tensors[0].new_zeros(())
    for block in zip(*(x.split(rows) for x in tensors), strict=True):
        total = total + checkpoint(of_rows, *block, use_reentrant=False, preserve_rng_state=False)
    return total
