"""A comparison on a Ray cluster: what it asks for, what is refused, and a worker that is lost."""

import io
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from experiments import expect_same, refused, segkd, start, train
from rich.console import Console

from segkd.comparison.cluster import Cluster, RayTask, cluster
from segkd.errors import SegkdError
from segkd.training.config import load_config
from segkd.training.run import Run
from segkd.training.schema import Config


class Machines:
    """Stands for the module `ray`, connected to machines with these resources; one whose answer is None is lost."""

    def __init__(self, *machines: dict[str, float] | None) -> None:
        self.machines = machines

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": each is not None, "Resources": each or {"CPU": 99.0, "GPU": 9.0}} for each in self.machines]


CPUS = Machines({"CPU": 4.0, "memory": 1e9}, {"CPU": 2.0}, None)
GPUS = Machines({"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0})


class TestAsked:
    @pytest.fixture
    def config(self, experiment: Path) -> Config:
        return load_config(str(experiment / "tiny.yaml"))

    @pytest.mark.parametrize(
        ("machines", "trainer", "asked", "fits"),
        [
            (CPUS, {}, {"CPU": 1}, 6),
            (CPUS, {"accelerator": "auto", "threads": None}, {"CPU": 1}, 6),
            (CPUS, {"threads": 2}, {"CPU": 2}, 3),
            (CPUS, {"threads": 3}, {"CPU": 3}, 1),
            (CPUS, {"devices": 2, "threads": 2}, {"CPU": 4}, 1),
            (GPUS, {}, {"CPU": 1}, 12),
            (GPUS, {"accelerator": "auto"}, {"CPU": 1, "GPU": 1}, 2),
            (GPUS, {"accelerator": "gpu", "devices": "2", "threads": 3}, {"CPU": 6, "GPU": 2}, 1),
            (GPUS, {"accelerator": "cuda", "devices": -1}, {"CPU": 1, "GPU": 1}, 2),
            (GPUS, {"accelerator": "gpu", "devices": [0, 1]}, {"CPU": 2, "GPU": 2}, 1),
            (GPUS, {"accelerator": "gpu", "devices": [0]}, {"CPU": 1, "GPU": 1}, 2),
            (GPUS, {"accelerator": "gpu", "devices": [3]}, {"CPU": 1, "GPU": 1}, 2),
            (GPUS, {"accelerator": "gpu", "devices": "0,"}, {"CPU": 1, "GPU": 1}, 2),
        ],
    )
    def test_follows_threads_devices_and_accelerator(
        self, config: Config, machines: Machines, trainer: dict[str, Any], asked: dict[str, float], fits: int
    ) -> None:
        changed = config.model_copy(update={"trainer": config.trainer.model_copy(update=trainer)})
        assert Cluster(machines).asked(changed) == asked
        assert Cluster(machines).fits(changed) == fits
        assert Cluster(machines).short_of([changed]) == ""

    def test_what_no_machine_has_is_told_with_what_they_have(self, config: Config) -> None:
        many = config.model_copy(update={"trainer": config.trainer.model_copy(update={"threads": 5})})
        assert Cluster(CPUS).short_of([config, many]) == (
            "tiny asks for 5 CPUs on one machine (trainer.threads, devices, accelerator), and the cluster's machines "
            "have 4 CPUs; 2 CPUs"
        )
        on_gpu = config.model_copy(update={"trainer": config.trainer.model_copy(update={"accelerator": "gpu"})})
        assert "asks for 1 CPU, 1 GPU on one machine" in Cluster(CPUS).short_of([on_gpu])


def test_none_is_none() -> None:
    with cluster(None, []) as there:
        assert there is None


@pytest.mark.parametrize("on", ["rya", "ray=", "ray:10.0.0.1:6379", ""])
def test_another_kind_of_cluster(on: str) -> None:
    with (
        pytest.raises(SegkdError, match=r"it is ray, a cluster of this machine alone, or ray=ADDRESS"),
        cluster(on, []),
    ):
        pass


class TestAddress:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("ray")

    def test_where_nothing_listens(self, experiment: Path) -> None:
        outcome = segkd("compare", experiment / "tiny.yaml", "--out", experiment / "out", "--on", "ray=127.0.0.1:9")
        refused(outcome, "--on ray=127.0.0.1:9: the cluster does not answer: Connection refused")
        assert not (experiment / "out").exists()

    def test_on_a_disk_that_is_too_full_for_it(self, experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_local_fs_capacity_threshold", "0.0001")  # of Ray itself
        outcome = segkd("compare", experiment / "tiny.yaml", "--out", experiment / "out", "--on", "ray")
        refused(outcome, "--on ray: the disk of ", "% full, and Ray begins nothing", "$RAY_TMPDIR")
        assert not (experiment / "out").exists()

    def test_that_is_none(self) -> None:
        with (
            pytest.raises(SegkdError, match=r"ray=nonsense: the cluster does not answer: ValueError"),
            cluster("ray=nonsense", []),
        ):
            pass


@pytest.fixture(scope="class")
def ray() -> Iterator[Any]:
    """Ray on this machine, with two CPUs, connected to by this process."""
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
class TestTasks:
    @pytest.fixture
    def config(self, experiment: Path) -> Config:
        return load_config(str(experiment / "tiny.yaml"))

    def test_messages_results_and_a_lost_worker(self, ray: Any, config: Config, tmp_path: Path) -> None:
        def do(name: str, console: Console) -> str:
            print(f"{name} is at work", flush=True)
            console.print(f"{name} begins")
            if name == "b" and not Path("begun").exists():
                Path("begun").touch()
                time.sleep(1)  # the message is on its way
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "c":
                raise SegkdError("c cannot be done")
            return f"{name} in {os.getcwd()} of {os.environ['SEGKD_HERE']}"

        def tasks(*names: str) -> list[RayTask]:
            return [RayTask(each, config, partial(do, each), tmp_path / "logs" / f"{each}.log") for each in names]

        out = io.StringIO()
        console = Console(file=out, width=200)
        with pytest.MonkeyPatch.context() as patch, cluster("ray", [config]) as there:
            assert there is not None
            patch.chdir(tmp_path)
            patch.setenv("SEGKD_HERE", "mine")
            assert sorted(there.run(tasks("a", "b"), console)) == [f"{each} in {tmp_path} of mine" for each in "ab"]
            with pytest.raises(SegkdError, match=r"^c cannot be done$"):
                there.run(tasks("c"), console)
            patch.setattr(os, "getcwd", lambda: "/nowhere")
            with pytest.raises(
                SegkdError, match=r"/nowhere: No such file .* all machines of a cluster need this folder"
            ):
                there.run(tasks("d"), console)
        lines = out.getvalue().splitlines()
        assert lines[0] == f"on Ray (2 CPUs); what is said there is in {tmp_path / 'logs'}"
        assert sorted(lines[1:]) == [
            "a begins",
            "b begins",
            "b begins",
            "b: its worker is lost (WorkerCrashedError), it goes on elsewhere",
            "c begins",
        ]
        assert (tmp_path / "logs" / "b.log").read_text() == "b is at work\n" * 2
        assert ray.is_initialized()  # as it was found

    def test_what_runs_and_what_waits_end_when_it_is_over(self, ray: Any, config: Config, tmp_path: Path) -> None:
        def do(number: int, console: Console) -> int:
            from segkd.errors import Interrupted

            try:
                # Whichever runs first ends at once: they begin in no certain order, and two at a time.
                with suppress(FileExistsError), (tmp_path / "first").open("x"):
                    return 7
                while True:
                    time.sleep(0.1)
            except Interrupted:
                (tmp_path / f"{number} was asked to end").touch()
                raise

        class Deaf:
            """Ray, in which nobody hears the first time that a task is asked to end; and where it is asked often."""

            def __init__(self) -> None:
                self.asked = Counter[Any]()

            def __getattr__(self, name: str) -> Any:
                return getattr(ray, name)

            def cancel(self, task: Any) -> None:
                self.asked[task] += 1
                for _ in range(3 * (self.asked[task] > 1)):
                    ray.cancel(task)

        tasks = [RayTask(str(n), config, partial(do, n), tmp_path / "logs" / f"{n}.log") for n in range(5)]
        with cluster("ray", []) as there:
            assert there is not None
            there._ray = Deaf()
            found = there.run(tasks, Console(quiet=True), lambda results: 7 in results)
        assert [each for each in found if each is not None] == [7]
        assert 1 <= len(list(tmp_path.glob("* was asked to end"))) <= 2


@pytest.fixture(scope="class")
def two() -> Iterator[Any]:
    """A cluster on this machine: a head without CPUs, and two workers with one each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Local

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else whatever else runs here comes first
    memory = {"object_store_memory": 100 * 2**20}
    there = Local(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
    try:
        for _ in range(2):
            there.add_node(num_cpus=1, num_gpus=0, **memory)
        yield there
    finally:
        there.shutdown()
        monkeypatch.undo()


def written_at(file: Path) -> float | None:
    """Return when a file was written, None while there is none, as when one takes the place of the one before."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return None


def worker_of(run: Run) -> int:
    """Return the process of Ray in which a run is a task: TensorBoard's file names the run's own, its child."""
    newest = max(run.directory.glob("events*"), key=lambda path: path.stat().st_mtime)
    pid = newest.name.split(".")[-2]
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
class TestTwoWorkers:
    def test_a_comparison_that_is_stopped_and_loses_a_worker(self, two: Any, experiment: Path) -> None:
        out, settings = experiment / "out", ["trainer.checkpoint_every=1", "validation.every=50"]
        command = ["compare", experiment / "tiny.yaml", "--seeds", 1, "--out", out, "--budget", "100steps", *settings]
        command += ["--on", f"ray={two.address}"]
        run = Run(out / "tiny_seed0")
        first = start(*command)
        while not run.begun:
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        printed = first.communicate(timeout=200)[0]
        assert first.returncode == 130, printed
        assert printed.endswith("interrupted by SIGINT: the same command goes on where this stopped\n")
        assert not run.finished

        stopped = written_at(run.last)
        second = start(*command)
        while written_at(run.last) in (None, stopped):
            assert second.poll() is None
            time.sleep(0.05)
        os.kill(worker_of(run), signal.SIGKILL)
        printed = second.communicate(timeout=300)[0]
        assert second.returncode == 0, printed
        words = re.findall(r"run 1 of 1, tiny_seed0(?:, |: its )(goes on|worker is lost|is done: mIoU)", printed)
        assert words == ["goes on", "worker is lost", "goes on", "is done: mIoU"]
        assert len(re.findall(r"from step \d+ to 100", (out / "logs/tiny_seed0.log").read_text())) == 2

        changes = ["name=tiny_seed0", "seed=0", f"runs={experiment / 'alone'}", "trainer.max_steps=100"]
        train(experiment / "tiny.yaml", *changes, *settings)
        expect_same(run.directory, experiment / "alone" / "tiny_seed0")

    def test_tune_and_store(self, two: Any, experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(experiment)
        on = ("--on", f"ray={two.address}")
        outcome = segkd("tune", "tiny.yaml", "optimizer.lr=1e-4..1e-2", "--hold-out", 0.4, "--trials", 2, *on)
        assert outcome.status == 0, outcome.err
        for number in range(2):
            assert f"trial {number}: finished, mIoU" in outcome.out
        assert (experiment / "runs/tune/tiny/best.yaml").is_file()
        stored = ("teacher.store.folder=kept", "data.views=1", "data.view_seed=0")
        outcome = segkd("store", "distilled.yaml", *stored, *on)
        assert outcome.status == 0, outcome.err
        assert re.search(r"filling 1 of 1, distilled, is done: kept/\w+: \d+ files", outcome.out)
        assert sorted(path.name for path in (experiment / "kept").iterdir())[-1] == "logs"
        assert not (experiment / "runs/store").exists()
        refused(segkd("store", "tiny.yaml", *on), "tiny: no teacher is stored: set teacher.store=true")
        refused(segkd("store", "tiny.yaml", "trainer.threads=3", *on), "tiny asks for 3 CPUs", "machines have 1 CPU\n")
