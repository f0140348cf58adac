"""The command line: which commands there are, and what becomes of an error."""

import errno
import os
import sys
import traceback
from typing import Annotated

import typer

import segkd
from segkd.commands import deploy, look, store, train, tune
from segkd.errors import DiskFull, Interrupted, SegkdError
from segkd.signals import interruptible

app = typer.Typer(
    name="segkd",
    help="Distil a large model into a small one: semantic segmentation and object detection.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: no boxes that cut what stands in them
)
data = typer.Typer(help="Check a data set, or look at it, before training.", rich_markup_mode=None)


def _version(asked: bool) -> None:
    if asked:
        print(f"segkd {segkd.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options of the command line itself."""


app.command()(train.train)
app.command()(train.compare)
app.command()(tune.tune)
app.command("eval")(train.evaluate)
app.command()(store.store)
app.command()(deploy.predict)
app.command()(deploy.export)
app.command()(deploy.bench)
app.command()(look.configs)
app.command()(look.methods)
app.add_typer(data, name="data")
data.command()(look.check)
data.command()(look.show)


def main() -> None:
    """Run the command line: a user's error is one line and exit status 2; ``--debug`` shows its traceback."""
    # Threads that spin while they wait for each other take the core that the one they wait for needs, where something
    # else is running too. OpenMP reads this as torch is loaded, here and in child processes; what the user set stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        with interruptible():
            status = app(prog_name="segkd", standalone_mode=False)
    except Interrupted as stop:
        print(f"segkd: {stop}", file=sys.stderr)
        sys.exit(stop.status)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:  # the last resort: whatever it is, a person gets a line, not a traceback
        if "--debug" in sys.argv:
            traceback.print_exc()
        if isinstance(error, SegkdError):
            text, code = str(error), 2
        elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # whatever command it was given to
            text, code = f"no file can have so long a name: {error.filename}", 2
        elif isinstance(error, DiskFull):
            text, code = str(error), 1
        elif hasattr(error, "format_message"):  # typer's, for a wrong option or argument
            command = getattr(getattr(error, "ctx", None), "command_path", "segkd")
            text, code = f"{' '.join(error.format_message().split()).rstrip('.')} (see: {command} --help)", 2
        else:
            text, code = f"{type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)", 1
        print(f"segkd: {text}", file=sys.stderr)
        sys.exit(code)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
