// Fetches the guests and clients that tests run, one folder each in build/guests/:
//
//   i386   a kernel with the modules it needs, a static busybox, the tools of ext4 and blkdiscard
//          with their libraries, and SeaBIOS, for v86
//   uml    user-mode Linux: a kernel that is a program, and its virtio_blk
//   cloud  the kernel of Debian's cloud images with its virtio modules, for QEMU without KVM
//   blkio  libblkio, a virtio-blk driver in a library
//
// From a Debian mirror, checked by apt with Debian's keys; the machine's own package state is left
// alone. What is there already is kept.
//
//   node scripts/guests.mjs
//
// Needs apt-get, dpkg-deb and the archive's keyring, as Debian has them. Elsewhere, or without a
// network, it says so, and the tests that need what is missing are skipped. Its exit code is
// always 0.

import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ROOT } from './paths.mjs';

/**
 * @typedef {object} Guest
 * @property {string} suite
 * @property {string} architecture
 * @property {string} [kernel] a package that depends on the kernel's
 * @property {Record<string, Record<string, readonly string[]>>} files package -> what of it is
 *   taken, by the folder that it goes to
 * @property {readonly string[]} [modules] in the order in which they are loaded
 */

const MIRROR = 'http://deb.debian.org/debian';
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const BUSYBOX = { 'busybox-static': { bin: ['bin/busybox'] } };
const VIRTIO_MODULES = [
  'virtio',
  'virtio_ring',
  'virtio_pci_modern_dev',
  'virtio_pci_legacy_dev',
  'virtio_pci',
  'virtio_blk',
];

export const GUESTS = {
  i386: {
    suite: 'bookworm',
    architecture: 'i386',
    kernel: 'linux-image-686',
    files: {
      ...BUSYBOX,
      e2fsprogs: { sbin: ['sbin/mke2fs', 'sbin/e2fsck'] },
      'util-linux': { sbin: ['sbin/blkdiscard'] },
      libext2fs2: { lib: ['libext2fs.so.2', 'libe2p.so.2'] },
      'libcom-err2': { lib: ['libcom_err.so.2'] },
      libblkid1: { lib: ['libblkid.so.1'] },
      libuuid1: { lib: ['libuuid.so.1'] },
      libc6: { lib: ['libc.so.6', 'ld-linux.so.2', 'libpthread.so.0'] },
      seabios: { '.': ['seabios/bios.bin', 'seabios/vgabios-stdvga.bin'] },
    },
    modules: [...VIRTIO_MODULES, 'crc16', 'crc32c_generic', 'libcrc32c', 'mbcache', 'jbd2', 'ext4'],
  },
  uml: {
    suite: 'bookworm',
    architecture: 'amd64',
    files: {
      ...BUSYBOX,
      'user-mode-linux': { bin: ['bin/linux.uml'], modules: ['block/virtio_blk.ko'] },
    },
  },
  cloud: {
    suite: 'bookworm',
    architecture: 'amd64',
    kernel: 'linux-image-cloud-amd64',
    files: BUSYBOX,
    modules: [...VIRTIO_MODULES, 'libcrc32c'],
  },
  // bookworm's is too old for its clients; this one runs with the C library of bookworm.
  blkio: {
    suite: 'trixie',
    architecture: 'amd64',
    files: { libblkio1: { lib: ['libblkio.so.1'] } },
  },
};

/** @typedef {keyof typeof GUESTS} GuestName */

const VERSION = 2;
const TIMEOUT_MS = 5 * 60_000;

/**
 * The folder of a guest: `vmlinuz`, `modules/`, `bin/`, `sbin/` and `lib/`, as far as it has them.
 * @param {GuestName} name
 */
export function guestFolder(name) {
  return join(ROOT, 'build/guests', name);
}

/**
 * True when the guest is there.
 * @param {GuestName} name
 */
export function hasGuest(name) {
  const stamp = stampOf(name);
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === recipeOf(name);
}

/** Fetches the guests that are not there. */
export function fetchGuests() {
  for (const name of /** @type {GuestName[]} */ (Object.keys(GUESTS))) {
    if (!hasGuest(name)) fetchGuest(name);
  }
}

/** @param {GuestName} name */
function fetchGuest(name) {
  const work = join(ROOT, 'build/guests/work');
  const folder = guestFolder(name);
  /** @type {Guest} */
  const guest = GUESTS[name];
  try {
    if (!existsSync(KEYRING)) throw new Error(`there is no ${KEYRING}`);
    console.error(`guests: fetching ${name}`);
    rmSync(work, { recursive: true, force: true });
    const tree = unpack(work, download(work, guest));
    collect(tree, guest, join(work, 'guest'));
    rmSync(folder, { recursive: true, force: true });
    renameSync(join(work, 'guest'), folder);
    writeFileSync(stampOf(name), recipeOf(name));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    console.error(`guests: ${name} is not fetched: ${why}; tests that need it are skipped`);
  }
  rmSync(work, { recursive: true, force: true });
}

/**
 * What is written last says by which recipe all of it was made.
 * @param {GuestName} name
 */
function stampOf(name) {
  return join(guestFolder(name), 'recipe');
}

/** @param {GuestName} name */
function recipeOf(name) {
  return JSON.stringify({ ...GUESTS[name], version: VERSION });
}

/**
 * Downloads the packages with a state of our own; returns their files.
 * @param {string} work
 * @param {Guest} guest
 */
function download(work, { suite, architecture, kernel, files }) {
  const folder = join(work, 'deb');
  mkdirSync(folder, { recursive: true });
  for (const name of ['lists', 'cache']) {
    mkdirSync(join(work, name, name === 'lists' ? 'partial' : 'archives/partial'), {
      recursive: true,
    });
  }
  writeFileSync(join(work, 'status'), '');
  const source = `deb [signed-by=${KEYRING} arch=${architecture}] ${mirror()} ${suite} main\n`;
  writeFileSync(join(work, 'sources.list'), source);
  writeFileSync(join(work, 'apt.conf'), aptConf(work, architecture));
  const apt = (/** @type {string} */ program, /** @type {string[]} */ args) =>
    run(program, args, folder, { APT_CONFIG: join(work, 'apt.conf') });
  apt('apt-get', ['update', '-qq']);
  const packages = Object.keys(files);
  if (kernel !== undefined) {
    const depends = apt('apt-cache', ['depends', kernel]);
    const image = /Depends: (linux-image-\d\S*)/.exec(depends)?.[1];
    if (image === undefined) throw new Error(`${kernel} depends on no kernel`);
    packages.push(image);
  }
  apt('apt-get', ['download', '-qq', ...packages]);
  return readdirSync(folder).map((name) => join(folder, name));
}

/**
 * @param {string} work
 * @param {string} architecture
 */
function aptConf(work, architecture) {
  const dirs = {
    'Dir::State::lists': join(work, 'lists'),
    'Dir::State::status': join(work, 'status'),
    'Dir::Cache': join(work, 'cache'),
    'Dir::Etc::sourcelist': join(work, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'APT::Architecture': architecture,
    'APT::Architectures': architecture,
    'APT::Sandbox::User': 'root',
    'APT::Update::Error-Mode': 'any',
    'Acquire::Retries': '3',
    'Acquire::http::Timeout': '30',
    'Acquire::Languages': 'none',
  };
  return Object.entries(dirs)
    .map(([name, value]) => `${name} "${value}";\n`)
    .join('');
}

/** The mirror of this machine, where it has one of Debian. */
function mirror() {
  const file = '/etc/apt/sources.list.d/debian.sources';
  const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
  return /^URIs: *(https?:\S+\/debian)\/? *$/m.exec(text)?.[1] ?? MIRROR;
}

/**
 * @param {string} work
 * @param {string[]} packages
 */
function unpack(work, packages) {
  const tree = join(work, 'tree');
  for (const file of packages) run('dpkg-deb', ['-x', file, tree], work);
  return tree;
}

/**
 * Picks what is needed out of the unpacked packages.
 * @param {string} tree
 * @param {Guest} guest
 * @param {string} folder
 */
function collect(tree, { kernel, files, modules = [] }, folder) {
  const paths = readdirSync(tree, { recursive: true, encoding: 'utf8' });
  const find = (/** @type {string} */ end) => {
    const found = paths.find((path) => `/${path}`.endsWith(`/${end}`));
    if (found === undefined) throw new Error(`no package has ${end}`);
    return join(tree, found);
  };
  const take = (/** @type {string} */ from, /** @type {string} */ to) => {
    cpSync(from, join(folder, to), { dereference: true, recursive: true });
  };
  for (const taken of Object.values(files)) {
    for (const [to, names] of Object.entries(taken)) {
      for (const name of names) take(find(name), join(to, basename(name)));
    }
  }
  for (const name of modules) take(find(`${name}.ko`), `modules/${name}.ko`);
  if (kernel === undefined) return;
  const image = paths.find((path) => basename(path).startsWith('vmlinuz-'));
  if (image === undefined) throw new Error('the kernel package has no kernel');
  take(join(tree, image), 'vmlinuz');
}

/**
 * Runs a program to its end; returns what it printed.
 * @param {string} program
 * @param {string[]} args
 * @param {string} cwd
 * @param {Record<string, string>} [env]
 */
function run(program, args, cwd, env = {}) {
  const { status, error, stdout, stderr } = spawnSync(program, args, {
    cwd,
    env: { ...process.env, ...env },
    encoding: 'utf8',
    timeout: TIMEOUT_MS,
  });
  if (error !== undefined) throw new Error(`${program}: ${error.message}`);
  if (status !== 0)
    throw new Error(`${program} ${args[0]}: ${stderr.trim().split('\n')[0] || `exit ${status}`}`);
  return stdout;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) fetchGuests();
