// Who asks for what in a row of bench:nbd, and what the row is to show.

/**
 * At least so many times the IOPS of the best qemu-nbd, of nbdkit, of the floor.
 * @typedef {{ qemu?: number, nbdkit?: number, floor?: number }} Target
 */

/**
 * What is served: `raw` and `qcow2` images that are full, or `empty`, a new qcow2 image.
 * @typedef {'raw' | 'qcow2' | 'empty'} Kind
 */

/** @typedef {'writeback' | 'none' | 'writethrough'} Cache */

/**
 * `set`: the rows that design the server (`main`), or the rest of the matrix (`all`).
 * @typedef {{
 *   name: string, group: string, set: 'main' | 'all', kind: Kind, cache: Cache,
 *   connections: number, flushes: boolean, fio: string[], target: Target,
 * }} Workload
 */

export const IMAGE_MIB = 512;
/** A new image that nobody fills in the time of a round. */
export const EMPTY_MIB = 65_536;

const CACHE_NAMES = { writeback: 'page cache', none: 'O_DIRECT', writethrough: 'writethrough' };
const RW_NAMES = {
  randread: 'random read',
  randwrite: 'random write',
  read: 'sequential read',
  write: 'sequential write',
};

/**
 * @param {{
 *   rw: keyof typeof RW_NAMES, kind?: Kind, cache?: Cache, kib?: number, depth?: number,
 *   connections?: number, flush?: boolean, set?: 'main' | 'all', target?: Target,
 * }} row
 * @returns {Workload}
 */
function workload(row) {
  const { rw, kind = 'raw', cache = 'writeback', kib = 4, depth = 1, connections = 1 } = row;
  const { flush = false, set = 'main', target = {} } = row;
  const unit = kib >= 1024 ? `${kib / 1024} MiB` : `${kib} KiB`;
  const what = kind === 'empty' ? 'fill' : '';
  const order = what === '' ? RW_NAMES[rw] : `${RW_NAMES[rw].split(' ')[0]} ${what}`;
  const name = [
    `${unit} ${order}${flush ? ' + flush' : ''}`,
    `depth ${depth}`,
    ...(connections > 1 ? [`${connections} connections`] : []),
  ];
  const image = kind === 'raw' ? 'raw' : 'qcow2';
  return {
    name: `${image}, ${CACHE_NAMES[cache]}: ${name.join(', ')}`,
    group: `${image}, ${CACHE_NAMES[cache]}`,
    set,
    kind,
    cache,
    connections,
    flushes: flush,
    fio: [
      `--rw=${rw}`,
      `--bs=${kib}k`,
      `--iodepth=${depth}`,
      `--numjobs=${connections}`,
      `--size=${kind === 'empty' ? EMPTY_MIB : IMAGE_MIB}M`,
      '--norandommap',
      ...(flush ? ['--fsync=1'] : []),
      // Jobs that go through the same blocks would be merged into one.
      ...(connections > 1 && !rw.startsWith('rand') ? ['--offset_increment=7%'] : []),
    ],
    target,
  };
}

const TWICE = { qemu: 2, nbdkit: 1.2 };

/** @type {Workload[]} */
const PAGE_CACHE = [
  ...[1, 16, 64].flatMap((depth) => [
    workload({ rw: 'randread', depth, target: TWICE }),
    workload({ rw: 'randwrite', depth, target: TWICE }),
  ]),
  ...[16, 64].flatMap((depth) => [
    workload({ rw: 'read', depth }),
    workload({ rw: 'write', depth }),
  ]),
  workload({ rw: 'read', kib: 1024, depth: 4, target: { qemu: 2, nbdkit: 1 } }),
  workload({ rw: 'write', kib: 1024, depth: 4, target: { qemu: 2, nbdkit: 1 } }),
  ...[4, 16].flatMap((connections) => [
    workload({ rw: 'randread', depth: 16, connections }),
    workload({ rw: 'randwrite', depth: 16, connections }),
  ]),
  workload({ rw: 'randwrite', flush: true, target: { qemu: 1.5, nbdkit: 1 } }),
  workload({ rw: 'randwrite', flush: true, connections: 16, target: { qemu: 3, nbdkit: 1 } }),
  workload({ rw: 'randwrite', flush: true, connections: 64, target: { qemu: 2.5, nbdkit: 1 } }),
];

/** @type {Workload[]} */
const DIRECT = [
  workload({ rw: 'randread', cache: 'none', target: { qemu: 1.3 } }),
  workload({ rw: 'randwrite', cache: 'none', target: { qemu: 1.3 } }),
  workload({ rw: 'randread', cache: 'none', depth: 16 }),
  workload({ rw: 'randwrite', cache: 'none', depth: 16 }),
  workload({ rw: 'randread', cache: 'none', depth: 64, target: { qemu: 1.4 } }),
  workload({ rw: 'randwrite', cache: 'none', depth: 64, target: { qemu: 1.6 } }),
  workload({ rw: 'write', cache: 'none', depth: 16, target: { qemu: 3 } }),
  workload({ rw: 'write', cache: 'none', depth: 64, target: { qemu: 3 } }),
  workload({ rw: 'read', cache: 'none', kib: 1024, depth: 4, target: { qemu: 1 } }),
  workload({ rw: 'write', cache: 'none', kib: 1024, depth: 4, target: { qemu: 1.6 } }),
];

/** @type {Workload[]} */
const STABLE = [
  workload({ rw: 'randwrite', cache: 'writethrough' }),
  workload({ rw: 'randwrite', cache: 'writethrough', depth: 64, target: { qemu: 4 } }),
  workload({ rw: 'write', cache: 'writethrough', depth: 64, target: { qemu: 10 } }),
];

/** @type {Workload[]} */
const QCOW2 = [
  ...[1, 16, 64].flatMap((depth) => [
    workload({ rw: 'randread', kind: 'qcow2', depth, target: { qemu: 2 } }),
    workload({ rw: 'randwrite', kind: 'qcow2', depth, target: { qemu: 2 } }),
  ]),
  workload({ rw: 'read', kind: 'qcow2', kib: 1024, depth: 4, target: { qemu: 2 } }),
  workload({ rw: 'write', kind: 'qcow2', kib: 1024, depth: 4, target: { qemu: 2 } }),
  workload({ rw: 'write', kind: 'empty', depth: 64, target: { qemu: 3 } }),
  workload({ rw: 'randwrite', kind: 'empty', depth: 64 }),
  workload({ rw: 'randread', kind: 'qcow2', cache: 'none' }),
  workload({ rw: 'randwrite', kind: 'qcow2', cache: 'none' }),
  workload({ rw: 'randread', kind: 'qcow2', cache: 'none', depth: 64 }),
  workload({ rw: 'randwrite', kind: 'qcow2', cache: 'none', depth: 64 }),
  workload({ rw: 'write', kind: 'qcow2', cache: 'none', depth: 64 }),
];

/** Every format, cache, size, order, direction and depth. */
function matrix() {
  const rows = [];
  for (const kind of /** @type {const} */ (['raw', 'qcow2'])) {
    for (const cache of /** @type {const} */ (['writeback', 'none'])) {
      for (const kib of [4, 1024]) {
        for (const depth of [1, 16, 64]) {
          for (const rw of /** @type {const} */ (['randread', 'randwrite', 'read', 'write'])) {
            rows.push(workload({ rw, kind, cache, kib, depth, set: 'all' }));
          }
        }
      }
    }
  }
  return rows;
}

/**
 * The rows of a set; `all` has those of `main` too, which come first.
 * @param {'main' | 'all'} set
 * @returns {Workload[]}
 */
export function workloads(set) {
  const main = [...PAGE_CACHE, ...DIRECT, ...STABLE, ...QCOW2];
  const names = new Set(main.map(({ name }) => name));
  return set === 'main' ? main : [...main, ...matrix().filter(({ name }) => !names.has(name))];
}
