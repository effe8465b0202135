"""Drawing latents in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import random_generator, relative

from sg2cli import checkpoints
from sg2cli.errors import UsageError
from sg2cli.images import pixels
from sg2cli.latents.notation import SeedRange
from sg2cli.latents.sources import Latent, LatentList
from sg2cli.sampling import check_settings, locate, noise_of, render
from sg2cli.sampling.generate import generate
from sg2cli.sampling.rendering import random_noise
from sg2cli.settings import DrawSettings

AVATARS = checkpoints.load(device="cpu")


def images(text: str, G: Any = AVATARS, **settings: Any) -> dict[str, Any]:
    return {image.name: image.pixels for image in generate(G, text, **settings)}


@pytest.mark.parametrize("batch", [1, 3, 8, 16])
@pytest.mark.parametrize("noise_mode", ["const", "random"])
def test_an_image_does_not_depend_on_what_else_is_drawn(batch: int, noise_mode: str) -> None:
    """Same pixels, to the last bit, whatever the order and number of seeds at a batch size."""
    many = images("0-39", batch=batch, noise_mode=noise_mode)
    others = images("17", batch=batch, noise_mode=noise_mode)
    others |= images("39,3,30,8,1,38,22", batch=batch, noise_mode=noise_mode)
    for name, image in others.items():
        np.testing.assert_array_equal(image, many[name], err_msg=name)


@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_another_batch_size_moves_a_pixel_by_one_at_most(noise_mode: str) -> None:
    single = images("0-19", batch=1, noise_mode=noise_mode)
    for batch in (None, 2, 7, 20):
        for name, image in images("0-19", batch=batch, noise_mode=noise_mode).items():
            assert abs(image.astype(int) - single[name]).max() <= 1


def test_noise_modes_differ_and_random_noise_is_the_seeds() -> None:
    G = random_generator()
    drawn = {mode: images("1", G, noise_mode=mode) for mode in ("const", "none", "random")}
    assert not np.array_equal(drawn["const"]["seed0001"], drawn["none"]["seed0001"])
    assert not np.array_equal(drawn["const"]["seed0001"], drawn["random"]["seed0001"])
    again = images("1,2", G, noise_mode="random", batch=2)
    assert abs(again["seed0001"].astype(int) - drawn["random"]["seed0001"]).max() <= 1


def test_random_noise_depends_on_the_seed_alone() -> None:
    G = random_generator()
    first, both, again = (random_noise(G, seeds) for seeds in ([3], [4, 3], [3]))
    for name in first:
        torch.testing.assert_close(first[name][0], both[name][1], rtol=0, atol=0)
        torch.testing.assert_close(first[name], again[name], rtol=0, atol=0)
        assert not torch.equal(both[name][0], both[name][1])
        assert first[name].shape == (1, 1, *G.get_buffer(name).shape)


def test_the_image_is_that_of_the_library_call() -> None:
    z = torch.from_numpy(np.random.RandomState(4).randn(1, 64).astype("f4"))
    expected = pixels.to_pixels(AVATARS(z))[0]
    np.testing.assert_array_equal(images("4")["seed0004"], expected)


def test_psi_zero_is_the_mean_for_every_seed() -> None:
    G = AVATARS
    (mean,) = generate(G, "avg", batch=2)
    for image in images("1-2", psi=0.0, batch=2).values():
        np.testing.assert_array_equal(image, mean.pixels)


def test_noise_that_belongs_to_a_latent_is_drawn_with_it() -> None:
    G = random_generator()
    name = "synthesis.b8.conv0.noise_const"
    own = np.random.RandomState(0).randn(8, 8).astype("f4")
    with_noise = Latent("a", "seed", None, {}, 1, {name: own})
    without = Latent("b", "seed", None, {}, 1)
    points = list(locate(G, [with_noise, without], DrawSettings(), size=2))
    noise = noise_of(G, points, "const")
    assert isinstance(noise, dict)
    assert list(noise) == [name]
    np.testing.assert_array_equal(noise[name][0], own)
    torch.testing.assert_close(noise[name][1], G.state_dict()[name])
    first, second = generate(G, [with_noise, without])
    assert relative(torch.tensor(first.pixels), torch.tensor(second.pixels)) > 1e-3
    assert noise_of(G, points, "none") == "none"


def test_latents_are_drawn_as_they_come() -> None:
    """Of endless latents no more are asked for than a batch."""
    asked = 0

    def endless() -> Any:
        nonlocal asked
        for latent in LatentList([SeedRange(0, 2**32 - 1)]):
            asked += 1
            yield latent

    points = locate(AVATARS, endless(), DrawSettings(), 4)
    next(render(AVATARS, points, "const", 4))
    assert asked == 4


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({}, {"cutoff": 7}, "7 is beyond this network's 6 rows"),
        ({}, {"class_index": 0}, "no classes"),
        ({"c_dim": 3, "embed_features": 2}, {}, "3 classes: give `class_index` 0 to 2"),
        (
            {"c_dim": 3, "embed_features": 2},
            {"class_index": 3},
            "class 3 is out of range: .* classes 0 to 2",
        ),
    ],
)
def test_settings_that_do_not_fit_the_network(changes: Any, settings: Any, message: str) -> None:
    config = random_generator(**changes).config
    with pytest.raises(UsageError, match=message):
        check_settings(config, DrawSettings(**settings), needs_class=True)


def test_settings_that_fit() -> None:
    config = random_generator(c_dim=3, embed_features=2).config
    check_settings(config, DrawSettings(cutoff=6, class_index=2), needs_class=True)
    check_settings(config, DrawSettings(), needs_class=False)
