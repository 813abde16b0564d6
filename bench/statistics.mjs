// Medians and spreads of a few rounds.

/** The middle of what was measured; NaN when nothing was. */
export function median(/** @type {readonly number[]} */ values) {
  const sorted = values.filter((value) => !Number.isNaN(value)).toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const [low = Number.NaN, high = low] = [sorted[Math.floor(middle)], sorted[Math.ceil(middle)]];
  return (low + high) / 2;
}

/** `median (lowest-highest)`; `-` when nothing was measured. */
export function spread(/** @type {readonly number[]} */ values, /** @type {number} */ digits) {
  const found = values.filter((value) => !Number.isNaN(value));
  if (found.length === 0) return '-';
  const text = (/** @type {number} */ value) => value.toFixed(digits);
  return `${text(median(found))} (${text(Math.min(...found))}-${text(Math.max(...found))})`;
}

/** Round by round, what is measured of one by what is measured of the other. */
export function ratios(
  /** @type {readonly number[]} */ ours,
  /** @type {readonly number[]} */ theirs,
) {
  return ours.map((value, round) => value / (theirs[round] ?? Number.NaN));
}
