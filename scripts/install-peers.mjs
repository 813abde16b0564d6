// Installs the programs that tests use (peers.mjs) where that is possible: as root on Debian.
// Elsewhere it says what is missing and that the tests that need it will be skipped. Its exit code
// is always 0; when nothing is missing it does nothing.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { missingPeers, PEERS } from './peers.mjs';

const APT_TIMEOUT_MS = 8 * 60_000;
const WAITS = ['Acquire::Retries=2', 'Acquire::http::Timeout=30', 'DPkg::Lock::Timeout=120'];

function missingPackages() {
  return [...new Set(missingPeers().flatMap((program) => PEERS[program]))];
}

/** @param {string[]} args */
function aptGet(args) {
  spawnSync('apt-get', [...WAITS.flatMap((wait) => ['-o', wait]), '-qq', ...args], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    timeout: APT_TIMEOUT_MS,
  });
}

/** Installs what is missing, as far as it can; whether that worked is seen by looking again. */
export function installPeers() {
  const wanted = missingPackages();
  if (wanted.length === 0) return;
  if (process.getuid?.() === 0 && existsSync('/usr/bin/apt-get')) {
    console.error(`peers: installing ${wanted.join(' ')}`);
    aptGet(['update']);
    aptGet(['install', '-y', '--no-install-recommends', ...wanted]);
  }
  const missing = missingPackages();
  if (missing.length > 0) {
    console.error(`peers: not installed: ${missing.join(' ')}; tests that need them are skipped`);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) installPeers();
