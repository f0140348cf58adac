"""Segmentation in a run: pairs of image and mask, logits for each pixel, mIoU.

Imports are on first use: what a config says of this task is read without any of it.
"""

import functools
from typing import TYPE_CHECKING, Any

from segkd.errors import SegkdError
from segkd.training.measure import Measure, seen_by
from segkd.training.segmentation.schema import SegmentationConfig, build_task_loss
from segkd.training.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from torch import Tensor, nn

    from segkd.adapter import Adapter
    from segkd.common.pictures import Picture
    from segkd.data.dataset import SeededDataset
    from segkd.data.masks import MaskSpec
    from segkd.network import Network
    from segkd.segmentation.metrics import SegmentationMetrics
    from segkd.stored import Stored
    from segkd.training.module import DistillModule
    from segkd.training.run import Run
    from segkd.training.teacher_schema import StoreBlock


class SegmentationTask(Task):
    """One segmentation run's data and models."""

    name = "segmentation"
    title = "semantic segmentation: a class for each pixel"
    config_type = SegmentationConfig
    family = "smp"
    measures = (
        Measure("miou", "mIoU"),
        Measure("pixel_accuracy", "pixel accuracy"),
        Measure("class_accuracy", "class accuracy"),
        Measure("iou", "IoU", of_classes=True),
    )

    config: SegmentationConfig
    spec: "MaskSpec"

    @classmethod
    def labels(cls) -> type["MaskSpec"]:
        """Return masks."""
        from segkd.data.masks import MaskSpec

        return MaskSpec

    def remarks(self, dataset: "SeededDataset") -> list[str]:
        """Return what a person should know of a split before the run, the weights of the classes among it."""
        told = super().remarks(dataset)
        if "class_weights" in vars(self) and dataset.samples.split == self.config.data.train_split:
            shown = ", ".join(f"{n} {w:.2f}" for n, w in zip(self.class_names, self.class_weights, strict=True))
            told.append(f"class weights of the task loss: {shown}")
        return told

    def paint(self, image: Any, label: Any) -> "Picture":
        """Draw the classes' colours."""
        from segkd.segmentation.pictures import overlay

        return overlay(image, label, colors=self.spec.colors, ignore_index=self.spec.ignore_index)

    def inputs(self, batch: dict[str, Any]) -> "tuple[Tensor, Tensor]":
        """Return images (B, 3, H, W) in [0, 1], and labels (B, H, W)."""
        from segkd.network import unit

        return unit(batch["image"]), batch["mask"]

    def adapter(self) -> "Adapter":
        """Return the core's own, with the weight of the student's auxiliary loss."""
        from segkd.adapter import Adapter

        has_auxiliary = getattr(self.config.student, "auxiliary", False)
        return Adapter(auxiliary_weight=self.config.student.auxiliary_weight if has_auxiliary else 0.0)

    def stored(self, network: "Network", block: "StoreBlock") -> "Stored":
        """Return a teacher that is kept by views, or, as its block says, by whole images."""
        if not block.whole or block.head:
            return super().stored(network, block)
        from segkd.segmentation.whole import Whole

        return Whole(network)

    @functools.cached_property
    def class_weights(self) -> list[float]:
        """Return a weight for each class, from how often it occurs in up to 1000 masks of the training split."""
        from segkd.data.check import class_shares
        from segkd.segmentation.task_losses import class_weights

        return class_weights(class_shares(self.train_set()))

    def task_loss(self) -> "nn.Module":
        """Return what is learnt from the labels."""
        named, classes = self.config.task_loss or {"cross_entropy": {}}, self.spec.num_classes
        for name, options in named.items():
            weight = (options or {}).get("weight")
            if name == "cross_entropy" and isinstance(weight, list) and len(weight) != classes:
                raise SegkdError(
                    f"{self.config.name}: task_loss.cross_entropy.weight: {classes} numbers are needed, one for each "
                    f"class of {self.spec.name}, got {len(weight)}"
                )
        return build_task_loss(named, self.spec.ignore_index, lambda: self.class_weights)

    def check_networks(self, networks: "Mapping[str, Network]") -> None:
        """Raise unless all take images of the crop's size, which nothing pads, and one's own have the right classes."""
        crop = self.config.data.crop
        for name, network in networks.items():
            multiple = network.preprocess.multiple
            if any(pixels % multiple for pixels in crop):
                fits = [max(pixels // multiple, 1) * multiple for pixels in crop]
                raise SegkdError(
                    f"{self.config.name}: data.crop: the {name} takes heights and widths that are multiples of "
                    f"{multiple}, such as {fits}, got {list(crop)}"
                )
            family = network.family or ""
            if network.classes and (family == "python" or ":" in family):
                self._check_classes(name, network)

    def _check_classes(self, name: str, network: "Network") -> None:
        """Raise unless a model has logits of as many classes as it is taken to have; one that takes no zeros passes."""
        from segkd.adapter import Live
        from segkd.outputs import read_logits
        from segkd.trial import Trial

        trial = Trial(Live(network, side="student", owner=name), (), None)
        try:
            found = len(network.classes) if trial.failures else read_logits(trial.student[""]).shape[1]
        except SegkdError as error:
            raise SegkdError(f"{self.config.name}: {name}: {error}") from None
        if found != len(network.classes):
            raise SegkdError(
                f"{self.config.name}: {name}: its logits are of {found} classes, not {len(network.classes)}: what "
                "makes it is given their number as num_classes, where it has such a parameter"
            )

    def metrics(self, **options: Any) -> "SegmentationMetrics":
        """Return a confusion matrix."""
        from segkd.segmentation.metrics import SegmentationMetrics

        return SegmentationMetrics(self.spec.num_classes, self.spec.ignore_index, **options)

    def predict(self, network: "Network", images: "Tensor", target: "Tensor") -> "Tensor":
        """Return logits (B, C, H, W) in the student's classes, at label size, as ``validation`` says."""
        from segkd.segmentation.inference import predict_logits

        settings = self.config.validation
        logits = predict_logits(
            network,
            images,
            (target.shape[-2], target.shape[-1]),
            mode=settings.mode,
            window=settings.window or self.config.data.crop,
            stride=settings.stride,
        )
        return network.map_classes(logits)

    def boards(self, module: "DistillModule", items: list[dict[str, Any]]) -> "dict[str, Picture]":
        """Return ``pictures`` of all models and of what the student gets wrong, and of each ``similarity/...``."""
        import torch

        from segkd.common.pictures import comparison_grid, weight_map
        from segkd.losses.icsd import inter_class_similarity
        from segkd.segmentation.pictures import ERROR_COLORS, error_map, heat_map

        networks = {name: network for name, network in module.networks().items() if network.classes}
        teachers = [name for name in networks if name != "student"]
        # Of several teachers the first is meant by "teacher wrong".
        errors = f"errors, {teachers[0]} as teacher" if len(teachers) > 1 else "errors"
        rows: list[dict[str, Any]] = []
        matrices: dict[str, list[Tensor]] = {name: [] for name in networks}
        for item in items:
            tensors = {key: value[None] for key, value in item.items() if isinstance(value, torch.Tensor)}
            batch = {key: value.to(module.device) for key, value in tensors.items()}
            found = {}
            for name, network in networks.items():
                logits = self.predict(network, *self.inputs(seen_by(name, batch)))
                found[name] = logits.argmax(1)[0].cpu().numpy()
                matrices[name].append(inter_class_similarity(logits)[0].cpu())
            label = item["mask"].numpy()
            row = {"input": item["image"].permute(1, 2, 0).numpy(), "label": self._colored(label)}
            row |= {name: self._colored(found[name]) for name in (*teachers, "student")}
            of_teacher = found[teachers[0]] if teachers else None
            row[errors] = error_map(found["student"], label, self.spec.ignore_index, of_teacher)
            if (weights := self._weights(module, batch)) is not None:
                row["pixel weight: dark 0, yellow 1"] = weight_map(weights)
            rows.append(row)
        headers = list(dict.fromkeys(header for row in rows for header in row))
        kinds = [kind for kind in ERROR_COLORS if teachers or kind not in ("teacher wrong", "both wrong")]
        legend = [*self.legend, *((kind, ERROR_COLORS[kind]) for kind in kinds)]
        drawn = {"pictures": comparison_grid([[row.get(name) for name in headers] for row in rows], headers, legend)}
        means = {name: torch.stack(each).mean(0).numpy() for name, each in matrices.items()}
        limits = (0.0, float(max(mean.max() for mean in means.values())))  # the same colours mean the same in all
        for name, mean in means.items():
            title = f"{name}: KL(row || column) of the classes' spatial distributions, nats"
            drawn[f"similarity/{name}"] = heat_map(mean, self.class_names, title, limits)
        return drawn

    def _weights(self, module: "DistillModule", batch: "dict[str, Tensor]") -> Any:
        """Return the map (H, W) that the task loss would be weighted with at this progress, or None."""
        if module.distiller.pixel_weighting is None:
            return None
        try:
            inputs = self.inputs(batch)
            out = module.distiller(*inputs, progress=module.progress, teacher_images=batch.get("image_teacher"))
        except (SegkdError, RuntimeError):  # a size that the models take in windows only
            return None
        return None if out.pixel_weights is None else out.pixel_weights[0].float().cpu().numpy()

    def draw(self, item: dict[str, Any], network: "Network | None" = None) -> "Picture":
        """Draw the label, or what a model predicts at the label's size, in the classes' colours."""
        from segkd.network import unit

        classes = item["mask"]
        if network is not None:
            classes = self.predict(network, unit(item["image"][None]), classes).argmax(1)[0].cpu()
        return self._colored(classes.numpy())

    def _colored(self, classes: Any) -> "Picture":
        from segkd.segmentation.pictures import colorize

        return colorize(classes, self.spec.colors, self.spec.ignore_index)

    def info(self) -> dict[str, Any]:
        """Return the size that images are resized to, the window of sliding inference, and the label of no class."""
        return {
            "ignore_index": self.spec.ignore_index,
            "size": self.config.validation.resize,
            "window": self.config.validation.window or self.config.data.crop,
        }

    def finish_teacher(
        self, name: str, network: "Network", run: "Run", train_set: "SeededDataset", console: "Console"
    ) -> None:
        """Train the auxiliary head of a teacher that has none, or load the one that this run has trained before."""
        from segkd.training.segmentation.auxiliary import have_auxiliary

        have_auxiliary(self, name, network, run.auxiliary_of(name), train_set, console)
