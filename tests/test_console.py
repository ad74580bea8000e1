"""Output on a terminal, in a log, and after the reader has closed it."""

import os
import pathlib
import pty
import re
import select
import subprocess
import sys

import pytest

from charrnn import console, errors, process

PROGRAM = """
import sys, time
from charrnn import console, errors, process

def bar():
  with console.Progress() as progress:
    update = progress("reading \\x1b]0;title\\x07")
    for n in range(1, 4):
      update(n, 3, f"loss {n}")
      console.say(f"line {n}")

def table():
  with console.LiveTable() as live:
    for n in range(3):
      live.draw(console.table(["trial", "step"], [["a", str(n)]]))

if len(sys.argv) > 2:  # wait until the reader is closed
  print("ready", flush=True)
  input()
for _ in range(2):
  {"say": lambda: console.say("a line \\x1b[2J"), "bar": bar, "table": table}[sys.argv[1]]()
  time.sleep(0.1)
console.say("the end")
print("done", flush=True)
"""


def on_a_terminal(*arguments):
  """Run PROGRAM with a pseudo-terminal as stderr; return the output."""
  reader, stderr = pty.openpty()
  with subprocess.Popen(
    [sys.executable, "-c", PROGRAM, *arguments],
    stdout=subprocess.DEVNULL,
    stderr=stderr,
    env=os.environ | {"TERM": "xterm"},
  ) as process:
    os.close(stderr)
    text = b""
    while select.select([reader], [], [], 60)[0]:
      try:
        text += os.read(reader, 65536)
      except OSError:  # The program has closed the terminal.
        break
    else:
      process.kill()
  os.close(reader)
  assert process.returncode == 0
  return text.decode()


def test_a_bar_is_redrawn_below_other_lines():
  text = on_a_terminal("bar")
  assert "loss 3" in text and "100%" in text and "\x1b[2K" in text
  assert re.search(r"line 2\r\n", text)
  assert text.endswith("the end\r\n") and "\x1b]0" not in text


def test_a_live_table_is_redrawn_in_place():
  text = on_a_terminal("table")
  assert all(f"a         {n}" in text for n in range(3)) and "\x1b[1A" in text


@pytest.mark.parametrize("way", ["say", "bar", "table"])
def test_a_log_contains_plain_lines(way):
  result = subprocess.run(
    [sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True
  )
  assert "\x1b" not in result.stderr and "\r" not in result.stderr
  expected = {
    "say": "a line \\x1b[2J\n",
    "bar": "line 1\nline 2\nline 3\nreading \\x1b]0;",
    "table": "",
  }
  assert result.stderr.startswith(expected[way])


@pytest.mark.parametrize("way", ["say", "bar", "table"])
@pytest.mark.parametrize("make", [os.pipe, os.openpty])
def test_a_program_continues_after_its_reader_or_terminal_is_closed(make, way):
  reader, stderr = make()
  process = subprocess.Popen(
    [sys.executable, "-c", PROGRAM, way, "wait"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=stderr,
    text=True,
  )
  os.close(stderr)
  assert process.stdout.readline() == "ready\n"
  os.close(reader)
  out, _ = process.communicate("\n", timeout=60)
  assert out == "done\n" and process.returncode == 0


def test_progress_lines_in_a_log(capsys):
  with console.Progress(every=0.0) as progress:
    progress("training")(1, 4, "loss 2.5", left=125)
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == "training 1/4  loss 2.5  2:05 left"
  assert re.fullmatch(r"training: \d+\.\d s", lines[1])


def test_the_remaining_time_is_right_after_a_pause(capsys, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
  progress = console.Progress(every=1.0)
  update = progress("step")
  for step in range(1, 21):
    now[0] += 3600.0 if step == 10 else 2.0
    update(step, 100)
  assert capsys.readouterr().err.splitlines()[-1] == "step 20/100  2:40 left"


def test_tables_are_aligned_by_the_width_of_characters():
  assert console.table(["name", "loss"], [["a", "1.25"], ["\u65e5\u672c", "10.5"]]) == [
    "name  loss",
    "a     1.25",
    "\u65e5\u672c  10.5",
  ]


def test_markup_and_long_lines_are_not_changed(capsys):
  console.say("[red]x[/red] :smile: " + "y" * 300)
  assert capsys.readouterr().err == "[red]x[/red] :smile: " + "y" * 300 + "\n"


EVERY = "".join(map(chr, range(sys.maxunicode + 1)))
UNSAFE = re.compile(
  "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


@pytest.mark.parametrize("lines", [True, False])
def test_visible_text_has_no_character_that_a_terminal_executes_or_reorders(lines):
  text = console.visible(EVERY, lines=lines)
  assert not UNSAFE.search(text) and console.visible(text, lines=lines) == text
  assert ("\n" in text, "\t" in text, "\u3000" in text) == (lines,) * 3
  assert lines or text.isprintable()
  assert console.visible("é日 'a'\\") == "é日 'a'\\"
  assert console.visible("\udcff\ud800\x1b") == r"\xff\ud800\x1b"


@pytest.mark.parametrize("show", [console.say, lambda text: console.show([text]), None])
def test_whatever_is_shown_is_escaped(show, capsys):
  hostile = "[red]\x1b]0;title\x07\x9b2J\u202e\u2028"
  if show:
    show(hostile)
  else:
    with console.Progress(0.0) as progress:
      progress(hostile)(1, 1, hostile)
    console.show(console.table([hostile], [[hostile]]))
  captured = capsys.readouterr()
  assert r"[red]\x1b]0;title\x07\x9b2J\u202e\u2028" in captured.out + captured.err
  assert not UNSAFE.search(captured.out + captured.err)


def test_an_error_is_one_line_whatever_it_contains(capsys):
  def program():
    raise errors.UserError("no folder a\nb\x1b[2J")

  assert process.run("charrnn", program) == 2
  assert capsys.readouterr().err == "charrnn: error: no folder a\\nb\\x1b[2J\n"


@pytest.mark.parametrize("name", ["a", "-a", "--a", "a b", "a'b", "$(a)", "%s", "\u00e9", "*"])
def test_a_path_is_an_argument_of_a_shell_and_no_option(name, tmp_path):
  (tmp_path / name).write_text(name)
  command = f"cat {console.argument(pathlib.Path(name))}"
  done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True)
  assert done.stdout.decode() == name


@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict", "cp037", "utf-16"])
def test_output_encodings_lose_no_character(encoding):
  program = "from charrnn import console, process; process.run('x', lambda: console.show(['é日']))"
  environment = os.environ | {"PYTHONIOENCODING": encoding}
  command = [sys.executable, "-c", program]
  result = subprocess.run(command, env=environment, capture_output=True, check=True)
  assert result.stdout == "é日\n".encode()
