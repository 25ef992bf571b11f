"""Products by oneDNN are those of torch.nn.Linear; so are their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from chemeleon.models import products


@pytest.fixture(autouse=True)
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "mkl_is_slow", lambda: True)


@pytest.mark.parametrize("shape", [(6, 5, 64), (33, 64), (1, 64), (0, 64)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_values_and_gradients_equal_those_of_pytorch(
    shape: tuple[int, ...], bias: bool, frozen: bool
) -> None:
    torch.manual_seed(0)
    ours, theirs = products.Linear(64, 96, bias=bias), nn.Linear(64, 96, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x, weights = torch.randn(shape), torch.randn(*shape[:-1], 96)
    assert products.by_onednn(x) == (x.numel() > 0)
    found: list[list[Tensor | None]] = []
    for layer in (ours, theirs):
        layer.weight.requires_grad_(not frozen)
        start = x.clone().requires_grad_()
        y = layer(start)
        (y * weights).sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(layer(x), y)
        found.append([y, start.grad, layer.weight.grad, layer.bias.grad if bias else None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert (found[0][2] is None) == frozen


def test_other_types_are_left_to_pytorch() -> None:
    layer, x = products.Linear(8, 8), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert not products.by_onednn(x.double())
    assert layer.double()(x.double()).dtype == torch.float64
