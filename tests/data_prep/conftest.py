"""One secret for all builds of the tests, as a group has one; a test of the refusal takes it away."""

import pytest

from data_prep.hashing import SALT_VARIABLE


@pytest.fixture(autouse=True, scope="session")
def secret(tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "salt"
    path.write_bytes(b"the one secret of the tests, no secret")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SALT_VARIABLE, str(path))
        yield path
