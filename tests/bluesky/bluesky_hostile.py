"""Pickles that no pickler writes, assembled by hand: each named by what it tries."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import numpy as np

from streamrecon.bluesky import pickles

P = b"\x80\x04"
END = b"."


def glob(name: str) -> bytes:
    """The operation that asks for a name."""
    module, _, item = name.rpartition(".")
    return f"c{module}\n{item}\n".encode()


def text(value: str) -> bytes:
    """The operation that puts a text."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def raw(value: bytes) -> bytes:
    """The operation that puts bytes."""
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    """The operation that puts a number."""
    data = value.to_bytes((value.bit_length() >> 3) + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def call(function: bytes, *arguments: bytes) -> bytes:
    """The operations that call."""
    return function + b"(" + b"".join(arguments) + b"tR"


def dtype_of(
    description: str, state: bytes = b"K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
) -> bytes:
    """The operations that make a dtype."""
    return call(glob("numpy.dtype"), text(description), b"\x89", b"\x88") + (b"(" + state + b"tb" if state else b"")


def frombuffer(data: bytes, dtype: bytes, *shape: int, order: str = "C") -> bytes:
    """The operations that make an array of a buffer."""
    lengths = b"(" + b"".join(map(number, shape)) + b"t"
    return call(glob("numpy._core.numeric._frombuffer"), raw(data), dtype, lengths, text(order))


def reconstruct(state: bytes) -> bytes:
    """The operations that make a blank array and fill it."""
    blank = call(glob("numpy._core.multiarray._reconstruct"), glob("numpy.ndarray"), b"K\x00\x85", raw(b"b"))
    return blank + b"(" + state + b"tb"


def time_of(unit: bytes, count: bytes) -> bytes:
    """The operations that make a dtype of times."""
    state = b"K\x04" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00N("
    return dtype_of("M8", state + unit + count + b"K\x01K\x01t\x86")


F8 = dtype_of("f8")
DEEP = b")" + b"\x85" * 200_000
BOMB = b"]q\x000" + b"".join(b"](h%ch%ceq%c0" % (i, i, i + 1) for i in range(60)) + b"h\x3c"

HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no end": P,
    "only an end": P + END,
    "a newer protocol": b"\x80\x06N.",
    "something after the end": P + b"N.N",
    "an unknown operation": P + b"\xff.",
    "a persistent id": P + b"Pid\n.",
    "a binary persistent id": P + b"NQ.",
    "an extension": P + b"\x82\x01.",
    "an extension of 2 bytes": P + b"\x83\x01\x00.",
    "an extension of 4 bytes": P + b"\x84\x01\x00\x00\x00.",
    "an out-of-band buffer": P + b"\x97.",
    "a read-only buffer": P + b"N\x98.",
    "an old instance": P + b"(ios\nsystem\n.",
    "an old object": P + b"(" + glob("os.system") + b"o.",
    "a textual integer": P + b"I" + b"9" * 100_000 + b"\n.",
    "a textual long": P + b"L" + b"9" * 100_000 + b"L\n.",
    "a textual float": P + b"F1e999999999\n.",
    "a textual string": P + b"S'a'\n.",
    "a textual unicode": P + b"V\\ud800\n.",
    "a textual put": P + b"Np99999999999999999999\n.",
    "a textual get": P + b"g0\n.",
    "a copied item": P + b"N2.",
    "a frame that is not there": P + b"\x95" + b"\xff" * 8 + b"N.",
    "a frame of 2 GB": P + b"\x95" + struct.pack("<Q", 1 << 31) + b"N.",
    "bytes of 2 GB": P + b"B" + struct.pack("<I", 1 << 31) + b".",
    "bytes of 2^63": P + b"\x8e" + struct.pack("<Q", 1 << 63) + b".",
    "a bytearray of 2 GB": P + b"\x96" + struct.pack("<Q", 1 << 31) + b".",
    "a text of 2^62": P + b"\x8d" + struct.pack("<Q", 1 << 62) + b".",
    "a text of 4 GB": P + b"X" + b"\xff" * 4 + b".",
    "a number of 2 GB": P + b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b".",
    "a number of negative length": P + b"\x8b\xff\xff\xff\xff.",
    "a number of 100 kB": P + b"\x8b" + struct.pack("<i", 100_000) + b"\x01" * 100_000 + b".",
    "a text that is not UTF-8": P + b"X\x01\x00\x00\x00\xff.",
    "a text of surrogates": P + text("\ud800") + END,
    "a key of surrogates": P + b"}" + text("\udfff") + b"Ns.",
    "a thing that is not remembered": P + b"h\x05.",
    "another that is not": P + b"j\xff\xff\xff\xff.",
    "remembering nothing": P + b"q\x00.",
    "remembering the mark's nothing": P + b"(\x94.",
    "a mark that is not there": P + b"t.",
    "items without a mark": P + b"]NNe.",
    "popping nothing": P + b"0.",
    "appending to nothing": P + b"Na.",
    "appending to a tuple": P + b")Na.",
    "appending to a number": P + b"K\x01(NNe.",
    "an item of a list": P + b"]NNs.",
    "items in a list": P + b"](NNu.",
    "a key without a value": P + b"}(Nu.",
    "items in a builder": P + glob("builtins.set") + b"(NNu.",
    "appending to a builder": P + glob("builtins.set") + b"(NNe.",
    "adding to a list": P + b"](N\x90.",
    "a list for a key": P + b"}]Ns.",
    "a tuple for a key": P + b"})Ns.",
    "a deep tuple for a key": P + b"}" + DEEP + b"Ns.",
    "a deep tuple in a set": P + b"\x8f(" + DEEP + b"\x90.",
    "a deep tuple in a frozen set": P + b"(" + DEEP + b"\x91.",
    "a deep tuple in a made set": P + call(glob("builtins.set"), b"]" + DEEP + b"a") + END,
    "a complex number for a key": P + b"}" + call(glob("builtins.complex"), b"G" + bytes(8), b"G" + bytes(8)) + b"Ns.",
    "a large number for a key": P + b"}" + number(1 << 70) + b"Ns.",
    "a list in a set": P + b"\x8f(]\x90.",
    "a deep tuple": P + DEEP + END,
    "deep lists": P + b"]" * 1000 + b"a" * 999 + END,
    "deep dicts": P + b"}N" * 1000 + b"N" + b"s" * 1000 + END,
    "marks within marks": P + b"(" * 100_000 + b"t" * 100_000 + END,
    "a list that holds itself": P + b"]q\x00h\x00a.",
    "a dict that holds itself": P + b"}q\x00Nh\x00s.",
    "an unknown thing that holds itself": P + glob("a.b") + b")Rq\x00(h\x00e.",
    "one list 2^60 times": P + BOMB + END,
    "one text a million times": P + text("x" * 1000) + b"q\x00](" + b"h\x00" * 1_000_000 + b"e.",
    "one set made over and over": P + b"](" + b"".join(map(number, range(2000))) + b"eq\x00"
    + b"(" + (glob("builtins.set") + b"h\x00\x85R") * 2000 + b"t.",
    "one text encoded over and over": P + text("x" * 100_000) + b"q\x00" + text("latin1") + b"\x86q\x010"
    + b"(" + (glob("_codecs.encode") + b"h\x01R") * 10_000 + b"t.",
    "one buffer in many arrays": P + raw(bytes(1_000_000)) + b"q\x00" + dtype_of("b1") + b"q\x01"
    + number(1_000_000) + b"\x85q\x02" + text("C") + b"q\x03000"
    + glob("numpy._core.numeric._frombuffer") + b"q\x04(h\x00h\x01h\x02h\x03tq\x0500("
    + b"h\x04h\x05R" * 5_000 + b"t.",
    "one text in many scalars": P + dtype_of("S1000000", b"") + raw(bytes(1_000_000)) + b"\x86q\x000("
    + (glob("numpy.core.multiarray.scalar") + b"h\x00R") * 5_000 + b"t.",
    "one bytearray over and over": P + raw(bytes(1_000_000)) + b"\x85q\x000("
    + (glob("builtins.bytearray") + b"h\x00R") * 5_000 + b"t.",
    "too many steps": P + b"N0" * (pickles.STEPS_LIMIT // 2 + 1) + b"N.",
    "sets by the million": P + b"\x8f" * (pickles.STEPS_LIMIT // 2) + END,
    "dicts by the million": P + b"}" * (pickles.STEPS_LIMIT + 1) + END,
    "a name that is too long": P + b"c" + b"a" * 1000 + b"\nb\n.",
    "a name that is not text": P + b"NN\x93.",
    "a long name from the stack": P + text("a" * 1000) + text("b") + b"\x93.",
    "a name that does not end": P + b"cos",
    "calling a number": P + b"K\x01)R.",
    "calling a text": P + text("os.system") + b")R.",
    "calling with a list": P + glob("os.system") + b"]R.",
    "calling with too much": P + call(glob("builtins.complex"), b"N", b"N", b"N", b"N") + END,
    "new of a number": P + b"K\x01)\x81.",
    "new with keywords": P + glob("builtins.set") + b")}NNs\x92.",
    "new with keywords that are an array": P + glob("builtins.set") + b")" + frombuffer(bytes(16), F8, 2) + b"\x92.",
    "the state of a builder": P + glob("builtins.set") + b"}b.",
    "a state of nothing": P + b"Nb.",
    "an encoding by name": P + call(glob("_codecs.encode"), text("a"), text("zip")) + END,
    "an encoding that is a deep tuple": P + call(glob("_codecs.encode"), text("a"), DEEP) + END,
    "encoding what latin1 has not": P + call(glob("_codecs.encode"), text("\u20ac"), text("latin1")) + END,
    "encoding bytes": P + call(glob("_codecs.encode"), raw(b"a"), text("latin1")) + END,
    "bytes of a number": P + call(glob("builtins.bytes"), b"J\x00\x00\x00\x7f") + END,
    "a bytearray of a number": P + call(glob("builtins.bytearray"), b"J\x00\x00\x00\x7f") + END,
    "a set of a text": P + call(glob("builtins.set"), text("abc")) + END,
    "a complex number of texts": P + call(glob("builtins.complex"), text("1"), text("2")) + END,
    "a complex number of one text": P + call(glob("builtins.complex"), text("1")) + END,
    "a time of month 13": P + call(glob("datetime.datetime"), raw(b"\x07\xe8\x0d\x01" + bytes(6))) + END,
    "a time of hour 255": P + call(glob("datetime.datetime"), raw(b"\x07\xe8\x01\x01\xff" + bytes(5))) + END,
    "a time of day 255": P + call(glob("datetime.datetime"), raw(b"\x07\xe8\x01\xff" + bytes(6))) + END,
    "a time of 3 bytes": P + call(glob("datetime.datetime"), raw(b"abc")) + END,
    "a time in a zone of text": P + call(glob("datetime.datetime"), raw(b"\x07\xe8\x01\x01" + bytes(6)), text("UTC")) + END,
    "a date of month 0": P + call(glob("datetime.date"), raw(b"\x07\xe8\x00\x01")) + END,
    "a timedelta of texts": P + call(glob("datetime.timedelta"), text("1"), b"K\x00", b"K\x00") + END,
    "a timedelta of 10^80 days": P + call(glob("datetime.timedelta"), number(10**80), b"K\x00", b"K\x00") + END,
    "a zone of two days": P + call(glob("datetime.timezone"), call(glob("datetime.timedelta"), b"K\x02K\x00K\x00")) + END,
    "a zone named by surrogates": P
    + call(glob("datetime.timezone"), call(glob("datetime.timedelta"), b"K\x00K\x00K\x00"), text("\ud800")) + END,
    "a blank array": P + call(glob("numpy.core.multiarray._reconstruct"), glob("numpy.ndarray"), b"K\x00\x85", raw(b"b")) + END,
    "a blank array in a list": P + b"]"
    + call(glob("numpy.core.multiarray._reconstruct"), glob("numpy.ndarray"), b"K\x00\x85", raw(b"b")) + b"a.",
    "a blank array of another type": P
    + call(glob("numpy.core.multiarray._reconstruct"), glob("numpy.matrix"), b"K\x00\x85", raw(b"b")) + END,
    "an array by its type": P + call(glob("numpy.ndarray"), b"J\x00\x00\x00\x7f\x85") + END,
    "an array of too few bytes": P + reconstruct(b"K\x01" + number(1000) + b"\x85" + F8 + b"\x89" + raw(bytes(8))) + END,
    "an array of too many bytes": P + reconstruct(b"K\x01K\x01\x85" + F8 + b"\x89" + raw(bytes(16))) + END,
    "an array of a huge shape": P + reconstruct(b"K\x01" + number(1 << 61) * 3 + b"\x87" + F8 + b"\x89" + raw(bytes(8))) + END,
    "an array of a shape that overflows to 0": P
    + reconstruct(b"K\x01" + number(1 << 32) * 2 + b"\x86" + F8 + b"\x89" + raw(b"")) + END,
    "an empty array of 2^40 rows": P + reconstruct(b"K\x01" + number(1 << 40) + b"K\x00\x86" + F8 + b"\x89" + raw(b"")) + END,
    "an array of a negative shape": P + reconstruct(b"K\x01" + number(-1) + b"\x85" + F8 + b"\x89" + raw(bytes(8))) + END,
    "an array of a shape of floats": P + reconstruct(b"K\x01G" + bytes(8) + b"\x85" + F8 + b"\x89" + raw(b"")) + END,
    "an array of a shape of an array": P + reconstruct(b"K\x01" + frombuffer(bytes(8), F8, 1) + F8 + b"\x89" + raw(b"")) + END,
    "an array of 100 dimensions": P + reconstruct(b"K\x01(" + b"K\x01" * 100 + b"t" + F8 + b"\x89" + raw(bytes(8))) + END,
    "an array of a list": P + reconstruct(b"K\x01K\x01\x85" + F8 + b"\x89]Na") + END,
    "an array of a text": P + reconstruct(b"K\x01K\x01\x85" + F8 + b"\x89" + text("abcdefgh")) + END,
    "an array whose dtype is a text": P + reconstruct(b"K\x01K\x01\x85" + text("f8") + b"\x89" + raw(bytes(8))) + END,
    "an array with a state of 3": P + reconstruct(b"K\x01K\x01K\x01") + END,
    "an array of texts of no length": P + frombuffer(b"", dtype_of("U0", b""), 1 << 40) + END,
    "an array of objects": P + frombuffer(bytes(8), dtype_of("O8", b""), 1) + END,
    "an array of structures": P + frombuffer(bytes(8), dtype_of("V8", b""), 1) + END,
    "an array of long doubles": P + frombuffer(bytes(16), dtype_of("f16", b""), 1) + END,
    "an array of a dtype by commas": P + frombuffer(bytes(16), dtype_of("i8,O", b""), 1) + END,
    "an array of a dtype with a shape": P + frombuffer(bytes(16), dtype_of("(2,)f8", b""), 1) + END,
    "an array of texts of 4 GB": P + frombuffer(b"", dtype_of("U1000000000", b""), 0) + END,
    "an array of no dtype": P + call(glob("numpy.dtype"), b"N", b"\x89", b"\x88") + END,
    "a dtype of a bomb": P + call(glob("numpy.dtype"), BOMB, b"\x89", b"\x88") + END,
    "a dtype of a deep tuple": P + call(glob("numpy.dtype"), DEEP, b"\x89", b"\x88") + END,
    "a dtype with fields": P + dtype_of("f8", b"K\x03" + text("<") + b"N" + text("a") + b"\x85}K\x08K\x08K\x00") + END,
    "a dtype with a subarray": P + dtype_of("f8", b"K\x03" + text("<") + b")NNK\x08K\x08K\x00") + END,
    "a dtype of another size": P + dtype_of("f8", b"K\x03" + text("<") + b"NNNK\x40K\x08K\x00") + END,
    "a dtype whose size is a bomb": P + dtype_of("f8", b"K\x03" + text("<") + b"NNN" + BOMB + b"K\x08K\x00") + END,
    "a dtype of no byte order": P + dtype_of("f8", b"K\x03" + text("x") + b"NNNK\x08K\x08K\x00") + END,
    "a dtype whose byte order is an array": P
    + dtype_of("f8", b"K\x03" + frombuffer(bytes(16), F8, 2) + b"NNNK\x08K\x08K\x00") + END,
    "a dtype with a state of 2": P + dtype_of("f8", b"K\x03K\x01") + END,
    "a time of no unit": P + frombuffer(bytes(8), time_of(raw(b"zz"), b"K\x01"), 1) + END,
    "a time whose unit is a deep tuple": P + frombuffer(bytes(8), time_of(DEEP, b"K\x01"), 1) + END,
    "a time of 0 units": P + frombuffer(bytes(8), time_of(raw(b"s"), b"K\x00"), 1) + END,
    "bools that are neither": P + frombuffer(b"\x02", dtype_of("b1", b""), 1) + END,
    "texts of no characters": P + frombuffer(b"\xff\xff\xff\x7f", dtype_of("U1", b""), 1) + END,
    "texts of surrogates": P + frombuffer(struct.pack("<I", 0xD800), dtype_of("U1", b""), 1) + END,
    "an array in no order": P + frombuffer(bytes(8), F8, 1, order="Z") + END,
    "an array whose axes are missing": P + frombuffer(bytes(8), F8, 1, order="K") + END,
    "an array with axes that are not its": P + call(
        glob("numpy._core.numeric._frombuffer"), raw(bytes(8)), F8, b"K\x01\x85", text("K"), b"K\x05\x85"
    ) + END,
    "a scalar of too few bytes": P + call(glob("numpy.core.multiarray.scalar"), F8, raw(b"abc")) + END,
    "a scalar of an object": P + call(glob("numpy.core.multiarray.scalar"), dtype_of("O", b""), b"N") + END,
    "a scalar without bytes": P + call(glob("numpy.core.multiarray.scalar"), F8) + END,
    "a document of an object array": pickle.dumps({"a": np.array([None])}),
    "a document of a structured array": pickle.dumps({"a": np.zeros(2, "i4,f8")}),
    "a document that holds itself": b"",
}  # fmt: skip
_endless: dict[str, Any] = {}
_endless["self"] = _endless
HOSTILE["a document that holds itself"] = pickle.dumps(_endless)

REASONS = {
    "something after the end": "ends at byte",
    "a frame of 2 GB": "a frame of 2147483648 bytes",
    "bytes of 2 GB": "ends within",
    "a bytearray of 2 GB": "ends within",
    "a text of 2^62": "ends within",
    "a number of 2 GB": "ends within",
    "a number of 100 kB": "at most 255",
    "a deep tuple for a key": "a key is a tuple",
    "a deep tuple": "nested deeper",
    "a list that holds itself": "nested deeper",
    "one list 2^60 times": "much larger than its message",
    "one text a million times": "much larger than its message",
    "one set made over and over": "2000000 steps",
    "one text encoded over and over": "2000000 steps",
    "one buffer in many arrays": "2000000 steps",
    "one text in many scalars": "2000000 steps",
    "one bytearray over and over": "2000000 steps",
    "too many steps": "2000000 steps",
    "an array of too few bytes": "and float64 has 8 bytes",
    "an array of too many bytes": "and float64 has 16 bytes",
    "an array of a huge shape": "and float64 has 8 bytes",
    "an array of a shape that overflows to 0": "and float64 has 0 bytes",
    "an array of texts of no length": "and <U0 has 0 bytes",
    "an empty array of 2^40 rows": "an empty array spans",
    "a scalar of too few bytes": "a scalar of float64 has 3 bytes",
    "a dtype of a bomb": "dtype a list",
    "a blank array in a list": "no contents",
}
"""What some are refused for, where several guards stand one behind the other."""
