"""Files as they come back from a disk, a merge or an enemy: bytes changed, values replaced, nested, repeated, cut."""

from __future__ import annotations

import copy
import json
import struct
from typing import Any

from hypothesis import strategies as st

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 10**400, -(10**30), 1e308, 0.5, float("nan"), float("inf"),
    float("-inf"), "", " ", "a", "\0", "\ud800", "~nosuch/x", "~/x", "../../x", "/dev/zero", "/proc/self/mem",
    "-1", "1e999", "9" * 5000, "nan", "1" * 300, "\u202e", "$\\frac$", [], {}, [[]], [None], [1, 2, 3], {"a": None},
    {"": {}}, ["a"] * 50,
    {"file": "x", "format": 1}, [[0, "a"]], "exact", "soda", "cuda", "2x4", "videoaccel.models.stdit", "os.system",
)  # fmt: skip


def nested(depth: int) -> Any:
    """Lists within lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES = st.one_of(
    st.sampled_from(ODD).map(copy.deepcopy),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([50, 300, 600]).map(nested),
)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to every value in a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, one in list(items)[:40] for place in places(one, (*way, key)))]


@st.composite
def values(draw: st.DrawFn, value: Any) -> Any:
    """A value with one to three of those in it replaced, left out, renamed or added."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(places(value)))
        if not way:
            value = draw(ODD_VALUES) if draw(st.integers(0, 9)) == 0 else value
            continue
        parent = value
        for key in way[:-1]:
            parent = parent[key]
        what = draw(st.sampled_from(["replace", "replace", "replace", "drop", "more"]))
        if what == "replace":
            parent[way[-1]] = draw(ODD_VALUES)
        elif what == "drop":
            del parent[way[-1]]
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=8))] = draw(ODD_VALUES)
        else:
            parent.append(draw(ODD_VALUES))
    return value


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with some changed, taken out, put in, repeated; or cut short."""
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(0, 8))
        new = draw(
            st.sampled_from(
                [b"", b"\0", b"\xff", b"{", b"[" * 2000, b"9" * 400, b'"', b"\n", b"&a [*a]", b"\xed\xa0\x80"]
            )
        )
        what = draw(st.sampled_from(["put", "over", "cut", "twice"]))
        if what == "put":
            data = data[:at] + new + data[at:]
        elif what == "over":
            data = data[:at] + new + data[at + length :]
        elif what == "cut":
            data = data[:at]
        else:
            data = data[:at] + data[at : at + 40 * length] * 2 + data[at:]
    return data


def json_file(value: Any) -> st.SearchStrategy[bytes]:
    """Damaged files of a JSON value."""
    plain = json.dumps(value).encode()
    return st.one_of(
        values(value).map(lambda one: json.dumps(one).encode()), changed(plain), st.binary(max_size=30), st.just(plain)
    )


def safetensors_file(data: bytes, *texts: str) -> st.SearchStrategy[bytes]:
    """Damaged files of tensors whose metadata have JSON under these names."""
    size = struct.unpack("<Q", data[:8])[0]
    head, rest = json.loads(data[8 : 8 + size]), data[8 + size :]

    def whole(header: Any) -> bytes:
        raw = json.dumps(header).encode()
        return struct.pack("<Q", len(raw)) + raw + rest

    def told(name: str) -> st.SearchStrategy[bytes]:
        inside = json.loads(head["__metadata__"][name])

        def with_it(one: Any) -> bytes:
            return whole({**head, "__metadata__": {**head["__metadata__"], name: json.dumps(one)}})

        return values(inside).map(with_it)

    return st.one_of(*map(told, texts), values(head).map(whole), changed(data), st.just(data))
