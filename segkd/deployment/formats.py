"""The formats of exported files: written with what is needed to use them, and opened by their own runtimes."""

import contextlib
import importlib.util
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segkd.errors import SegkdError, nearest

#: An opened file: maps an input to its outputs, in the order of their names.
Runner = Callable[[Tensor], list[Tensor]]

# The name of the metadata property in ONNX, and of the extra file in the two others.
_KEY = "segkd"
_EXTRA = f"{_KEY}.json"


class Graph(NamedTuple):
    """What is written to a file."""

    network: nn.Module  # in eval mode, on the CPU; maps ``example`` to a tensor or several
    example: Tensor
    input: str
    outputs: tuple[str, ...]
    axes: Mapping[int, str]  # the name of each dimension of the input that may change
    info: Mapping[str, Any]  # what a user of the file alone has to know; JSON
    has_control_flow: bool = False  # whether what is run depends on the values in the input, as in a detector


class Format(NamedTuple):
    """One format."""

    title: str
    suffix: str
    packages: tuple[str, ...]  # what has to be installed, beyond this package's own requirements
    write: Callable[[Graph, Path], None]
    open: Callable[[Path, int], Runner]  # given the number of threads, which the formats of PyTorch take from torch


def _write_onnx(graph: Graph, path: Path) -> None:
    import onnx

    model = None
    names: dict[str, Any] = {"input_names": [graph.input], "output_names": list(graph.outputs), "verbose": False}
    if not graph.has_control_flow:
        # It does not know every operator, least of all in older versions of PyTorch.
        with contextlib.suppress(Exception):
            shapes = (dict(graph.axes),)
            model = torch.onnx.export(  # type: ignore[union-attr]
                _exported(graph), (graph.example,), dynamo=True, dynamic_shapes=shapes, **names
            ).model_proto
    if model is None:  # the exporter of before, which records what one run computes
        names["dynamic_axes"] = {graph.input: dict(graph.axes)}
        torch.onnx.export(graph.network, (graph.example,), str(path), dynamo=False, **names)
        model = onnx.load(path)
        _cast_grids(model)
    save_onnx(model, graph.info, path)


def _cast_grids(model: Any) -> None:
    """Give each sampled image a grid of its own dtype: the exporter before makes some of double, and none takes it."""
    import onnx

    nodes = []
    for node in model.graph.node:
        if node.op_type == "GridSample":
            image, grid = node.input
            node.input[1] = f"{node.output[0]}/grid"
            nodes.append(onnx.helper.make_node("CastLike", [grid, image], [node.input[1]]))
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def save_onnx(model: Any, info: Mapping[str, Any], path: Path) -> None:
    """Write an ``onnx.ModelProto`` with `info` in place of what it had recorded."""
    import onnx

    onnx.helper.set_model_props(model, {_KEY: json.dumps(info)})
    onnx.save(model, path)


def _open_onnx(path: Path, threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised; its log lines would only say it twice
    # Threads that still wait for work after a run would take the cores from what is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: [torch.from_numpy(output) for output in session.run(None, {name: image.numpy()})]


def _write_torchscript(graph: Graph, path: Path) -> None:
    traced = torch.jit.trace(graph.network, (graph.example,), check_trace=False)
    traced.save(str(path), _extra_files={_EXTRA: json.dumps(graph.info)})


def _open_torchscript(path: Path, _threads: int) -> Runner:
    with quiet():
        return _runner(torch.jit.load(str(path), map_location="cpu"))


def _write_pt2(graph: Graph, path: Path) -> None:
    torch.export.save(_exported(graph), str(path), extra_files={_EXTRA: json.dumps(graph.info)})


def _open_pt2(path: Path, _threads: int) -> Runner:
    return _runner(torch.export.load(str(path)).module())


def _exported(graph: Graph) -> torch.export.ExportedProgram:
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis in graph.axes}
    return torch.export.export(graph.network, (graph.example,), dynamic_shapes=(dynamic,))


def _runner(module: nn.Module) -> Runner:
    @torch.no_grad()
    def run(image: Tensor) -> list[Tensor]:
        outputs = module(image)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return run


#: The formats by name.
FORMATS: dict[str, Format] = {
    "onnx": Format("ONNX", ".onnx", ("onnx", "onnxruntime", "onnxscript"), _write_onnx, _open_onnx),
    "torchscript": Format("TorchScript", ".pt", (), _write_torchscript, _open_torchscript),
    "pt2": Format("PT2", ".pt2", (), _write_pt2, _open_pt2),
}


def find_format(name: str) -> Format:
    """Return a format by name.

    Raises:
        SegkdError: there is none of this name, or a package that it needs is not installed.
    """
    if name not in FORMATS:
        raise SegkdError(f"no format {name!r}: {nearest(name, FORMATS)}")
    chosen = FORMATS[name]
    absent = [package for package in chosen.packages if importlib.util.find_spec(package) is None]
    if absent:
        raise SegkdError(f'{chosen.title} needs {", ".join(absent)}: pip install "segkd[export]"')
    return chosen


def read_info(path: Path) -> dict[str, Any]:
    """Return what was recorded in a file of one of the formats, which its suffix tells.

    Raises:
        SegkdError: the file is none of this package's exports, or cannot be read.
    """
    try:
        if path.suffix == FORMATS["onnx"].suffix:
            import onnx

            properties = onnx.load(path, load_external_data=False).metadata_props
            text = {item.key: item.value for item in properties}[_KEY]
        else:
            with zipfile.ZipFile(path) as archive:
                (name,) = (name for name in archive.namelist() if Path(name).name == _EXTRA)
                text = archive.read(name).decode()
        info: dict[str, Any] = json.loads(text)
    # Any file may lie there: zipfile, protobuf and json each fail in their own ways.
    except Exception as error:
        raise SegkdError(f"{path} is no file that segkd exported ({type(error).__name__})") from error
    return info


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within this, exporters and quantisers neither warn nor log: what matters of it is checked afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
