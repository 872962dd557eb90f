"""Frameshift's random streams a second time, from their definitions in crates/core/src/rng.rs."""

import numpy as np

MASK = 2**64 - 1


def splitmix64(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class Stream:
    def __init__(self, base):
        self.base, self.next = base, 0

    @staticmethod
    def new(seed, purpose):
        base = splitmix64(seed)
        for byte in purpose.encode():
            base = splitmix64(base ^ byte)
        return Stream(base)

    def fork(self, part):
        return Stream(splitmix64(self.base ^ splitmix64(part)))

    def bits(self):
        value = splitmix64((self.base + self.next) & MASK)
        self.next += 1
        return value

    def unit(self):
        return np.float32(self.bits() >> 40) * np.float32(2**-24)

    def range(self, low, high):
        low, high = np.float32(low), np.float32(high)
        return low + (high - low) * self.unit()

    def below(self, n):
        return (self.bits() * n) >> 64


def permutation(count, stream):
    half = max(1, -(-(count - 1).bit_length() // 2))
    keys, mask = [stream.bits() for _ in range(6)], (1 << half) - 1

    def network(value):
        left, right = value >> half, value & mask
        for key in keys:
            left, right = right, left ^ (splitmix64(key ^ right) & mask)
        return left << half | right

    def at(place):
        value = network(place)
        while value >= count:
            value = network(value)
        return value

    return [at(place) for place in range(count)]
