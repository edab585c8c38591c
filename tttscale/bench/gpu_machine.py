"""What a machine lacks for a GPU round, in a second and before anything else; and what card it has.

Run as `python -m tttscale.bench.gpu_machine ROUND`, ROUND being check, tune or train_check: ends with 2 and names
what cannot be imported and how to bring it.
"""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterable

_KERNELS = ("torch", "triton", "numpy", "pydantic", "pydantic_core", "annotated_types")
_KERNELS += ("typing_inspection", "typing_extensions")
_TRAINER = ("deepspeed", "hjson", "einops", "msgpack", "ninja", "cpuinfo", "tqdm", "psutil")
_TRAINER += ("zarr", "numcodecs", "donfig", "google_crc32c", "packaging", "yaml", "typer", "rich")
_TRAINER += ("safetensors", "tokenizers", "backports.zstd", "matplotlib")
NEEDED = {"check": _KERNELS, "tune": _KERNELS, "train_check": _KERNELS + _TRAINER}
"""Round -> modules that it cannot do without."""
_WANTED = {"check": {"fla": "scans of peers"}, "tune": {}, "train_check": {}}
"""Round -> module -> what is left out without it."""
_FACTS = (
    "name", "driver_version", "vbios_version", "pstate", "temperature.gpu", "power.draw", "power.limit",
    "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "memory.total", "ecc.mode.current",
)  # fmt: skip


def lacking(names: Iterable[str]) -> list[str]:
    """Those that cannot be found; nothing heavy is imported."""
    return [name for name in names if not _found(name)]


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # the package that it would lie in is not there either
        return False


def complaint(what: str) -> str | None:
    """What to tell the user who starts round `what` on a machine that lacks something; None if all is there."""
    missing = lacking(NEEDED[what])
    if not missing:
        return None
    return (
        f"gpu_{what}: this Python ({sys.executable}, {sys.version.split()[0]}) lacks {', '.join(missing)}. "
        f"Where packages can be fetched, `bash launch/gpu_wheels.sh wheels` makes a folder of them; "
        f"bring it along, and start with WHEELS=wheels."
    )


def left_out(what: str) -> list[str]:
    """What round `what` goes without, and why."""
    return [
        f"{consequence}: no {name} here (WHEELS brings it)"
        for name, consequence in _WANTED[what].items()
        if not _found(name)
    ]


def card() -> dict[str, str]:
    """What nvidia-smi says of the first card now: driver, clocks, power. {} without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    facts: dict[str, str] = {}
    query = [tool, "--id=0", f"--query-gpu={','.join(_FACTS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
        values = done.stdout.strip().splitlines()[0].split(",")
        facts = dict(zip(_FACTS, (value.strip() for value in values), strict=True))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError) as error:
        facts["nvidia-smi"] = f"{error!r:.200}"
    return facts


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
