/** Suites that need a guest, or a client, which scripts/guests.mjs fetches. */
import { describe } from 'vitest';

import { type GuestName, GUESTS, hasGuest } from '../../scripts/guests.mjs';
import type { Peer } from '../../scripts/peers.mjs';
import { describeWithPeers } from './peers.ts';

/** Those that run on the machine itself, and not in an emulator. */
const NATIVE: ReadonlySet<GuestName> = new Set(['uml', 'blkio']);

/** `describe` for tests that need a guest, and these programs. */
export function describeWithGuest(
  guest: GuestName,
  programs: readonly Peer[],
  title: string,
  body: () => void,
): void {
  const why = obstacle(guest);
  if (why === undefined) return describeWithPeers(programs, title, body);
  describe(title, { skip: true, meta: { skipReason: why } }, body);
}

function obstacle(guest: GuestName): string | undefined {
  if (NATIVE.has(guest) && process.arch !== 'x64') return `${guest} runs on x64 alone`;
  if (hasGuest(guest)) return undefined;
  const { architecture, suite } = GUESTS[guest];
  return `needs ${guest} (${suite}, ${architecture}), which node scripts/guests.mjs fetches`;
}
