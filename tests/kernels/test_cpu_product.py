"""Products on CPUs: right by either way, strict fp32, and rows that do not know each other."""

import itertools

import pytest
import torch

from tttscale.kernels.ops import cpu_product
from tttscale.kernels.ops.cpu_product import WAYS, product

has_onednn = cpu_product.why_not() is None
ways = [
    pytest.param(way, marks=[] if way == "torch" or has_onednn else pytest.mark.skip("no oneDNN"))
    for way in WAYS
]


@pytest.fixture
def way(request):
    cpu_product.use(request.param)
    yield request.param
    cpu_product.use("torch")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def placed(x, floats):
    """x in memory that begins `floats` numbers behind an aligned address."""
    memory = torch.empty(x.numel() + floats)[floats:]
    return memory.view(x.shape).copy_(x)


FORMS = {
    "forward": lambda rows, terms, columns: normal(columns, terms, seed=1).t(),
    "backward": lambda rows, terms, columns: normal(terms, columns, seed=1),
}
SHAPES = [(7, 5, 3), (64, 32, 96), (100, 259, 17), (9, 1, 4), (1, 16, 16), (33, 48, 1), (1, 20, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ways, indirect=True)
def test_products_are_exact_to_fp32(way, form, shape):
    a, b = normal(*shape[:2]), FORMS[form](*shape)
    exact, sizes = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    out = product(a, b)
    assert out.dtype == torch.float32
    assert ((out - exact).abs() <= 2**-21 * sizes).all()
    # As gradients of weights take their operands: both turned.
    turned = product(b.t(), a.t())
    assert ((turned - exact.t()).abs() <= 2**-21 * sizes.t()).all()


@pytest.mark.parametrize("shape", [(96, 64, 32), (32, 64, 96), (96, 7, 32), (1, 9, 4), (9, 5, 1)])
@pytest.mark.parametrize("way", ways, indirect=True)
def test_gradients_of_weights_are_exact_to_fp32(way, shape):
    """Either operand may be the one that is copied."""
    rows, tokens, columns = shape
    grad, x = normal(tokens, rows), normal(tokens, columns, seed=1)
    exact = grad.double().t() @ x.double()
    out = cpu_product.product_over_tokens(grad.t(), x)
    assert out.shape == (rows, columns)
    assert (out - exact).abs().max() <= 2**-20 * tokens


@pytest.mark.parametrize("way", ways, indirect=True)
def test_a_weight_laid_out_for_gradients_is_the_same_weight(way):
    weight, grad = normal(48, 20), normal(33, 48, seed=1)
    laid = cpu_product.laid_out_for_gradients(weight)
    assert torch.equal(laid, weight)
    whole = product(grad, laid)
    assert ((whole - grad.double() @ weight.double()).abs() <= 2**-17).all()
    assert torch.equal(product(grad[5:9].clone(), laid), whole[5:9])


@pytest.mark.parametrize("way", ways, indirect=True)
def test_other_dtypes_are_torchs(way):
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        a, b = normal(6, 8).to(dtype), normal(8, 5, seed=1).to(dtype)
        assert torch.equal(product(a, b), a @ b)
        assert product(a[:1], b).dtype == dtype


@pytest.mark.skipif(not has_onednn, reason="no oneDNN")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["onednn"], indirect=True)
def test_a_row_has_the_same_bits_beside_any_rows_at_any_place(way, form):
    for terms, columns in itertools.product((2, 16, 65, 259), (1, 2, 12, 64, 259)):
        shape = (70, terms, columns)
        a, b = normal(*shape[:2]), FORMS[form](*shape)
        whole = product(a, b)
        for rows, floats in itertools.product((1, 2, 3, 16, 69), (0, 1, 4, 7)):
            moved = placed(b, floats) if b.is_contiguous() else placed(b.t(), floats).t()
            some = product(placed(a[-rows:], 3 * floats), moved)
            assert torch.equal(some, whole[-rows:]), (shape, rows, floats)


@pytest.mark.parametrize("way", ways, indirect=True)
def test_one_row_and_one_column_do_not_depend_on_where_a_matrix_lies(way):
    for rows, columns in ((1, 64), (33, 1), (1, 1)):
        a, w = normal(rows, 96), normal(columns, 96, seed=1)
        results = [product(placed(a, i), placed(w, i).t()) for i in range(8)]
        assert all(torch.equal(results[0], other) for other in results[1:])


def test_a_product_that_is_not_strict_is_refused(monkeypatch):
    run = cpu_product._onednn

    def rounding(a, b):
        return run(a.bfloat16().float(), b.bfloat16().float())

    monkeypatch.setattr(cpu_product, "_onednn", rounding)
    assert cpu_product.why_not() == "is not exact to fp32 here"


def test_a_product_whose_rows_know_each_other_is_refused(monkeypatch):
    def first_row_is_special(a, b):
        out = a @ b
        out[0] = torch.nextafter(out[0], torch.tensor(torch.inf))
        return out

    monkeypatch.setattr(cpu_product, "_onednn", first_row_is_special)
    assert "beside other rows" in cpu_product.why_not()


def test_a_torch_without_it_is_told(monkeypatch):
    def missing(a, b):
        return torch.ops.mkldnn.no_such_product(a, b)

    monkeypatch.setattr(cpu_product, "_onednn", missing)
    assert "is not in this torch" in cpu_product.why_not()
