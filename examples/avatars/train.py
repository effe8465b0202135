"""Train a StyleGAN2 generator to draw images of known attributes, in four stages.

    python train.py DATA RUN [--scale 0.01]

DATA.bin and DATA.json come from render.mjs. Each stage writes RUN/STAGE.safetensors, a checkpoint
of sg2, and RUN/STAGE.png, what the network draws. A run that was interrupted continues.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from attributes import Z_DIM, Attributes
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.utils import save_image

from sg2cli.checkpoints import find_network, save_generator
from sg2cli.generator import Generator
from sg2cli.latents.mixing import style_rows
from sg2cli.settings import GeneratorConfig

W_DIM, CHANNELS = 256, (128, 128, 128, 96, 64, 32)  # of 4x4, 8x8, ..., 128x128
BATCH = 8  # learns as much per image as 32
EMA_HALF_LIFE = 3000  # images
SAVE_EVERY = 2000  # steps


@dataclass(frozen=True)
class Stage:
    resolution: int
    steps: int
    lr: float
    mapping_lr: float = 0.0
    l1: float = 0.3  # weights of the loss, see image_loss
    edge: float = 0.5
    mix: float = 0.0  # part of the steps in which styles are mixed
    truncate: float = 0.0  # part of the steps in which w is drawn towards its mean


STAGES = {
    "embeddings": Stage(64, 60_000, lr=2.5e-3),
    "mapping": Stage(64, 10_000, lr=0, mapping_lr=2e-3),
    "joint": Stage(64, 30_000, lr=2e-3, mapping_lr=3e-4, mix=0.5, truncate=0.2),
    "details": Stage(
        128, 25_000, lr=1.5e-3, mapping_lr=1.5e-4, l1=0.5, edge=0.8, mix=0.4, truncate=0.2
    ),
}


class Drawings:
    """The images and their attributes; a part of them is held out of the training."""

    def __init__(self, path: Path, attributes: Attributes) -> None:
        self.attributes = attributes.indices(json.loads(path.with_suffix(".json").read_text()))
        pixels = np.memmap(path.with_suffix(".bin"), np.uint8, "r")
        side = math.isqrt(len(pixels) // len(self.attributes) // 3)
        self.pixels = pixels.reshape(-1, side, side, 3)
        self.held_out = torch.arange(min(512, len(self.attributes) // 10))

    def random(self, n: int) -> Tensor:
        """Indices [n] of images to learn from."""
        return torch.randint(len(self.held_out), len(self.attributes), (n,))

    def images(self, indices: Tensor, resolution: int) -> Tensor:
        """[N,3,resolution,resolution] in -1..1."""
        x = torch.from_numpy(self.pixels[indices.numpy()]).permute(0, 3, 1, 2).float()
        return nn.functional.avg_pool2d(x, x.shape[-1] // resolution) / 127.5 - 1


class Embeddings(nn.Module):
    """Attributes [N,A] -> w [N,W_DIM]: the sum of a learned vector for each value."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(sizes), W_DIM)
        nn.init.normal_(self.table.weight, 0, 0.3)
        self.register_buffer("starts", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)

    def forward(self, attributes: Tensor) -> Tensor:
        return self.table(attributes + self.starts).sum(dim=1)


def new_generator(resolution: int, smaller: Generator | None = None) -> Generator:
    """A generator with random weights, or those of a smaller one and new blocks on top.

    A new block adds nothing to the image at first. Noise is not trained: its strengths stay 0.
    """
    channels = CHANNELS[: int(math.log2(resolution)) - 1]
    config = GeneratorConfig(Z_DIM, 0, W_DIM, resolution, 3, channels, (W_DIM,) * 6)
    G = Generator(config)
    for name, tensor in G.state_dict().items():
        if name.endswith(("weight", "const")):
            tensor.normal_(0, 1 / config.lr_multiplier if name.startswith("mapping") else 1)
        else:
            tensor.fill_(1 if name.endswith("affine.bias") else 0)
    if smaller:
        for block in G.synthesis.blocks[len(smaller.config.channels) :]:
            block.torgb.weight.zero_()
        G.load_state_dict(smaller.state_dict(), strict=False)
    return G


def image_loss(y: Tensor, x: Tensor, stage: Stage, focus: dict[str, float]) -> Tensor:
    """Images y compared with the drawings x, [N,3,H,W].

    The squared error, weighted towards the face, makes eyes and mouths appear: to the absolute
    error alone, bare skin is the best guess. Differences between neighbours keep edges sharp.
    """
    error, side = y - x, x.shape[-1]
    weight = torch.ones(side, side)
    top, bottom, left, right = (int(focus[k] * side) for k in ("top", "bottom", "left", "right"))
    weight[top:bottom, left:right] = 4
    squared = (error.square() * (weight / weight.mean())).mean()
    edges = sum(error.diff(dim=d).abs().mean() for d in (2, 3))
    return stage.l1 * error.abs().mean() + 4 * squared + stage.edge * edges


class Trainer:
    """The networks of one stage, their moving averages, which are saved, and what a step does."""

    def __init__(self, name: str, drawings: Drawings, attributes: Attributes, run: Path) -> None:
        self.name, self.stage = name, STAGES[name]
        self.drawings, self.attributes, self.run = drawings, attributes, run
        self.step, G = self._load()
        embeddings = Embeddings(attributes.sizes)
        if (run / "table.safetensors").exists():
            embeddings.load_state_dict(load_file(run / "table.safetensors"))
        G = G.to(memory_format=torch.channels_last)  # 1.2 times as fast
        self.models = nn.ModuleDict({"G": G, "embeddings": embeddings}).requires_grad_(True)
        self.ema = copy.deepcopy(self.models).requires_grad_(False)
        self.G, self.embeddings = G, embeddings

    def _load(self) -> tuple[int, Generator]:
        """The step that this stage has reached, and its generator, or the previous stage's."""
        names = list(STAGES)
        path = self.run / f"{self.name}.safetensors"
        if path.exists():
            network = find_network(path)
            return network.source["step"], network.load()
        if self.name == names[0]:
            return 0, new_generator(self.stage.resolution)
        previous = self.run / f"{names[names.index(self.name) - 1]}.safetensors"
        return 0, new_generator(self.stage.resolution, find_network(previous).load())

    def optimizer(self) -> torch.optim.Adam:
        """Adam's steps do not depend on the scale of gradients, so rates divided by a layer's gain
        undo the learning rate multiplier of the mapping network, which learns much better so."""
        groups = [
            {"params": list(self.G.synthesis.parameters()), "lr": self.stage.lr},
            {"params": list(self.embeddings.parameters()), "lr": 5 * self.stage.lr},
        ]
        for layer in self.G.mapping.children():
            groups.append(
                {"params": [layer.weight], "lr": self.stage.mapping_lr / layer.weight_gain}
            )
            groups.append({"params": [layer.bias], "lr": self.stage.mapping_lr / layer.bias_gain})
        return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12)

    def loss(self) -> Tensor:
        if self.name == "mapping":
            return self.mapping_loss()
        i = self.drawings.random(BATCH)
        if self.name == "embeddings":
            ws = self.embeddings(self.drawings.attributes[i])[:, None]
        else:
            ws = self.mixed_ws(self.drawings.attributes[i])
        mean = self.G.mapping.w_avg.lerp_(ws.detach().mean(dim=(0, 1)), 0.01)
        if torch.rand(()) < self.stage.truncate:  # so that truncated images stay sharp
            ws = mean.clone().lerp(ws, 0.6 + 0.4 * torch.rand(()))
        small = ws.square().mean()
        if torch.rand(()) < 0.5:  # what lies near a latent looks like it
            ws = ws + torch.randn(BATCH, 1, W_DIM) * 0.1 * torch.rand(())
        y = self.G.synthesis(ws.expand(-1, self.G.config.num_ws, -1), "none")
        x = self.drawings.images(i, self.stage.resolution)
        return image_loss(y, x, self.stage, self.attributes.focus) + 0.001 * small

    def mapping_loss(self) -> Tensor:
        """The part of the embeddings' variance that the mapping network misses."""
        z = torch.randn(512, Z_DIM)
        w = self.embeddings(self.attributes.read(z)).detach()
        return (self.G.mapping(z) - w).square().mean() / w.var(dim=0).mean()

    def mixed_ws(self, attributes: Tensor) -> Tensor:
        """ws [N,1|num_ws,w_dim] of images with the attributes [N,A].

        They come from one latent, or from three: one means the attributes of the coarse styles, one
        those of the middle, one those of the fine styles. What else these latents mean is random,
        and must not matter.
        """
        if torch.rand(()) >= self.stage.mix:
            return self.G.mapping(self.attributes.sample_z(attributes))[:, None]
        ws = []
        for style in ("coarse", "middle", "fine"):
            others = self.drawings.attributes[self.drawings.random(len(attributes))]
            meant = torch.where(self.attributes.in_style(style), attributes, others)
            w = self.G.mapping(self.attributes.sample_z(meant))
            ws.append(w[:, None].expand(-1, len(style_rows((style,), self.G.config)), -1))
        return torch.cat(ws, dim=1)

    def update_ema(self) -> None:
        half_life = min(EMA_HALF_LIFE, self.step * BATCH / 10)  # short at first
        with torch.no_grad():
            for average, p in zip(self.ema.parameters(), self.models.parameters(), strict=True):
                average.lerp_(p, 1 - 0.5 ** (BATCH / half_life))

    @torch.no_grad()
    def save(self) -> float:
        """Write the averages and what they draw; returns the mean error of held-out images."""
        G, embeddings = self.ema["G"], self.ema["embeddings"]
        i = self.drawings.held_out[:24]
        attributes = self.drawings.attributes[i]
        if self.name == "embeddings":
            w = embeddings(attributes)
            G.mapping.w_avg.copy_(self.G.mapping.w_avg)
            save_file(embeddings.state_dict(), self.run / "table.safetensors")
        else:
            w = G.mapping(self.attributes.sample_z(attributes))
            G.mapping.w_avg.copy_(G.mapping(torch.randn(5_000, Z_DIM)).mean(dim=0))
        y = G.synthesis(w[:, None].expand(-1, G.config.num_ws, -1), "none")
        x = self.drawings.images(i, self.stage.resolution)
        drawn = [x, y] if self.name == "embeddings" else [x, y, G(torch.randn(24, Z_DIM))]
        save_image((torch.cat(drawn) / 2 + 0.5).clamp(0, 1), self.run / f"{self.name}.png", nrow=12)
        source = {"format": "trained on known attributes", "stage": self.name, "step": self.step}
        save_generator(G, self.run / f"{self.name}.safetensors", source, overwrite=True)
        return float((y - x).abs().mean())


def run_stage(trainer: Trainer, steps: int) -> None:
    """The learning rate rises over the first steps and falls over the last 40 per cent."""

    def rate(step: int) -> float:
        t = step / steps
        rise = (step + 1) / min(300, 1 + steps // 20)
        return max(0.005, min(1, rise, 0.5 + 0.5 * math.cos(math.pi * max(0, (t - 0.6) / 0.4))))

    adam = trainer.optimizer()
    peaks = [group["lr"] for group in adam.param_groups]
    every, losses, start = max(1, min(500, steps // 5)), [], time.monotonic()
    while trainer.step < steps:
        for group, peak in zip(adam.param_groups, peaks, strict=True):
            group["lr"] = peak * rate(trainer.step)
        adam.zero_grad()
        loss = trainer.loss()
        loss.backward()
        adam.step()
        trainer.step += 1
        trainer.update_ema()
        losses.append(loss.item())
        if trainer.step % every == 0:
            speed = every / (time.monotonic() - start)
            done = f"{trainer.name} {trainer.step}/{steps}"
            print(f"{done}: loss {np.mean(losses):.4f}, {speed:.1f} steps/s", flush=True)
            losses, start = [], time.monotonic()
        if trainer.step % SAVE_EVERY == 0 or trainer.step == steps:
            print(f"{trainer.name}: mean error of held-out images {trainer.save():.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="DATA.bin and DATA.json")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder for checkpoints")
    parser.add_argument("--scale", type=float, default=1, help="take this part of the steps")
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    attributes = Attributes(Path(__file__).with_name("attributes.json"))
    drawings = Drawings(args.data, attributes)
    for number, (name, stage) in enumerate(STAGES.items()):
        torch.manual_seed(number)
        trainer = Trainer(name, drawings, attributes, args.run)
        torch.manual_seed(trainer.step)  # a continued stage draws other batches
        run_stage(trainer, max(1, round(stage.steps * args.scale)))


if __name__ == "__main__":
    main()
