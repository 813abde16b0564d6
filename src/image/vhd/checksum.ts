/** The checksum of VHD's structures. */
import type { Fields } from '../qcow2/fields.ts';

const CHECKSUM_BYTES = 4;

/** Checks the one at `offset`: the one's complement of the sum of all bytes but its own. */
export function verifyChecksum(fields: Fields, offset: number): void {
  const found = fields.u32(offset);
  const sum = fields.bytes.reduce(
    (total, byte, at) => (at >= offset && at < offset + CHECKSUM_BYTES ? total : total + byte),
    0,
  );
  const right = ~sum >>> 0;
  if (found === right) return;
  throw fields.refusal(offset, `its checksum is ${found}, and should be ${right}; it is damaged`);
}
