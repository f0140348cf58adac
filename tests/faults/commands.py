"""Faults of the command line itself."""

from faults.row import Fault, fifo

FAULTS = [
    ("an unknown command", "trian", ("No such command 'trian'", "train", "segkd --help")),
    ("an option that no command has", "train --foo", ("--foo", "segkd train --help")),
    ("train without a config", "train", ("CONFIG", "segkd configs")),
    ("resume without a run", "train --resume", ("--resume",)),
    ("train of a config and a run", "train tiny.yaml --resume runs/tiny", ("not both",)),
    ("resume of what is no run", "train --resume runs/none", ("there is no run 'runs/none'", "there is none in runs")),
    ("eval without a target", "eval", ("RUN|STUDENT|CONFIG", "segkd eval --help")),
    ("eval of what nothing was trained of", "eval tiny.yaml", ("tiny.yaml", "nothing to measure", "runs/tiny")),
    ("data without a command", "data", ("Missing command", "segkd data --help")),
    ("a count that is no number", "data show tiny.yaml --count many", ("--count",)),
    ("a count of nothing", "data show tiny.yaml --count 0", ("--count",)),
    ("show of an unknown split", "data show tiny.yaml --split vla", ("'vla'", "did you mean 'val'?")),
    ("show into no folder", "data show tiny.yaml --out none/a.png", ("none/a.png",)),
    ("show into no image format", "data show tiny.yaml --out a.xyz", ("a.xyz",)),
    ("an argument too many", "configs extra", ("extra",)),
    ("an unknown config", "train quickstrat", ("'quickstrat'", "did you mean 'quickstart'?")),
    ("an empty config name", "train ''", ("config",)),
    ("compare of an unknown config", "compare tiny.yaml quickstrat", ("'quickstrat'",)),
    ("compare without configs", "compare", ("CONFIG",)),
    ("compare with no seeds", "compare tiny.yaml --seeds 0", ("--seeds",)),
    ("compare under an unknown budget", "compare tiny.yaml --budget lots", ("lots",)),
    ("compare with an unknown baseline", "compare tiny.yaml --baseline other", ("other",)),
    ("a report on nothing", "compare --report-only runs", ("runs",)),
    ("compare on an unknown cluster", "compare tiny.yaml --on slurm", ("--on 'slurm'", "ray=ADDRESS")),
    Fault("a cluster without Ray", "compare tiny.yaml --on ray", ("--on ray", "segkd[cluster]"), absent="ray"),
    Fault("stores on a cluster without Ray", "store tiny.yaml --on ray", ("segkd[cluster]",), absent="ray"),
    ("predict of nothing", "predict runs/tiny --out found", ("INPUT",)),
    ("predict without a folder", "predict runs/tiny data/val", ("--out",)),
    ("predict by what is no student", "predict runs/none data/val --out found", ("runs/none",)),
    *(
        Fault(
            f"{command} of a run that is not there",
            f"{command.format(run='runs/tini')}",
            ("there is no run 'runs/tini'", "did you mean 'runs/tiny'?"),
            folder="run",
        )
        for command in (
            "eval {run}",
            "export {run}",
            "bench runs/tiny {run}",
            "predict {run} data/val --out found",
            "train --resume {run}",
        )
    ),
    *(
        Fault(
            f"{command} on a device that is not there",
            f"{command} --device cuda:9",
            ("--device 'cuda:9'", "there are: "),
            folder="run",
        )
        for command in (
            "eval runs/tiny",
            "export runs/tiny",
            "bench runs/tiny",
            "predict runs/tiny data/val --out found",
        )
    ),
    Fault("eval on an unknown kind of device", "eval runs/tiny --device gpuu", ("'gpuu'", "cpu"), folder="run"),
    Fault("figures of eval into no folder", "eval runs/tiny --json none/a.json", ("none/a.json",), folder="run"),
    ("check of what is neither config nor data set", "data check camvdi", ("'camvdi'", "did you mean 'camvid'?")),
    *(
        (f"{command} of a name that no disk can hold", f"{command} {'x' * 256} {more}", ("xxx",))
        for command, more in [
            *((name, "") for name in ("train", "eval", "compare", "store", "export", "bench")),
            ("train --resume", ""),
            ("tune", "distill.terms.kd.share=0.1..3"),
            ("predict", "tiny.yaml --out out"),
            *((name, "") for name in ("data show", "data check")),
        ]
    ),
    ("predict of an image whose name no disk can hold", f"predict runs/tiny {'x' * 256} --out out", ("xxx",)),
    ("check of a data set with a config's key", "data check data.yaml seed=1", ("seed=1", "data.root")),
    Fault("predict of no file", "predict runs/tiny none.png --out found", ("none.png",), folder="run"),
    Fault("predict of a pattern without files", "predict runs/tiny '*.tif' --out found", ("*.tif",), folder="run"),
    Fault(
        "predict into a folder that is in use",
        "predict runs/tiny data/val --out data",
        ("data",),
        folder="run",
    ),
    Fault("predict with a scale of 0", "predict runs/tiny data/val --out f --scales 0", ("scales",), folder="run"),
    Fault("predict with words as scales", "predict runs/tiny data/val --out f --scales a", ("'a'",), folder="run"),
    Fault(
        "predict with a window of words",
        "predict runs/tiny data/val --out f --sliding --window a",
        ("'a'",),
        folder="run",
    ),
    Fault(
        "predict with a threshold for boxes",
        "predict runs/tiny data/val --out f --score-threshold 0.5",
        ("score-threshold",),
        folder="run",
    ),
    Fault("predict with an opacity of 2", "predict runs/tiny data/val --out f --alpha 2", ("--alpha",), folder="run"),
    Fault(
        "predict in batches of 0", "predict runs/tiny data/val --out f --batch-size 0", ("--batch-size",), folder="run"
    ),
    ("export of what is no run", "export runs/none", ("runs/none",)),
    Fault("export to an unknown format", "export runs/tiny --format onx", ("'onx'", "onnx"), folder="run"),
    Fault("int8 of another format", "export runs/tiny --format pt2 --int8", ("int8",), folder="run"),
    Fault("export into a file's folder", "export runs/tiny --out data.yaml/a.onnx", ("data.yaml",), folder="run"),
    ("bench of what is no run", "bench runs/none", ("runs/none",)),
    ("bench of nothing", "bench", ("RUN",)),
    Fault("bench with a size of words", "bench runs/tiny --size big", ("'big'",), folder="run"),
    Fault("a run that is finished", "train tiny.yaml", ("runs/tiny", "finished", "name="), folder="run"),
    Fault("resume of a run that is finished", "train --resume runs/tiny", ("runs/tiny", "finished"), folder="run"),
    Fault(
        "a run directory that is a file",
        "train tiny.yaml runs=data.yaml",
        ("data.yaml", "is a file"),
    ),
    Fault("a run directory with other files", "train tiny.yaml runs=. name=data", ("data", "other files", "name=")),
    Fault("a run where nothing can be written", "train tiny.yaml runs=/proc", ("/proc/tiny", "cannot be")),
    Fault(
        "a run directory that is a fifo",
        "train tiny.yaml",
        ("runs/tiny",),
        prepare=fifo("runs/tiny"),
    ),
]
