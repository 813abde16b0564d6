// The Markdown tables of bench:nbd: IOPS against the best qemu-nbd, nbdkit and the floor, latency,
// processor time.

import { median, ratios, spread } from '../statistics.mjs';
import { SLUICE_NAME } from './servers.mjs';

/** @typedef {import('./measure.mjs').Result} Result */
/** @typedef {import('./measure.mjs').Round} Round */
/** @typedef {import('./workloads.mjs').Target} Target */

/**
 * A row as it is written to JSON.
 * @typedef {{ name: string, group: string, target: Target, results: Result[] }} Row
 */

/** One number of each round. */
const column = (/** @type {Result} */ { rounds }, /** @type {keyof Round} */ what) =>
  rounds.map((round) => round[what]);

/** What the rounds say in the middle. */
const middle = (/** @type {Result} */ result, /** @type {keyof Round} */ what) =>
  median(column(result, what));

/**
 * The member of a family with the most IOPS.
 * @param {Row} row
 * @param {string} family
 * @returns {Result | undefined}
 */
export function bestOf({ results }, family) {
  const [best] = results
    .filter((result) => result.family === family)
    .toSorted((a, b) => middle(b, 'iops') - middle(a, 'iops'));
  return best;
}

/** The sluice that is compared; others of a run have further arguments. */
export function oursOf(/** @type {Row} */ { results }) {
  const ours = results.find(({ name }) => name === SLUICE_NAME);
  if (ours === undefined) throw new Error('sluice was not measured');
  return ours;
}

/**
 * Round by round, the IOPS of sluice by those of the best of a family.
 * @param {Row} row
 * @param {'qemu' | 'nbdkit' | 'floor'} family
 */
export function ratiosTo(row, family) {
  const other = bestOf(row, family);
  if (other === undefined) return [];
  return ratios(column(oursOf(row), 'iops'), column(other, 'iops'));
}

/**
 * `2.10 (1.90-2.30)`, and the target where it is missed.
 * @param {Row} row
 * @param {'qemu' | 'nbdkit' | 'floor'} family
 */
function comparison(row, family) {
  const found = ratiosTo(row, family);
  if (found.length === 0) return '-';
  const target = row.target[family];
  const missed = target !== undefined && median(found) < target;
  return `${spread(found, 2)}${missed ? `, below ${target}` : ''}`;
}

/**
 * The throughput of rows of one group.
 * @param {Row[]} rows
 */
export function throughputTable(rows) {
  return [
    '| workload | sluice, IOPS | by the best qemu-nbd | which | by nbdkit | by the floor |',
    '|---|---|---|---|---|---|',
    ...rows.map((row) =>
      cells(
        withoutGroup(row),
        spread(column(oursOf(row), 'iops'), 0),
        comparison(row, 'qemu'),
        bestOf(row, 'qemu')?.name.replace('qemu-nbd ', '') ?? '-',
        comparison(row, 'nbdkit'),
        comparison(row, 'floor'),
      ),
    ),
  ];
}

/**
 * Latency and cost of rows of one group, each as that of sluice, qemu-nbd, nbdkit.
 * @param {Row[]} rows
 */
export function latencyTable(rows) {
  return [
    '| workload | p50, us | p99, us | p99.9, us | processor, us a request |',
    '|---|---|---|---|---|',
    ...rows.map((row) =>
      cells(
        withoutGroup(row),
        .../** @type {const} */ (['p50', 'p99', 'p999']).map((what) => sideBySide(row, what, 0)),
        sideBySide(row, 'processor', 1),
      ),
    ),
  ];
}

/**
 * `ours / qemu-nbd's / nbdkit's`, medians.
 * @param {Row} row
 * @param {keyof Round} what
 * @param {number} digits
 */
function sideBySide(row, what, digits) {
  return [oursOf(row), bestOf(row, 'qemu'), bestOf(row, 'nbdkit')]
    .flatMap((result) => (result === undefined ? [] : [middle(result, what).toFixed(digits)]))
    .join(' / ');
}

/** One line for each server of a row, for somebody who watches. */
export function lines(/** @type {Row} */ row) {
  const ours = oursOf(row);
  return [
    row.name,
    ...row.results.map((result) => {
      const ratio = ratios(column(ours, 'iops'), column(result, 'iops'));
      return [
        `  ${result.name.padEnd(20)}${spread(column(result, 'iops'), 0).padStart(24)} IOPS`,
        `p99 ${middle(result, 'p99').toFixed(0).padStart(6)} us`,
        `${middle(result, 'processor').toFixed(1).padStart(6)} us a request`,
        result === ours ? '' : `sluice / it = ${spread(ratio, 2)}`,
      ].join('  ');
    }),
  ];
}

/** The targets that a row misses, for people. */
export function misses(/** @type {Row} */ row) {
  return /** @type {const} */ (['qemu', 'nbdkit']).flatMap((family) => {
    const target = row.target[family];
    const found = median(ratiosTo(row, family));
    if (target === undefined || Number.isNaN(found) || found >= target) return [];
    return [`${row.name}: ${found.toFixed(2)} times ${family}, the target is ${target}`];
  });
}

/** Rows by their group, in order. */
export function groupsOf(/** @type {Row[]} */ rows) {
  /** @type {Map<string, Row[]>} */
  const groups = new Map();
  for (const row of rows) groups.set(row.group, [...(groups.get(row.group) ?? []), row]);
  return groups;
}

/** What is left of a row's name under its group's. */
export function withoutGroup(/** @type {Row} */ { name, group }) {
  return name.slice(group.length + 2);
}

const cells = (/** @type {string[]} */ ...values) => `| ${values.join(' | ')} |`;
