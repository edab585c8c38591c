"""Golden models of other code, and streams of ttt-lm-jax with harm done to them."""

import json
from pathlib import Path

import msgpack
import torch
from safetensors.torch import load_file

from tttscale.convert.import_model import Wishes, import_model
from tttscale.convert.settle import Given

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = ("linear_base", "linear_mamba", "mlp_base", "mlp_mamba")
BASE_LR = {"linear": 1.0, "mlp": 0.1}
CONFIGS = {
    name: entry["config"]
    for name, entry in json.loads((GOLDEN / "manifest.json").read_text())["model"].items()
}
STATE = GOLDEN / "jax/linear_mamba.streaming_train_state"


def params(name):
    """The file of a golden JAX model, fp32."""
    return GOLDEN / f"jax/{name}.streaming_params"


def weights(name):
    """Weights that it must become."""
    return load_file(GOLDEN / f"model/{name}/weights.safetensors")


def read(path):
    """All records, as [key, bytes of the value] pairs."""
    with path.open("rb") as file:
        return [list(pair) for pair in msgpack.Unpacker(file, max_buffer_size=0, raw=False)]


def write(path, records):
    path.write_bytes(b"".join(map(msgpack.packb, records)))
    return path


def array(shape, dtype, data, code=1):
    """The bytes that flax makes of an array."""
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb((shape, dtype, data))))


def values(tensor):
    """The bytes of a tensor's values."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def leaf(value):
    """Shape, dtype and data of an array."""
    shape, dtype, data = msgpack.unpackb(msgpack.unpackb(value).data)
    return tuple(shape), dtype, data


def names(folder):
    """What a folder holds."""
    return sorted(path.name for path in folder.iterdir())


def given(name):
    return Given(ttt_base_lr=BASE_LR[name.split("_")[0]])


def imported(path, out, name="linear_mamba", **wishes):
    """Import a golden model; return what was noticed."""
    said = []
    wishes = Wishes(**{"given": given(name), **wishes})
    import_model(path, out, wishes, said.append, lambda done, total: None)
    return said
