"""Faults of the task loss that a config names."""

from faults.config import override
from faults.row import Fault

FAULTS = [
    override("an unknown task loss", "task_loss=oehm", "task_loss: there is no task loss 'oehm', did you mean 'ohem'?"),
    override("an unknown option of a task loss", "task_loss={ohem: {treshold: 1}}", "did you mean 'threshold'?"),
    override("a word for an option of a task loss", "task_loss={focal: {gamma: high}}", "task_loss", "'gamma'", "high"),
    override("a threshold of the task loss above 1", "task_loss={ohem: {threshold: 2}}", "task_loss", "[0, 1], got 2"),
    override("task losses that are taken out", "task_loss={dice: null}", "task_loss", "names no loss"),
    override("a task loss that counts for nothing", "task_loss={dice: {scale: 0}}", "task_loss: dice: scale", "got 0"),
    override("a number for a task loss", "task_loss=3", "task_loss: expected keys and values", "got 3"),
    override("class weights below 0", "task_loss={cross_entropy: {weight: [-1, 2]}}", "task_loss", "at least 0"),
    override(
        "class weights of other classes",
        "task_loss={cross_entropy: {weight: [1, 2]}}",
        "segkd: tiny: task_loss.cross_entropy.weight: 11 numbers",
        "got 2",
    ),
    override("an unknown loss of smp", "task_loss=smp:LovaszLos", "task_loss", "did you mean 'LovaszLoss'?"),
    override("an unknown option of smp", "task_loss={smp:DiceLoss: {smoth: 1}}", "did you mean 'smooth'?"),
    override(
        "a task loss of no module",
        "task_loss=nowhere.losses:Mine",
        "'nowhere.losses:Mine': there is no module 'nowhere'",
    ),
    override("a task loss that a module has not", "task_loss=math:Mine", "'math:Mine': math has no 'Mine'"),
    override("a task loss that cannot be made", "task_loss={fractions:Fraction: {top: 1}}", "cannot be made", "top"),
    override("a task loss that is none", "task_loss=fractions:Fraction", "a torch.nn.Module", "got Fraction"),
    Fault(
        "a detector with another task loss",
        "train tiny.yaml task_loss=ohem",
        ("the command line: task_loss: is of segmentation: a detector brings its own losses",),
        folder="detection",
    ),
    Fault(
        "a pixel weighting of a task loss without pixels",
        "train distilled.yaml task_loss=dice 'distill.pixel_weighting={rdd: {without_auxiliary: second_stage}}'",
        ("distilled: distill: pixel_weighting needs a task loss", "Dice"),
    ),
]
