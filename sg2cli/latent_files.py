"""Arrays of latents and noise maps in files: .safetensors, .npz and .npy.

Files are read as if an enemy had made them: no pickled object is loaded, and shapes are checked
against the network before anything is made of them.
"""

from __future__ import annotations

import io
import math
import re
import struct
import tempfile
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError

from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.files import check_header, new_file, safetensors_header, sg2_metadata
from sg2cli.provenance import HASH_KEY, PLACEHOLDER, payload_sha256
from sg2cli.settings import GeneratorConfig

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

SUFFIXES = (".safetensors", ".npz", ".npy")
NPY = b"\x93NUMPY"
UNNAMED = ""  # the array of an .npy
# An .npz is unpacked into memory: so many bytes, or so many times its size. Latents hardly shrink.
MAX_NPZ, MAX_RATIO = 1 << 24, 20
NPY_HEADERS = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}
BAD_ARRAYS = (  # what json, zipfile, numpy and safetensors raise for damaged files
    *(ValueError, LookupError, TypeError, RuntimeError, EOFError, OverflowError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SafetensorError),
    MemoryError,  # of Python's parser, for brackets or signs in a header that are nested too deep
)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, of which single rows can be had."""

    shape: tuple[int, ...]
    rows: Callable[[slice], Array]

    def row(self, index: int) -> Array:
        import numpy as np

        with np.errstate(over="ignore"):  # what float32 cannot hold is found to be infinite
            return np.array(self.rows(slice(index, index + 1)), np.float32)[0]


def read_arrays(file: Path | io.BytesIO) -> tuple[dict[str, StoredArray], dict[str, Any]]:
    """The latents and noise maps of an .npy, .npz or .safetensors, told apart by content; metadata.

    Arrays of other names are left alone.
    """
    import numpy as np

    if isinstance(file, Path):
        with file.open("rb") as opened:
            start = opened.read(6)
    else:
        start = file.getvalue()[:6]
    if start != NPY and not start.startswith(b"PK"):
        return _read_safetensors(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of headers that Python 2 wrote
        found = _read_numpy(file, start)
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"its member {name} is no array")
        _check_dtype(name, array.dtype.str[1:])
    return {name: StoredArray(array.shape, array.__getitem__) for name, array in found.items()}, {}


def _read_numpy(file: Path | io.BytesIO, start: bytes) -> dict[str, Any]:
    import numpy as np

    if start == NPY:
        mapped = isinstance(file, Path)
        return {UNNAMED: np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)}
    with zipfile.ZipFile(file) as archive:
        _check_archive(archive)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with np.load(file, allow_pickle=False) as npz:
        return {name: npz[name] for name in npz.files if _is_ours(name)}


def _check_archive(archive: zipfile.ZipFile) -> None:
    """ValueError for one that takes far more memory than it has bytes, honest or not."""
    import numpy as np

    members = archive.infolist()
    packed, size = (
        sum(getattr(m, f"{what}_size") for m in members) for what in ("compress", "file")
    )
    if size > max(MAX_NPZ, MAX_RATIO * packed):
        raise ValueError(
            f"it unpacks from {packed >> 10} KiB to {size >> 20} MiB, as no latents do"
        )
    ours = [member for member in members if _is_ours(member.filename.removesuffix(".npy"))]
    if len({member.filename.removesuffix(".npy") for member in ours}) < len(ours):
        raise ValueError("it has a member twice")
    for member in ours:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version not in NPY_HEADERS:
                raise ValueError(f"its member {member.filename} is of an unknown version of .npy")
            shape, _, dtype = getattr(np.lib.format, NPY_HEADERS[version])(file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(
                    f"its member {member.filename} lacks most of {list(shape)} numbers"
                )


def _read_safetensors(file: Path | io.BytesIO) -> tuple[dict[str, StoredArray], dict[str, Any]]:
    from safetensors import safe_open

    if isinstance(file, io.BytesIO):
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as spooled:
            spooled.write(file.getvalue())
            spooled.flush()
            return _read_safetensors(Path(spooled.name))
    check_header(file)
    stored: Any = safe_open(file, framework="np")  # stays open, and mapped, as long as its slices
    slices = {name: stored.get_slice(name) for name in stored.keys() if _is_ours(name)}  # noqa: SIM118
    for name, tensor in slices.items():
        _check_dtype(name, tensor.get_dtype())
    metadata = sg2_metadata(stored.metadata())
    arrays = {name: StoredArray(tuple(s.get_shape()), s.__getitem__) for name, s in slices.items()}
    if not all(isinstance(metadata.get(key, ""), str) for key in ("checkpoint", "tuned")):
        raise ValueError("its sg2 metadata is not what sg2 writes")
    return arrays, metadata


def _is_ours(name: str) -> bool:
    return name in ("z", "w", "ws") or name.endswith(".noise_const")


def _check_dtype(name: str, dtype: str) -> None:
    if dtype not in ("f2", "f4", "f8", "F16", "F32", "F64"):
        raise ValueError(f"its array {name or 'of latents'} is {dtype}, not float16, 32 or 64")


def fit(
    array: StoredArray, space: Literal["z", "w"], is_ws: bool, name: str, config: GeneratorConfig
) -> StoredArray:
    """The array as [N,...], if its rows are latents of the network; UsageError with both sizes."""
    import numpy as np

    shape = array.shape
    if len(shape) == (2 if is_ws else 1):  # one latent, without the N
        whole = np.asarray(array.rows(slice(None)))[None]
        array, shape = StoredArray(whole.shape, whole.__getitem__), whole.shape
    dim = config.z_dim if space == "z" else config.w_dim
    if not 2 <= len(shape) <= (2 if space == "z" else 3) or not shape[0]:
        raise Sg2Error(f"{name} has an array of shape {list(shape)}: no latents")
    if shape[-1] != dim:
        raise UsageError(f"{name} has {space} of {shape[-1]} numbers, this network has {dim}")
    if len(shape) == 3 and shape[1] != config.num_ws:
        raise UsageError(f"{name} has ws of {shape[1]} rows, this network has {config.num_ws}")
    return array


def fit_noise(
    key: str, array: StoredArray, count: int, name: str, config: GeneratorConfig
) -> Array:
    """Noise maps as [N,H,W], or [H,W] where all rows share one."""
    import numpy as np

    match = re.fullmatch(r"synthesis\.b(\d{1,7})\.conv([01])\.noise_const", key)
    resolution = int(match[1]) if match else 0
    known = config.use_noise and resolution in config.resolutions
    if not match or not known or (resolution == 4 and match[2] == "0"):
        raise UsageError(f"{name} has a noise map {key}, for which this network has no layer")
    size = (resolution, resolution)
    if array.shape not in (size, (1, *size), (1, 1, *size), (count, *size), (count, 1, *size)):
        raise UsageError(f"{name} has a noise map {key} of {list(array.shape)}, not {list(size)}")
    maps = np.asarray(array.rows(slice(None)), np.float32)
    if not np.isfinite(maps).all():
        raise Sg2Error(f"{name} has NaN or infinity in its noise map {key}")
    return maps.reshape(size if maps.size == resolution**2 else (count, *size))


@dataclass(frozen=True)
class Stream:
    """An array whose rows are made as they are written: shape [N,...], and N rows."""

    shape: tuple[int, ...]
    rows: Iterable[Array]

    def write(self, file: IO[bytes]) -> None:
        for row in self.rows:
            file.write(row.astype("<f4").tobytes())


def save_latents(
    path: Path,
    arrays: Mapping[str, Stream],
    made_by: Mapping[str, Any],
    overwrite: bool = False,
    durable: bool = False,
) -> None:
    """Write arrays, `ws` and noise maps, row by row, so that any number fits in memory.

    A .safetensors has, in its metadata, what made them; an .npz has `ws` under NVIDIA's name `w`;
    an .npy has `ws` alone. UsageError for another extension, or for noise in an .npy.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: latents are saved as {', '.join(SUFFIXES)}")
    if path.suffix == ".npy" and len(arrays) > 1:
        raise UsageError(f"{path}: an .npy has no room for noise maps: save a .safetensors")
    with new_file(path, overwrite, durable) as file:
        write_latents(file, path.suffix, arrays, made_by)


def write_latents(
    file: IO[bytes], suffix: str, arrays: Mapping[str, Stream], provenance: Mapping[str, Any]
) -> None:
    """As `save_latents`, into an open file that can be read and sought."""
    if suffix == ".safetensors":
        shapes = {name: array.shape for name, array in arrays.items()}
        file.write(safetensors_header(shapes, {**provenance, HASH_KEY: PLACEHOLDER}))
        for array in arrays.values():
            array.write(file)
        file.seek(0)
        found = payload_sha256(file)
        file.seek(0)
        file.write(safetensors_header(shapes, {**provenance, HASH_KEY: found}))
        file.seek(0, io.SEEK_END)
    elif suffix == ".npy":
        file.write(_npy_header(arrays["ws"].shape))
        arrays["ws"].write(file)
    else:
        with zipfile.ZipFile(file, "w") as members:
            for name, array in arrays.items():
                member_name = "w.npy" if name == "ws" else f"{name}.npy"
                with members.open(member_name, "w", force_zip64=True) as member:
                    member.write(_npy_header(array.shape))
                    array.write(member)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    import numpy as np

    header = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def inspect(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """The shapes of a file's arrays, and what made it, where a .safetensors says so."""
    try:
        arrays, metadata = read_arrays(path)
    except OSError as error:
        raise Sg2Error(f"cannot read {path}: {reason(error)}") from error
    except BAD_ARRAYS as error:
        raise Sg2Error(f"{path} is damaged or holds no latents: {error}") from error
    return {name or "unnamed": array.shape for name, array in arrays.items()}, metadata


def is_latents(path: Path) -> bool:
    """Whether a file looks like latents: an .npy, an .npz, a .safetensors with z, w or ws."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as members:
                return all(name.endswith(".npy") for name in members.namelist())
        with path.open("rb") as file:
            if file.read(len(NPY)) == NPY:
                return True
        return bool({UNNAMED, "z", "w", "ws"} & read_arrays(path)[0].keys())
    except (OSError, *BAD_ARRAYS):
        return False
