// Fetches the guest that tests boot: a Debian kernel for i386 with the modules it needs, a static
// busybox, the tools of ext4 and blkdiscard with their libraries, and SeaBIOS. From a Debian
// mirror, checked by apt with Debian's keys; the machine's own package state is left alone. What
// is there already is kept.
//
//   node scripts/guests.mjs
//
// Needs apt-get, dpkg-deb and the archive's keyring, as Debian has them. Elsewhere, or without a
// network, it says so, and the tests that need the guest are skipped. Its exit code is always 0.

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

/** Where the guest is: kernel and firmware, `modules/`, `bin/`, `sbin/` and `lib/`. */
export const GUEST = join(ROOT, 'build/guests/i386');

const SUITE = 'bookworm';
const MIRROR = 'http://deb.debian.org/debian';
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const KERNEL = 'linux-image-686';
/** Package -> what of it is taken, and where it goes; a folder, or a name. */
const FILES = {
  'busybox-static': { bin: ['bin/busybox'] },
  e2fsprogs: { sbin: ['sbin/mke2fs', 'sbin/e2fsck'] },
  'util-linux': { sbin: ['sbin/blkdiscard'] },
  libext2fs2: { lib: ['libext2fs.so.2', 'libe2p.so.2'] },
  'libcom-err2': { lib: ['libcom_err.so.2'] },
  libblkid1: { lib: ['libblkid.so.1'] },
  libuuid1: { lib: ['libuuid.so.1'] },
  libc6: { lib: ['libc.so.6', 'ld-linux.so.2', 'libpthread.so.0'] },
  seabios: { '.': ['seabios/bios.bin', 'seabios/vgabios-stdvga.bin'] },
};
/** Modules that a disk and ext4 need, in the order in which they are loaded. */
export const MODULES = [
  'virtio',
  'virtio_ring',
  'virtio_pci_modern_dev',
  'virtio_pci_legacy_dev',
  'virtio_pci',
  'virtio_blk',
  'crc16',
  'crc32c_generic',
  'libcrc32c',
  'mbcache',
  'jbd2',
  'ext4',
];
/** What is written last says by which recipe all of it was made. */
const STAMP = join(GUEST, 'recipe');
const RECIPE = JSON.stringify({ SUITE, KERNEL, FILES, MODULES, version: 1 });
const TIMEOUT_MS = 5 * 60_000;

/** True when the guest is there. */
export function hasGuest() {
  return existsSync(STAMP) && readFileSync(STAMP, 'utf8') === RECIPE;
}

/** Fetches the guest unless it is there; true when it is then. */
export function fetchGuest() {
  if (hasGuest()) return true;
  const work = join(ROOT, 'build/guests/work');
  try {
    if (!existsSync(KEYRING)) throw new Error(`there is no ${KEYRING}`);
    console.error(`guests: fetching a ${SUITE} kernel for i386`);
    rmSync(work, { recursive: true, force: true });
    const tree = unpack(work, download(work));
    collect(tree, join(work, 'guest'));
    rmSync(GUEST, { recursive: true, force: true });
    renameSync(join(work, 'guest'), GUEST);
    writeFileSync(STAMP, RECIPE);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    console.error(`guests: not fetched: ${why}; tests that boot one are skipped`);
  }
  rmSync(work, { recursive: true, force: true });
  return hasGuest();
}

/**
 * Downloads the packages with a state of our own; returns their files.
 * @param {string} work
 */
function download(work) {
  const folder = join(work, 'deb');
  mkdirSync(folder, { recursive: true });
  for (const name of ['lists', 'cache']) {
    mkdirSync(join(work, name, name === 'lists' ? 'partial' : 'archives/partial'), {
      recursive: true,
    });
  }
  writeFileSync(join(work, 'status'), '');
  const source = `deb [signed-by=${KEYRING} arch=i386] ${mirror()} ${SUITE} main\n`;
  writeFileSync(join(work, 'sources.list'), source);
  writeFileSync(join(work, 'apt.conf'), aptConf(work));
  const apt = (/** @type {string} */ program, /** @type {string[]} */ args) =>
    run(program, args, folder, { APT_CONFIG: join(work, 'apt.conf') });
  apt('apt-get', ['update', '-qq']);
  const depends = apt('apt-cache', ['depends', KERNEL]);
  const kernel = /Depends: (linux-image-\d\S*)/.exec(depends)?.[1];
  if (kernel === undefined) throw new Error(`${KERNEL} depends on no kernel`);
  apt('apt-get', ['download', '-qq', kernel, ...Object.keys(FILES)]);
  return readdirSync(folder).map((name) => join(folder, name));
}

/** @param {string} work */
function aptConf(work) {
  const dirs = {
    'Dir::State::lists': join(work, 'lists'),
    'Dir::State::status': join(work, 'status'),
    'Dir::Cache': join(work, 'cache'),
    'Dir::Etc::sourcelist': join(work, 'sources.list'),
    'Dir::Etc::sourceparts': '/dev/null',
    'APT::Architecture': 'i386',
    'APT::Architectures': 'i386',
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
 * @param {string} guest
 */
function collect(tree, guest) {
  const paths = readdirSync(tree, { recursive: true, encoding: 'utf8' });
  const find = (/** @type {string} */ end) => {
    const found = paths.find((path) => `/${path}`.endsWith(`/${end}`));
    if (found === undefined) throw new Error(`no package has ${end}`);
    return join(tree, found);
  };
  const take = (/** @type {string} */ from, /** @type {string} */ to) => {
    cpSync(from, join(guest, to), { dereference: true, recursive: true });
  };
  for (const files of Object.values(FILES)) {
    for (const [to, names] of Object.entries(files)) {
      for (const name of names) take(find(name), join(to, basename(name)));
    }
  }
  for (const name of MODULES) take(find(`${name}.ko`), `modules/${name}.ko`);
  const kernel = paths.find((path) => basename(path).startsWith('vmlinuz-'));
  if (kernel === undefined) throw new Error('the kernel package has no kernel');
  take(join(tree, kernel), 'vmlinuz');
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

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) fetchGuest();
