"""Under bf16 autocast no parameter's gradient leaves a product, or a sum over tokens, narrower than fp32."""

import dataclasses
import os
import shutil

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.scan.helpers import random_tokens, relative, tiny_config, tiny_model
from tttscale.kernels.ops.cross_entropy import CrossEntropy
from tttscale.kernels.ops.linear import matmul_fp32
from tttscale.kernels.ops.pointwise import EAGER
from tttscale.model.layers import Layer, compile_operators
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

LENGTH = 45
MODELS = [
    ("linear", {"backbone": "mamba"}),
    ("linear", {"backbone": "mamba", "tie_word_embeddings": False}),
    ("mlp", {"backbone": "transformer", "tie_word_embeddings": False}),
    ("mlp", {"backbone": "mamba"}),
]
has_compiler = shutil.which(os.environ.get("CXX", "g++")) is not None
CAST = torch.bfloat16


def model_of(kind, changes, *, compiled=False):
    model = tiny_model(tiny_config(kind, **changes), torch.float32)
    if compiled:
        compile_operators(model)
    # Several slices of tokens, whose gradients at the head are added up.
    sliced = CrossEntropy(18, compile=compiled)
    for module in model.modules():
        if isinstance(module, Layer):
            module.operators = dataclasses.replace(module.operators, cross_entropy=sliced)
    return model


def sweep(model, chunk):
    sweeps = Sweeps(model, Layout("striped", LENGTH, chunk), autocast=CAST)
    sweeps.forward([[random_tokens(LENGTH)]])
    sweeps.backward()


def whole(model, *, backward_inside):
    tokens = random_tokens(LENGTH)
    ids, labels = (torch.from_numpy(x)[None] for x in (tokens.ids, tokens.labels))
    with torch.autocast("cpu", CAST):
        x = model.embed(ids)
        for block in model.blocks:
            x = block(x)
        total, _ = model.head(x, labels)
        if backward_inside:
            total.backward()
    if not backward_inside:
        total.backward()
    return {name: p.grad for name, p in model.named_parameters()}


class ProductShapes(TorchDispatchMode):
    """Shape and dtype of whatever a matrix product returns."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if any(word in name for word in ("mm", "linear", "matmul")):
            self.seen.append((tuple(out.shape), out.dtype))
        return out


def narrow_share(grad):
    """Of the elements that are not zero, those that bf16 could hold."""
    values = grad[grad != 0]
    return (values == values.to(CAST).float()).float().mean().item()


@pytest.mark.parametrize("chunk", [48, 16])
@pytest.mark.parametrize(("kind", "changes"), MODELS)
def test_every_parameters_gradient_has_digits_that_bf16_has_not(kind, changes, chunk):
    model = model_of(kind, changes)
    sweep(model, chunk)
    shares = {name: narrow_share(p.grad) for name, p in model.named_parameters()}
    assert not {name: share for name, share in shares.items() if not share < 0.4}


@pytest.mark.skipif(not has_compiler, reason="no C++ compiler")
@pytest.mark.parametrize(("kind", "changes"), MODELS[1:3])
def test_compiled_operators_too(kind, changes):
    model = model_of(kind, changes, compiled=True)
    sweep(model, 48)
    shares = {name: narrow_share(p.grad) for name, p in model.named_parameters()}
    assert not {name: share for name, share in shares.items() if not share < 0.4}


@pytest.mark.parametrize(("kind", "changes"), MODELS)
def test_no_product_of_a_parameters_shape_is_narrow(kind, changes):
    model = model_of(kind, changes)
    matrices = {n: tuple(p.shape) for n, p in model.named_parameters() if p.dim() == 2}
    with ProductShapes() as products:
        sweep(model, 48)
    wide = {shape for shape, dtype in products.seen if dtype == torch.float32}
    narrow = {shape for shape, dtype in products.seen if dtype == CAST}
    names = ("proj.weight", "lm_head.weight")
    for name, shape in matrices.items():
        assert shape not in narrow, name
        assert shape in wide or not name.endswith(names), name
    assert (LENGTH, model.config.hidden_size) in narrow, "the forward's own products are in bf16"


@pytest.mark.parametrize(("kind", "changes"), MODELS)
def test_a_backward_inside_autocast_is_that_outside(kind, changes):
    """The products of the scan's backward are fp32, too."""
    inside, outside = (whole(model_of(kind, changes), backward_inside=b) for b in (True, False))
    assert inside.keys() == outside.keys()
    for name, grad in outside.items():
        assert torch.equal(inside[name], grad), name


def test_the_heads_gradient_is_that_of_fp64_sums_of_the_same_operands():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=generator).to(CAST)
    weight = torch.randn(50, 8, generator=generator, requires_grad=True)
    labels = torch.randint(0, 50, (300,), generator=generator)
    operands = []

    class Watched(CrossEntropy):
        def __init__(self):
            super().__init__(64)
            run = self.losses_and_gradient

            def watched(logits, wanted):
                losses, grad = run(logits, wanted)
                operands.append(grad[0].double())
                return losses, grad

            self.losses_and_gradient = watched

    with torch.autocast("cpu", CAST):
        total, _ = Watched()(x, weight, labels)
    (grad,) = torch.autograd.grad(total, weight)
    exact = torch.cat(operands).t() @ x.double()
    assert relative(grad.double(), exact) < 1e-6  # rounded to bf16 in each slice: 1e-3


def test_wide_products_and_operators_do_not_see_autocast():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(9, 9, generator=generator).to(CAST) for _ in range(2))
    tokens = torch.randn(1, 9, 8, generator=generator).to(CAST)
    norm = torch.ones(8), torch.zeros(8)
    plain = matmul_fp32(a, b), EAGER.gated_norm(tokens, tokens, *norm), EAGER.swiglu(tokens, tokens)
    with torch.autocast("cpu", CAST):
        cast = (
            matmul_fp32(a, b),
            EAGER.gated_norm(tokens, tokens, *norm),
            EAGER.swiglu(tokens, tokens),
        )
    assert all(torch.equal(x, y) for x, y in zip(plain, cast, strict=True))
    assert plain[0].dtype == torch.float32
