"""Tests of the labels of C with labels written by hand, including difficult cases."""

import random

import aligned
import pytest

from charrnn.analysis import c_labels, hypotheses, labels

TOKENS = {
  "brace-depth": [
    ("f(){a;{b;}}c", "000111222100"),
    ("{\"}//{\"; '{'/*{*/}", "111111111111111110"),
    ("}{é{}", "01121"),
    # Each branch opens a brace, but they count as one.
    ("#if A¶{¶#else¶{a¶#endif¶}", "0000001111111011111111110"),
    ("#if A¶}¶#else¶{{¶#endif¶", "000000000000001222222222"),
    ("#else¶{¶#endif¶{", "0000001111111112"),
    # A brace that a macro leaves open does not count after it. A backslash continues the macro.
    ("#define A {¶{", "0000000000101"),
    ("#define A {\\¶{¶{", "0000000000111201"),
    ("#define¶{", "000000001"),
  ],
  "c-parenthesis-depth": [
    ("f((a),b) ')'(\"(\")", "01221110000011110"),
    # The end of a block closes the brackets that are open in it.
    ("(a{(b)(c}d)", "11122122110"),
    ("))((", "0012"),
  ],
  "c-bracket-depth": [
    ("a[b[c]]/*[*/]", "0112210000000"),
    ("[{]{[}[}", "11112121"),
  ],
  "directive-depth": [
    ("¶ # if A¶#ifdef B¶#endif¶#endif", "0000001111111112222222221111111"),
    ("#ifndef A¶#else¶#elif B¶#endif¶a", "00000001111111111111111111111100"),
    ("/*¶#if a¶*/a #if¶//\\¶#if b", "00000000000000000000000000"),
    ("#iffy¶#endif¶#if", "0000000000000000"),
    ("#if/**/A¶é", "0001111111"),
  ],
  "comment": [
    ("a/*b*/c//d¶e", "001110001100"),
    ('"/*"a"//";', "0000000000"),
    ('\'//\'"\\"/*"//', "000000000001"),
    ("/*/a*/b/**/", "01111000110"),
    ("//a\\¶b¶c//", "0111110001"),
    ("//a\\←¶b←¶c", "0111111100"),
    ("/*a¶//b", "0111111"),
    ("#define A /*a*/ 1 //b", "000000000001110000011"),
  ],
  "block-comment": [("é/*a*/b//c", "0011100000")],
  "line-comment": [("é/*a*/b//c", "0000000011")],
  "string": [
    ('é="a\\"b" c', "0011111000"),
    ('"a¶b\'"\'"//"', "11000001110"),
    ('"a\\¶b"c', "1111100"),
    ('"a\\', "111"),
    ('/*"*/"//"', "000001110"),
  ],
}
SYNTAX = {
  "syntax-depth": [
    ("void f(){a;{b;}}", "0000000011122210"),
    ("void f(){if(a)b;c;}", "0000000011111121110"),
    ("void f(){if(a)if(b)c;}", "0000000011111122222310"),
    ("void f(){for(;;)a();do b;while(c);}", "00000000111111112221111211111111110"),
    ("struct s{int a[2];}b={{1}};", "000000001111111111000000000"),
    ("void f(){if(a){b;}else if(c)d;else e;}", "00000000111111222111111111112111111210"),
    ("void f(){if(a)/*;*/b;}", "0000000011111111111210"),
    ("void f(){¶ list_for_each(a,&b->c) d;}", "0000000011111111111111111111111111210"),
  ],
  "if-condition": [
    ("void f(){if(a&&(b))c;while(d);}", "0000000000011111110000000000000"),
    ('void é(){"é";if(é)b;}', "000000000000000110000"),
    ("void f(){if(a)b;else if(c)d;}", "00000000000110000000000110000"),
  ],
  "if-body": [
    ("void f(){if(a){b;}c;if(d)ee;}", "00000000000000111000000001100"),
    ("void f(){if(a)b;else if(c)d;}", "00000000000000100000000000100"),
    # The else belongs to the second if, so both are in the body of the first if.
    ("void f(){if(a)if(b)c;else{d;}}", "000000000000001111111111111100"),
    ("void f(){while(a){b;}}", "0000000000000000000000"),
    ("static int __init f(){if(a)bc;}", "0000000000000000000000000001100"),
  ],
  "else-body": [
    ("void f(){if(a)b;else{if(c)d;}e;}", "00000000000000000000111111110000"),
    ("void f(){if(a)b;else if(c)d;else ee;}", "0000000000000000000000000000000001100"),
    ("void f(){if(a)b;else/*c*/dd;}", "00000000000000000000000001100"),
  ],
}
CASES = [(name, *case) for name, cases in [*TOKENS.items(), *SYNTAX.items()] for case in cases]

CLEAN = r"""
#include "é.h" // "quoted"
#ifdef __KERNEL__
static int __init start(struct list *head, const char *é)
{
  struct entry *e; /* { */
  list_for_each_entry(e, head, list) {
    if (e->size > sizeof(struct entry)) // }
      log("a \"b\" /* %d */", container_of(e, struct owner, entry));
    else if (é['"'] == '{')
      do { e->flags[0] = ({ int y = (1); y; }); } while (0);
  }
  return 0;
}
#else
enum { A, B };
#endif
"""


def _function(name):
  return hypotheses.HYPOTHESES[name].function


@pytest.mark.parametrize(("name", "shown", "expected"), CASES)
def test_labels_equal_the_labels_written_by_hand(name, shown, expected):
  aligned.check(_function(name), shown, expected)


def test_every_hypothesis_of_c_has_a_case():
  assert {*TOKENS, *SYNTAX} == {h.name for h in hypotheses.HYPOTHESES.values() if h.language == "c"}


@pytest.mark.parametrize("name", TOKENS)
def test_labels_from_tokens_depend_on_earlier_characters_only(name):
  function, rng = _function(name), random.Random(0)
  pieces = [
    *"a'\"\\\r\n\n(){}[]/*é",
    "/*",
    "*/",
    "//",
    "\n#if ",
    "\n#else",
    "#endif\n",
    "\n#define a",
  ]
  for _ in range(60):
    text = "".join(rng.choices(pieces, k=40))
    aligned.check_causal(function, text)


def _spans(*kinds):
  """Return the spans of nodes in CLEAN, directly from the parser."""
  tree = c_labels.parser().parse(c_labels.parseable(CLEAN))
  return [(n.start_byte, n.end_byte) for n in c_labels.nodes(tree) if n.type in kinds]


def _covering(spans):
  return labels.covering(len(CLEAN), spans).tolist()


def test_the_whole_clean_text_parses():
  assert _function("if-body")(CLEAN).mask.all()


def test_tokens_and_tree_agree_on_comments():
  whole = [(start + 1, stop - (CLEAN[start + 1] == "*")) for start, stop in _spans("comment")]
  assert _function("comment")(CLEAN).values.tolist() == _covering(whole)
  assert len(whole) == 3


def test_tokens_and_tree_agree_on_strings():
  strings = [(start, stop - 1) for start, stop in _spans("string_literal")]
  assert _function("string")(CLEAN).values.tolist() == _covering(strings)
  assert len(strings) == 2


def test_tokens_and_tree_agree_on_braces():
  kinds = "compound_statement", "enumerator_list"
  blocks = [(start, stop - 1) for start, stop in _spans(*kinds)]
  assert _function("brace-depth")(CLEAN).values.tolist() == _covering(blocks)
  assert len(blocks) == 5


def test_the_span_of_an_error_is_masked():
  aligned.check(
    _function("if-condition"),
    "void f(){if(a[)b;}¶int g(){if(a)b;}",
    "0000000000011.000000000000000110000",
  )


def test_a_node_with_a_missing_token_is_masked():
  aligned.check(_function("syntax-depth"), "void f(){{a;}{b}{c;}}", "00000000122212.122210")


def test_a_function_in_an_error_is_not_masked():
  # The parser puts g into the block of f.
  shown = "int f(){if(a){(;¶int g(){{b;}}"
  aligned.check(_function("syntax-depth"), shown, "." * 17 + "0000000122210")
  aligned.check(_function("if-body"), shown, "." * 17 + "0000000000000")


def test_the_depth_of_a_function_after_an_error_is_not_negative():
  shown = "int f(){if(a){b;}¶int g(){c;}"
  aligned.check(_function("syntax-depth"), shown, "0000000...........00000001110")


def test_text_that_is_not_c_is_masked():
  text = "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 5
  assert _function("if-body")(text).mask.mean() < 0.1
  assert _function("comment")(text).mask.all()


def test_the_parser_reads_one_byte_per_character():
  for text in (CLEAN, aligned.random_text(random.Random(0), 300)):
    parsed = c_labels.parseable(text)
    assert len(parsed) == len(text)
    assert [i for i, c in enumerate(text) if c == "\n"] == [
      i for i, c in enumerate(parsed) if c == 10
    ]


@pytest.mark.parametrize(
  ("before", "after"),
  [
    ("static int __init f(void) __must_hold(&a)", "static int        f(void)                "),
    ("#define __init a", "#define __init a"),
    ("__u32 __user *my__init;", "__u32        *my__init;"),
    ("f(a, struct b, c) g(struct b)", "f(a,        b, c) g(struct b)"),
    ("\tlist_for_each (a, b) x_for_each(c)", "\twhile         (a, b) x_for_each(c)"),
  ],
)
def test_constructs_outside_the_grammar_are_blanked(before, after):
  assert c_labels.parseable(before).decode() == after


@pytest.mark.parametrize(
  "piece", ["{", "(", "if(a)", "if(a){", "#if a\n", "int f(){", ")}", "/*", "\\"]
)
def test_nesting_depth_is_unlimited(piece):
  text = piece * 5000
  for label in (each.function(text) for each in hypotheses.choose("c")):
    assert len(label.values) == len(label.mask) == len(text)
