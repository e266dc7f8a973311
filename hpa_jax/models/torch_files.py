"""Tensors of torch files, read without torch: nothing in a file is imported, called or unpickled.

In: a .pth of either container.  Out: {name: array} of the state dict in it.

- zip (torch 1.6 and later): `data.pkl`, and one stored entry per storage;
- the earlier stream: magic number, protocol, system, the object, the storages' keys (a pickle
  each), then the storages, each after its length.

The pickles are read by a small interpreter of their opcodes.  It supports tensors, dicts, lists and
numbers (numpy's, too); everything else, such as the `argparse.Namespace` of a training script,
becomes an `Inert` with its name.  A tensor's bytes are read on demand, so that those of an
optimizer cost nothing.
"""

import dataclasses
import functools
import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Keys of the state dict in a checkpoint; of DINO the teacher is used.
WRAPPERS = ("state_dict", "model_state_dict", "teacher", "model", "net", "params", "weights")
_DTYPES: dict[str, Any] = {
    "Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": jnp.bfloat16,
    "Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8,
    "Bool": np.bool_, "Untyped": np.uint8,
}  # fmt: skip
_TORCH_DTYPES = {
    "float64": np.float64, "double": np.float64, "float32": np.float32, "float": np.float32,
    "float16": np.float16, "half": np.float16, "bfloat16": jnp.bfloat16, "int64": np.int64,
    "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8, "bool": np.bool_,
}  # fmt: skip


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Return all tensors of the state dict in a torch file, by name.

    Raises:
        InputError: a truncated or damaged file, no state dict, or a value in it that is not a
            tensor, which the message names.
    """
    path = Path(path)
    with artifacts.parsing(path, "download it again"), open(path, "rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                content, bytes_of = _of_zip(archive)
                return _arrays(content, bytes_of, path)
        file.seek(0)
        content, bytes_of = _of_stream(file)
        return _arrays(content, bytes_of, path)


@dataclasses.dataclass(frozen=True)
class Name:
    """A module's attribute named in a pickle."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert:
    """Replaces an object of an unknown class; keeps its name without its content."""

    def __init__(self, name: object) -> None:
        self.name = str(name)


@dataclasses.dataclass(frozen=True)
class Storage:
    """`count` numbers under a key; `start`: index of the first, for a view."""

    key: str
    dtype: Any
    count: int
    start: int = 0


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor whose bytes have not been read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _NumpyType:
    """A numpy dtype: a letter and a width, and a byte order set afterwards."""

    def __init__(self, code: str) -> None:
        if code[:1] not in tuple("biuf") or not code[1:].isdigit():
            raise InputError(f"unknown numpy type {code!r}")
        self.code, self.order = code, "<"

    def scalar(self, data: bytes | str) -> Any:
        """Return the number in these bytes."""
        raw = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(raw, np.dtype(self.order + self.code))[0]


BytesOf = Callable[[str], bytes]  # of a storage's key


def _of_zip(archive: zipfile.ZipFile) -> tuple[Any, BytesOf]:
    names = archive.namelist()
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise InputError("a zip file without torch's data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in names and archive.read(order).strip() != b"little":
        raise InputError("written on a big-endian machine; save it again on another")
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{entry.filename} is compressed, unlike torch's")
    with archive.open(pickles[0]) as file:
        content = _object(file)
    return content, lambda key: archive.read(f"{folder}data/{key}")


def _of_stream(file: BinaryIO) -> tuple[Any, BytesOf]:
    if _object(file) != MAGIC:
        raise InputError("not a torch file")
    if _object(file) != PROTOCOL or not _object(file).get("little_endian"):
        raise InputError("another protocol or byte order; save it again with a current torch")
    dtypes: dict[str, Any] = {}
    content = _object(file, dtypes)
    places = {}
    for key in _object(file):
        count = int.from_bytes(file.read(8), "little")
        places[key] = (file.tell(), count * np.dtype(dtypes[key]).itemsize)
        file.seek(places[key][1], 1)

    def bytes_of(key: str) -> bytes:
        start, size = places[key]
        file.seek(start)
        return file.read(size)

    return content, bytes_of


def _object(file: Any, dtypes: dict[str, Any] | None = None) -> Any:
    """Read one pickle from `file`.  dtypes: is filled with those of the storages."""
    memo: dict[int, Any] = {}
    stack: list[Any] = []
    marks: list[int] = []

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(file):
        kind = opcode.name
        if kind in ("PROTO", "FRAME"):
            continue
        if kind == "STOP":
            return stack.pop()
        if kind in _CONSTANTS:
            stack.append(_CONSTANTS[kind]())
        elif kind in _LITERALS:
            stack.append(argument)
        elif kind == "MARK":
            marks.append(len(stack))
        elif kind == "POP":
            stack.pop()
        elif kind == "POP_MARK":
            since_mark()
        elif kind == "DUP":
            stack.append(stack[-1])
        elif kind in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if kind == "MEMOIZE" else int(argument)] = stack[-1]
        elif kind in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        elif kind in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(kind[-1])
            stack[-size:] = [tuple(stack[-size:])]
        elif kind in ("TUPLE", "LIST", "FROZENSET"):
            items = since_mark()
            stack.append(items if kind == "LIST" else tuple(items))
        elif kind == "DICT":
            items = since_mark()
            stack.append(dict(zip(items[::2], items[1::2])))
        elif kind == "APPEND":
            _extend(stack, [stack.pop()])
        elif kind in ("APPENDS", "ADDITEMS"):
            _extend(stack, since_mark())
        elif kind == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set(stack, [key, value])
        elif kind == "SETITEMS":
            _set(stack, since_mark())
        elif kind == "GLOBAL":
            stack.append(Name(*argument.split(" ", 1)))
        elif kind == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(Name(module, name))
        elif kind in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        elif kind == "NEWOBJ_EX":
            _, arguments, function = stack.pop(), stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        elif kind == "OBJ":
            function, *arguments = since_mark()
            stack.append(_call(function, arguments))
        elif kind == "INST":
            stack.append(_call(Name(*argument.split(" ", 1)), since_mark()))
        elif kind == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], _NumpyType):
                stack[-1].order = "<" if state[1] == "|" else str(state[1])
        elif kind == "BINPERSID":
            stack.append(_storage(stack.pop(), dtypes))
        else:
            raise InputError(f"unknown opcode {kind}")
    raise InputError("truncated")


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)


def _extend(stack: list[Any], items: list[Any]) -> None:
    if isinstance(stack[-1], list):
        stack[-1].extend(items)


def _set(stack: list[Any], items: list[Any]) -> None:
    if isinstance(stack[-1], dict):
        stack[-1].update(zip(items[::2], items[1::2]))


def _storage(reference: Sequence[Any], dtypes: dict[str, Any] | None) -> Storage:
    """("storage", type, key, device, count[, (view's key, start, count)])."""
    kind, storage_type, key, _, count, *view = reference
    name = getattr(storage_type, "name", "").removesuffix("Storage")
    if kind != "storage" or name not in _DTYPES:
        raise InputError(f"a storage of type {storage_type}")
    if dtypes is not None:
        dtypes[key] = _DTYPES[name]
    if view and view[0] is not None:
        _, start, count = view[0]
        return Storage(key, _DTYPES[name], count, start)
    return Storage(key, _DTYPES[name], count)


def _call(function: Any, arguments: Sequence[Any]) -> Any:
    """Evaluate a known call; return an `Inert` for others."""
    constructor = _CALLS.get(str(function)) if isinstance(function, Name) else None
    return (
        constructor(*arguments)
        if constructor
        else Inert(function if isinstance(function, Name) else "call")
    )


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Tensor:
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _typed_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any,
    *more: Any,
) -> Tensor:  # fmt: skip
    """Return a tensor over bytes (`UntypedStorage`), for types without a storage class."""
    if not isinstance(dtype, Name) or dtype.name not in _TORCH_DTYPES:
        raise InputError(f"a tensor of type {dtype}")
    kind = np.dtype(_TORCH_DTYPES[dtype.name])
    storage = dataclasses.replace(storage, dtype=kind, count=storage.count // kind.itemsize)
    return Tensor(storage, offset, tuple(shape), tuple(strides))


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *more: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *more: tensor,
    "torch.Size": lambda shape=(): tuple(shape),
    "collections.OrderedDict": lambda items=(): dict(map(tuple, items)),
    "collections.defaultdict": lambda *arguments: {},
    "builtins.set": lambda items=(): list(items),
    "__builtin__.set": lambda items=(): list(items),
    "numpy.dtype": lambda code, *more: _NumpyType(code),
    "numpy.core.multiarray.scalar": lambda dtype, data: dtype.scalar(data),
    "numpy._core.multiarray.scalar": lambda dtype, data: dtype.scalar(data),
    "_codecs.encode": lambda text, encoding: text.encode("latin1"),
}


def _arrays(content: Any, bytes_of: BytesOf, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the state dict in a file's content.

    Raises:
        InputError: no state dict, or a value in it that is not a tensor.
    """
    where, state = _state_dict(content, "")
    if state is None:
        raise InputError(f"{path}: contains no state dict")
    read = functools.lru_cache(maxsize=1)(bytes_of)  # many tensors may share one large storage
    arrays: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{path}: {where}{name} is {_kind(value)}, not a tensor")
        arrays[str(name)] = _array(value, read(value.storage.key), f"{where}{name}")
    return arrays


def _state_dict(content: Any, where: str) -> tuple[str, Mapping[Any, Any] | None]:
    """Return (its path, the state dict); an inner one takes precedence over tensors beside it, such
    as a checkpoint's `best_acc1`."""
    if not isinstance(content, dict):
        return where, None
    for key in WRAPPERS:
        inner = _state_dict(content.get(key), f"{where}{key}: ")
        if inner[1]:
            return inner
    tensors = any(isinstance(value, Tensor) for value in content.values())
    return where, content if tensors else None


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Inert) else type(value).__name__


def _array(tensor: Tensor, data: bytes, where: str) -> np.ndarray:
    """Copy the tensor's numbers to an array.

    Raises:
        InputError: it exceeds its storage, or its bytes are missing.
    """
    storage = tensor.storage
    numbers = np.frombuffer(data, storage.dtype)[storage.start : storage.start + storage.count]
    if len(numbers) != storage.count:
        raise InputError(f"{where}: {storage.count} numbers expected, {len(numbers)} present")
    shape, strides = tensor.shape, tensor.strides
    whole = math.prod(shape)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if min((tensor.offset, *shape, *strides)) < 0 or whole > len(numbers):
        raise InputError(f"{where}: exceeds its storage")
    if not whole:
        return np.zeros(shape, storage.dtype)
    if last >= len(numbers):
        raise InputError(f"{where}: exceeds its storage")
    steps = [stride * numbers.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], shape, steps)
    return view.copy()
