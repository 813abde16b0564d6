/**
 * Suites that need another program: they run where it is installed, and where it is not they are
 * skipped with a reason, which the run lists at its end.
 */

import { describe } from 'vitest';
import { hasPeer, PEERS, type Peer } from '../../scripts/peers.mjs';

declare module 'vitest' {
  interface TaskMeta {
    /** Why a suite or a test is skipped. */
    skipReason?: string;
  }
}

/** Enough for a test that starts a few programs on a busy machine. */
export const PROGRAM_TIMEOUT_MS = 120_000;

/** True when the program is installed. */
export function peer(program: Peer): boolean {
  return hasPeer(program);
}

/** `describe` for tests that need all of these programs. */
export function describeWithPeers(
  programs: readonly Peer[],
  title: string,
  body: () => void,
): void {
  const missing = programs.filter((program) => !peer(program));
  if (missing.length === 0) {
    describe(title, { timeout: PROGRAM_TIMEOUT_MS }, body);
  } else {
    const skipReason = `needs ${missing.map((program) => nameWithPackage(program)).join(', ')}`;
    describe(title, { skip: true, meta: { skipReason } }, body);
  }
}

function nameWithPackage(program: Peer): string {
  const packages = PEERS[program];
  return `${program} (Debian package${packages.length > 1 ? 's' : ''} ${packages.join(' ')})`;
}
