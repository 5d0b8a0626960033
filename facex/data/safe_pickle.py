"""A reader of pickle streams that never calls, imports or looks up anything that the stream names.

It interprets the opcodes by itself, on a stack of plain values. Objects are made only for the short list of globals in
`facex.data.pickle_values`; every other global and every opcode that could reach code (INST, OBJ, NEWOBJ, EXT, PERSID,
...) raises. Memory and time grow linearly with the file: lengths are compared with the bytes that are left before
anything is allocated, the memo is a dictionary, and nothing recurses.
"""

from __future__ import annotations

import codecs
import mmap
from collections.abc import Callable
from typing import Any

from facex.data.pickle_values import BadPickle, Calls, Opaque, UnsafePickle, build, find_global

HIGHEST_PROTOCOL = 5
MAX_STRING = 1 << 26  # bytes of one string: far above any encoded face, far below what would hurt
_MARK = object()
# Opcodes of pickle that this reader refuses by name: each can reach code, or a buffer or object outside the file.
_REFUSED = {
    0x69: "INST", 0x6F: "OBJ", 0x81: "NEWOBJ", 0x92: "NEWOBJ_EX", 0x50: "PERSID", 0x51: "BINPERSID",
    0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip


class TruncatedPickle(Exception):
    """The stream ends before its STOP opcode, or a length in it reaches beyond the end."""


class UnsupportedProtocol(Exception):
    """The stream says that it is of a protocol that does not exist yet."""


class SafeUnpickler:
    """Interprets one pickle in `data`; `position` is where it stands (after `load`, the first byte behind it)."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self._end = len(data)
        self.position = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._calls = Calls()

    def load(self) -> Any:
        """The value of the stream: None, bool, int, str, bytes, list, tuple, or one of pickle_values' classes.

        Raises TruncatedPickle, UnsafePickle (naming the global or opcode), UnsupportedProtocol, BadPickle.
        """
        while True:
            opcode = self._data[self.position] if self.position < self._end else self._take(1)[0]
            self.position += 1
            if opcode == 0x2E:  # STOP
                return self._pop()
            handler = _OPCODES.get(opcode)
            if handler is None:
                if opcode in _REFUSED:
                    raise UnsafePickle(f"opcode {_REFUSED[opcode]}{self._named(opcode)}")
                raise BadPickle(f"byte 0x{opcode:02x} is no pickle opcode")
            handler(self)

    # -- the stream -------------------------------------------------------------------------------------------------
    def _take(self, n: int) -> bytes:
        if n < 0 or n > self._end - self.position:
            raise TruncatedPickle(f"{n} bytes wanted at offset {self.position}, {self._end - self.position} left")
        if n > MAX_STRING:
            raise BadPickle(f"a string of {n} bytes, more than any image")
        start = self.position
        self.position += n
        return bytes(self._data[start : self.position])

    def _uint(self, n: int) -> int:
        return int.from_bytes(self._take(n), "little")

    def _line(self) -> bytes:
        end = self._data.find(b"\n", self.position)
        if end < 0:
            raise TruncatedPickle(f"no end of line after offset {self.position}")
        line = self._take(end - self.position)
        self.position += 1
        return line

    def _named(self, opcode: int) -> str:
        """The global behind a refused opcode, where the stream says it right there."""
        if opcode != 0x69:
            return ""
        try:
            return " of global " + ".".join(self._line()[:80].decode("latin1") for _ in range(2))
        except TruncatedPickle:
            return ""

    # -- the stack --------------------------------------------------------------------------------------------------
    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise BadPickle("the stack is empty")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise BadPickle("the stack is empty")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        """The values above the topmost mark, which goes too. The search costs what was pushed: linear altogether."""
        for i in range(len(self._stack) - 1, -1, -1):
            if self._stack[i] is _MARK:
                items = self._stack[i + 1 :]
                del self._stack[i:]
                return items
        raise BadPickle("no mark on the stack")

    def _many(self, n: int) -> list[Any]:
        items = [self._pop() for _ in range(n)]
        return items[::-1]

    # -- opcodes with more than a line to say -------------------------------------------------------------------------
    def _proto(self) -> None:
        version = self._take(1)[0]
        if version > HIGHEST_PROTOCOL:
            raise UnsupportedProtocol(f"unsupported pickle protocol {version} (up to {HIGHEST_PROTOCOL} are read)")

    def _frame(self) -> None:
        size = self._uint(8)
        if size > self._end - self.position:
            raise TruncatedPickle(
                f"a frame of {size} bytes at offset {self.position}, {self._end - self.position} left"
            )

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise BadPickle(f"memo entry {index} is read before it is written")
        self._push(self._memo[index])

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _number(self, text: bytes) -> int:
        if len(text) > 32:
            raise BadPickle("a number of more than 32 digits")
        try:
            return int(text.strip())
        except ValueError:
            raise BadPickle(f"not a number: {text!r}") from None

    def _int(self) -> None:
        line = self._line()
        self._push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else self._number(line))

    def _long(self) -> None:
        self._push(self._number(self._line().rstrip(b"L")))

    def _float(self) -> None:
        self._line()
        self._push(Opaque("float"))

    def _binfloat(self) -> None:
        self._take(8)
        self._push(Opaque("float"))

    def _string(self) -> None:
        """Python 2's str in protocol 0: quoted, with escapes."""
        line = self._line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise BadPickle("a STRING without quotes")
        try:
            self._push(codecs.escape_decode(line[1:-1])[0])
        except ValueError:
            raise BadPickle("a STRING with a broken escape") from None

    def _unicode(self, data: bytes, encoding: str = "utf-8") -> None:
        try:
            self._push(data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict"))
        except UnicodeDecodeError:
            raise BadPickle("text that is not valid Unicode") from None

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise BadPickle("APPEND to something that is not a list")

    def _pop_any(self) -> None:
        """POP drops a value, or a mark."""
        if not self._stack:
            raise BadPickle("the stack is empty")
        self._stack.pop()

    def _global(self) -> None:
        module, name = (self._line().decode("latin1") for _ in range(2))
        self._push(find_global(module, name))

    def _stack_global(self) -> None:
        module, name = self._many(2)
        self._push(find_global(module, name))

    def _reduce(self) -> None:
        function, arguments = self._many(2)
        self._push(self._calls.reduce(function, arguments))

    def _build(self) -> None:
        state = self._pop()
        build(self._top(), state)

    def _opaque_items(self, n: int | None) -> None:
        """Items that go into a dict or a set: dropped, since no verification set holds one."""
        if n is None:
            self._pop_mark()
        else:
            self._many(n)
        if not isinstance(self._top(), Opaque):
            raise BadPickle("items for something that is neither a dict nor a set")

    def _opaque_of_mark(self, name: str) -> None:
        self._pop_mark()
        self._push(Opaque(name))


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


Handler = Callable[[SafeUnpickler], Any]
_OPCODES: dict[int, Handler] = {
    ord("("): lambda s: s._push(_MARK),
    ord("0"): SafeUnpickler._pop_any,
    ord("1"): lambda s: s._pop_mark(),
    ord("2"): lambda s: s._push(s._top()),
    ord("N"): lambda s: s._push(None),
    0x88: lambda s: s._push(True),
    0x89: lambda s: s._push(False),
    # numbers
    ord("I"): SafeUnpickler._int,
    ord("L"): SafeUnpickler._long,
    ord("F"): SafeUnpickler._float,
    ord("G"): SafeUnpickler._binfloat,
    ord("J"): lambda s: s._push(_signed(s._take(4))),
    ord("K"): lambda s: s._push(s._uint(1)),
    ord("M"): lambda s: s._push(s._uint(2)),
    0x8A: lambda s: s._push(_signed(s._take(s._uint(1)))),
    0x8B: lambda s: s._push(_signed(s._take(s._uint(4)))),
    # byte strings (Python 2's str, Python 3's bytes and bytearray) and text
    ord("S"): SafeUnpickler._string,
    ord("T"): lambda s: s._push(s._take(s._uint(4))),
    ord("U"): lambda s: s._push(s._take(s._uint(1))),
    ord("B"): lambda s: s._push(s._take(s._uint(4))),
    ord("C"): lambda s: s._push(s._take(s._uint(1))),
    0x8E: lambda s: s._push(s._take(s._uint(8))),
    0x96: lambda s: s._push(s._take(s._uint(8))),
    ord("V"): lambda s: s._unicode(s._line(), "raw-unicode-escape"),
    ord("X"): lambda s: s._unicode(s._take(s._uint(4))),
    0x8C: lambda s: s._unicode(s._take(s._uint(1))),
    0x8D: lambda s: s._unicode(s._take(s._uint(8))),
    # containers
    ord("]"): lambda s: s._push([]),
    ord(")"): lambda s: s._push(()),
    ord("}"): lambda s: s._push(Opaque("dict")),
    0x8F: lambda s: s._push(Opaque("set")),
    ord("l"): lambda s: s._push(s._pop_mark()),
    ord("t"): lambda s: s._push(tuple(s._pop_mark())),
    ord("d"): lambda s: s._opaque_of_mark("dict"),
    0x91: lambda s: s._opaque_of_mark("frozenset"),
    0x85: lambda s: s._push(tuple(s._many(1))),
    0x86: lambda s: s._push(tuple(s._many(2))),
    0x87: lambda s: s._push(tuple(s._many(3))),
    ord("a"): lambda s: s._append([s._pop()]),
    ord("e"): lambda s: s._append(s._pop_mark()),
    ord("s"): lambda s: s._opaque_items(2),
    ord("u"): lambda s: s._opaque_items(None),
    0x90: lambda s: s._opaque_items(None),
    # memo
    ord("p"): lambda s: s._put(s._number(s._line())),
    ord("q"): lambda s: s._put(s._uint(1)),
    ord("r"): lambda s: s._put(s._uint(4)),
    0x94: lambda s: s._put(len(s._memo)),
    ord("g"): lambda s: s._get(s._number(s._line())),
    ord("h"): lambda s: s._get(s._uint(1)),
    ord("j"): lambda s: s._get(s._uint(4)),
    # framing, and the listed globals
    0x80: SafeUnpickler._proto,
    0x95: SafeUnpickler._frame,
    ord("c"): SafeUnpickler._global,
    0x93: SafeUnpickler._stack_global,
    ord("R"): SafeUnpickler._reduce,
    ord("b"): SafeUnpickler._build,
}
