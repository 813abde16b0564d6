// A plot of one group of rows: bars from 1, where both are as fast, on a logarithmic scale, with
// the lowest and the highest round.

import { median } from '../statistics.mjs';
import { ratiosTo, withoutGroup } from './report.mjs';

/** @typedef {import('./report.mjs').Row} Row */

const LABEL_WIDTH = 310;
const PLOT_WIDTH = 420;
const BAR_HEIGHT = 9;
const ROW_HEIGHT = 30;
const TOP = 48;
/** Ratios at the ends of the scale. */
const LOWEST = 0.25;
const HIGHEST = 16;
const TICKS = [0.25, 0.5, 1, 2, 4, 8, 16];
const FAMILIES = /** @type {const} */ ([
  ['qemu', 'the best qemu-nbd', '#3b6ea5'],
  ['nbdkit', 'nbdkit', '#c2702a'],
]);

/** Where a ratio is drawn. */
function x(/** @type {number} */ ratio) {
  const clamped = Math.min(Math.max(ratio, LOWEST), HIGHEST);
  const part = Math.log(clamped / LOWEST) / Math.log(HIGHEST / LOWEST);
  return LABEL_WIDTH + part * PLOT_WIDTH;
}

/**
 * @param {string} group
 * @param {Row[]} rows
 * @returns {string} SVG
 */
export function plot(group, rows) {
  const width = LABEL_WIDTH + PLOT_WIDTH + 60;
  const height = TOP + rows.length * ROW_HEIGHT + 12;
  const axis = TICKS.map((tick) => {
    const at = x(tick).toFixed(1);
    const stroke = tick === 1 ? '#444' : '#ddd';
    return (
      `<line x1="${at}" x2="${at}" y1="${TOP - 6}" y2="${height - 10}" stroke="${stroke}"/>` +
      `<text x="${at}" y="${TOP - 10}" text-anchor="middle">${tick}</text>`
    );
  });
  const legend = FAMILIES.map(([, name, colour], index) => {
    const at = LABEL_WIDTH + index * 170;
    return (
      `<rect x="${at}" y="10" width="10" height="10" fill="${colour}"/>` +
      `<text x="${at + 15}" y="19">IOPS by ${name}</text>`
    );
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
      `font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    `<text x="8" y="19" font-weight="bold">${escaped(group)}</text>`,
    ...legend,
    ...axis,
    ...rows.flatMap((row, index) => bars(row, TOP + index * ROW_HEIGHT)),
    '</svg>',
    '',
  ].join('\n');
}

/**
 * @param {Row} row
 * @param {number} top
 */
function bars(row, top) {
  const label =
    `<text x="${LABEL_WIDTH - 10}" y="${top + 17}" text-anchor="end">` +
    `${escaped(withoutGroup(row))}</text>`;
  const drawn = FAMILIES.flatMap(([family, , colour], index) => {
    const found = ratiosTo(row, family);
    if (found.length === 0) return [];
    return bar(found, top + 4 + index * (BAR_HEIGHT + 2), colour);
  });
  return [label, ...drawn];
}

/**
 * @param {number[]} found
 * @param {number} y
 * @param {string} colour
 */
function bar(found, y, colour) {
  const middle = median(found);
  const [from, to] = [x(1), x(middle)].toSorted((a, b) => a - b);
  const left = from ?? 0;
  const right = to ?? 0;
  const centre = y + BAR_HEIGHT / 2;
  const [low, high] = [x(Math.min(...found)), x(Math.max(...found))];
  return [
    `<rect x="${left.toFixed(1)}" y="${y}" width="${(right - left).toFixed(1)}" ` +
      `height="${BAR_HEIGHT}" fill="${colour}"/>`,
    `<line x1="${low.toFixed(1)}" x2="${high.toFixed(1)}" y1="${centre}" y2="${centre}" ` +
      `stroke="#222"/>`,
    `<text x="${(Math.max(right, high) + 4).toFixed(1)}" y="${y + BAR_HEIGHT}" ` +
      `font-size="10">${middle.toFixed(2)}</text>`,
  ];
}

function escaped(/** @type {string} */ text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
