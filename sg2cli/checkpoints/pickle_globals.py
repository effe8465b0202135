"""What the globals of a checkpoint's pickle are replaced with; none is ever imported or called.

A checkpoint holds more than its generator: discriminators, options, loggers, of classes that sg2
does not know. Their instances become inert data. A global that a checkpoint has no use for, such as
`os.system`, and every call of an unknown function, is refused: such a file asks to run something.
"""

from __future__ import annotations

import sys

from sg2cli.checkpoints.numpy_arrays import NUMPY
from sg2cli.checkpoints.stand_ins import (
    Attributes,
    Inert,
    Module,
    Nested,
    TensorFlowNetwork,
    UnknownGlobal,
)
from sg2cli.checkpoints.torch_tensors import TORCH, read_storage
from sg2cli.errors import CheckpointError

# Names of the standard library that data are made of. All others are refused.
HARMLESS: dict[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),
    "array": ("array",),
    "collections": ("OrderedDict", "defaultdict", "deque", "Counter", "ChainMap"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "enum": ("Enum", "IntEnum"),
    "fractions": ("Fraction",),
    "functools": ("partial",),
    "logging": ("Logger", "getLogger"),
    "io": ("BytesIO", "StringIO"),
    "math": ("sqrt", "log", "log2", "exp", "sin", "cos"),
    "pathlib": (
        *("Path", "PurePath", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    ),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "random": ("Random",),
    "re": ("_compile",),
    "types": ("SimpleNamespace",),
    "typing": ("Any", "Callable", "Dict", "List", "Optional", "Tuple", "Union"),
    "uuid": ("UUID",),
    **dict.fromkeys(
        ("builtins", "__builtin__"),
        (
            *("set", "frozenset", "list", "dict", "tuple", "object", "slice", "range", "xrange"),
            *("int", "long", "float", "complex", "bool", "str", "unicode", "bytes", "bytearray"),
            *("Ellipsis", "NotImplemented"),
        ),
    ),
}
OLD_NAMES = ("__builtin__", "copy_reg", "cPickle", "commands", "popen2", "nt", "posix", "urllib2")


def _reconstructor(kind: object, _base: object = None, state: object = None) -> object:
    """copyreg._reconstructor, as protocols 0 and 1 make instances."""
    if isinstance(kind, UnknownGlobal):
        made: object = kind.instance()
    elif isinstance(kind, type):
        made = kind()
    else:
        raise CheckpointError("damaged, or not a network: an instance in it has no class")
    if isinstance(made, dict) and isinstance(state, dict):
        made.update(state)
    return made


KNOWN: dict[str, object] = {
    **NUMPY,
    **TORCH,
    "torch_utils.persistence _reconstruct_persistent_obj": Module,
    "torch.storage _load_from_bytes": Nested(read_storage),
    "dnnlib.util EasyDict": Attributes,
    "dnnlib.tflib.network Network": TensorFlowNetwork,
    **{f"{name} _reconstructor": Inert(_reconstructor) for name in ("copyreg", "copy_reg")},
}


class NetworkGlobals(dict[str, object]):
    """Stand-ins by 'module name'; of names that are not listed, `get` makes one or returns None."""

    def get(self, key: str, default: object = None) -> object:
        if key in self:
            return self[key]
        module, _, name = key.partition(" ")
        if module.startswith("numpy.random."):  # the states of generators of random numbers
            return UnknownGlobal(module, name, may_be_called=True)
        if "__" in name:  # the inside of a class
            return default
        top = module.partition(".")[0]
        if module in HARMLESS and name in HARMLESS[module]:
            return UnknownGlobal(module, name, may_be_called=True)
        if top in sys.stdlib_module_names or top in OLD_NAMES:
            return default
        # Classes have capital initials, and their instances are data. So are torch's rarer tensors.
        is_class = name.rpartition(".")[2].lstrip("_")[:1].isupper()
        is_tensor = module == "torch._utils" and name.startswith("_rebuild_")
        return UnknownGlobal(module, name, may_be_called=is_class or is_tensor)

    def __or__(self, other: dict[str, object]) -> NetworkGlobals:  # type: ignore[override]
        return NetworkGlobals({**self, **other})


GLOBALS = NetworkGlobals(KNOWN)
