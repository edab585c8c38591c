"""What the start of a run costs: DeepSpeed comes without torch's compiler, which works all the same."""

import subprocess
import sys

BUILD = """
import sys, torch
from tests.train.small import small_config
from tttscale.comm import mesh as meshes
from tttscale.train import build
ranks = meshes.Ranks(0, 1, 0, 1, "127.0.0.1", 1, "single")
plain = torch.compile
mesh = meshes.start(ranks, 1, torch.device("cpu"))
for stage in {stages}:
    config = small_config(stage=stage)
    build.build_engine(config, build.build_model(config, torch.device("cpu")), mesh)
    assert torch.compile is plain
    {then}
"""


def built(stages, then):
    code = BUILD.format(stages=stages, then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_engine_stands_without_the_compilers_modules():
    """One of each kind; what the first has imported would be there for all."""
    heavy = ["torch._inductor.compile_fx", "torch._inductor.lowering"]
    said = built((0, 1, 3), f"print(stage, [name for name in {heavy} if name in sys.modules])")
    assert said.splitlines() == ["0 []", "1 []", "3 []"]


def test_torch_compile_compiles_afterwards():
    then = (
        "double = torch.compile(lambda x: 2 * x + 1, backend='aot_eager')\n"
        "    assert double(torch.ones(3)).tolist() == [3.0] * 3\n"
        "    from torch._dynamo.utils import counters\n"
        "    print(counters['stats']['unique_graphs'])"
    )
    assert built((1,), then).strip() == "1"
