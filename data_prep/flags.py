"""Flags of a command; a bad one is one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from radnet_jax.errors import UserError


class Flags(argparse.ArgumentParser):
    """A parser that raises `UserError`, where argparse prints the usage too and exits."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, fix=f"see {self.prog} --help")
