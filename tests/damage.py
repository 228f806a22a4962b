"""Ways in which the bytes of a file go wrong, for fuzz tests."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes after one to three accidents."""
    data = whole
    for _ in range(draw(st.integers(1, 3))):
        data = draw(st.sampled_from((_flip, _delete, _insert, _duplicate, _truncate, _swap)))(draw, data)
    return data


def _span(draw: st.DrawFn, data: bytes) -> tuple[int, int]:
    start = draw(st.integers(0, len(data)))
    return start, min(len(data), start + draw(st.integers(0, 300)))


def _flip(draw: st.DrawFn, data: bytes) -> bytes:
    if not data:
        return data
    place = draw(st.integers(0, len(data) - 1))
    return data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :]


def _delete(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = _span(draw, data)
    return data[:start] + data[end:]


def _insert(draw: st.DrawFn, data: bytes) -> bytes:
    place = draw(st.integers(0, len(data)))
    return data[:place] + draw(st.binary(min_size=1, max_size=40)) + data[place:]


def _duplicate(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = _span(draw, data)
    return data[:end] + data[start:end] + data[end:]


def _truncate(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: draw(st.integers(0, len(data)))]


def _swap(draw: st.DrawFn, data: bytes) -> bytes:
    a, b = _span(draw, data)
    c, d = _span(draw, data[b:])
    return data[:a] + data[b + c : b + d] + data[b : b + c] + data[a:b] + data[b + d :]
