/**
 * Fixed newstyle negotiation as a state machine over bytes: no socket, no clock. It finds options
 * and keeps to limits; what they mean stands in export-options.ts.
 *
 *   flags ──▶ header ──▶ collect ──▶ answered       an option whose data is looked at
 *     │        ▲ │  └───▶ skip ─────▶ answered       one that is answered whatever its data says
 *     ▼        │ ▼                       │
 *   CLOSE      │ CLOSE                   ├──▶ ENTER or CLOSE, or SECURE ──secured──▶ header
 *              └─────────────────────────┘
 *
 * flags -> header       #clientFlags
 * header -> collect     #begin, when ExportOptions.judge has no answer yet
 * header -> skip        #begin, when it answers from option and length alone
 * answered              #answered, from #collected and #skipped
 *
 * H1  Exactly the announced length of an option is consumed, known or unknown.
 * H2  Memory does not depend on announced numbers: at most MAX_OPTION_BYTES are held.
 * H3  One option is answered before the next is looked at; a full output stops the machine.
 * H4  A magic that is wrong ends the connection: there is no way to find the next option.
 * H5  STARTTLS stops the machine; TLS begins with nothing but the client flags (CVE-2021-3716).
 */
import type { ExportInfo } from './export-info.ts';
import {
  ExportOptions,
  HANDSHAKE_CLOSE,
  HANDSHAKE_MORE,
  HANDSHAKE_SECURE,
  type TlsState,
  VERDICT_CLOSE,
  VERDICT_COLLECT,
} from './export-options.ts';
import { MAX_OPTIONS, MAX_SKIPPED_BYTES } from './limits.ts';
import { OptionReplies } from './option-replies.ts';
import {
  CLIENT_FLAGS_SIZE,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  OPT_EXPORT_NAME,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OPTION_SIZE,
} from './protocol.ts';

export type { ExportInfo } from './export-info.ts';
export {
  HANDSHAKE_CLOSE,
  HANDSHAKE_ENTER,
  HANDSHAKE_MORE,
  HANDSHAKE_SECURE,
} from './export-options.ts';

/** Replies held before the machine stops until they are taken, in bytes. */
const OUTPUT_BYTES = 16_384;

const STATE_FLAGS = 0;
const STATE_HEADER = 1;
const STATE_COLLECT = 2;
const STATE_SKIP = 3;

/** One connection's negotiation. NBD proto, "Fixed newstyle negotiation". */
export class Handshake<E extends ExportInfo = ExportInfo> {
  readonly #replies = new OptionReplies();
  readonly #exports: readonly E[];
  #meaning: ExportOptions<E>;
  /** What is being collected: flags, a header or the data of an option. */
  #held = new Uint8Array(OPTION_SIZE);
  #state = STATE_FLAGS;
  #have = 0;
  #missing = CLIENT_FLAGS_SIZE;
  #option = 0;
  #options = 0;
  /** The reply to the option that is being skipped. */
  #verdict = VERDICT_COLLECT;
  #fixed = false;
  #noZeroes = false;
  #outcome = HANDSHAKE_MORE;
  /** Why the client was not heard to the end, in words. */
  #fault = '';

  /** @param exports what is offered; may change */
  constructor(exports: readonly E[], tls: TlsState = 'none') {
    this.#exports = exports;
    this.#meaning = new ExportOptions(exports, this.#replies, tls);
    this.#replies.greeting();
  }

  /** HANDSHAKE_MORE until the negotiation is over. */
  get outcome(): number {
    return this.#outcome;
  }

  /** The machine closed because of what the client sent, other than ABORT. */
  get broken(): boolean {
    return this.#fault !== '';
  }

  /** What was last found wrong with what the client sent, in words. */
  get complaint(): string {
    return this.#fault || this.#meaning.complaint;
  }

  /** The export that transmission is about. */
  get chosen(): E | undefined {
    return this.#meaning.chosen;
  }

  /** What messages look like: a HEADERS_* number. */
  get headers(): number {
    return this.#meaning.headers;
  }

  /** The metadata contexts that were selected (contexts.ts). */
  get selection(): number {
    return this.#meaning.selection;
  }

  /** TLS has begun: options come again, and nothing of those in clear is left (H5). */
  secured(): void {
    if (this.#outcome !== HANDSHAKE_SECURE) throw new Error('nobody asked for TLS');
    this.#meaning = new ExportOptions(this.#exports, this.#replies, 'secure');
    this.#outcome = HANDSHAKE_MORE;
    this.#expect(STATE_HEADER, OPTION_SIZE);
  }

  /** What is to be sent now; must be taken before the outcome is acted on. */
  takeReplies(): Uint8Array {
    return this.#replies.take();
  }

  /**
   * Consumes bytes up to the end, to the outcome, or until the replies must be taken (H3).
   * @returns the index of the first byte that was not consumed
   */
  feed(bytes: Uint8Array, start: number, end: number): number {
    let at = start;
    while (at < end && this.#outcome === HANDSHAKE_MORE && this.#replies.length < OUTPUT_BYTES) {
      const length = Math.min(end - at, this.#missing);
      if (this.#state !== STATE_SKIP) this.#held.set(bytes.subarray(at, at + length), this.#have);
      at += length;
      this.#have += length;
      this.#missing -= length;
      if (this.#missing === 0) this.#complete();
    }
    return at;
  }

  #complete(): void {
    switch (this.#state) {
      case STATE_FLAGS:
        return this.#clientFlags();
      case STATE_HEADER:
        return this.#begin();
      case STATE_COLLECT:
        return this.#collected();
      case STATE_SKIP:
        return this.#skipped();
    }
  }

  #expect(state: number, lengthBytes: number): void {
    this.#state = state;
    this.#have = 0;
    this.#missing = lengthBytes;
    if (lengthBytes === 0) this.#complete();
  }

  /** NBD proto, "Client flags": unknown ones MUST end the connection. */
  #clientFlags(): void {
    const flags = word(this.#held, 0);
    if ((flags & ~(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)) !== 0) {
      return this.#break('it has flags that NBD does not have');
    }
    this.#fixed = (flags & FLAG_FIXED_NEWSTYLE) !== 0;
    this.#noZeroes = (flags & FLAG_NO_ZEROES) !== 0;
    this.#expect(STATE_HEADER, OPTION_SIZE);
  }

  #begin(): void {
    const magicOk =
      word(this.#held, 0) === OPTION_MAGIC_HIGH && word(this.#held, 4) === OPTION_MAGIC_LOW;
    const length = word(this.#held, 12);
    this.#option = word(this.#held, 8);
    this.#options++;
    if (!magicOk) return this.#break('it does not speak NBD');
    if (this.#options > MAX_OPTIONS) return this.#break('it sent too many options');
    if (length > MAX_SKIPPED_BYTES) return this.#break('it sent an absurd length');
    // Without fixed newstyle the client cannot read option replies.
    if (!this.#fixed && this.#option !== OPT_EXPORT_NAME) {
      return this.#break('it sent options without fixed newstyle');
    }
    const verdict = this.#meaning.judge(this.#option, length);
    if (verdict === VERDICT_CLOSE) return this.#break(this.#meaning.complaint);
    this.#verdict = verdict;
    if (verdict !== VERDICT_COLLECT) return this.#expect(STATE_SKIP, length);
    if (length > this.#held.length) this.#held = new Uint8Array(length);
    this.#expect(STATE_COLLECT, length);
  }

  #skipped(): void {
    this.#answered(this.#meaning.skipped(this.#option, this.#verdict));
  }

  #collected(): void {
    const data = this.#held.subarray(0, this.#have);
    const outcome = this.#meaning.answer(this.#option, data, !this.#noZeroes);
    if (outcome === HANDSHAKE_CLOSE) return this.#break(this.#meaning.complaint);
    this.#answered(outcome);
  }

  #answered(outcome: number): void {
    this.#outcome = outcome;
    if (outcome === HANDSHAKE_MORE) this.#expect(STATE_HEADER, OPTION_SIZE);
  }

  #break(complaint: string): void {
    this.#fault = complaint;
    this.#outcome = HANDSHAKE_CLOSE;
  }
}

/** The big-endian u32 at `at`. */
function word(bytes: Uint8Array, at: number): number {
  const high = ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  return ((high << 16) | ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0)) >>> 0;
}
