"""CRC-32C (Castagnoli), the checksum of LevelDB and TensorFlow, over large arrays at NumPy's speed."""

from __future__ import annotations

import functools

from jaxtyping import UInt8, UInt32
import numpy as np

_POLYNOMIAL = 0x82F63B78  # reflected
_LANES = 4096  # at most about as many
_SHORTEST = 64  # bytes of a lane: to join lanes costs more than their bytes


@functools.cache
def _table() -> UInt32[np.ndarray, " n"]:
    """What a register holds after one byte of zeros, by its last byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


def _advance(register: np.ndarray, count: int) -> np.ndarray:
    for _ in range(count):
        register = (register >> 8) ^ _table()[register & 0xFF]
    return register


@functools.cache
def _zeros(length: int) -> UInt32[np.ndarray, "4 256"]:
    """What each byte of a register becomes after `length` bytes of zeros: the register is linear in its bits."""
    if length == 1:
        bits = _advance(np.uint32(1) << np.arange(32, dtype=np.uint32), 1)
    else:
        half = _zeros(length // 2)
        bits = _shift(_shift(np.uint32(1) << np.arange(32, dtype=np.uint32), half), half)
        bits = _advance(bits, length % 2)
    set_bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return np.stack(
        [np.bitwise_xor.reduce(np.where(set_bits, bits[8 * i : 8 * i + 8], np.uint32(0)), axis=1) for i in range(4)]
    )


def _shift(register: np.ndarray, zeros: UInt32[np.ndarray, "4 256"]) -> np.ndarray:
    parts = [zeros[i][(register >> np.uint32(8 * i)) & np.uint32(0xFF)] for i in range(4)]
    return functools.reduce(np.bitwise_xor, parts)


def crc32c(data: UInt8[np.ndarray, " n"]) -> int:
    """Returns the checksum of some bytes.

    The data is cut into lanes, whose registers advance side by side; they are joined by the linearity of the code.
    """
    length = max(len(data) // _LANES, _SHORTEST)
    lanes = len(data) // length
    body, rest = data[: lanes * length].reshape(lanes, length), data[lanes * length :]
    register = np.zeros(lanes, np.uint32)
    table = _table()
    for column in np.ascontiguousarray(body.T) if len(data) < 2**20 else (body[:, i] for i in range(length)):
        register = (register >> 8) ^ table[(register ^ column) & 0xFF]
    total = np.array(0xFFFFFFFF, np.uint32)
    zeros = _zeros(length)
    for lane in register:
        total = _shift(total, zeros) ^ lane
    out = int(total)
    for byte in rest.tolist():
        out = (out >> 8) ^ int(table[(out ^ byte) & 0xFF])
    return out ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    """Returns a checksum as it is stored beside the data that it is of (leveldb/util/crc32c.h)."""
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF
