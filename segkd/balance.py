"""Balancing terms: weights set by shares of the task loss's gradient norm on the student's parameters."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segkd.gradients import gradients_of, leaves_of, norm_of, with_gradients
from segkd.losses._rows import over_processes
from segkd.schedules import Schedule, summed

FIRST = 20
"""The first steps, each of which is measured."""
EVERY = 50
"""After the first steps, one step in this many is measured."""
MEMORY = 0.9
"""How much of a norm's exponential mean is kept when a new measurement is added."""


class Balance(nn.Module):
    """Sets the weights of terms with a share, so that each one's gradient norm is this share of the task loss's.

    n_k is the norm of the gradient of term k's unweighted loss over the student's trainable parameters, N_k its
    exponential mean; N_task likewise of the task loss, times its weight but not its schedule. Term k's weight is
    share_k * N_task / N_k, a constant between measurements and without gradient. The task loss itself is never
    rescaled, so learning rates keep their meaning. A measurement costs one backward pass more for each balanced term
    and, unless its gradients are reused, one for the task loss. In a distributed run the processes' norms are averaged.

    Own; related: GradNorm (arXiv 1711.02257) and EnCodec's balancer (arXiv 2210.13438).

    Args:
        shares: of each balanced term by name, at least 0.

    Attributes:
        reuse: whether the loss of a measured step returns the gradients that were measured, weighted and summed,
            instead of a backward pass of its own. Off by default; segkd's own training sets it. Such a loss can be
            differentiated only by the graph's leaves (parameters), not by tensors within, and has no second derivative.
        norms: (1 + number of shares,), the exponential means, the task loss's first; -1 where nothing is measured yet.
        seen: steps so far. Both are in the ``state_dict``, so that a resumed run goes on exactly.
    """

    norms: Tensor
    seen: Tensor

    def __init__(self, shares: Mapping[str, float]) -> None:
        super().__init__()
        self.shares = dict(shares)
        self.reuse = False
        self.register_buffer("norms", torch.full((1 + len(self.shares),), -1.0))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._known: tuple[int, list[float]] | None = None  # the buffers' values: reading these waits for the GPU
        self._said: set[str] = set()
        self.register_load_state_dict_post_hook(_forget)
        # A measured step runs compiled backward passes more than once: they must keep the buffers that they hold.
        torch._functorch.config.donated_buffer = False

    # Kept out of compiled graphs: a measured step would need another one. Progress is passed as it was given: a number
    # that a graph has computed would be compiled in as a constant.
    @torch.compiler.disable
    def forward(
        self,
        student: nn.Module,
        values: Mapping[str, Tensor],
        weights: Mapping[str, float],
        labelled: Any,
        schedule: Mapping[str, Schedule],
        progress: float | None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Count a step, measure the gradients where that is due, and return what `segkd.schedules.summed` returns.

        Args:
            student: the model on whose parameters gradients are measured.
            values: the unweighted values by name, scalars; the task loss's as ``"task"``.
            weights: the weights by name, without the balanced terms'.
            labelled: whether there are labels, or (B,) bool, which images have some. Without any, and where all are
                ignored, the task loss is not measured.
            schedule: functions of progress that multiply weights, those from shares too.
            progress: training progress in [0, 1] (clamped); None is 0.
        """
        task = weights["task"] * values["task"]
        seen, norms = self._values()
        found: list[dict[Tensor, Tensor]] = []
        if torch.is_grad_enabled():
            if seen < FIRST or seen % EVERY == 0:
                measured = [task, *(values[name] for name in self.shares)]
                parameters: list[Tensor] = [each for each in student.parameters() if each.requires_grad]
                reuse = self.reuse and len(values) == len(measured)
                leaves = leaves_of(measured) if reuse else parameters
                if any(
                    leaf._backward_hooks for leaf in leaves
                ):  # which would change gradients here and once more later
                    reuse, leaves = False, parameters
                gradients = [gradients_of(value, leaves) for value in measured]
                norms = self._measure([norm_of(each, parameters) for each in gradients], labelled)
                found = gradients if reuse else []
            self.seen += 1
            self._known = (seen + 1, norms)
        pairs = zip(self.shares.items(), norms[1:], strict=True)
        balanced = {name: self._weight(name, share, norms[0], norm) for (name, share), norm in pairs}
        loss, now = summed(values, {**weights, **balanced}, schedule, min(max(progress or 0.0, 0.0), 1.0))
        if found:
            factors = [now["task"], *(now[name] for name in self.shares)]
            # The task loss was measured times its weight.
            factors[0] /= weights["task"]
            loss = with_gradients(loss, found, factors)
        return loss, now

    def gradients(self) -> dict[str, float]:
        """Return the exponential mean of each norm, the task loss's as ``"task"``; without those not measured yet."""
        names = ("task", *self.shares)
        return {name: norm for name, norm in zip(names, self._values()[1], strict=True) if norm >= 0}

    def _weight(self, name: str, share: float, task: float, norm: float) -> float:
        if norm < 0 or task < 0:  # not measured yet: assume equal norms
            return share
        if norm == 0:
            if share and name not in self._said:
                self._said.add(name)
                warnings.warn(
                    f"term {name!r} has no gradient on the student's parameters: a share of it has weight 0",
                    stacklevel=2,
                )
            return 0.0
        return share * task / max(norm, 1e-12)

    def _measure(self, norms_now: list[Tensor], labelled: Any) -> list[float]:
        norms = torch.stack([norm.to(self.norms) for norm in norms_now])
        # The task loss's norm is averaged over the processes with labels; all take part, so that none waits for ever.
        with_labels = torch.as_tensor(labelled).any().to(norms)[None]
        found = over_processes(torch.cat([norms[:1] * with_labels, norms[1:], with_labels]))
        measured = torch.cat([found[:1] / found[-1:], found[1:-1]])
        # A step without labels, or one that overflows, as the first ones in float16 may, leaves the mean as it is. So
        # does one whose task loss has no gradient in any process: all its labels are ignored, and teach nothing.
        is_known = measured.isfinite()
        is_known[0] &= measured[0] > 0
        means = torch.where(self.norms < 0, measured, self.norms.lerp(measured, 1 - MEMORY))
        self.norms.copy_(torch.where(is_known, means, self.norms))
        known: list[float] = self.norms.tolist()
        return known

    def _values(self) -> tuple[int, list[float]]:
        if self._known is None:
            self._known = (int(self.seen), self.norms.tolist())
        return self._known


def _forget(balance: Balance, _: Any) -> None:
    balance._known = None
