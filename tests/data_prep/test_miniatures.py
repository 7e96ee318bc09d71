"""The command that writes miniatures: deterministic, careful with what is there, one for each published layout."""

import pytest

from data_prep.miniature import main
from data_prep.miniatures import MINIATURES, write_miniature
from data_prep.spec import DATASETS, GENERATED_MARKER
from radnet_jax.errors import UserError

WITHOUT = {"radnet", "image_folder", "table"}  # sources of any shape: data_prep.phantom writes some


def _files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_each_published_dataset_has_one():
    ours = {n for n in DATASETS.names() if DATASETS.get(n).__module__.startswith("data_prep.")}  # not those of tests
    assert ours - WITHOUT <= set(MINIATURES.names()) | {"mixture"}


@pytest.mark.parametrize("name", ["chestxray14", "vindr_cxr", "mimic_cxr"])
def test_the_seed_alone_decides_the_bytes(name, tmp_path):
    one, two, other = (write_miniature(name, tmp_path / str(k), seed) for k, seed in enumerate((0, 0, 1)))
    assert _files(one) == _files(two)
    assert _files(one).keys() == _files(other).keys()
    assert _files(one) != _files(other)
    assert GENERATED_MARKER in _files(one)
    before = {path: path.stat().st_mtime_ns for path in one.rglob("*")}
    write_miniature(name, one)
    assert before == {path: path.stat().st_mtime_ns for path in one.rglob("*")}
    with pytest.raises(UserError, match="something else"):
        write_miniature(name, one, 1)


def test_refusals_on_the_command_line(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    for flags, text in (
        (["--dataset=chexpart", f"--out={tmp_path / 'a'}"], 'did you mean "chexpert"'),
        (["--dataset=chexpert", f"--out={tmp_path / 'full'}"], "holds something else"),
        (["--dataset=chexpert", f"--out={tmp_path / 'full' / 'thesis.doc'}"], "not a folder"),
        (["--dataset=chexpert", f"--out={tmp_path / 'full' / 'thesis.doc' / 'a'}"], "can't be written"),
        (["--dataset=chexpert"], "--out"),
        (["--dataset=chexpert", f"--out={tmp_path / 'a'}", "--seed=-1"], "0 or more"),
        (["--dataset=chexpert", f"--out={tmp_path / 'a'}", "--seed=x"], "invalid int"),
    ):
        assert main(flags) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
    assert main(["--dataset=chexpert", f"--out={tmp_path / 'a'}"]) == 0
    assert (tmp_path / "a/CheXpert-v1.0-small/train.csv").is_file()
