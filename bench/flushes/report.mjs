// The Markdown table of bench:flush: medians, what sluice is to the others, and whether that is
// what was promised.

import { median, ratios, spread } from '../statistics.mjs';
import { QEMU_NAME, SLUICE_NAME } from './servers.mjs';

/** @typedef {import('./measure.mjs').Result} Result */

export const HEADINGS = [
  '| workload | server | syncs / flushes | sluice / it | ms | sluice / it | promise |',
  '|---|---|---|---|---|---|---|',
];

/**
 * `held` or `BROKEN` for each part of a promise, with its bound.
 * @param {import('./workloads.mjs').Target} target
 * @param {Result} ours
 * @param {Result | undefined} qemu
 */
export function verdicts(target, ours, qemu) {
  const verdict = (
    /** @type {string} */ what,
    /** @type {number} */ found,
    /** @type {(found: number) => boolean} */ holds,
  ) =>
    Number.isNaN(found)
      ? `${what}: nobody to compare with`
      : `${what}: ${holds(found) ? 'held' : 'BROKEN'}`;
  const verdictsFound = [];
  if (target.syncs !== undefined) {
    const { syncs } = target;
    const worst = Math.max(...ours.syncs.map((count) => Math.abs(count - syncs)));
    verdictsFound.push(verdict(`${syncs} sync`, worst, (found) => found === 0));
  }
  for (const [what, bound, mine, theirs] of /** @type {const} */ ([
    ['syncs', target.syncRatio, ours.syncs, qemu?.syncs],
    ['ms', target.wallRatio, ours.milliseconds, qemu?.milliseconds],
  ])) {
    if (bound === undefined) continue;
    const found = median(ratios(mine, theirs ?? []));
    verdictsFound.push(verdict(`${what} <= ${bound} x qemu-nbd`, found, (ratio) => ratio <= bound));
  }
  return verdictsFound;
}

/**
 * The lines of one row.
 * @param {import('./workloads.mjs').Workload} workload
 * @param {Result[]} results
 */
export function formatRow({ name, target }, results) {
  const ours = results.find((result) => result.name === SLUICE_NAME);
  const qemu = results.find((result) => result.name === QEMU_NAME);
  return results.map((result) => {
    const other = result === ours || ours === undefined ? undefined : result;
    const by = (/** @type {'syncs' | 'milliseconds'} */ what) =>
      other === undefined || ours === undefined ? '' : spread(ratios(ours[what], other[what]), 2);
    const syncs = spread(result.syncs, 0);
    const cells = [
      name,
      result.name,
      syncs === '-' ? '-' : `${syncs} / ${result.flushes}`,
      by('syncs'),
      spread(result.milliseconds, 0),
      by('milliseconds'),
      result === ours ? verdicts(target, ours, qemu).join('; ') : '',
    ];
    return `| ${cells.join(' | ')} |`;
  });
}
