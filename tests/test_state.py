"""The averaged weights are those of diffusers' EMAModel."""

from __future__ import annotations

import torch
from diffusers.training_utils import EMAModel

from chemeleon.training.state import Average


def test_average_equals_diffusers_and_is_put_back():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    parameters = list(model.parameters())
    ours, theirs = Average(parameters, 0.9), EMAModel(parameters, decay=0.9)
    for _ in range(30):
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(torch.randn_like(parameter))
        ours.update()
        theirs.step(parameters)
    raw = model.weight.detach().clone()
    with ours.applied():
        torch.testing.assert_close(model.weight.data, theirs.shadow_params[0])
        assert not torch.equal(model.weight, raw)
    assert torch.equal(model.weight, raw)
