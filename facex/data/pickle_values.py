"""What the safe pickle reader builds in place of the objects that a file names: the allow-list and its rules.

Nothing here imports or calls what a file asks for. A listed global is a tag (`Global`); `reduce` and `build` say, for
those tags alone, what the call would have made, and make a plain value of ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple


class UnsafePickle(Exception):
    """The stream asks for something outside the allow-list; the message names the global or the opcode."""


class BadPickle(Exception):
    """The stream breaks pickle's own rules: a missing mark, an unknown memo entry, lengths that disagree."""


class Global(NamedTuple):
    """A listed global, named and never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class Opaque:
    """A value that no verification set holds (a dict, a set): kept as its name alone, to say what was found."""

    name: str


@dataclass
class DType:
    """numpy's dtype of one byte: unsigned ("u1") or boolean ("b1")."""

    code: str


@dataclass
class Array:
    """A numpy array of one-byte values: `data` is its bytes in memory order, shared with the pickle, not copied."""

    shape: tuple[int, ...] | None = None
    code: str = ""
    data: bytes = b""


ENCODE = Global("_codecs", "encode")
DTYPE = Global("numpy", "dtype")
NDARRAY = Global("numpy", "ndarray")
# NumPy 2 renamed numpy.core to numpy._core; both names occur in files.
RECONSTRUCT = {Global(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
SCALAR = {Global(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")}
FROMBUFFER = {Global(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
ALLOWED = {ENCODE, DTYPE, NDARRAY} | RECONSTRUCT | SCALAR | FROMBUFFER


def find_global(module: Any, name: Any) -> Global:
    """The tag of a listed global. Raises UnsafePickle, naming it, for every other one."""
    if isinstance(module, str) and isinstance(name, str) and Global(module, name) in ALLOWED:
        return Global(module, name)
    raise UnsafePickle(f"global {_show(module)}.{_show(name)}")


def _show(name: Any) -> str:
    """A name from a file, short and printable."""
    text = name if isinstance(name, str) else type(name).__name__
    return "".join(c if c.isprintable() else "?" for c in text[:80])


class Calls:
    """`reduce(function, arguments)` for the listed globals. One per stream: it remembers which texts were encoded, so
    that a thousand references to one text cost its memory once."""

    def __init__(self) -> None:
        self._encoded: dict[int, tuple[str, bytes]] = {}

    def reduce(self, function: Any, arguments: Any) -> Any:
        """What `function(*arguments)` stands for. Raises UnsafePickle for anything that is not listed."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise UnsafePickle(f"REDUCE of {describe(function)}")
        if function == ENCODE:
            return self._encode(arguments)
        if function == DTYPE:
            return _dtype(arguments)
        if function in RECONSTRUCT:
            return _reconstruct(arguments)
        if function in SCALAR:
            return _scalar(arguments)
        if function in FROMBUFFER:
            return _frombuffer(arguments)
        raise UnsafePickle(f"REDUCE of {function}")

    def _encode(self, arguments: tuple[Any, ...]) -> bytes:
        """`_codecs.encode(text, 'latin1')`: how Python 3 writes bytes in protocols 0 to 2."""
        if len(arguments) != 2 or arguments[1] != "latin1" or not isinstance(arguments[0], str):
            codec = arguments[1] if len(arguments) > 1 else None
            raise UnsafePickle(f"_codecs.encode with codec {_show(codec)} (only latin1 is read)")
        text = arguments[0]
        if id(text) not in self._encoded:
            try:
                self._encoded[id(text)] = (text, text.encode("latin1"))
            except UnicodeEncodeError:
                raise BadPickle("text for _codecs.encode is not latin1") from None
        return self._encoded[id(text)][1]


def build(target: Any, state: Any) -> None:
    """`target.__setstate__(state)` for arrays and dtypes. Raises UnsafePickle for anything else."""
    if isinstance(target, DType):
        # (3, byte order, subarray, names, fields, ...): only a plain one-byte type has no names and no subarray
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise UnsafePickle("BUILD of a numpy dtype with fields")
    elif isinstance(target, Array):
        _fill(target, state)
    else:
        raise UnsafePickle(f"BUILD of {describe(target)}")


def _dtype(arguments: tuple[Any, ...]) -> DType:
    code = _text(arguments[0]) if arguments else ""
    if code not in ("u1", "b1"):
        raise UnsafePickle(f"numpy dtype {_show(code)} (only u1 and b1 are read)")
    return DType(code)


def _reconstruct(arguments: tuple[Any, ...]) -> Array:
    """An empty array, filled by the BUILD that follows; a file that asks for a size here wants memory, not data."""
    if len(arguments) != 3 or arguments[0] != NDARRAY or arguments[1] != (0,):
        shape = arguments[1] if len(arguments) > 1 else None
        raise UnsafePickle(f"numpy _reconstruct of {describe(arguments[0] if arguments else None)}, {describe(shape)}")
    return Array()


def _scalar(arguments: tuple[Any, ...]) -> bool | int:
    if len(arguments) != 2 or not isinstance(arguments[0], DType):
        raise UnsafePickle("numpy scalar of something else than a dtype and bytes")
    data = _bytes(arguments[1])
    if data is None or len(data) != 1:
        raise BadPickle("a numpy scalar of one byte holds another number of bytes")
    return bool(data[0]) if arguments[0].code == "b1" and data[0] < 2 else int(data[0])


def _frombuffer(arguments: tuple[Any, ...]) -> Array:
    if len(arguments) != 4 or not isinstance(arguments[1], DType):
        raise UnsafePickle("numpy _frombuffer of something else than (buffer, dtype, shape, order)")
    array = Array()
    _set(array, arguments[2], arguments[1], arguments[0])
    return array


def _fill(array: Array, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise BadPickle("a numpy array's state is not (version, shape, dtype, order, data)")
    shape, dtype, _order, data = state[-4:]
    _set(array, shape, dtype, data)


def _set(array: Array, shape: Any, dtype: Any, data: Any) -> None:
    if not isinstance(dtype, DType):
        raise UnsafePickle(f"a numpy array whose dtype is {describe(dtype)}")
    buffer = _bytes(data)
    if buffer is None:
        raise UnsafePickle(f"a numpy array whose data is {describe(data)}")
    if not isinstance(shape, tuple) or len(shape) > 4 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise BadPickle("a numpy array's shape is not a tuple of sizes")
    if math.prod(shape) != len(buffer):
        raise BadPickle(f"a numpy array of shape {shape} comes with {len(buffer)} bytes")
    array.shape, array.code, array.data = shape, dtype.code, buffer


def _text(value: Any) -> str:
    """Python 2 writes names as byte strings."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    return value if isinstance(value, str) else type(value).__name__


def _bytes(value: Any) -> bytes | None:
    return value if isinstance(value, bytes) else None


def describe(value: Any) -> str:
    """What a value is, for an error message; never its contents, and never recursive."""
    if isinstance(value, Opaque):
        return f"a {value.name}"
    if isinstance(value, Array):
        return f"a numpy array of shape {value.shape}"
    if isinstance(value, Global):
        return f"the global {value}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, int) and abs(value) < 10**9:
        return f"the number {value}"
    return f"a value of type {type(value).__name__}"
