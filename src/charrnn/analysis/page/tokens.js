// The tokenizer, as in data/tokenizers.py: text to ids, and ids to text.

const tokenizer = run.tokenizer;
const excluded = new Set(tokenizer.unwritable); // ids without a text, which are never written
const utf8 = new TextEncoder();

// Returns the bytes of a text, in which lone surrogates represent bytes that are not UTF-8.
function bytesOf(text) {
  return [...text].flatMap((symbol) => {
    const point = symbol.codePointAt(0);
    return point >= 0xdc80 && point <= 0xdcff ? [point - 0xdc00] : [...utf8.encode(symbol)];
  });
}

const idOf = new Map(
  tokenizer.texts
    .map((text, id) => [text, id])
    .filter(([, id]) => !excluded.has(id) && id !== tokenizer.end_id),
);

const WORDS = /[\p{L}\p{N}]+|[^]/gu;
// The parts of a text that GPT-2 encodes separately. \s of JavaScript is not exactly white space.
const PARTS = new RegExp(
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+|" +
    "\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+",
  "gu",
);
const merges = new Map();
if (tokenizer.kind === "bpe") {
  const pieces = tokenizer.texts.map((text) => String(bytesOf(text)));
  const idOfPiece = new Map(pieces.map((piece, id) => [piece, id]));
  tokenizer.merges.forEach(([left, right], rank) => {
    const id = idOfPiece.get(`${pieces[left]},${pieces[right]}`);
    merges.set(`${left} ${right}`, { rank, id });
  });
}

// Merges the pair with the lowest rank until no pair can be merged.
function mergePairs(bytes) {
  let ids = [...bytes];
  for (;;) {
    let best = null;
    for (let n = 0; n + 1 < ids.length; n++) {
      const pair = merges.get(`${ids[n]} ${ids[n + 1]}`);
      if (pair && (!best || pair.rank < best.rank)) best = { ...pair, n };
    }
    if (!best) return ids;
    ids = [...ids.slice(0, best.n), best.id, ...ids.slice(best.n + 2)];
  }
}

function idsOf(tokens) {
  const unknown = [...new Set(tokens.filter((token) => !idOf.has(token)))];
  if (unknown.length) {
    const names = unknown.slice(0, 8).map((token) => {
      const code = [...token].length > 1 ? "" : ` (U+${hex(token.codePointAt(0))})`;
      return `“${[...token].map(visible).join("")}”${code}`;
    });
    throw new Error(`not in the vocabulary: ${names.join(", ")}`);
  }
  return tokens.map((token) => idOf.get(token));
}

const ENCODERS = {
  char: (text) => idsOf([...text]),
  byte: bytesOf,
  word: (text) => idsOf(text.match(WORDS) ?? []),
  bpe: (text) => (text.match(PARTS) ?? []).flatMap((part) => mergePairs(bytesOf(part))),
};

// Returns the ids of a text; throws an error that names the characters or words without an id.
const encode = (text) => ENCODERS[tokenizer.kind](text);

// Returns a function from an id to its text. The text of an incomplete character comes later.
function decoder() {
  if (!tokenizer.represents_bytes) return (id) => tokenizer.texts[id];
  const decoded = new TextDecoder("utf-8", { ignoreBOM: true });
  return (id) => decoded.decode(Uint8Array.from(bytesOf(tokenizer.texts[id])), { stream: true });
}
