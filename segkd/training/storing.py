"""Teachers' stores in a run: their keys, filling them before the first step, and checking a sample of what is there."""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from filelock import FileLock
from pytorch_lightning.utilities import move_data_to_device
from rich.console import Console
from rich.filesize import decimal

from segkd import signals
from segkd.common.progress import say, shown
from segkd.data.dataset import SeededDataset
from segkd.data.loading import given_loader
from segkd.data.transforms import train_transform
from segkd.distiller import Distiller
from segkd.errors import SegkdError
from segkd.losses._common import UNKNOWN
from segkd.network import Network
from segkd.outputs import tensors_of
from segkd.step import View
from segkd.store import key as keys
from segkd.store.entry import tolerance
from segkd.store.filling import Filling, of_image
from segkd.store.store import Store
from segkd.stored import Stored
from segkd.training.stages import ends_of
from segkd.training.task import Task
from segkd.training.teacher_schema import StoreBlock

Precision = Callable[[], AbstractContextManager[Any]]
"""Returns a context to run a network in, a new one each time: it can be entered only once."""

SAMPLE = 4
"""How many entries that were there before are compared with what the teacher gives anew."""


@dataclass(frozen=True)
class Filled:
    """A store, and what a run reads of it: the views that each stage sees, and by stage the places it reads of them."""

    store: Store
    views: list[list[View]]
    places: dict[int, list[str]]
    teacher: Stored

    def reads(self) -> dict[View, list[str]]:
        """Return the places that are read of each view, in whichever stage."""
        found: dict[View, dict[str, None]] = {}
        for stage, places in self.places.items():
            for view in self.views[stage]:
                found.setdefault(self.teacher.key(view), {}).update(dict.fromkeys(places))
        return {view: list(places) for view, places in found.items()}


def store_root(block: StoreBlock | None = None) -> Path:
    """Return the folder that stores lie in."""
    return Path((block.folder if block else None) or os.environ.get("SEGKD_STORE") or "runs/store")


def views_of(task: Task, dataset: SeededDataset, start: int = 0, world: int = 1) -> list[list[View]]:
    """Return the views that each stage of a run of ``world`` processes will see, each view once in a stage.

    Those of the first ``start`` samples, which the run has seen, are left out.
    """
    config, found = task.config, []
    batches, done = iter(task.train_loader(dataset, start).batch_sampler or ()), start // config.data.batch_size
    for step in ends_of(config):
        end = max(step * config.trainer.accumulate * world, done)
        of_stage = itertools.islice(batches, end - done)
        found.append(list(dict.fromkeys(dataset.view(each) for batch in of_stage for each in batch)))
        done = end
    return found


class Stores(pl.Callback):
    """Fills and opens the stores of a run's teachers; does nothing where no teacher is stored.

    Args:
        task: of the run.
        distillers: one for each stage; stored are their teachers.
        console: where the progress of the filling is shown.
        root: the folder for the stores, in place of those that the config names.

    Raises:
        SegkdError: a teacher of this task cannot be stored.
    """

    def __init__(self, task: Task, distillers: Sequence[Distiller], console: Console, root: Path | None = None) -> None:
        self.task, self.console, self.root = task, console, root
        self.cost = {"seconds": 0.0, "views": 0}
        """Seconds of filling, and how many views were made, both in this process."""
        found: dict[str, dict[int, tuple[Stored, Sequence[str]]]] = {}  # by teacher and stage
        for stage, distiller in enumerate(distillers):
            for name, teacher in distiller.teachers.items():
                if isinstance(teacher, Stored):
                    of_stages = found.setdefault(name, {})
                    if teacher.places(reads := distiller.reads[name]):
                        of_stages[stage] = teacher, reads
        self.wanted = found
        self.held: list[FileLock] = []
        for name in found:
            if not found[name]:
                cannot = next(cast(Stored, of.teachers[name]).cannot for of in distillers if name in of.teachers)
                raise SegkdError(f"{task.config.name}: teacher.store: {cannot}")
            block: Any = task.config.named_teachers()[name]
            root = self.root or store_root(block.store)
            there = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
            if not there.is_dir():
                raise SegkdError(
                    f"{task.config.name}: teacher.store: {root} cannot be written ({there} is a file): name another "
                    "teacher.store.folder"
                )

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Make what this run's stores lack; each process makes a part."""
        if not self.wanted:
            return
        signals.claim()  # with Lightning's own handler a signal would wait for the end of the filling
        context: Precision = trainer.precision_plugin.forward_context
        seen = trainer.global_step * self.task.config.trainer.accumulate * self.task.config.data.batch_size
        dataset = self.task.train_set()
        self.fill(dataset, module.device, context, seen * trainer.world_size, trainer.world_size)
        trainer.strategy.barrier()

    def fill(
        self,
        dataset: SeededDataset,
        device: torch.device,
        context: Precision = nullcontext,
        start: int = 0,
        world: int = 1,
    ) -> list[Filled]:
        """Open each teacher's store, make the views that each stage will see, and have the teachers read from there.

        Args:
            dataset: what is trained on.
            device: where the teachers run.
            context: the precision that they run in.
            start: samples that the run has seen.
            world: number of its processes.

        Raises:
            SegkdError: a folder cannot be written, or what lies there is not what the teacher gives.
            DiskFull: there is no room for it.
            Interrupted: a signal came, if there is one process only; what was stored stays.
        """
        config, begin, filled = self.task.config, time.monotonic(), []
        views = views_of(self.task, dataset, start, world)
        files = keys.of_files(dataset.files(), dataset.spec.resolve_root(config.data.root))
        for name, of_stages in self.wanted.items():
            block: Any = config.named_teachers()[name]
            teacher = next(iter(of_stages.values()))[0]
            given = dataset.whole(train_transform(resize=config.data.resize, flip=0.0)) if teacher.whole else dataset
            about = self._about(teacher, name, given, files, device)
            root = self.root or store_root(block.store)
            store = Store(root / keys.key(about), block.store.dtype, block.store.compress)
            self.held += store.hold()
            for stage, (teacher, reads) in of_stages.items():
                wanted = list(dict.fromkeys(map(teacher.key, views[stage])))
                with torch.no_grad(), context():
                    self._fill(store, teacher, reads, wanted, given, about, device, alone=world == 1)
                teacher.entries = store
            places = {stage: teacher.places(reads) for stage, (teacher, reads) in of_stages.items()}
            filled.append(Filled(store, views, places, teacher))
        self.cost["seconds"] = round(time.monotonic() - begin, 3)
        return filled

    def _about(
        self, teacher: Stored, name: str, dataset: SeededDataset, files: str, device: torch.device
    ) -> dict[str, Any]:
        """Return all that a stored output depends on except the view: the parts of the store's key."""
        config, network = self.task.config, cast(Network, teacher.module)
        block: Any = config.named_teachers()[name]
        return {
            "teacher": str(getattr(block, "config", None) or getattr(block, "checkpoint", None) or name),
            "dataset": f"{dataset.spec.name}, {dataset.samples.split}",
            "module": keys.of_module(network.module),
            "preprocess": repr(network.preprocess),
            "files": files,
            "transform": repr([dataset.transform.pipeline, *([] if dataset.own_jitter else dataset.transform.jitter)]),
            "view_seed": dataset.seed,
            "kept": block.store.dtype,
            "precision": str(config.trainer.precision),
            **({"layout": "channels_last"} if config.trainer.channels_last else {}),
            **teacher.about(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "libraries": keys.of_libraries(),
        }

    def _fill(
        self,
        store: Store,
        teacher: Stored,
        reads: Sequence[str],
        views: list[View],
        dataset: SeededDataset,
        about: dict[str, Any],
        device: torch.device,
        alone: bool,
    ) -> None:
        config = self.task.config
        untold: list[Filling] = []
        places, size, workers = teacher.places(reads), config.data.batch_size, config.data.workers
        if teacher.whole and config.data.resize is None:  # images may differ in size
            size = 1

        def run(batch: Any) -> tuple[list[View], dict[str, Any]]:
            if "epoch" not in batch:
                raise SegkdError(f"{config.name}: teacher.store: batches of {self.task.name} lack epoch and index")
            of_batch = list(zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True))
            batch = move_data_to_device(batch, device)
            images, target = self.task.inputs(batch)
            found = teacher.keep(batch.get("image_teacher", images), reads, target)
            if untold:
                sizes = f"about {decimal(untold.pop().size(found))}, {decimal(store.free())} free"
                say(self.console, f"{config.name}: {text} ({sizes})")
            return of_batch, found

        missing = set(store.missing(views, places))
        there = [view for view in views if view not in missing]
        if there:
            chosen = there[:: max(len(there) // SAMPLE, 1)][:SAMPLE]
            batch = [chosen[number % len(chosen)] for number in range(size)][: max(size, len(chosen))]
            ((seen, found),) = (run(each) for each in given_loader(dataset, [batch]))
            self._compare(store, seen, found)
        store.open(about)
        if not missing:
            return
        filling = Filling(store, views, places, size)
        batches = -(-len(filling.missing) // size)
        text = f"the teacher's outputs for {len(filling.missing)} of {len(views)} views are stored in {store.folder}"
        untold.append(filling)

        def load(work: Filling) -> Iterable[Any]:
            return given_loader(dataset, work.batches(), workers)

        for count in shown(filling(load, run), batches, "storing", self.console):
            self.cost["views"] += count
            if alone:  # else the others would wait for this process for ever
                signals.raise_if_asked()

    def _compare(self, store: Store, views: Sequence[View], found: dict[str, Any]) -> None:
        """Raise where stored entries differ from what the teacher gives by more than their type allows."""
        for number, view in enumerate(dict.fromkeys(views)):
            kept = store.read(view, list(found))
            for place in found if kept is not None else ():
                fresh_ones = tensors_of(of_image(found[place], number))
                for entry, fresh in zip(tensors_of(kept[place]), fresh_ones, strict=True):  # type: ignore[index]
                    fresh = fresh.detach().cpu()
                    if entry.shape == fresh.shape and not fresh.numel():
                        continue
                    off: Any = torch.inf
                    if entry.shape == fresh.shape:  # of integers (an image) the mean: single pixels may differ
                        apart = (entry.float() - fresh.float()).abs()
                        off = apart.amax() if fresh.is_floating_point() else apart.mean()
                    largest = float(fresh.float().where(fresh > UNKNOWN / 2, 0.0).abs().amax())
                    allowed = tolerance(store.kept, fresh.dtype) * largest
                    if not off <= allowed:
                        raise SegkdError(
                            f"{self.task.config.name}: teacher.store: in {store.folder} the {place} of view {view} is "
                            f"not what the teacher gives: it differs by {float(off):.2g} ({allowed:.2g} is allowed); "
                            f"remove it: segkd store --prune {store.folder.name}"
                        )
