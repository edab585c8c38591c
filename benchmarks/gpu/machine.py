"""Find in a second what a machine lacks for a GPU round, before anything else; and what card it has.

Run as `python -m benchmarks.gpu.machine ROUND`, ROUND being check, tune or train_check: ends with 2 and
names what cannot be imported and how to bring it.
"""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

_KERNELS = ("torch", "triton", "numpy")
_PYDANTIC = ("pydantic", "pydantic_core", "annotated_types", "typing_inspection")
_PYDANTIC += ("typing_extensions",)
_TRAINER = (
    *_PYDANTIC,
    "deepspeed",
    "hjson",
    "einops",
    "msgpack",
    "ninja",
    "cpuinfo",
    "tqdm",
    "psutil",
)
_TRAINER += ("zarr", "numcodecs", "packaging", "yaml", "typer", "rich")
_TRAINER += ("safetensors", "tokenizers", "backports.zstd", "matplotlib")
_HEAVY = ("torch", "triton", "deepspeed", "matplotlib", "tokenizers", "fla")
"""Looked for and not imported, which would take seconds."""
NEEDED = {"check": _KERNELS, "tune": _KERNELS, "train_check": _KERNELS + _TRAINER}
"""Round -> modules that it cannot do without."""
_WANTED = {"check": {"fla": "scans of peers"}, "tune": {}, "train_check": {}}
"""Round -> module -> what is left out without it."""
_FACTS = (
    "name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu",
    "clocks.max.sm", "clocks.max.mem", "memory.total", "pstate", "ecc.mode.current", "vbios_version",
)  # fmt: skip
_PLAIN_FACTS = 5
"""So many of them every driver knows."""
_BARE = Path(__file__).parent / "bare"
"""Stand-ins for packages that an image with torch lacks."""


def environment() -> dict[str, str]:
    """Copy this process's environment for a worker, which finds a stand-in if there is no pydantic."""
    env = dict(os.environ)
    if lacking(_PYDANTIC):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_BARE), env.get("PYTHONPATH"))))
    return env


def lacking(names: Iterable[str]) -> dict[str, str]:
    """Those that cannot be imported, and why: a package may be there and what it needs not."""
    return {name: why for name in names if (why := _why_not(name))}


def _why_not(name: str) -> str:
    """Why it cannot be imported; empty if it can."""
    try:
        if name not in _HEAVY:
            importlib.import_module(name)
        elif importlib.util.find_spec(name) is None:
            return f"no {name}"
    except ModuleNotFoundError as error:
        return f"no {error.name}"
    except Exception as error:  # two versions that do not fit, another Python's binary
        return f"{error}".splitlines()[0] if f"{error}" else repr(error)
    return ""


def complaint(what: str) -> str | None:
    """Say what this machine lacks for round `what` and how to bring it; None if all is there."""
    missing = lacking(NEEDED[what])
    if not missing:
        return None
    what_each = ", ".join(
        name if why == f"no {name}" else f"{name} ({why})" for name, why in missing.items()
    )
    return (
        f"gpu_{what}: this Python ({sys.executable}, {sys.version.split()[0]}) lacks {what_each}. "
        f"Where packages can be fetched, `bash benchmarks/gpu/wheels.sh wheels` makes a folder of them; "
        f"bring it along, and start with WHEELS=wheels."
    )


def left_out(what: str) -> list[str]:
    """Say what round `what` leaves out, and why."""
    return [
        f"{consequence}: no {name} here (WHEELS brings it)"
        for name, consequence in _WANTED[what].items()
        if lacking([name])
    ]


def interpreter_trouble() -> str | None:
    """Why Triton cannot interpret kernels here, as it does on a CPU; None if it can."""
    triton, numpy = (tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy"))
    if triton >= (3, 7) or numpy < (2, 4):
        return None
    return (
        f"interpreted kernels: the interpreter of Triton {version('triton')} needs numpy before 2.4, here "
        f"is {version('numpy')}"
    )


def card() -> dict[str, str]:
    """Ask nvidia-smi for the first card's driver, clocks and power now; {} without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    why = ""
    for wanted in (
        _FACTS,
        _FACTS[:_PLAIN_FACTS],
    ):  # a driver refuses all for one that it does not know
        query = [tool, "--id=0", f"--query-gpu={','.join(wanted)}", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.SubprocessError) as error:
            return {"nvidia-smi": f"{type(error).__name__}"}
        values = [value.strip() for value in done.stdout.strip().split("\n")[0].split(",")]
        if done.returncode == 0 and len(values) == len(wanted):
            return dict(zip(wanted, values, strict=True))
        why = f"ended with {done.returncode}: {(done.stdout + done.stderr).strip()[:200]}"
    return {"nvidia-smi": why}


def main(what: str) -> int:
    """0, or 2 with a complaint."""
    found = complaint(what)
    if found is not None:
        print(found, file=sys.stderr)
        return 2
    for line in left_out(what):
        print(f"gpu_{what}: left out: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
