/** What is foretold of a step, and how bytes are compared with it. */

/** A chain that comes back. */
export interface Used {
  /** Head or buffer id; default: that of the first chain. */
  readonly id?: number;
  readonly length: number;
}

/** What a step may do, and must. */
export interface Foretold {
  /** Chains that come back, in this order. */
  readonly used?: readonly Used[];
  /** What is written to the guest's RAM beside the ring: offset and bytes. */
  readonly writes?: readonly (readonly [number, ArrayLike<number>])[];
  /** What is written to the disk: offset and bytes. */
  readonly disk?: readonly (readonly [number, ArrayLike<number>])[];
  /** RING_ERROR_*: the queue is broken. */
  readonly error?: number;
  /** Where: the head or the slot, and the descriptor. */
  readonly head?: number;
  readonly descriptor?: number;
  /** Whether the driver is told; default: when something comes back. */
  readonly interrupt?: boolean;
}

/** Where two arrays differ first. */
export function firstDifference(is: Uint8Array, mustBe: Uint8Array): string | undefined {
  const a = Buffer.from(is.buffer, is.byteOffset, is.byteLength);
  const b = Buffer.from(mustBe.buffer, mustBe.byteOffset, mustBe.byteLength);
  if (a.equals(b)) return undefined;
  const at = is.findIndex((byte, index) => byte !== mustBe[index]);
  return `0x${at.toString(16)} is ${is[at]}, not ${mustBe[at]}`;
}
