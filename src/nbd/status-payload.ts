/**
 * The payload of a BLOCK_STATUS that names contexts, while it comes in: u64 length, then u32 ids,
 * each of a selected context, none twice. NBD proto, "NBD_CMD_BLOCK_STATUS".
 */
import { contextWithId, MAX_CONTEXTS, NO_CONTEXTS } from './contexts.ts';
import { REFUSED_IDS } from './refusals.ts';
import {
  type RequestTable,
  type Session,
  STATUS_ID_BYTES,
  STATUS_LENGTH_BYTES,
  statusRefusal,
} from './requests.ts';
import type { Staging } from './staging.ts';

const WORD = 2 ** 32;

export class StatusPayload {
  readonly #bytes = new Uint8Array(STATUS_LENGTH_BYTES + MAX_CONTEXTS * STATUS_ID_BYTES);
  readonly #view = new DataView(this.#bytes.buffer);
  #have = 0;
  #length = 0;

  /** @param lengthBytes of the payload; it was checked to fit */
  begin(lengthBytes: number): void {
    this.#have = 0;
    this.#length = lengthBytes;
  }

  /** Takes what is staged of it; true when it is whole. */
  take(staging: Staging): boolean {
    const { at, bytes } = staging;
    const length = Math.min(this.#length - this.#have, staging.length);
    this.#bytes.set(bytes.subarray(at, at + length), this.#have);
    this.#have += length;
    staging.consume(length);
    return this.#have === this.#length;
  }

  /** What is asked for, judged and put into the table; ALLOWED, or why it is refused. */
  judge(session: Session, table: RequestTable, slot: number): number {
    // Above 2^53 it may be rounded, which keeps it past every end.
    const effectBytes = this.#view.getUint32(0) * WORD + this.#view.getUint32(4);
    const selection = this.#selection(session);
    if (selection === NO_CONTEXTS) return REFUSED_IDS;
    table.length[slot] = effectBytes;
    table.selection[slot] = selection;
    return statusRefusal(session, table.offset[slot] ?? 0, effectBytes);
  }

  /** The contexts that are named, or NO_CONTEXTS where one cannot be. */
  #selection({ contexts, selection }: Session): number {
    let named = NO_CONTEXTS;
    for (let at = STATUS_LENGTH_BYTES; at < this.#length; at += STATUS_ID_BYTES) {
      const one = contextWithId(contexts, this.#view.getUint32(at)) & selection & ~named;
      if (one === 0) return NO_CONTEXTS;
      named |= one;
    }
    return named >>> 0;
  }
}
