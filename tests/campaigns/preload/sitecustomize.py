"""Found by each Python that is started with this folder in PYTHONPATH: makes faults (`fault_hook`)."""

import importlib.util
import os
from pathlib import Path

if os.environ.get("TTTSCALE_TEST_FAULT"):
    spec = importlib.util.spec_from_file_location(
        "fault_hook", Path(__file__).parents[1] / "fault_hook.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install()
