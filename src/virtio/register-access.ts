/** What the register faces (mmio.ts, pci.ts) have in common. */
import type { QueueArea } from './queue-registers.ts';
import type { VirtioDevice } from './transport.ts';

const LARGEST_ACCESS = 4;
const WORD_BITS = 32n;
const WORD_MASK = 0xffff_ffffn;

/** A half of a 64-bit register. */
export type Half = 'low' | 'high';

/** Sets one half of an address of a queue. */
export function setAddressHalf(
  { registers }: VirtioDevice,
  queue: number,
  [area, half]: readonly [QueueArea, Half],
  value: number,
): void {
  const before = registers.settings(queue)?.[area] ?? 0n;
  const bits = BigInt(value);
  const after =
    half === 'low' ? (before & ~WORD_MASK) | bits : (before & WORD_MASK) | (bits << WORD_BITS);
  registers.setAddress(queue, area, after);
}

/** One half of an address of a queue; 0: there is no such queue. */
export function addressHalf(
  { registers }: VirtioDevice,
  queue: number,
  [area, half]: readonly [QueueArea, Half],
): number {
  const address = registers.settings(queue)?.[area] ?? 0n;
  return Number(half === 'low' ? address & WORD_MASK : address >> WORD_BITS);
}

/** Reads up to 4 bytes of the configuration space as an unsigned number. */
export function readConfig(device: VirtioDevice, offset: number, size: number): number {
  if (!isConfigAccess(size)) return 0;
  const bytes = new Uint8Array(size);
  device.readConfig(offset, bytes);
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}

/** Writes up to 4 bytes of the configuration space. */
export function writeConfig(
  device: VirtioDevice,
  offset: number,
  size: number,
  value: number,
): void {
  if (!isConfigAccess(size)) return;
  const bytes = Uint8Array.from({ length: size }, (_, index) => value >>> (index * 8));
  void device.writeConfig(offset, bytes);
}

function isConfigAccess(size: number): boolean {
  return size >= 1 && size <= LARGEST_ACCESS;
}
