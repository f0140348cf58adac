"""Random numbers of losses: from a generator that can be given, whose state is saved."""

from typing import Any, cast

import torch
from torch import Tensor

from segkd.errors import SegkdError


class Draws:
    """A base beside `Loss` of those that draw random numbers.

    They come from torch's global generator, or from a `torch.Generator` that is set as ``generator``: its state is
    then saved with the loss and restored exactly.
    """

    # Without an annotation, or it would be an option of the loss.
    generator = cast(Any, None)

    def get_extra_state(self) -> Tensor:
        """Return the generator's state; nothing (0,) of the global one, which is not the loss's to save."""
        state: Tensor = torch.empty(0, dtype=torch.uint8) if self.generator is None else self.generator.get_state()
        return state

    def set_extra_state(self, state: Tensor) -> None:
        """Take back what `get_extra_state` returned.

        Raises:
            SegkdError: a state was saved, and no generator is set that could take it.
        """
        if not len(state):
            return
        if self.generator is None:
            name = type(self).__name__
            raise SegkdError(f"{name} was saved with a generator's state: set a generator before it is loaded")
        self.generator.set_state(state.cpu())
