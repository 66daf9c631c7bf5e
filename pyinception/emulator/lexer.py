"""Lexical pieces of PTX: what the parser matches, and literals."""

import re

from pyinception.emulator.ptx import Immediate

COMMENT = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/', re.S)
SPACE = re.compile(r"\s*")
FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"\n]*)"[^\n]*$', re.M)
LOC = re.compile(
    r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)"
    r"(?:\s*,\s*function_name\s+\S+\s*,\s*inlined_at\s+(\d+)\s+(\d+)\s+(\d+))?[^\n]*"
)
LABEL = re.compile(r"([\w$%]+)\s*:(?!:)")
STATEMENT = re.compile(r"[^;{}]*(?:\{[^{}]*\}[^;{}]*)*;")
GUARDED = re.compile(r"(?:@(!?)\s*([%\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)\Z", re.S)
INT = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?\Z")
FLOAT = re.compile(r"0([fF])([0-9a-fA-F]{8})\Z|0([dD])([0-9a-fA-F]{16})\Z")
NAME = re.compile(r"[%$A-Za-z_][\w$%.]*\Z")
NAME_OFFSET = re.compile(r"([%$A-Za-z_][\w$]*)\s*(?:([+-])\s*(-?\w+))?\Z")
SPECIAL = re.compile(
    r"%(tid|ntid|ctaid|nctaid)\.[xyz]\Z|%(laneid|warpid|nwarpid|smid|nsmid|clock|clock64|gridid)\Z"
    r"|%(lanemask_(eq|le|lt|ge|gt)|dynamic_smem_size|total_smem_size|globaltimer)\Z"
    r"|%(clusterid|nclusterid|cluster_ctaid|cluster_nctaid)\.[xyz]\Z|WARP_SZ\Z"
)
PARAM = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.(?:global|shared|const|local)\s+)?"
    r"(?:\.align\s+\d+\s+)?)?([\w$%]+)\s*(?:\[(\d+)\])?\Z"
)
VARIABLE = re.compile(
    r"((?:\.(?:visible|weak|extern|common)\s+)*)\.(shared|global|const|local|param)\s+"
    r"(?:\.attribute\([^)]*\)\s*)?(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$%]+)\s*((?:\[\d*\])*)"
    r"\s*(?:=\s*(.*))?\Z",
    re.S,
)
HEAD = re.compile(r"((?:\.(?:visible|weak|extern)\s+)*)\.(entry|func)\s*(.*)\Z", re.S)
NUMBERED = re.compile(r"(.*?)(0|[1-9]\d*)\Z")


def integer(text: str) -> int:
    """The value of a PTX integer literal (decimal, 0x, 0b, octal; an optional U)."""
    digits = text.rstrip("U")
    magnitude = digits.lstrip("-")
    if len(magnitude) > 1 and magnitude[0] == "0" and magnitude[1] not in "xXbB":
        value = int(magnitude, 8)
    else:
        value = int(magnitude, 0)
    return -value if digits.startswith("-") else value


def split(text: str) -> list[str]:
    """Pieces between top-level commas."""
    pieces, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c in "{[(":
            depth += 1
        elif c in "}])":
            depth -= 1
        elif c == "," and depth == 0:
            pieces.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return pieces + [last] if last or pieces else []


def immediate(text: str) -> Immediate | None:
    """The constant a text stands for, or None."""
    if INT.match(text):
        return Immediate(integer(text))
    match = FLOAT.match(text)
    if match:
        single, bits, _, double_bits = match.groups()
        return Immediate(int(bits or double_bits, 16), "f32" if single else "f64")
    return None
