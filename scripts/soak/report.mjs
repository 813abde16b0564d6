// What a soak has seen.

import { readdirSync, readFileSync } from 'node:fs';

/** @typedef {{ rssKib: number, descriptors: number }} Sample */

/** Memory and descriptors of a process. */
export function sampleOf(/** @type {number} */ pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  return {
    rssKib: Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]),
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
  };
}

/** Memory that a server may grow by between the first and the last fifth of a soak. */
const GROWTH_KIB = 32_768;

/**
 * What the memory did: medians of the first fifth, after the server has warmed up, and of the last.
 * @param {Sample[]} samples
 */
export function memoryOf(samples) {
  const fifth = Math.max(1, Math.floor(samples.length / 5));
  const middle = (/** @type {Sample[]} */ part) =>
    part.map(({ rssKib }) => rssKib).toSorted((a, b) => a - b)[part.length >> 1] ?? Number.NaN;
  const start = middle(samples.slice(fifth, 2 * fifth));
  const end = middle(samples.slice(-fifth));
  return {
    rssStartKib: start,
    rssEndKib: end,
    rssMostKib: Math.max(...samples.map(({ rssKib }) => rssKib)),
    descriptorsMost: Math.max(...samples.map(({ descriptors }) => descriptors)),
    flat: end <= start + GROWTH_KIB,
  };
}

/**
 * Adds what one worker has counted.
 * @param {Record<string, number | string[]>} total
 * @param {Record<string, number | string[]>} counts
 */
export function add(total, counts) {
  for (const [name, value] of Object.entries(counts)) {
    const before = total[name];
    total[name] = Array.isArray(value)
      ? [...(Array.isArray(before) ? before : []), ...value]
      : value + (typeof before === 'number' ? before : 0);
  }
}
