"""Adam as a function is torch's."""

from __future__ import annotations

from typing import Any

import torch


def test_adam_is_that_of_torch(randn: Any) -> None:
    from sg2cli.inversion.adam import adam

    x, goal = randn(5, 3), randn(5, 3)
    theirs = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], betas=(0.9, 0.999))
    params, moments = {"x": x}, ({"x": torch.zeros_like(x)}, {"x": torch.zeros_like(x)})
    for step in range(1, 20):
        lr = 0.1 / step
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        ((theirs - goal) ** 4).sum().backward()
        optimizer.step()
        gradient = 4 * (params["x"] - goal) ** 3
        params, *moments = adam(params, [gradient], *moments, lr, step)  # type: ignore[misc, assignment]
        torch.testing.assert_close(params["x"], theirs.detach(), rtol=1e-12, atol=1e-12)
