"""The GPUs of this host, as torch would tell of them."""

from types import SimpleNamespace

from tests.doctor.found import GIB, levels, ranks


def test_gpus(monkeypatch):
    from tttscale.doctor import gpus

    card = SimpleNamespace(name="NVIDIA H200", total_memory=140 * GIB)
    monkeypatch.setattr(gpus.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpus.torch.cuda, "get_device_properties", lambda i: card)
    assert levels(gpus.gpus(ranks(2), "auto", {})) == ["ok"]
    assert levels(gpus.gpus(ranks(4), "auto", {})) == ["ok", "problem"]
    assert levels(gpus.gpus(ranks(2), "auto", {"CUDA_DEVICE_MAX_CONNECTIONS": "1"})) == [
        "ok",
        "warning",
    ]
    monkeypatch.setattr(gpus.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(gpus.shutil, "which", lambda name: name)
    assert levels(gpus.gpus(ranks(2), "auto", {})) == ["warning"]
    assert levels(gpus.gpus(ranks(2), "cuda", {})) == ["problem"]
