"""Faults of configs and of changes to them."""

from typing import Any

from experiments import TINY

from faults.row import Fault, fifo


def override(name: str, text: str, *texts: str, folder: str = "segmentation", config: str = "tiny.yaml") -> Fault:
    """Return the row of a change on the command line, which is named."""
    return Fault(name, f"train {config} '{text}'", texts, folder=folder)


def config(name: str, content: Any, *texts: str, command: str = "train bad.yaml", seconds: float = 10.0) -> Fault:
    """Return the row of a file bad.yaml, which is named."""
    return Fault(name, command, ("bad.yaml", *texts), {"bad.yaml": content}, seconds=seconds)


def on_top(name: str, content: dict[str, Any], *texts: str) -> Fault:
    """Return the row of a file bad.yaml over tiny.yaml."""
    return config(name, {"base": "tiny.yaml", "teacher": {"config": "teacher.yaml"}, **content}, *texts)


# "Billion laughs": 0.4 kB that stand for a thousand million values.
BOMB = "base: tiny.yaml\na: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)

FAULTS = [
    override(
        "an unknown key", "trainer.max_step=1", "the command line", "trainer.max_step", "did you mean 'max_steps'?"
    ),
    override(
        "an unknown block",
        "tariner.max_steps=4",
        "the command line: there is no key 'tariner', did you mean 'trainer'?",
    ),
    override("a word for a number", "trainer.max_steps=many", "trainer.max_steps", "expected a whole number", "'many'"),
    override("no steps", "trainer.max_steps=0", "trainer.max_steps", "at least 1", "got 0"),
    override("half a step", "trainer.max_steps=2.5", "trainer.max_steps", "2.5"),
    override("an unknown precision", "trainer.precision=fp8", "trainer.precision", "bf16-mixed", "fp8"),
    override("an unknown schedule of the rate", "optimizer.schedule=step", "optimizer.schedule", "poly", "step"),
    override(
        "a word for a block",
        "optimizer=sgd",
        "optimizer: expected keys and values such as {name: ..., lr: ...}, got 'sgd'",
    ),
    override("a crop of one side", "data.crop=[4]", "data.crop: expected [height, width], got [4]"),
    override("a crop without width", "data.crop=[4,0]", "data.crop", "0"),
    override("a crop as one number", "data.crop=4", "data.crop: expected [height, width], got 4"),
    Fault(
        "a crop that the model does not take",
        "train tiny.yaml student.arch=DeepLabV3Plus 'data.crop=[65,96]'",
        ("tiny: data.crop", "multiples of 16", "[64, 96]", "got [65, 96]"),
    ),
    override("a blur above 1", "data.blur=2", "data.blur", "got 2"),
    override("a negative weight of the task loss", "distill.task_weight=-1", "distill.task_weight", "got -1"),
    override("biases that do not learn", "optimizer.bias_lr_factor=0", "optimizer.bias_lr_factor", "got 0"),
    override("a scale the wrong way round", "data.scale=[2.0,0.5]", "data.scale", "smallest"),
    override("a scale of 0", "data.scale=[0,0.5]", "data.scale"),
    override("an unknown mode", "validation.mode=tiles", "validation.mode", "sliding"),
    override("a probability above 1", "data.flip=1.5", "data.flip", "at most 1", "1.5"),
    override("a name with a slash", "name=a/b", "name", "'a/b'"),
    override("a name that climbs", "name=..", "name", "'..'"),
    override("a negative seed", "seed=-1", "seed", "-1"),
    override("a mean of one channel", "student.normalization.mean=[0.5]", "student.normalization"),
    override("no data", "data=null", "data: expected keys and values such as {dataset: ..., crop: ...}, got null"),
    override("an unknown accelerator", "trainer.accelerator=gpuu", "trainer.accelerator"),
    override("no devices", "trainer.devices=0", "trainer"),
    override("an unknown strategy", "trainer.strategy=dpp", "trainer", "dpp"),
    override("a change that is none", "nonsense", "key.path=value", "'nonsense'"),
    override("a change without key", "=4", "key.path=value"),
    override("a change of an empty key", "a..b=1", "the command line"),
    override("a change with half a list", "seed=[1", "the command line"),
    override("a change with half a mapping", "seed={", "the command line"),
    override("a change below a list", "data.crop.x=1"),
    override("a change that is empty", "", "key.path=value"),
    override("a window smaller than its stride", "validation.stride=[999,4]", "validation.stride", "window"),
    override("an unknown architecture", "student.arch=DeepLabV3Pluss", "did you mean"),
    override("an unknown encoder", "student.encoder=resnet81", "'resnet81'", "did you mean 'resnet18'?"),
    override("an unknown option", "student.options.decoder_chanels=8", "'decoder_chanels'", "'decoder_channels'"),
    override("encoder weights that are not there", "student.encoder_weights=none.pth", "none.pth"),
    override("a student checkpoint that is not there", "student.checkpoint=none.pth", "none.pth"),
    override("an unknown data set", "data.dataset=camvdi", "'camvdi'", "did you mean 'camvid'?"),
    override("a data-set file that is not there", "data.dataset=none.yaml", "none.yaml"),
    override("a root that is not there", "data.root=/nowhere", "/nowhere", "data.root", "SEGKD_DATA"),
    override("an unknown training split", "data.train_split=tarin", "'tarin'", "did you mean 'train'?"),
    override("an unknown validation split", "data.val_split=vla", "'vla'", "did you mean 'val'?"),
    override("an unknown connector", "distill.terms.kd.connector=conv3", "conv1x1", config="distilled.yaml"),
    override(
        "one map against many",
        "distill.terms.kd={loss: pkd, student: encoder, teacher: decoder}",
        "distill",
        "one to one",
        config="distilled.yaml",
    ),
    override(
        "maps of other channels",
        "distill.terms.kd={loss: pkd, student: logits, teacher: decoder}",
        "distill",
        "channels",
        config="distilled.yaml",
    ),
    override("a term called task", "distill.terms.task={loss: pixel_kd}", "'task'", config="distilled.yaml"),
    override("a term of an unknown module", "distill.terms.kd.student=encodr", "encodr", config="distilled.yaml"),
    config("a key of no block in a file", {"base": "tiny.yaml", "trianer": {}}, "trianer", "did you mean 'trainer'?"),
    config("a missing block", {"name": "x", "student": TINY["student"]}, "'data'", "missing"),
    config(
        "a missing key",
        {**TINY, "data": {"dataset": "data.yaml", "crop": [8, 8]}, "student": {"arch": "Unet"}},
        "student.encoder",
    ),
    config("an unknown task", {**TINY, "task": "segmentatoin"}, "task", "did you mean 'segmentation'?"),
    config("a config that is a list", "- a\n- b\n", "keys and values"),
    config("a config that is empty", "", "keys and values"),
    config("a config that is a word", "word\n", "keys and values"),
    config("a config that is no YAML", "a: [1,\nb: 2\n", "YAML"),
    config("a config with tabs", "data:\n\tcrop: 3\n", "YAML"),
    config("a config in UTF-16", "name: x\n".encode("utf-16"), "YAML"),
    config("a config that names code", "name: !!python/object/apply:os.system ['exit 1']\n", "YAML"),
    config("a config with an unknown reference", "base: tiny.yaml\nname: ${nowhere}\n", "nowhere"),
    config("a config with an unset variable", "base: tiny.yaml\nname: ${oc.env:SEGKD_NONE}\n", "SEGKD_NONE"),
    config("a config that is its own base", "base: bad.yaml\n", "circle"),
    config("a base that is not there", "base: tniy.yaml\n", "tniy.yaml", "did you mean 'tiny.yaml'?"),
    on_top(
        "an unknown loss",
        {"distill": {"terms": {"kd": {"loss": "pixel_dk"}}}},
        "'pixel_dk'",
        "did you mean 'pixel_kd'?",
    ),
    on_top(
        "an unknown option of a loss",
        {"distill": {"terms": {"kd": {"loss": "pixel_kd", "temprature": 2}}}},
        "did you mean 'temperature'?",
    ),
    on_top(
        "a word for a temperature",
        {"distill": {"terms": {"kd": {"loss": "pixel_kd", "temperature": "hot"}}}},
        "temperature",
        "'hot'",
    ),
    on_top("a temperature of 0", {"distill": {"terms": {"kd": {"loss": "pixel_kd", "temperature": 0}}}}, "temperature"),
    on_top(
        "a negative weight",
        {"distill": {"terms": {"kd": {"loss": "pixel_kd", "weight": -1}}}},
        "distill.terms.kd.weight",
        "-1",
    ),
    on_top("a term without loss", {"distill": {"terms": {"kd": {"weight": 1}}}}, "distill.terms.kd.loss"),
    on_top("an unknown variant", {"distill": {"terms": {"i": {"loss": "icsd", "variant": "papr"}}}}, "variant", "papr"),
    on_top(
        "an unknown size of a term", {"distill": {"terms": {"kd": {"loss": "pixel_kd", "size": "big"}}}}, "size", "big"
    ),
    on_top("an unknown schedule", {"distill": {"schedule": {"awl": {}}}}, "awl"),
    on_top(
        "an unknown option of a schedule",
        {"distill": {"schedule": {"alw": {"raise": ["task"]}}}},
        "did you mean 'rise'?",
    ),
    on_top(
        "an unknown kind of schedule",
        {"distill": {"schedule": {"task": {"linaer": {}}}}},
        "'linaer'",
        "did you mean 'linear'?",
    ),
    on_top("a schedule without an end", {"distill": {"schedule": {"task": {"linear": {"start": 1}}}}}, "'end'"),
    on_top(
        "a schedule of no term", {"distill": {"schedule": {"alw": {"rise": ["task"], "fall": ["kd"]}}}}, "'kd'", "task"
    ),
    on_top(
        "an unknown combination",
        {"distill": {"pixel_weighting": {"rdd": {"combine": "nand"}}}},
        "combine",
        "nand",
    ),
    on_top("an unknown pixel weighting", {"distill": {"pixel_weighting": {"rdx": {}}}}, "did you mean 'rdd'?"),
    on_top(
        "a threshold that is no probability", {"distill": {"pixel_weighting": {"rdd": {"threshold": 7}}}}, "threshold"
    ),
    on_top(
        "terms without a teacher",
        {"teacher": None, "distill": {"terms": {"kd": {"loss": "pixel_kd"}}}},
        "there is no teacher block",
    ),
    on_top(
        "a teacher without weights", {"teacher": {"config": None, "arch": "Unet", "encoder": "resnet18"}}, "checkpoint"
    ),
    on_top(
        "a teacher's config that is not there",
        {"teacher": {"config": "quickstart_teachr.yaml"}},
        "teacher.config",
        "did you mean 'quickstart_teacher'?",
    ),
    on_top("a student that is its own teacher", {"name": "bad", "teacher": {"config": "bad.yaml"}}, "bad"),
    # numbers that no machine can bear, or that are none
    override("a scale of a million", "data.scale=[1.0,1e6]", "the command line: data.scale", "10", "1000000"),
    override("a crop of one pixel", "data.crop=[1,1]", "data.crop", "16", "[1, 1]"),
    override("a crop of a thousand million", "data.crop=[1000000000,1000000000]", "data.crop", "32768"),
    override("a crop of too many pixels", "data.crop=[32768,32768]", "data.crop", "268435456 pixels"),
    override("a window of too many pixels", "validation.window=[32000,32000]", "validation.window", "pixels"),
    override("a seed beyond 32 bits", "seed=1180591620717411303424", "seed", "at most 4294967295"),
    override("a number of five thousand digits", f"seed={'9' * 5000}", "seed"),
    override("devices that are letters", "trainer.devices=a,b", "trainer.devices", "'a,b'"),
    override("a device named twice", "trainer.devices=[0,0]", "trainer.devices", "twice"),
    override("too many devices", "trainer.devices=100000", "trainer.devices", "1024"),
    override("a negative number of devices", "trainer.devices=-3", "trainer.devices", "-3"),
    override("devices as a block", "trainer.devices={a: 1}", "trainer.devices"),
    override("a TPU that is not there", "trainer.accelerator=tpu", "trainer"),
    override("a GPU that is not there", "trainer.accelerator=mps", "trainer"),
    override("threads beyond any machine", "trainer.threads=1099511627776", "trainer.threads", "at most 1024"),
    override("a million workers", "data.workers=1000000", "data.workers", "at most 512"),
    override("a batch of a thousand million", "data.batch_size=1000000000", "data.batch_size", "at most 65536"),
    override("steps beyond any number", "trainer.max_steps=1e300", "trainer.max_steps"),
    override("true for a number", "data.batch_size=true", "data.batch_size", "a whole number", "true"),
    override("true for a rate", "optimizer.lr=true", "optimizer.lr", "true"),
    override("true in a list", "data.crop=[true,64]", "data.crop", "true"),
    override("an infinite rate", "optimizer.lr=.inf", "optimizer.lr", "a finite number", ".inf"),
    override("a rate that is no number", "optimizer.lr=.nan", "optimizer.lr", "a finite number", ".nan"),
    override("a rate written inf", "optimizer.lr=inf", "optimizer.lr", "inf"),
    override("an infinite weight decay", "optimizer.weight_decay=.inf", "optimizer.weight_decay", "a finite number"),
    override("an infinite scale", "data.scale=[1.0,.inf]", "data.scale", "a finite number"),
    override(
        "a mean that is no number", "student.normalization={mean: [.nan,0,0], std: [1,1,1]}", "normalization.mean"
    ),
    override(
        "a deviation of 0", "student.normalization={mean: [0,0,0], std: [0,1,1]}", "normalization.std", "more than 0"
    ),
    override("an option that is no number", "student.options.x=.nan", "student.options", "a finite number"),
    override("an infinite number deep in options", "student.options={a: [{b: .inf}]}", "student.options", "finite"),
    override(
        "an infinite weight",
        "distill.terms.kd.weight=.inf",
        "distill.terms.kd.weight",
        "finite",
        config="distilled.yaml",
    ),
    override(
        "an infinite temperature",
        "distill.terms.kd.temperature=.inf",
        "distill.terms.kd",
        "temperature",
        "finite",
        config="distilled.yaml",
    ),
    override(
        "a temperature that is no number",
        "distill.terms.kd.temperature=.nan",
        "distill.terms.kd",
        "temperature",
        config="distilled.yaml",
    ),
    override(
        "a temperature that is true",
        "distill.terms.kd.temperature=true",
        "distill.terms.kd",
        "temperature",
        config="distilled.yaml",
    ),
    override(
        "a schedule to infinity",
        "distill.schedule={kd: {linear: {start: 0, end: .inf}}}",
        "distill",
        "finite",
        config="distilled.yaml",
    ),
    override(
        "a threshold that is no number",
        "distill.pixel_weighting.rdd.threshold=.nan",
        "distill",
        "finite",
        config="distilled.yaml",
    ),
    override(
        "an infinite change of the teacher",
        "teacher.overrides.optimizer.lr=.inf",
        "teacher.overrides",
        "finite",
        config="distilled.yaml",
    ),
    # paths that no disk has
    override("a root too long", f"data.root={'a' * 5000}", "data.root", "255"),
    override("a run name too long", f"name={'a' * 300}", "name", "at most 200 characters"),
    override("a runs folder too long", f"runs={'a' * 300}", "runs", "255"),
    override("a data set of a long path", f"data.dataset={'a/' * 3000}b.yaml", "data.dataset", "4095"),
    override("a checkpoint with NUL", 'student.checkpoint="a\\0.pth"', "student.checkpoint", "NUL"),
    override("runs with NUL", 'runs="a\\0b"', "runs", "NUL"),
    override("a teacher's config with NUL", 'teacher.config="a\\0b"', "teacher.config", "NUL"),
    config("a base with NUL", 'base: "a\\0.yaml"\n', "base", "NUL"),
    config("a base too long", f"base: {'a' * 400}.yaml\n", "base", "255"),
    Fault("a config of a long name", f"train {'a' * 400}", ("config", "255")),
    # plain words for what is expected
    override("a crop as a number", "data.crop=128", "data.crop: expected [height, width], got 128"),
    override("a crop of three numbers", "data.crop=[1,2,3]", "data.crop: expected [height, width], got [1, 2, 3]"),
    override("a crop of words", "data.crop=[wide,64]", "data.crop.0: expected a whole number, got 'wide'"),
    override(
        "a text for true or false", "trainer.compile=maybe", "trainer.compile: expected true or false, got 'maybe'"
    ),
    override("a list for a name", "name=[a]", "name: expected text, got ['a']"),
    override("nothing for a number", "optimizer.lr=null", "optimizer.lr: expected a number, got null"),
    override("nothing after the equals sign", "optimizer.lr=", "optimizer.lr: expected a number, got ''"),
    override("milestones as a number", "optimizer.milestones=3", "optimizer.milestones: expected a list, got 3"),
    override("a key that another block has", "batch_size=4", "'batch_size'", "did you mean 'data.batch_size'?"),
    override("a rate outside its block", "lr=0.1", "did you mean 'optimizer.lr'?"),
    override(
        "an architecture of one's own", "student.arch=mymod:Net", "student.arch", "next version", "segkd.Distiller"
    ),
    override(
        "an encoder of one's own", "student.encoder=mymod:net", "student.encoder", "next version", "segkd.Distiller"
    ),
    override(
        "a loss of one's own",
        "distill.terms.kd.loss=mymod:KD",
        "distill.terms.kd",
        "segkd.Distiller",
        config="distilled.yaml",
    ),
    # keys twice, aliases, depth, sheer size
    config("a key twice", "base: tiny.yaml\nseed: 1\nseed: 2\n", "line 3", "'seed'", "twice", "line 2"),
    config(
        "a nested key twice",
        "base: tiny.yaml\ndata: {batch_size: 2, batch_size: 4}\n",
        "line 2",
        "'data.batch_size'",
        "twice",
    ),
    config(
        "a term twice",
        "base: tiny.yaml\ndistill:\n  terms:\n    a: {loss: cwd}\n    a: {loss: pkd}\n",
        "line 5",
        "'distill.terms.a'",
    ),
    config(
        "a key twice in a list",
        "base: tiny.yaml\nstudent: {options: [{x: 1, x: 2}]}\n",
        "'student.options.0.x'",
        "twice",
    ),
    Fault(
        "a key twice in a base",
        "train top.yaml",
        ("bad.yaml", "line 3", "'seed'"),
        {"top.yaml": "base: bad.yaml\n", "bad.yaml": "base: tiny.yaml\nseed: 1\nseed: 2\n"},
    ),
    Fault(
        "a key twice in a teacher's config",
        "train distilled.yaml",
        ("teacher.yaml", "line 3", "'seed'"),
        {"teacher.yaml": "base: tiny.yaml\nseed: 1\nseed: 2\n"},
    ),
    override(
        "a key twice in a change", "distill.terms={a: {loss: cwd}, a: {loss: pkd}}", "the command line", "'a'", "twice"
    ),
    config("an alias bomb", BOMB, "more than 5000", seconds=2),
    config("an alias of itself", "base: tiny.yaml\na: &a [*a]\n", "line 2", "refers to itself", seconds=2),
    config("an alias of what is not there", "base: tiny.yaml\na: *b\n", "line 2", "alias", seconds=2),
    config("a mapping of itself", "base: tiny.yaml\na: &a {b: *a}\n", "refers to itself", seconds=2),
    config("sixty thousand keys", "".join(f"key{i}: 1\n" for i in range(60_000)), "more than 5000 keys", seconds=2),
    config(
        "sixty thousand nested keys",
        "student: {options: {" + ", ".join(f"k{i}: 1" for i in range(60_000)) + "}}",
        "more than 5000 keys",
        seconds=2,
    ),
    config(
        "two thousand keys that are none",
        "base: tiny.yaml\n" + "".join(f"key{i}: 1\n" for i in range(2_000)),
        "there is no key 'key0'",
        seconds=2,
    ),
    config("lists three thousand deep", f"base: tiny.yaml\na: {'[' * 3000}{']' * 3000}\n", "line 2", "nest", seconds=2),
    config("mappings a thousand deep", f"base: tiny.yaml\na: {'{a: ' * 1000}1{'}' * 1000}\n", "nest", seconds=2),
    config(
        "depth by aliases",
        "base: tiny.yaml\nk0: &k0 [1]\n" + "".join(f"k{i}: &k{i} [*k{i - 1}]\n" for i in range(1, 200)),
        "nest",
        seconds=2,
    ),
    config("a base that is a number", "base: 5\n", "base: expected the path of a file", "5"),
    config("a base that is a block", "base: {a: 1}\n", "base: expected the path of a file"),
    config("a base that is a list of numbers", "base: [1, 2]\n", "base: expected the path of a file"),
    config("a base that is false", "base: false\n", "base: expected the path of a file"),
    Fault(
        "bases that double",
        "train l9.yaml",
        ("base", "more than 50 files"),
        {
            **{f"l{i}.yaml": f"base: [l{i - 1}.yaml, l{i - 1}.yaml]\n" for i in range(1, 10)},
            "l0.yaml": "base: tiny.yaml\n",
        },
        seconds=2,
    ),
    config(
        "references that double",
        "base: tiny.yaml\nstudent:\n  options:\n    k0: x\n"
        + "".join(f"    k{i}: ${{student.options.k{i - 1}}}${{student.options.k{i - 1}}}\n" for i in range(1, 40)),
        "student.options",
        "more than 1000 values",
        seconds=2,
    ),
    config("a reference to itself", "base: tiny.yaml\nname: ${name}\n", "name", "refers to itself"),
    config("references in a circle", "base: tiny.yaml\nname: ${runs}\nruns: ${name}\n", "refers to itself"),
    config("a reference that is not closed", "base: tiny.yaml\nname: ${runs\n", "bad.yaml"),
    config("an unknown resolver", "base: tiny.yaml\nname: ${oc.nothing:1}\n", "oc.nothing"),
    config("a key that is a number", "base: tiny.yaml\ndata: {1: 2}\n", "data.1", "key"),
    config("a key that is nothing", "base: tiny.yaml\n? \n: 2\n", "key"),
    config("a key that is a list", "base: tiny.yaml\n? [a, b]\n: 2\n", "line 2", "key"),
    config("a key of two lines", 'base: tiny.yaml\n"a\\nb": 2\n', "key", "one line"),
    config("bytes in base 64", "base: tiny.yaml\nname: !!binary aGVsbG8=\n", "!!binary"),
    config("a set", "base: tiny.yaml\nname: !!set {a, b}\n", "!!set"),
    config("two documents", "base: tiny.yaml\n---\nseed: 1\n", "YAML"),
    config("a word for a number tag", "base: tiny.yaml\nseed: !!int x\n", "YAML"),
    config("control characters", b"base: tiny.yaml\nname: a\x01b\n", "YAML"),
    Fault("a config that is a fifo", "train bad.yaml", ("bad.yaml", "fifo"), prepare=fifo("bad.yaml"), seconds=2),
    Fault("a config that is a folder", "train data/val", ("no config", "'data/val'")),
    Fault("a config that is a device", "train /dev/zero", ("/dev/zero", "a device"), seconds=2),
    Fault(
        "a base that is a fifo",
        "train top.yaml",
        ("bad.yaml", "fifo"),
        {"top.yaml": "base: bad.yaml\n"},
        fifo("bad.yaml"),
        seconds=2,
    ),
    Fault(
        "a teacher's config that is a fifo",
        "train distilled.yaml teacher.config=bad.yaml",
        ("bad.yaml", "fifo"),
        prepare=fifo("bad.yaml"),
        seconds=2,
    ),
    Fault(
        "two teachers in one config",
        "train bad.yaml",
        ("bad.yaml", "teacher", "config", "checkpoint"),
        {"bad.yaml": "base: tiny.yaml\nteacher: {config: teacher.yaml, checkpoint: a.pth}\n"},
    ),
    override(
        "an architecture beside a teacher's config",
        "teacher.arch=Unet",
        "teacher",
        "arch",
        "teacher.overrides.student.arch",
        config="distilled.yaml",
    ),
]
