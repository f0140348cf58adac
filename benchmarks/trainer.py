"""A training step of `segkd train` beside a bare loop with the same two models, losses, images and optimiser.

    python benchmarks/trainer.py --output benchmarks/results/trainer.md

Both run in one process, a step of the one after a step of the other, on one thread, timed by that thread's CPU time.
The trainer's step is all that lies between two of its batches: loading, the distiller, Lightning, logging, the
optimiser. The bare loop is what one would write by hand: the same loader, teacher and student called, the losses added
up, backward, a step of the optimiser. The ratio of the medians is required to be at most 1.05.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from measuring import machine
from rich.console import Console
from torch import nn

from segkd.losses import ICSD, PixelKD
from segkd.training import fit
from segkd.training.config import load_config
from segkd.training.train import train

LIMIT = 1.05
WARM_UP = 3
CONFIGS = {
    "quickstart": ["data.limit=null"],
    "quickstart, ResNet-50 teaches MobileNetV2": [
        "data.limit=null",
        "student.encoder=mobilenet_v2",
        "teacher.overrides.student.encoder=resnet50",
        "teacher.overrides.name=resnet50",
    ],
}


class BareLoop(pl.Callback):
    """After each step of the trainer takes one of its own, on copies of the two models.

    Args:
        icsd: weight of ICSD.
        kd: weight of pixel KD.
    """

    def __init__(self, icsd: float, kd: float) -> None:
        self.icsd, self.kd = icsd, kd
        self.of_trainer: list[float] = []
        self.of_loop: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        student, teacher = (copy.deepcopy(model) for model in (module.distiller.student, module.distiller.teacher))
        self.student, self.teacher = student.train(), teacher.eval()
        settings = module.config.optimizer
        kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
        options = {"momentum": settings.momentum} if settings.name == "sgd" else {}
        self.optimizer = kinds[settings.name](
            self.student.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, **options
        )
        self.cross_entropy = nn.CrossEntropyLoss(ignore_index=255)
        self.losses = ICSD(), PixelKD()
        self.batches = iter(trainer.train_dataloader)
        self.mark = time.thread_time()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.of_trainer.append(time.thread_time() - self.mark)
        begin = time.thread_time()
        self.step()
        self.mark = time.thread_time()
        self.of_loop.append(self.mark - begin)

    def step(self) -> None:
        batch = next(self.batches)
        images, labels = batch["image"], batch["mask"]
        with torch.no_grad():
            taught = self.teacher(images)
        logits = self.student(images)
        icsd, kd = self.losses
        full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        loss = self.cross_entropy(full, labels) + self.icsd * icsd(logits, taught) + self.kd * kd(logits, taught)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def measure(changes: list[str], steps: int, folder: Path) -> BareLoop:
    """Train for some steps, and return what each of them took."""
    common = [
        f"trainer.max_steps={steps + WARM_UP}",
        f"runs={folder}",
        f"data.root={folder / 'streets'}",
        "teacher.overrides.trainer.max_steps=1",
        "trainer.threads=1",
        "data.workers=0",
        "validation.every=100000",
        "validation.pictures=0",
    ]
    config = load_config("quickstart", [*common, *changes])
    weights = {name: block.weight for name, block in config.distill.named_terms().items()}
    loop = BareLoop(**weights)
    usual = fit.make_trainer

    def make_trainer(of: Any, **arguments: Any) -> pl.Trainer:
        if of.name == config.name:  # not the teacher's
            arguments["callbacks"] = [*arguments["callbacks"], loop]
        return usual(of, **arguments)

    fit.make_trainer = make_trainer
    try:
        train(config, Console(quiet=True))
    finally:
        fit.make_trainer = usual
    return loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="steps of each (default 40)")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    lines = [
        "# A training step beside a bare loop",
        "",
        f"`{' '.join(['python benchmarks/trainer.py', *sys.argv[1:]])}`",
        "",
        machine("cpu", 1),
        "",
        f"Milliseconds of the thread's CPU time, the median of {arguments.steps} steps of each, taken in turn, and in "
        f"brackets the fastest. The ratio of the medians is required to be at most {LIMIT:.2f}.",
        "",
        "| models | bare loop | segkd train | ratio |",
        "|---|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    for name, changes in CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            loop = measure(changes, arguments.steps, Path(folder))
        taken = [[1000 * seconds for seconds in of[WARM_UP:]] for of in (loop.of_loop, loop.of_trainer)]
        medians = [statistics.median(of) for of in taken]
        columns = [f"{median:.1f} ({min(of):.1f})" for median, of in zip(medians, taken, strict=True)]
        lines.append(f"| {name} | {' | '.join(columns)} | {medians[1] / medians[0]:.3f} |")
        print(lines[-1], flush=True)
    if arguments.output is not None:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
