"""Compiled programs are let go of before the process has no mappings left."""

import subprocess
import sys

import pytest

from radnet_jax import programs
from tests.tiny import ROOT

SCRIPT = """
import jax, jax.numpy as jnp
from radnet_jax import programs
kept = [jax.jit(lambda x, i=i: jnp.sin(x @ x * i).sum()) for i in range(60)]
x = jnp.ones((8, 8))
before = programs.count_mappings()
first = [float(f(x)) for f in kept]
held = programs.count_mappings()
assert not programs.let_go(limit=held)
assert programs.let_go(limit=held - 1)
after = programs.count_mappings()
assert [float(f(x)) for f in kept] == first
print(before, held, after)
"""


@pytest.mark.skipif(not programs.count_mappings(), reason="this system does not tell a process its mappings")
def test_what_is_let_go_of_gives_its_mappings_back():
    env = {"JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    before, held, after = map(int, done.stdout.split())
    assert held > before + 60
    assert after < before + (held - before) / 2
