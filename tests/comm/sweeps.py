"""One step of a tiny model on a rank, for tests that compare transports bit by bit."""

from tests.scan.helpers import gradients, random_tokens, tiny_config, tiny_model
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

GROUPS = [[random_tokens(27, seed=m)] for m in range(2)]
CASES = ("striped", "contiguous")


def own_sums(transport, kind):
    """This rank's own losses and gradients, by "size/kind/name"."""
    model = tiny_model(tiny_config())
    layout = Layout(kind, 27, 4, transport.size, len(GROUPS))
    sweeps = Sweeps(model, layout, transport, keep=ActivationPolicy(transport.rank % 2))
    sweeps.forward(GROUPS)
    losses = sweeps.backward()
    case = f"{transport.size}/{kind}"
    grads = {f"{case}/{name}": grad.numpy() for name, grad in gradients(model).items()}
    return {f"{case}/losses": losses.flat().numpy(), **grads}
