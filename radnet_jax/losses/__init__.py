"""Losses: pure functions from arrays to a scalar, written as if one device held the whole batch."""
