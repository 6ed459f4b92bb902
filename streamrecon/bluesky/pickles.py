"""Pickles of documents, read without running anything that they name.

Pickle is what Bluesky publishes unless told otherwise, and a pickle is a program. This reads the part of its language in which
documents are written and refuses the rest. A name in it never becomes what it names: it is looked up among a few builders of
ours, and is inert where it is none of them. Sizes are checked against the bytes that are there, work and memory are bounded by
counting, and what comes out is copied into plain values (`plain`).
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, ClassVar, cast

import numpy as np

from streamrecon.bluesky.builders import (
    BUILDERS,
    Blank,
    Builder,
    PendingDtype,
    fill,
    make_frozenset,
    make_set,
    with_state,
)
from streamrecon.bluesky.plain import Inert, check_key, plain, tell_unknown
from streamrecon.errors import MessageError

STEPS_LIMIT = 2_000_000
"""Operations of one pickle, about a second of work. A million numbers in a list take as many."""
INTEGER_LIMIT = 255
"""Bytes of a number."""
NAME_LIMIT = 256
"""Bytes of a module's name, and of a name in it."""

Operation = Callable[["_Reader"], None]


def load(data: bytes) -> Any:
    """Read one pickle of protocol 2 to 5.

    Parameters
    ----------
    data
        The whole pickle; arrays that come out may share it, and are read-only then.

    Returns
    -------
    Plain Python values, NumPy arrays and NumPy scalars. Of a thing of any other type that was made of one number or text (a
    member of an enumeration), that; of one that holds items (a `defaultdict`), the items; else its type's name as text.

    Raises
    ------
    MessageError
        If it is not a pickle, or one that no document is written as: whatever the bytes, nothing else is raised.
    """
    reader = _Reader(data)
    try:
        value = reader.load()
    except MessageError:
        raise
    except Exception as error:
        # Whatever goes wrong in reading is the fault of the bytes; what it was is told by its type.
        at = reader.at
        raise MessageError(
            f"the pickle is malformed before byte {at}: {type(error).__name__}: {str(error)[:200]}"
        ) from None
    return plain(value, len(data))


class _Reader(pickle._Unpickler):
    """The standard library's unpickler in Python, of which only operations that are listed here are used."""

    dispatch: ClassVar[dict[int, Operation]] = {}  # type: ignore[assignment]

    def __init__(self, data: bytes) -> None:
        self._data, self.at, self._steps = data, 0, 0
        self._names: dict[tuple[str, str], str] = {}
        self.memo: dict[int, Any] = {}
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0

    def load(self) -> Any:
        """Run the pickle to its end.

        Raises
        ------
        MessageError
            If it does what documents do not, or too much of it. Other errors are for the caller to translate.
        """
        try:
            while True:
                code = self.read(1)[0]
                operation = self.dispatch.get(code)
                if operation is None:
                    raise MessageError(f"the pickle has the operation {code:#04x}, which documents do not need")
                self.count(1)
                operation(self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            if self.at != len(self._data):
                raise MessageError(f"the pickle ends at byte {self.at} of {len(self._data)}") from None
            return stop.value

    def count(self, steps: int) -> None:
        """Account for work."""
        self._steps += steps
        if self._steps > STEPS_LIMIT:
            raise MessageError(f"the pickle takes more than {STEPS_LIMIT} steps")

    def read(self, nbytes: int) -> bytes:
        """The next bytes, all of which must be there."""
        start = self.at
        if nbytes > len(self._data) - start:
            raise MessageError(f"the pickle ends within {nbytes} bytes at {start}")
        self.at = start + nbytes
        return self._data[start : self.at]

    def name(self) -> str:
        """A name up to the end of its line."""
        end = self._data.find(b"\n", self.at, self.at + NAME_LIMIT + 1)
        if end < 0:
            raise MessageError(f"a name in the pickle is longer than {NAME_LIMIT} bytes")
        text = self._data[self.at : end].decode()
        self.at = end + 1
        return text

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name: never what it names."""
        if len(module) > NAME_LIMIT or len(name) > NAME_LIMIT:
            raise MessageError(f"a name in the pickle is longer than {NAME_LIMIT} characters")
        builder = BUILDERS.get((module, name))
        if builder is None:
            # One text for each name, however often the pickle asks for it.
            known = self._names.get((module, name)) or self._names.setdefault((module, name), f"{module}.{name}")
            tell_unknown(known)
            return Inert(known)
        return builder

    def pop_mark(self) -> list[Any]:
        """The items since the last mark."""
        items = self.stack
        self.stack = self.metastack.pop()
        self.append = self.stack.append
        return items

    def call(self, function: Any, arguments: Any) -> Any:
        """What a builder makes of its arguments; what stands for the thing, where it is of an unknown type."""
        if type(arguments) is not tuple:
            raise MessageError(f"the pickle calls with a {type(arguments).__name__}")
        if isinstance(function, Builder):
            return function.build(self.count, *arguments)
        if not isinstance(function, Inert):
            raise MessageError(f"the pickle calls a {type(function).__name__}")
        if len(arguments) == 1 and isinstance(arguments[0], str | bytes | int | float | complex | np.generic):
            return arguments[0]
        return Inert(function.name)


# Operations. What a pickle of protocol 2 to 5 has no use for is missing: the textual ones of protocol 0 (which a publisher that
# chose it is told from the first bytes), persistent ids, the registry of extensions, out-of-band buffers, classes of Python 2.


def _frame(reader: _Reader) -> None:
    (size,) = struct.unpack("<Q", reader.read(8))
    if size > len(reader._data) - reader.at:
        raise MessageError(f"the pickle has a frame of {size} bytes; {len(reader._data) - reader.at} are left")


def _sized(form: str, make: Callable[[bytes], Any]) -> Operation:
    width = struct.calcsize(form)

    def operation(reader: _Reader) -> None:
        (size,) = struct.unpack(form, reader.read(width))
        reader.append(make(reader.read(size)))

    return operation


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _integer(data: bytes) -> int:
    if len(data) > INTEGER_LIMIT:
        raise MessageError(f"the pickle has a number of {len(data)} bytes; at most {INTEGER_LIMIT} are allowed")
    return int.from_bytes(data, "little", signed=True)


def _set(reader: _Reader) -> None:
    reader.append(make_set(reader.count))


def _frozenset(reader: _Reader) -> None:
    items = reader.pop_mark()
    reader.append(make_frozenset(reader.count, items))


def _add_items(reader: _Reader) -> None:
    items, target = reader.pop_mark(), reader.stack[-1]
    if type(target) is not set:
        raise MessageError(f"the pickle adds to a {type(target).__name__}, as if it were a set")
    for item in items:
        check_key(item)
    target.update(items)


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, Inert):
        target.items = target = target.items if isinstance(target.items, list) else []
    if type(target) is not list:
        raise MessageError(f"the pickle appends to a {type(target).__name__}")
    target.extend(items)


def _append(reader: _Reader) -> None:
    item = reader.stack.pop()
    _extend(reader.stack[-1], [item])


def _appends(reader: _Reader) -> None:
    items = reader.pop_mark()
    _extend(reader.stack[-1], items)


def _put_items(target: Any, items: list[Any]) -> None:
    if isinstance(target, Inert):
        target.items = target = target.items if isinstance(target.items, dict) else {}
    if type(target) is not dict or len(items) % 2:
        raise MessageError(f"the pickle puts {len(items)} keys and values into a {type(target).__name__}")
    keys = items[::2]
    for key in keys:
        check_key(key)
    target.update(zip(keys, items[1::2], strict=True))


def _set_item(reader: _Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    _put_items(reader.stack[-1], [key, value])


def _set_items(reader: _Reader) -> None:
    items = reader.pop_mark()
    _put_items(reader.stack[-1], items)


def _global(reader: _Reader) -> None:
    module = reader.name()
    reader.append(reader.find_class(module, reader.name()))


def _reduce(reader: _Reader) -> None:
    arguments = reader.stack.pop()
    reader.stack[-1] = reader.call(reader.stack[-1], arguments)


def _new_with_keywords(reader: _Reader) -> None:
    keywords = reader.stack.pop()
    if keywords and not isinstance(reader.stack[-2], Inert):
        raise MessageError("the pickle makes a value with keywords")
    _reduce(reader)


def _build(reader: _Reader) -> None:
    state, target = reader.stack.pop(), reader.stack[-1]
    if isinstance(target, Blank):
        reader.stack[-1] = made = fill(reader.count, state)
        for place in target.places:
            reader.memo[place] = made
        target.places.clear()
    elif isinstance(target, PendingDtype):
        target.dtype = with_state(target.dtype, state)
    elif isinstance(target, Builder):
        raise MessageError(f"the pickle sets the state of {target.name}")
    # The state of anything else is of a type that is not known: what stands for it has none.


def _memoize(reader: _Reader, place: int) -> None:
    item = reader.memo[place] = reader.stack[-1]
    if isinstance(item, Blank):
        item.places.append(place)


def _recall(reader: _Reader, place: int) -> None:
    if place not in reader.memo:
        raise MessageError(f"the pickle refers to its thing {place}, which it has not")
    reader.append(reader.memo[place])


def _placed(form: str, operation: Callable[[_Reader, int], None]) -> Operation:
    width = struct.calcsize(form)

    def run(reader: _Reader) -> None:
        operation(reader, struct.unpack(form, reader.read(width))[0])

    return run


_AS_EVER = """
    PROTO STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINFLOAT
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST EMPTY_DICT STACK_GLOBAL
"""

for _name in _AS_EVER.split():
    _code = getattr(pickle, _name)[0]
    _Reader.dispatch[_code] = cast("Operation", pickle._Unpickler.dispatch[_code])
_Reader.dispatch.update(
    {
        pickle.FRAME[0]: _frame,
        pickle.SHORT_BINBYTES[0]: _sized("<B", bytes),
        pickle.BINBYTES[0]: _sized("<I", bytes),
        pickle.BINBYTES8[0]: _sized("<Q", bytes),
        pickle.BYTEARRAY8[0]: _sized("<Q", bytearray),
        pickle.SHORT_BINUNICODE[0]: _sized("<B", _text),
        pickle.BINUNICODE[0]: _sized("<I", _text),
        pickle.BINUNICODE8[0]: _sized("<Q", _text),
        pickle.LONG1[0]: _sized("<B", _integer),
        pickle.LONG4[0]: _sized("<I", _integer),
        pickle.EMPTY_SET[0]: _set,
        pickle.FROZENSET[0]: _frozenset,
        pickle.ADDITEMS[0]: _add_items,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _appends,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.GLOBAL[0]: _global,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _new_with_keywords,
        pickle.BUILD[0]: _build,
        pickle.MEMOIZE[0]: lambda reader: _memoize(reader, len(reader.memo)),
        pickle.BINPUT[0]: _placed("<B", _memoize),
        pickle.LONG_BINPUT[0]: _placed("<I", _memoize),
        pickle.BINGET[0]: _placed("<B", _recall),
        pickle.LONG_BINGET[0]: _placed("<I", _recall),
    }
)
