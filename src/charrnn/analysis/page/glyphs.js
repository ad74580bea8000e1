// Visible forms of characters.

const hex = (point) => point.toString(16).toUpperCase().padStart(4, "0");
const UNSEEN = /^[\p{C}\p{Z}]$/u;

// Returns the visible form of a character and its CSS class. Lone surrogates, and characters that
// are invisible or change the direction of the text, are shown as code points.
function shownAs(symbol) {
  const point = symbol.codePointAt(0);
  if ([...symbol].length > 1) return [[...symbol].map((each) => shownAs(each)[0]).join(""), ""];
  if (symbol === " ") return [" ", ""];
  if (symbol === "\n") return ["↵", "sign"];
  if (symbol === "\t") return ["→", "sign tab"];
  if (symbol === "\r") return ["←", "sign"];
  if (point < 32) return [String.fromCodePoint(0x2400 + point), "sign"];
  if (point === 127) return ["␡", "sign"];
  if (UNSEEN.test(symbol)) return [hex(point), "sign code"];
  if (/^\p{M}$/u.test(symbol)) return [`◌${symbol}`, ""];
  return [symbol, ""];
}

const visible = (symbol) => (symbol === " " ? "␣" : shownAs(symbol)[0]);
