"""The documentation: the site builds, works without a network, and its first examples run."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pages
import pytest

from charrnn.runs import weights

ROOT = pages.ROOT
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """Return the folder of the built site. A warning, for example of a broken link, is an error."""
  pytest.importorskip("material", reason="needs mkdocs-material (the docs extra)")
  folder = tmp_path_factory.mktemp("site")
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
    cwd=ROOT,
    env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return folder


def test_every_page_is_in_the_site(site):
  for page in (ROOT / "docs").glob("*.md"):
    name = "" if page.stem == "index" else page.stem
    assert (site / name / "index.html").is_file()


def test_the_home_page_links_every_page():
  home = (ROOT / "docs" / "index.md").read_text()
  for page in (ROOT / "docs").glob("*.md"):
    assert page.stem == "index" or f"]({page.name})" in home


def test_the_site_loads_nothing_from_the_network(site):
  for page in site.rglob("*.html"):
    text = page.read_text()
    loaded = re.findall(
      r"<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=[\"']?([^\"'> ]+)", text
    )
    assert loaded and not [each for each in loaded if each.startswith(("http:", "https:", "//"))]


def test_the_search_index_contains_the_words_of_the_pages(site):
  index = json.loads((site / "search" / "search_index.json").read_text())
  found = {each["location"].partition("#")[0] for each in index["docs"] if "cudnn" in each["text"]}
  assert "config/" in found


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_search_works_without_a_network(site):
  sync_api = pytest.importorskip("playwright.sync_api")
  handler = functools.partial(_QuietHandler, directory=site)
  with (
    http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
    sync_api.sync_playwright() as playwright,
  ):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = browser.new_page()
    blocked = []
    page.route(
      lambda url: not url.startswith(address), lambda route: (blocked.append(route), route.abort())
    )
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("kneser")
    page.wait_for_selector(".md-search-result__item")
    assert "Kneser" in page.inner_text(".md-search-result__list")
    assert not blocked
    browser.close()
    server.shutdown()


# A program that runs launch.py with a small network and few steps, but the same run names.
LAUNCH = f"""
import sys

sys.path.insert(0, {str(ROOT)!r})
import launch
from charrnn import command_line, process

experiment = command_line._experiment


def small_experiment(path, *variant):
  value, module = experiment(path, *variant)
  changes = {{"model.layers": 1, "model.hidden": 8, "window": 16, "batch_size": 8, "keep": 100}}
  changes |= {{"max_steps": 20, "eval_every": 5, "sample.length": 0}}
  if value.text.source.startswith("linux"):
    changes["text.source"] = "kernel.c"
  elif value.text.source in ("names", "music"):  # their packages are optional
    changes["text.source"] = f"{{value.text.source}}.txt"
  value.update_from_flattened_dict(changes)  # keeps the types of unset fields for options
  return value, module


command_line._experiment = small_experiment
sys.exit(process.run("launch.py", lambda: launch.main(sys.argv)))
"""
# A program that runs charrnn with a small network in benchmarks. It replaces the values of --step,
# which are steps of a larger run, with the last steps of the small run.
CHARRNN = f"""#!{sys.executable}
import pathlib
import sys

from charrnn import cli

if "--step" in sys.argv:
  start = sys.argv.index("--step") + 1
  (run,) = [each for each in sys.argv[1:] if pathlib.Path(each, "checkpoints").is_dir()]
  steps = sorted(int(path.name) for path in pathlib.Path(run, "checkpoints").glob("[0-9]*"))
  sys.argv[start:] = map(str, steps[-len(sys.argv[start:]):])
if sys.argv[1] == "bench":
  sys.argv += ["--layers=1", "--hidden=8", "--batch=4", "--baselines="]
  sys.argv += ["--rounds=1", "--seconds=0.1"]
sys.exit(cli.main())
"""
FUNCTION = """\
static int count_{0}(int x)
{{
\tif (x > {0})
\t\treturn x - {0}; /* the rest */
\treturn x;
}}

"""


EXAMPLES = [
  name
  for name in re.findall(r": (\w+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.M)
  if pages.blocks(ROOT / "docs" / f"{name}.md")
]


NAMES = "".join(
  f"{a}{b}{c}\n" for a in "ABCD" for b in ("an", "e", "lli") for c in ("a", "en", "s")
)
# The files that the tables of tasks.md name, in addition to those that all pages use.
FILES = {
  **dict.fromkeys(
    ["train.txt", "valid.txt", "test.txt", "sonnets.txt", "text.txt"], "Sweet love.\n" * 900
  ),
  "molecules.txt": "CCO\nc1ccccc1\n" * 99,
}
# Commands that need a service that is not on this machine.
SERVICES = ("--backend=slurm", "--config.tracker=wandb")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
  """Return a folder with small versions of everything that the examples of the pages need."""
  folder = tmp_path_factory.mktemp("workplace")
  for name in ("experiments", "docs"):
    shutil.copytree(ROOT / name, folder / name)
  (folder / "launch.py").write_text(LAUNCH)
  for name in ("book.txt", "hamlet.txt"):
    (folder / name).write_text("It was a bright cold day in April.\n" * 2000)
  (folder / "names.txt").write_text(NAMES)
  (folder / "music.txt").write_text("X:1\nT:A\nM:3/4\nK:C\nabc def | gab |]\n\n" * 60)
  (folder / "kernel.c").write_text("".join(FUNCTION.format(n) for n in range(9000)))
  (folder / "bin").mkdir()
  # The packages that the pages install are in the test extra, or are not needed.
  launcher = '#!/bin/sh\nexec python launch.py "$@"\n'
  for name, code in (("charrnn", CHARRNN), ("pip", "#!/bin/sh\n"), ("charrnn-launch", launcher)):
    (folder / "bin" / name).write_text(code)
    (folder / "bin" / name).chmod(0o755)
  pages.run(folder, "sh", "python launch.py --config=experiments/shakespeare.py")
  return folder


@pytest.mark.long
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_first_example_of_a_page_runs_as_written(workplace, name):
  before = {path: path.read_text() for path in (workplace / "docs").glob("*.md")}
  pages.run(workplace, *pages.blocks(ROOT / "docs" / f"{name}.md")[0])
  # Some examples regenerate a page, which must be up to date already.
  assert before == {path: path.read_text() for path in before}


@pytest.mark.long
def test_the_commands_of_the_common_tasks_run_in_order(workplace):
  for name, text in FILES.items():
    (workplace / name).write_text(text)
  V, H = len({*(workplace / "book.txt").read_text()}), 8
  shapes = {"weight_ih_l0": (4 * H, V), "weight_hh_l0": (4 * H, H)}
  shapes |= {"bias_ih_l0": (4 * H,), "bias_hh_l0": (4 * H,)}
  arrays = {f"lstm.{name}": np.full(shape, 0.1, np.float32) for name, shape in shapes.items()}
  arrays |= {"head.weight": np.ones((V, H), np.float32), "head.bias": np.ones(V, np.float32)}
  weights.write(workplace / "torch.safetensors", arrays, {})
  commands = pages.table_commands(ROOT / "docs" / "tasks.md")
  assert len(commands) > 20
  for command in commands:
    if not any(service in command for service in SERVICES):
      pages.run(workplace, "sh", command)
  assert len((workplace / "new.txt").read_text().splitlines()) == 1000
  for name in ("writer.html", "network.onnx", "states.npz", "p.npz", "losses.tsv"):
    assert (workplace / name).stat().st_size > 1000


def test_most_pages_begin_with_an_example():
  assert len(EXAMPLES) >= 6


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *arguments):
    pass
