import pytest

from charrnn import errors


@pytest.mark.parametrize(
  ("count", "text"), [(0, ""), (1, "0"), (3, "0, 1, 2"), (5, "0, 1, 2 and 2 more")]
)
def test_a_long_list_is_shortened(count, text):
  assert errors.some(list(map(str, range(count))), 3) == text


def test_only_an_invalid_value_of_an_option_is_an_error():
  errors.check("--num", 1, True, "must be above 0")
  with pytest.raises(errors.UserError, match=r"^--num=0: must be above 0$"):
    errors.check("--num", 0, False, "must be above 0")


@pytest.mark.parametrize(("message", "line"), [("", ""), ("\na\nb", "a"), ("a", "a")])
def test_the_first_line_of_an_error(message, line):
  assert errors.first_line(ValueError(message)) == line
