"""What a pickle would do, read without doing it, so that `pickle.Unpickler` can be trusted with its memory.

The unpickler allocates what a length or an index claims, whatever the file holds. So each opcode is looked at first:
only those that a network's weights need are allowed, and none may claim more than there is.
"""

import pickletools
from typing import Any

_NEEDED = """
PROTO FRAME STOP MARK POP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE
BINBYTES SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT DICT SETITEM
SETITEMS GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET
"""
ALLOWED = frozenset(_NEEDED.split())
_INDICES = ("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET")
MOST = 2_000_000
"""Instructions in a pickle. ADM for ImageNet has some 100,000."""


def scan(file: Any, size: int, wanted: str = "") -> bool:
    """Reads one pickle from a file object of so many bytes, and leaves the file behind it. Returns whether the text
    `wanted` is in it. Raises ValueError where a pickle of weights would not be so."""
    found = False
    argument: Any
    for seen, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name not in ALLOWED:
            raise ValueError(f"it has the instruction {opcode.name}, which a network's weights do not need")
        if seen > MOST or (opcode.name in _INDICES and argument > seen):
            raise ValueError("it makes more objects than a network has")
        if opcode.name == "FRAME" and argument > size:
            raise ValueError("it ends early")
        found = found or argument == wanted
    return found
