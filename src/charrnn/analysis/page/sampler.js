// Sampling, with the filters of sampling/sampler.py.

function logProbabilities(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const logSum = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
  return logits.map((logit) => logit - most - logSum);
}

// Returns log p of each token after the first in a text, in nats, [T - 1].
function scores(text) {
  const ids = encode(text);
  let carry = initialCarry();
  return ids.slice(0, -1).map((id, t) => {
    let logits;
    ({ logits, carry } = apply(id, carry));
    return logProbabilities(logits)[ids[t + 1]];
  });
}

// Returns the tokens that may be sampled, and their probabilities, which need not sum to 1. The
// temperature is applied first, then top-k, then top-p. In a tie, lower ids come first.
function filtered(logits, { temperature, topK, topP }) {
  let ids = Array.from(logits.keys()).filter((id) => !excluded.has(id));
  const most = ids.reduce((a, b) => (logits[b] > logits[a] ? b : a));
  if (temperature === 0) return { ids: [most], p: [1] };
  if (topK || topP < 1) ids.sort((a, b) => logits[b] - logits[a]);
  if (topK) ids = ids.slice(0, topK);
  const weights = ids.map((id) => Math.exp((logits[id] - logits[most]) / temperature));
  const total = weights.reduce((a, b) => a + b);
  const p = weights.map((weight) => weight / total);
  if (topP < 1) {
    // Keep the fewest tokens with mass topP. Sum from the smallest up, for accuracy.
    let count = p.length;
    for (let rest = p[count - 1]; count > 1 && rest <= 1 - topP; rest += p[count - 1]) count--;
    return { ids: ids.slice(0, count), p: p.slice(0, count) };
  }
  return { ids, p };
}

function scrambled(bits) {
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return bits ^ (bits >>> 16);
}

// Returns a uniform number in [0, 1), which depends only on the seed and the number of the token.
const uniform = (seed, t) =>
  (scrambled(scrambled(seed + 0x9e3779b9) + Math.imul(t, 0x9e3779b9)) >>> 0) / 2 ** 32;

// Returns the id of token t.
function sampled(logits, settings, t) {
  const { ids, p } = filtered(logits, settings);
  let rest = uniform(settings.seed, t) * p.reduce((a, b) => a + b);
  return ids.find((_, n) => (rest -= p[n]) < 0) ?? ids.at(-1);
}
