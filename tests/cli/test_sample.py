"""`charrnn sample`, with a model that recites the alphabet instead of a trained run."""

import argparse
import io
import json
import pathlib
import re
import sys
import types

import numpy as np
import pytest
import toys
from scipy import special

from charrnn import console, errors, runtime
from charrnn.cli import sample
from charrnn.data import tokenizers
from charrnn.runs import run as run_lib
from charrnn.sampling import sampler, selection

RECITED = "\nabcdefgh"
CHAIN = toys.Chain()  # shared by all tests, because each object compiles its own programs


@pytest.fixture
def use(monkeypatch):
  """Return a function that gives every run a tokenizer, and a model that counts through its ids."""

  def use(tokenizer, params=None):
    def load(path, step=None, corpus=None, fetch=False):
      run = types.SimpleNamespace(
        path=pathlib.Path(path),
        model=CHAIN,
        params=toys.cycle(tokenizer.vocab_size) if params is None else params,
        tokenizer=tokenizer,
        config=None,
        step=step or 500,
        meta={"valid_loss": 1.25},
      )
      run.load = lambda: run
      return run

    monkeypatch.setattr(run_lib.Run, "open", load)
    monkeypatch.setattr(runtime, "start", lambda: None)  # would write to the user's cache folder

  use(tokenizers.Tokenizer.from_text(RECITED))
  return use


def run(*args):
  parser = argparse.ArgumentParser()
  sample.add_arguments(parser)
  assert not sample.run(parser.parse_args(["runs/x", *args]))


def test_empty_prompt_is_replaced_by_a_line_end(use, capsys):
  run("--length=20", "--seed=5")
  out, err = capsys.readouterr()
  assert out == (RECITED * 3)[1:21]
  first, last = err.splitlines()
  assert first == "runs/x: step 500, validation loss 1.2500, --seed=5"
  assert last.startswith("20 characters in ")


def test_text_begins_with_the_prompt(use, capsys):
  run("--prime=cab", "--length=3", "--quiet", "--step=7")
  assert capsys.readouterr() == ("cabcde", "")
  run("--prime=cab", "--length=0", "--quiet")
  assert capsys.readouterr() == ("cab", "")


def test_random_seed_is_reported_and_reproduces_the_text(use, capsys):
  use(tokenizers.Tokenizer.from_text(RECITED), params=np.zeros((9, 9), np.float32))
  run("--length=40")
  text, err = capsys.readouterr()
  run("--length=40", "--quiet", err.splitlines()[0].split(", ")[-1])
  assert capsys.readouterr().out == text


def test_stop(use, capsys):
  run("--prime=abc", "--stop=abc", "--length=200", "--quiet")
  assert capsys.readouterr().out == "abcdefgh\n"


def test_several_samples(use, capsys):
  run("--num=3", "--prime=a", "--length=2")
  out, err = capsys.readouterr()
  assert out == "abc\n\nabc\n\nabc"
  assert [line for line in err.splitlines() if line.startswith("---")] == [
    f"--- sample {n} of 3" for n in (1, 2, 3)
  ]


def json_lines(capsys):
  return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json(use, capsys):
  run("--json", "--num=2", "--prime=a", "--stop=\n", "--top-k=3", "--seed=1")
  shared = {"text": "bcdefgh", "prime": "a", "seed": 1, "step": 500, "temperature": 1.0}
  shared |= {"top_k": 3, "top_p": None, "clamp": [], "stopped": True, "require": [], "forbid": []}
  shared |= {"tokens": 8, "symbols": 8, "log_p": 0.0, "log_q": 0.0, "estimate": None}
  assert json_lines(capsys) == [shared | {"sample": n} for n in (1, 2)]


FLAT = np.zeros((9, 9), np.float32)  # all nine tokens are equally probable


def test_constraints(use, capsys):
  use(tokenizers.Tokenizer.from_text(RECITED), params=FLAT)
  args = ["--require=^[abc]{3}", "--forbid=h$", "--length=4", "--seed=2"]
  run(*args)
  text, err = capsys.readouterr()
  assert set(text[:3]) <= set("abc") and len(text) == 4 and text[3] != "h"
  log_p, log_q = 4 * np.log(1 / 9), -3 * np.log(3) - np.log(8)
  assert err.splitlines()[1] == f"log p {log_p:.2f}, log q {log_q:.2f}"
  run(*args, "--num=20", "--json")
  lines = json_lines(capsys)
  assert len({line["text"] for line in lines}) > 10 and lines[0]["text"] == text
  for line in lines:
    assert (line["log_p"], line["log_q"]) == pytest.approx((log_p, log_q), abs=1e-5)
    assert line["require"] == ["^[abc]{3}"] and line["forbid"] == ["h$"]
    assert line["estimate"]["log_p"] == pytest.approx(np.log(8 / 9 / 27), abs=1e-5)
    assert line["estimate"]["effective"] == pytest.approx(20)


@pytest.mark.parametrize("filters", ["--top-k=2", "--top-p=0.5", "--temperature=0"])
def test_filters_prevent_an_estimate(use, capsys, filters):
  use(tokenizers.Tokenizer.from_text(RECITED), params=FLAT)
  run("--forbid=a", "--num=2", "--length=3", "--json", filters)
  assert {line["estimate"] for line in json_lines(capsys)} == {None}


def test_beam_search(use, capsys):
  rng = np.random.default_rng(0)
  table = rng.normal(size=(9, 9)).astype(np.float32)
  use(tokenizers.Tokenizer.from_text(RECITED), params=table)
  run("--beam=81", "--num=2", "--length=2", "--require=a", "--json", "--quiet")
  lines = json_lines(capsys)
  log_p = special.log_softmax(table, axis=1)
  ids = range(9)
  both = {(i, j): log_p[0, i] + log_p[i, j] for i in ids for j in ids if 1 in (i, j)}
  best = sorted(both, key=both.get, reverse=True)[:2]
  assert [line["text"] for line in lines] == ["".join(RECITED[i] for i in ij) for ij in best]
  assert [line["log_p"] for line in lines] == pytest.approx([both[ij] for ij in best], abs=1e-5)
  assert lines[1]["beam"] == 81 and not {"seed", "temperature"} & lines[1].keys()
  run("--beam=81", "--num=2", "--length=2", "--require=a")
  out, err = capsys.readouterr()
  assert out == "\n\n".join(line["text"] for line in lines) or out.startswith(lines[0]["text"])
  assert f"--- sample 1 of 2: log p {lines[0]['log_p']:.2f}, " in err


def test_samples_are_written_to_files(use, capsys, tmp_path, monkeypatch):
  use(tokenizers.Tokenizer.from_text(RECITED), params=FLAT)
  args = ["--num=7", "--length=5", "--seed=4", "--prime=ab"]
  run(*args, "--json")
  lines = json_lines(capsys)
  monkeypatch.setattr(sampler, "MAX_ROWS", 3)
  out = tmp_path / "deep" / "out"
  run(*args, f"--out={out}")
  assert capsys.readouterr().out == ""
  assert sorted(path.name for path in out.iterdir()) == [
    *(f"00{n}.txt" for n in range(1, 8)),
    "samples.jsonl",
  ]
  assert [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()] == lines
  for line in lines:
    assert (out / f"00{line['sample']}.txt").read_bytes().decode() == "ab" + line["text"]
  for name in ("001.txt", "samples.jsonl"):
    (tmp_path / name).write_text("mine")
    with pytest.raises(errors.UserError, match=f"^--out=.*: {name} already exists"):
      run(*args, f"--out={tmp_path}")
    (tmp_path / name).unlink()
  assert list(tmp_path.iterdir()) == [tmp_path / "deep"]


def test_out_must_not_be_a_file(use, tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(errors.UserError, match=r"cannot write to .*file: Not a directory"):
    run(f"--out={tmp_path / 'file'}")


def test_prompt_from_a_file_or_stdin_is_exact(use, capsys, tmp_path, monkeypatch):
  use(tokenizers.Tokenizer.from_text("a\r\n"))
  (tmp_path / "prompt").write_bytes(b"\r\na\r")
  run(f"--prime-file={tmp_path / 'prompt'}", "--length=1", "--quiet")
  assert capsys.readouterr().out == "\r\na\ra"
  monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\r\n")))
  run("--prime-file=-", "--length=0", "--quiet")
  assert capsys.readouterr().out == "\r\n"


def test_byte_tokenizer_accepts_invalid_utf8(use, capsysbinary, tmp_path):
  use(tokenizers.Tokenizer.from_text("x", "byte"))
  (tmp_path / "prompt").write_bytes("é".encode() + b"\xff\xc3")
  run(f"--prime-file={tmp_path / 'prompt'}", "--length=0", "--quiet")
  assert capsysbinary.readouterr().out == "é".encode() + b"\xff\xc3"


@pytest.mark.parametrize(
  "args, message",
  [
    (["--temperature=-1"], "--temperature=-1.0: must be 0"),
    (["--top-k=0"], "--top-k=0: must be"),
    (["--top-p=nan"], "--top-p=nan: must be"),
    (["--length=-1"], "--length=-1: must be"),
    (["--num=0"], "--num=0: must be"),
    (["--num=1000000000"], "--num=1000000000: must be"),
    (["--length=3000000000"], "--length=3000000000: must be"),
    (["--out="], "--out: must not be empty"),
    (["--seed=-1"], "--seed=-1: must be"),
    (["--stop="], "--stop: must not be empty"),
    (["--stop=az"], "--stop: not in the run's vocabulary: 'z'"),
    (["--beam=0"], "--beam=0: must be from 1"),
    (["--beam=2", "--num=3"], "--num=3: must be at most --beam=2"),
    (["--beam=2", "--temperature=0"], "--temperature: cannot be combined with --beam"),
    (["--beam=2", "--seed=0"], "--seed: cannot be combined with --beam"),
    (["--beam=2", "--top-k=2"], "--top-k: cannot be combined with --beam"),
    (["--interactive", "--json"], "--json: cannot be combined with --interactive"),
    (["--interactive", "--distinct"], "--distinct: cannot be combined with --interactive"),
    (["--beam=2", "--novel"], "--novel: cannot be combined with --beam"),
    (["--draws=5"], "--draws: applies to --distinct and --novel"),
    (["--corpus=x", "--distinct"], "--corpus: applies to --novel"),
    (["--fetch"], "--fetch: applies to --novel"),
    (["--distinct", "--num=5", "--draws=4"], "--draws=4: must be from --num=5"),
    (["--distinct", "--temperature=0"], "--temperature=0: all texts are the same"),
    (["--novel", "--top-k=1"], "--top-k=1: all texts are the same"),
    (["--interactive", "--num=1"], "--num: cannot be combined with --interactive"),
    (["--interactive", "--beam=2"], "--beam: cannot be combined with --interactive"),
    (["--interactive", "--prime-file=-"], "--prime-file=-: stdin is used by"),
    (["--require=("], "--require=(: missing ), unterminated subpattern"),
    (["--forbid=\\b"], "--forbid=\\b: not supported"),
    (["--require=z"], "--require=z: not in the run's vocabulary: z"),
    (["--require=abc", "--length=2"], "--length=2: must be at least 3 for --require=abc"),
    (["--require=a", "--forbid=a"], "--require=a --forbid=a: the constraints are contradictory"),
    (["--prime=az"], "not in the vocabulary: 'z'"),
    (["--prime-file=/nowhere/x"], "cannot read --prime-file=/nowhere/x: No such file"),
  ],
)
def test_invalid_arguments(use, capsys, args, message):
  with pytest.raises(errors.UserError) as error:
    run(*args)
  assert str(error.value).startswith(message)
  assert capsys.readouterr() == ("", "")


def test_prompt_file_that_is_not_utf8(use, tmp_path):
  (tmp_path / "prompt").write_bytes(b"ab\xff")
  with pytest.raises(errors.UserError, match="prompt: byte 2 is not utf-8 text: convert it"):
    run(f"--prime-file={tmp_path / 'prompt'}")


class Terminal(io.TextIOWrapper):
  def isatty(self):
    return True


def converse(monkeypatch, lines, *args, terminal=False):
  file = (Terminal if terminal else io.TextIOWrapper)(io.BytesIO(lines.encode()), encoding="utf-8")
  monkeypatch.setattr("sys.stdin", file)
  run("--interactive", *args)


def test_session(use, capsys, monkeypatch):
  converse(monkeypatch, "abc\n\ncab\nh", "--length=4", "--quiet")
  # The model reads the line end of a line, then writes an a. The last line has no line end.
  assert capsys.readouterr() == ("abcd" + "efgh" + "abcd" + "\nabc", "")
  converse(monkeypatch, "\n", "--prime=ef", "--stop=h", "--seed=9")
  out, err = capsys.readouterr()
  assert (out, err) == ("efgh", "runs/x: step 500, validation loss 1.2500, --seed=9\n")


def test_turn_ends_at_an_empty_line_by_default(use, capsys, monkeypatch):
  table = np.full((3, 3), -np.inf, np.float32)
  table[[0, 0, 1, 2], [0, 1, 2, 0]] = [-1.0, -2.0, 0.0, 0.0]
  use(tokenizers.Tokenizer.from_text("\nab"), params=table)
  converse(monkeypatch, "a\n", "--temperature=0", "--quiet")
  assert capsys.readouterr().out == "\n\n"
  use(tokenizers.Tokenizer.from_text("xyz"))
  converse(monkeypatch, "x\nz\n", "--length=5", "--quiet")
  assert capsys.readouterr().out == "yzxyzxyzxy"


def test_unknown_characters_do_not_end_the_session(use, capsys, monkeypatch):
  converse(monkeypatch, "é\na\n", "--length=2", "--quiet")
  out, err = capsys.readouterr()
  assert (out, err.count("\n")) == ("ab", 1) and "not in the vocabulary: 'é'" in err


def test_terminal_shows_a_mark_and_ctrl_c_interrupts_a_text(use, capsys, monkeypatch):
  write, calls = sampler.Session.write, []

  def interrupted(self):
    calls.append(0)
    for piece in write(self):
      yield piece
      if len(calls) == 1:
        raise KeyboardInterrupt

  monkeypatch.setattr(sampler.Session, "write", interrupted)
  args = ["--length=40", "--quiet", "--stop=\n\n"]
  converse(monkeypatch, "abc\n\n", *args, terminal=True)
  first, second = (RECITED * 9)[1:17], (RECITED * 9)[17:57]
  assert capsys.readouterr() == (first + second, "> \n> \n> ")
  with pytest.raises(KeyboardInterrupt):
    calls.clear()
    converse(monkeypatch, "abc\n\n", *args)


def run_with_stdout(monkeypatch, file_type, *args, encoding="utf-8"):
  raw = io.BytesIO()
  monkeypatch.setattr("sys.stdout", file_type(raw, encoding=encoding))
  console.set_encodings()
  run("--quiet", *args)
  sys.stdout.flush()
  return raw.getvalue()


HOSTILE = "\t\n\r\x1bé\x9b\u2028\u202e日\ue000\ufeff"
SHOWN = "\t\n\\r\\x1b\\x9bé\\u2028\\u202e日\ue000\\ufeff\t\n"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_a_pipe_gets_every_character_and_a_terminal_gets_escapes(use, monkeypatch, encoding):
  use(tokenizers.Tokenizer.from_text(HOSTILE))
  text = "\t\n\r\x1b\x9bé\u2028\u202e日\ue000\ufeff\t"
  args = ["--prime=\t", f"--length={len(text) - 1}"]
  written = run_with_stdout(monkeypatch, io.TextIOWrapper, *args, encoding=encoding)
  assert written == text.encode()
  shown = run_with_stdout(monkeypatch, Terminal, *args, encoding=encoding)
  assert shown == SHOWN.encode(encoding, "backslashreplace")


def test_every_byte_of_a_byte_vocabulary_is_written_everywhere(use, monkeypatch, tmp_path):
  tokenizer = tokenizers.Tokenizer.from_text("x", "byte")
  use(tokenizer)  # The model counts through all bytes.
  everything = bytes([10, *range(11, 256), *range(11)])
  args = ["--prime=\n", "--length=256"]
  assert run_with_stdout(monkeypatch, io.TextIOWrapper, *args, encoding="ascii") == everything
  line = json.loads(run_with_stdout(monkeypatch, io.TextIOWrapper, *args, "--json"))
  assert tokenizer.encode(line["prime"] + line["text"]).tobytes() == everything
  run_with_stdout(monkeypatch, io.TextIOWrapper, *args, f"--out={tmp_path / 'out'}")
  assert (tmp_path / "out" / "001.txt").read_bytes() == everything
  shown = run_with_stdout(monkeypatch, Terminal, *args)
  assert b"\\xfe\\xff" in shown and b"\x1b" not in shown


def test_lone_surrogates_are_escaped(use, monkeypatch):
  use(tokenizers.Tokenizer.from_text("a\ud800"))
  written = run_with_stdout(monkeypatch, io.TextIOWrapper, "--prime=a", "--length=2")
  assert written == b"a\\ud800a"


def test_distinct_texts_are_the_first_ones_of_plain_sampling(use, capsys):
  use(tokenizers.Tokenizer.from_text(RECITED), params=FLAT)
  run("--num=40", "--length=1", "--seed=3", "--json", "--quiet")
  plain = [line["text"] for line in json_lines(capsys)]
  run("--num=9", "--length=1", "--seed=3", "--json", "--distinct")
  out, err = capsys.readouterr()
  lines = [json.loads(line) for line in out.splitlines()]
  texts = [line["text"] for line in lines]
  drawn = lines[0]["drawn"]
  assert texts == list(dict.fromkeys(plain))[:9] and sorted(texts) == sorted(RECITED)
  assert drawn == 1 + plain.index(texts[-1])
  assert f"9 texts from {drawn} draws: {drawn - 9} repeated\n" in err
  assert all(line["distinct"] and not line["novel"] for line in lines)
  run("--num=9", "--length=1", "--seed=3", "--distinct", "--quiet")
  assert capsys.readouterr().out == "".join(
    f"{text}\n" for text in [text.replace("\n", "\\n") for text in texts]
  )


def test_search_for_distinct_texts_is_bounded(use, capsys, tmp_path, monkeypatch):
  use(tokenizers.Tokenizer.from_text(RECITED), params=FLAT)
  monkeypatch.setattr(sampler, "MAX_ROWS", 50)
  run("--num=10", "--length=1", "--seed=3", "--distinct", f"--out={tmp_path / 'out'}")
  err = capsys.readouterr().err
  assert "only 9 of 10 texts found in 1,000 draws (991 repeated): use a higher --temp" in err
  assert len(list((tmp_path / "out").iterdir())) == 10  # with samples.jsonl
  run("--num=10", "--length=1", "--seed=3", "--distinct", "--draws=10")
  out, err = capsys.readouterr()
  assert "found in 10 draws" in err and len(out.splitlines()) == len({*out.splitlines()}) > 1


def test_novel_texts_and_the_prompt(use, capsys, monkeypatch):
  use(tokenizers.Tokenizer.from_text(RECITED), params=FLAT)
  training = selection.Training(("ab\nac", "hbcde"), None)
  monkeypatch.setattr(selection.Training, "of", lambda _: training)
  args = ["--num=7", "--length=1", "--seed=3", "--distinct", "--novel", "--prime=a"]
  run(*args)
  out, err = capsys.readouterr()
  assert sorted(out.splitlines()) == ["a\\n", "aa", "ad", "ae", "af", "ag", "ah"]
  assert "7 texts from" in err and "in the training text" in err
  run(*args, "--no-echo")
  out, err = capsys.readouterr()
  assert sorted(out.splitlines()) == ["\\n", *"adefgh"] and "7 texts from" in err


def test_texts_on_lines_can_be_restored(capsys):
  texts = ["a\\nb", "a\nb", "\r\n\\\\", "\\", "é\t\x0b\u2028"]
  samples = (sampler.Sample(text, True, len(text), 0.0, 0.0) for text in texts)
  assert len(list(sample._print_lines(samples, ""))) == len(texts)
  lines = capsys.readouterr().out.split("\n")[:-1]
  escapes = {"n": "\n", "r": "\r", "\\": "\\"}
  assert [re.sub(r"\\(.)", lambda match: escapes[match[1]], line) for line in lines] == texts


def test_no_echo(use, capsys, tmp_path):
  run("--prime=cab", "--length=3", "--quiet", "--no-echo")
  assert capsys.readouterr() == ("cde", "")
  run("--prime=cab", "--length=3", "--quiet", "--no-echo", f"--out={tmp_path / 'o'}", "--json")
  assert json_lines(capsys)[0]["prime"] == "cab"
  assert (tmp_path / "o" / "001.txt").read_text() == "cde"


@pytest.mark.parametrize("mode", [[], ["--num=3"], ["--beam=2"], ["--out=OUT"], ["--novel"]])
def test_reading_a_long_prompt_shows_progress(use, capsys, tmp_path, monkeypatch, mode):
  monkeypatch.setattr(sample, "LONG_PROMPT", 300)
  training = selection.Training((), None)
  monkeypatch.setattr(selection.Training, "of", lambda _: training)
  mode = [each.replace("OUT", str(tmp_path / "out")) for each in mode]
  prompt = (RECITED * 40)[:300]
  run(f"--prime={prompt}", "--length=3", "--no-echo", *mode)
  out, err = capsys.readouterr()
  assert err.count("reading the prompt: ") == 1
  if not (tmp_path / "out").exists():
    assert out.startswith((RECITED * 40)[300:303])
  run(f"--prime={prompt}", "--length=3", "--quiet", *(mode if "--num=3" in mode else []))
  assert capsys.readouterr().err == ""
  run(f"--prime={prompt[1:]}", "--length=3")
  assert "reading" not in capsys.readouterr().err


def test_the_prompt_is_read_once_for_all_batches(use, monkeypatch):
  use(tokenizers.Tokenizer.from_text(RECITED))
  source, done = run_lib.Run.open("x"), []
  monkeypatch.setattr(sampler, "MAX_ROWS", 2)
  options = {"num": 6, "length": 2, "seed": 0, "settings": sampler.Settings()}
  prompt = np.arange(300) % 9
  reading = lambda *now: done.append(now)  # noqa: E731
  texts = [each.text for each in sampler.sample(source, prompt, reading=reading, **options)]
  assert len(texts) == 6 and done == [(128, 300), (256, 300), (300, 300)]
