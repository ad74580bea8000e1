"""Metrics of clean C, of C with a single defect, and of text that is not C."""

import random

import numpy as np
import pytest

from charrnn.scorecards import c, metrics, systems

CLEAN = r"""
#include <stdio.h>
#define LIMIT(a) do { (a)
/* a { comment */
#ifdef BIG
static int size = 'a'; // don't
#else
static int size = '"';
#endif
enum { RED, green };
struct entry { int key; };

static int sum(struct entry *list, int count)
{
	int total = 0, i;
	int (*step)(int);

	step = next;
	for (i = 0; i < count; i++)
		total += list[i].key;
	switch (total) {
	case 1:
		puts("on\"e {");
		break;
	default:
		goto out;
	}
	if (total > size &&
		total != green) {
		total = step(RED);
	} else {
		while (total)
			total--;
	}
out:
	return total;
}

static struct entry *
next(int key) {
  struct entry *e = NULL;
  if (key) {
    e = find(key);
  }
  return e;
}
"""
# One brace closes the opening braces of both branches, which the grammar cannot represent.
BRANCHES = "int f(int a)\n{\n#if A\n  if (a) {\n#else\n  if (!a) {\n#endif\n    a = 1;\n  }\n}\n"
# metric, text to replace, replacement, number of additional defects
BROKEN = [
  ("clean functions", "int total = 0, i;", "int total = = 0, i;", 1),
  ("clean functions", "struct entry *e = NULL;", "struct entry *e = ) NULL;", 1),
  ("matched braces", "total = step(RED);\n\t}", "total = step(RED);\n", 1),
  ("matched braces", "return e;\n}", "return e;\n}}", 1),
  ("matched parentheses", "find(key)", "find(key", 1),
  ("matched parentheses", "list[i]", "list[i]]", 1),
  ("matched parentheses", "list[i]", "list(i]", 2),
  ("paired conditionals", "#endif\nenum", "enum", 2),
  ("paired conditionals", "#ifdef BIG\n", "", 2),
  ("closed comments", "/* a { comment */", "/* a { comment", 1),
  ("closed strings", '{"', "{", 1),
  ("closed strings", "'\"';", "'\";", 1),
  ("indentation", "\t\ttotal += list", "\ttotal += list", 1),
  ("indentation", "\tstep = next", "\t\tstep = next", 2),
  ("indentation", "    e = find", "  e = find", 1),
  ("undeclared names", "total += list[i].key", "total += other[i].key", 1),
  ("undeclared names", "int total = 0, i;", "int total = 0;", 1),
  ("unused variables", "int total = 0, i;", "int total = 0, i, more, *less[2];", 2),
  ("unused variables", "total = step(RED)", "total = RED", 0),
  ("unused variables", "\tstep = next;\n", "\tstep(0);\n", 0),
]
SHARES = [name for name, metric in c.METRICS.items() if metric.kind == "share"]
BAD = {
  "syntax errors",
  "undeclared names",
  "unused variables",
}  # metrics that are shares of defects


def measure(name, text):
  return c.METRICS[name].items(c.parse(text))


def defects(name, text):
  items = np.asarray(measure(name, text), bool)
  return int(items.sum() if name in BAD else (~items).sum())


@pytest.mark.parametrize("name", SHARES)
def test_clean_c_has_no_defects(name):
  assert defects(name, CLEAN) == 0
  assert len(measure(name, CLEAN))


def test_only_the_first_branch_of_a_conditional_counts():
  assert measure("matched braces", BRANCHES) == [True] * 4
  assert defects("matched braces", BRANCHES.replace("if (a) {", "if (a)")) == 1


def test_numbers_of_items_in_clean_c():
  counts = {name: len(measure(name, CLEAN)) for name in SHARES}
  assert counts["clean functions"] == 2
  assert counts["matched braces"] == 2 * 8
  assert counts["paired conditionals"] == 3
  assert counts["closed comments"] == 1
  assert counts["closed strings"] == 3


@pytest.mark.parametrize(("name", "old", "new", "increase"), BROKEN)
def test_each_defect_is_counted(name, old, new, increase):
  assert CLEAN.count(old) == 1
  assert defects(name, CLEAN.replace(old, new)) == defects(name, CLEAN) + increase


def test_an_extra_brace_does_not_affect_other_functions():
  function = "int f(int a)\n{\n  if (a) {\n    a = 1;\n  }\n  return a;\n}\n\n"
  assert measure("clean functions", function * 5) == [True] * 5
  broken = function * 2 + function.replace("if (a) {", "if (a {{") + function * 2
  items = measure("clean functions", broken)
  assert len(items) == 5 and not all(items)


def test_a_partial_function_at_the_start_is_not_counted():
  text = "  if (a) {\n    b;\n  }\n  while (f(a)) {\n    c;\n  }\n}\n\nint g(void)\n{\n}\n"
  assert measure("clean functions", text) == [True]


def test_prose_and_shuffled_tokens_have_syntax_errors():
  for text in (systems.shuffle(CLEAN, c.DOMAIN.tokens), "To be, or not to be: that's it.\n" * 9):
    assert np.mean(measure("syntax errors", text)) > 0.9


def test_invalid_text_can_be_measured():
  rng = random.Random(0)
  pieces = [*"()[]{};,*&=\"'\\\n \t#/:?<", "/*", "*/", "//", "#if ", "\n#else\n", "\n#endif\n"]
  pieces += [
    "\n#define a ",
    "int ",
    "a",
    "if",
    "else",
    "for(",
    "\0",
    "\ud800",
    "é",
    "\r\n",
    "case 1:",
  ]
  texts = ["", "\n", "\0" * 99, "\ud800", *("".join(rng.choices(pieces, k=80)) for _ in range(150))]
  for _ in range(150):
    text = list(CLEAN)
    for position in rng.choices(range(len(text)), k=12):
      text[position] = rng.choice(pieces)
    texts.append("".join(text))
  items = metrics.measure(c.METRICS, map(c.parse, texts))
  assert [len(each) for each in items["syntax errors"]] == [len(text) for text in texts]
  assert metrics.compare(c.METRICS, {"held-out": items}, "held-out")["metrics"]
