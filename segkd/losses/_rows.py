"""What the losses on rows share: checks, and the weighted sum over an average factor that detection normalises by."""

import torch
import torch.distributed as dist
from torch import Tensor

from segkd.errors import SegkdError


def check_rows(name: str, student: Tensor, teacher: Tensor) -> None:
    """Raise unless both tensors are (..., K) and of the same shape."""
    if student.dim() == 0 or student.shape != teacher.shape:
        raise SegkdError(
            f"{name} expects student and teacher of one shape (..., K), got student {tuple(student.shape)} "
            f"and teacher {tuple(teacher.shape)}"
        )


def weighted_sum(rows: Tensor, weight: Tensor | float | None, avg_factor: Tensor | float) -> Tensor:
    """Return the sum of rows (...) times weight, over ``avg_factor``; a weight of None is 1."""
    if weight is not None:
        # (N, 1) against (N,) would weigh each row N times.
        if isinstance(weight, Tensor) and not _broadcasts(weight.shape, rows.shape):
            raise SegkdError(f"the weight must broadcast to {tuple(rows.shape)}, got {tuple(weight.shape)}")
        rows = rows * weight
    return rows.sum() / avg_factor


def over_processes(factor: Tensor, per_process: bool = False, least: float = 0.0) -> Tensor:
    """Return the mean of what each process of a distributed run gives, a scalar, without gradient.

    DDP takes the mean of the gradients: if each process divides its sum by this, all sums together are divided by all
    factors together, as in one process with all images.

    Args:
        factor: this process's average factor, a scalar.
        per_process: whether it is returned as it is. Otherwise every process must call this.
        least: what the sum over processes is at least taken for.
    """
    factor = factor.detach() if factor.is_floating_point() else factor.float()
    if per_process or not (dist.is_available() and dist.is_initialized()):
        return factor.clamp(min=least)
    total = factor.clone()
    dist.all_reduce(total)
    return total.clamp(min=least) / dist.get_world_size()


def gathered(x: Tensor) -> Tensor:
    """Return the rows (M, ...) that all processes of a distributed run have, in the order of these; M may differ."""
    if not (dist.is_available() and dist.is_initialized()):
        return x
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(x)], device=x.device))
    most = int(max(counts))
    padded = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
    found = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(found, padded)
    return torch.cat([rows[: int(count)] for rows, count in zip(found, counts, strict=True)])


def _broadcasts(given: torch.Size, shape: torch.Size) -> bool:
    return len(given) <= len(shape) and all(a in (1, b) for a, b in zip(reversed(given), reversed(shape), strict=False))
