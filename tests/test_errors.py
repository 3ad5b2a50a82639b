import pytest

from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.errors import exit_code
from segkit.errors import nearest
from segkit.errors import writing


def raising(error):
    def tool(_):
        raise error

    return tool


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys):
    assert exit_code(raising(SegkitError("no such thing.")), None, interrupted="") == 2
    assert capsys.readouterr().err == "error: no such thing.\n"


def test_ctrl_c_says_how_to_go_on(capsys):
    assert exit_code(raising(KeyboardInterrupt()), None, interrupted="again.") == 130
    assert "interrupted: again." in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(raising(ZeroDivisionError()), None, interrupted="")


def test_success_is_zero_and_passes_the_arguments():
    seen = []
    assert exit_code(seen.append, "arguments", interrupted="") == 0
    assert seen == ["arguments"]


def test_a_failed_write_names_path_reason_and_mend():
    message = r"cannot write out.bin: No space left. Free some."
    with pytest.raises(DataError, match=message), writing("out.bin", "Free some."):
        raise OSError(28, "No space left")


def test_nearest_names_one_match_and_all_that_is_known():
    assert nearest("unt", ["unet", "fcn8s"]) == "Did you mean 'unet'? Known: fcn8s, unet."
    assert nearest("zzz", ["unet", "fcn8s"]) == "Known: fcn8s, unet."
