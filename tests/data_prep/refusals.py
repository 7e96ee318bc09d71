"""The command line refuses: exit code 2 and one line."""

from data_prep.build import main


def refused(capsys, *flags):
    """Exit code 2 and one line on stderr, which is returned."""
    assert main(list(flags)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error
