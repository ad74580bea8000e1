// Shades of the values of a unit: CSS classes from l16 (lowest) to h16 (highest).

const STEPS = 16; // number of shades on either side of the blank center

function addRule(rule) {
  const sheet = document.styleSheets[0];
  sheet.insertRule(rule, sheet.cssRules.length);
}

function addShades() {
  for (let n = 1; n <= STEPS; n++) {
    // Slightly convex, so that small values stay nearly blank.
    const part = (100 * (n / STEPS) ** 1.15).toFixed(1);
    addRule(`.h${n}{background:color-mix(in oklab,var(--high) ${part}%,transparent)}`);
    addRule(`.l${n}{background:color-mix(in oklab,var(--low) ${part}%,transparent)}`);
  }
}

// Returns the class of a value between -1 and 1; 0 has no shade.
function shadeOf(value) {
  const n = Math.round(STEPS * clamp(Math.abs(value), 0, 1));
  return n ? (value > 0 ? "h" : "l") + n : "";
}
