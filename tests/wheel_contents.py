"""What the wheel and the source distribution hold: all that belongs there, and nothing else.

python tests/wheel_contents.py WHEEL WHEEL_OF_THE_SDIST SDIST
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINKS = {"tttscale/kernels": "kernels", "tttscale/configs": "configs"}
SCRIPTS = ("head", "torchrun", "deepspeed", "mpirun", "build_data", "quickstart")
STRANGE = (
    r"(^|/)(tests|docs|benchmarks|examples|\.[^/]+|__pycache__|build|stores|runs)(/|$)"
    r"|\.(pyc|orig|log|pem|key)$"
)


def wanted() -> set[str]:
    """Files of the repository as they lie in a wheel."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = {f"tttscale/launch/scripts/{name}.sh" for name in SCRIPTS}
    for name in listed.stdout.splitlines():
        for link, folder in LINKS.items():
            if name.startswith(f"{folder}/"):
                found.add(f"{link}/{name.removeprefix(f'{folder}/')}")
        if name.startswith("tttscale/") and not (ROOT / name).is_symlink():
            found.add(name)
    return found


def check(wheel: str, again: str, sdist: str) -> None:
    """Compare them with the repository, and with each other."""
    with zipfile.ZipFile(wheel) as file, zipfile.ZipFile(again) as other:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        assert names == wanted(), names ^ wanted()
        assert names == {name for name in other.namelist() if ".dist-info/" not in name}
        for name in names:
            assert file.read(name) == other.read(name), name
        strange = [name for name in file.namelist() if re.search(STRANGE, name)]
        assert not strange, strange
        (license_file,) = (name for name in file.namelist() if name.endswith("licenses/LICENSE"))
        assert b"Apache" in file.read(license_file)
    with tarfile.open(sdist) as archive:
        inside = [name.partition("/")[2] for name in archive.getnames()]
    strange = [name for name in inside if re.search(STRANGE, name) and name != "tests"]
    assert not strange, strange
    print(f"{len(names)} files in the wheel, {len(inside)} in the source distribution")


if __name__ == "__main__":
    check(*sys.argv[1:])
