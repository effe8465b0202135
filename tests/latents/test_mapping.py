"""From z to w to ws, and truncation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from networks import random_generator

from sg2cli.latents.mapping import to_ws, truncate
from sg2cli.latents.notation import parse_seeds
from sg2cli.latents.opening import open_latents

from .test_sources import WS, G, opened


def test_psi_of_latents_that_come_as_w_is_theirs_unless_given(in_tmp: Path) -> None:
    np.save("f.npy", WS)
    latents = list(opened("f.npy"))
    untouched, halved = to_ws(G, latents), to_ws(G, latents, psi=0.5)
    torch.testing.assert_close(untouched, torch.from_numpy(WS))
    torch.testing.assert_close(halved, (untouched + G.mapping.w_avg) / 2)


def test_truncation() -> None:
    ws, w_avg = torch.from_numpy(WS), G.mapping.w_avg
    torch.testing.assert_close(truncate(ws, w_avg, 1.0), ws, rtol=0, atol=0)
    torch.testing.assert_close(truncate(ws, w_avg, 0.0), w_avg.expand_as(ws))
    torch.testing.assert_close(truncate(ws, w_avg, -1.0), 2 * w_avg - ws)
    cut = truncate(ws, w_avg, 0.5, cutoff=2)
    torch.testing.assert_close(cut[:, :2], (ws + w_avg)[:, :2] / 2)
    torch.testing.assert_close(cut[:, 2:], ws[:, 2:], rtol=0, atol=0)
    torch.testing.assert_close(truncate(ws, w_avg, 0.5, cutoff=0), ws, rtol=0, atol=0)


def test_avg_is_w_avg_and_needs_no_class() -> None:
    latents = opened("avg")
    assert not latents.need_mapping
    expected = G.mapping.w_avg.expand(1, 6, -1)
    torch.testing.assert_close(to_ws(G, list(latents)), expected, rtol=0, atol=0)


def test_classes_reach_the_mapping_network() -> None:
    C = random_generator(c_dim=3, embed_features=5)
    latents = list(open_latents(parse_seeds("1"), C.config))
    ws = [to_ws(C, latents, class_index=index) for index in range(3)]
    z = torch.from_numpy(np.random.RandomState(1).randn(1, 12).astype("f4"))
    for index in range(3):
        torch.testing.assert_close(ws[index][0, 0], C.mapping(z, torch.eye(3)[[index]])[0])
    assert not torch.equal(ws[0], ws[1])
