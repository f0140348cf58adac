from typing import Any

from torch import nn

from segkd.losses import PixelKD
from segkd.teachers import Average

from ..row import Row


class Part(nn.Module):
    """One of the row's teachers, who stand one after another along the batch axis; softened."""

    def __init__(self, number: int, count: int, temperature: float) -> None:
        super().__init__()
        self.number, self.count, self.temperature = number, count, temperature

    def forward(self, images):
        return images.chunk(self.count)[self.number] / self.temperature


def figures(row: Row) -> dict[str, Any]:
    count, temperature = row.params["teachers"], row.params["temperature"]
    loss = PixelKD(temperature)
    if row.params["of"] == "losses":
        return row.figures(sum(loss(row.student, each) for each in row.teacher.chunk(count)) / count)
    # The mean is of the probabilities at the temperature: their logarithms, times it, are logits that give them again.
    mean = Average([Part(number, count, temperature) for number in range(count)])(row.teacher)
    return row.figures(loss(row.student, temperature * mean))
