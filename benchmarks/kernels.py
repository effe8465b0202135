"""What the Triton kernels take on each GPU: registers, spills, and bytes moved. Needs no GPU.

Run by `make kernels`: each is compiled ahead of time, and ptxas asked about the result.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sg2cli.ops.cuda import convolution
from sg2cli.ops.cuda import kernels as fused

CAPABILITIES = (75, 80, 90, 100, 120)
FLOATS = "slope gain clamp"
POINTERS = "x y dy dv rgb f scale noise bias then dscale dnoise dthen img dimg weight styles"
LAYER = {"NOISE": True, "CLAMPS": True, "THEN": True}
BACKWARD = {**LAYER, "P": fused.BACK_TILE // fused.WIDEST, "C": fused.WIDEST, "TILES": 32}
FORWARD = {**LAYER, "ACTS": True, "P": fused.TILE // fused.WIDEST, "C": fused.WIDEST}
BLUR = {"TAPS": 4, "PAD": 1}
WINDOW = {name.upper(): value for name, value in convolution.PADDED._asdict().items()}
CONVOLUTION = {**WINDOW, "TILE_P": 128, "TILE_O": 128, "TILE_I": 32}
PICTURE = {"TAPS": 4, "PAD": 2, "E": fused.ELEMENTS}
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "epilogue": (fused.layer_kernel, {**FORWARD, "TAPS": 0, "PAD": 0}),
    "filter and epilogue": (fused.layer_kernel, {**FORWARD, **BLUR}),
    "filter": (fused.layer_kernel, {**FORWARD, **BLUR, "ACTS": False, "THEN": False}),
    "epilogue, backward": (fused.layer_backward_kernel, {**BACKWARD, "TAPS": 0, "PAD": 0}),
    "filter and epilogue, backward": (fused.layer_backward_kernel, {**BACKWARD, **BLUR}),
    "sum of images": (fused.picture_kernel, {**PICTURE, "CLAMPS": True}),
    "sum of images, backward": (fused.picture_backward_kernel, PICTURE),
    "ToRGB": (fused.rgb_kernel, {"COLORS": 3, "P": fused.PIXELS, "C": 16, "TILE_I": 32}),
    "convolution": (fused.convolution_kernel, CONVOLUTION),
}
HALF = ("x", "y", "dy", "dv", "rgb")


def resources(kernel: Any, constants: dict[str, Any], dtype: str, capability: int) -> str:
    """'registers' of a thread, and '+ spilled bytes' where there are any."""
    in_float32 = "E" in constants or "COLORS" in constants

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in FLOATS.split():
            return "fp32"
        if name in POINTERS.split():
            half = name in HALF and not (in_float32 and name in ("y", "dy"))
            return f"*{dtype if half else 'fp32'}"
        return "i32"

    signature = {name: kind(name) for name in kernel.arg_names}
    known = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, known)
    options = {"num_warps": 8, "num_stages": 3} if kernel is fused.convolution_kernel else None
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(compiled.asm["ptx"])
        arch = re.search(r"\.target (\w+)", compiled.asm["ptx"])
        assert arch
        name = "ptxas-blackwell" if capability >= 100 else "ptxas"
        ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
        output = subprocess.run(
            [ptxas, "-v", f"--gpu-name={arch[1]}", ptx, "-o", Path(folder) / "kernel.cubin"],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    registers = re.search(r"Used (\d+) registers", output)
    spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", output))
    assert registers
    return registers[1] + (f" + {spilled} B spilled" if spilled else "")


def traffic() -> None:
    """Bytes of a 1024x1024 picture in fp16, layer by layer, against what must move."""
    print("\n| layer, fp16 | steps of torch | fused | least |")
    print("| --- | --- | --- | --- |")
    totals = [0.0, 0.0, 0.0]
    for resolution in (8 << i for i in range(8)):
        channels = min(512, 32768 // resolution)
        size = 2 * channels * resolution**2 / 2**20  # MiB
        tall = 2 * channels * (resolution + 1) ** 2 / 2**20
        # Demodulation, noise, bias, leaky ReLU, gain, clamp, styles: each reads and writes.
        for name, v, filters in (("conv0", tall, True), ("conv1", size, False)):
            # The filter reads what the convolution wrote, as a padded copy, which torch makes.
            plain = 7 * 2 * size + (3 * tall + size if filters else 0)
            # The second layer's styles come with the end of the first; what follows it is read by
            # ToRGB, too, so that the next block's styles are a step of torch.
            row = [plain, v + (1 if filters else 3) * size, v + size]
            totals = [a + b for a, b in zip(totals, row, strict=True)]
            print(f"| b{resolution}.{name} | " + " | ".join(f"{x:.1f} MiB" for x in row) + " |")
    print("| all | " + " | ".join(f"{x:.0f} MiB" for x in totals) + " |")


def main() -> None:
    print(f"Triton {triton.__version__}\n")
    names = [f"sm_{capability}" for capability in CAPABILITIES]
    print("| kernel | type | " + " | ".join(names) + " |")
    print("| --- |" + " --- |" * (len(names) + 1))
    for name, (kernel, constants) in KERNELS.items():
        for dtype in ("fp32", "fp16", "bf16"):
            if kernel is fused.convolution_kernel and dtype != "fp32":
                continue
            cells = [resources(kernel, constants, dtype, c) for c in CAPABILITIES]
            print(f"| {name} | {dtype} | " + " | ".join(cells) + " |", flush=True)
    traffic()


if __name__ == "__main__":
    main()
