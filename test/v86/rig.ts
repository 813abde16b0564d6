/** Disks in memory in emulators that do not run; all of them are closed after each test. */
import type { V86 } from 'v86';
import { afterEach } from 'vitest';
import { MemoryBackend, type MemoryBackendOptions } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import type { DiskOptions } from '../../src/disk-types.ts';
import { attachVirtioBlk, type V86VirtioBlkOptions } from '../../src/v86.ts';
import { createEmulator } from './guest.ts';
import { PciGuest } from './pci-guest.ts';

export const MIB = 1 << 20;
export const SMALL = { arenaBytes: 65_536 };
const disks: Disk[] = [];
const emulators: V86[] = [];

afterEach(async () => {
  await Promise.all(disks.splice(0).map((disk) => disk.close()));
  await Promise.all(emulators.splice(0).map((emulator) => emulator.destroy()));
});

export function makeDisk(options: Partial<MemoryBackendOptions> = {}, disk: DiskOptions = {}) {
  const backend = new MemoryBackend({ sizeBytes: MIB, ...options });
  const made = new Disk(backend, { bufferBytes: 65_536, ...disk });
  disks.push(made);
  return { backend, disk: made };
}

export function makeEmulator(): V86 {
  const emulator = createEmulator({ boots: false });
  emulators.push(emulator);
  return emulator;
}

/** An emulator with a disk. */
export async function setUp(options: V86VirtioBlkOptions = {}, made = makeDisk()) {
  const emulator = makeEmulator();
  const { backend, disk } = made;
  const errors: Error[] = [];
  const onError = (error: Error): void => void errors.push(error);
  const blk = await attachVirtioBlk(emulator, disk, { ...SMALL, onError, ...options });
  const guest = await PciGuest.of(emulator);
  const [slot = 0] = guest.slots;
  return { emulator, backend, disk, blk, guest, slot, errors };
}
