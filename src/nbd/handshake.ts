/**
 * Fixed newstyle negotiation as a state machine over bytes: no socket, no clock.
 *
 *   flags ──▶ header ──▶ collect ──▶ header        an option whose data is looked at
 *     │         │  └───▶ skip ─────▶ header        one that is answered whatever its data says
 *     ▼         ▼
 *    CLOSE     CLOSE or ENTER
 *
 * flags -> header       #clientFlags
 * header -> collect     #begin, when #verdict has no answer yet
 * header -> skip        #begin, when #verdict answers from option and length alone
 * collect -> header     #collected
 * skip -> header        #skipped
 *
 * H1  Exactly the announced length of an option is consumed, known or unknown.
 * H2  Memory does not depend on announced numbers: at most MAX_OPTION_BYTES are held.
 * H3  One option is answered before the next is looked at; a full output stops the machine.
 * H4  A magic that is wrong ends the connection: there is no way to find the next option.
 */
import { MAX_OPTION_BYTES, MAX_OPTIONS, MAX_SKIPPED_BYTES } from './limits.ts';
import { decodeString, parseContextRequest, parseInfoRequest } from './option-data.ts';
import { OptionReplies } from './option-replies.ts';
import {
  CLIENT_FLAGS_SIZE,
  CONTEXT_BASE_ALLOCATION,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  INFO_BLOCK_SIZE,
  INFO_DESCRIPTION,
  INFO_NAME,
  MAX_STRING_BYTES,
  OPT_ABORT,
  OPT_EXPORT_NAME,
  OPT_EXTENDED_HEADERS,
  OPT_GO,
  OPT_INFO,
  OPT_LIST,
  OPT_LIST_META_CONTEXT,
  OPT_SET_META_CONTEXT,
  OPT_STARTTLS,
  OPT_STRUCTURED_REPLY,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OPTION_SIZE,
  REP_ACK,
  REP_ERR_INVALID,
  REP_ERR_POLICY,
  REP_ERR_TOO_BIG,
  REP_ERR_UNKNOWN,
  REP_ERR_UNSUP,
  TRANSMISSION_CAN_MULTI_CONN,
  TRANSMISSION_HAS_FLAGS,
  TRANSMISSION_READ_ONLY,
  TRANSMISSION_SEND_CACHE,
  TRANSMISSION_SEND_DF,
  TRANSMISSION_SEND_FAST_ZERO,
  TRANSMISSION_SEND_FLUSH,
  TRANSMISSION_SEND_FUA,
  TRANSMISSION_SEND_TRIM,
  TRANSMISSION_SEND_WRITE_ZEROES,
} from './protocol.ts';

/** The export as clients see it. */
export interface ExportInfo {
  readonly name: string;
  readonly description: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly multiConn: boolean;
  /** A power of two of at least 512. NBD proto, "Size constraints". */
  readonly preferredBlockBytes: number;
  readonly maxPayloadBytes: number;
}

/** The negotiation goes on. */
export const HANDSHAKE_MORE = 0;
/** Transmission begins as soon as the replies are sent. */
export const HANDSHAKE_ENTER = 1;
/** The connection ends as soon as the replies are sent. */
export const HANDSHAKE_CLOSE = 2;

/** Replies held before the machine stops until they are taken, in bytes. */
const OUTPUT_BYTES = 16_384;

const STATE_FLAGS = 0;
const STATE_HEADER = 1;
const STATE_COLLECT = 2;
const STATE_SKIP = 3;

/** No answer yet: the data decides. */
const VERDICT_COLLECT = 0;
/** No answer at all. */
const VERDICT_CLOSE = -1;

/**
 * The transmission flags of an export; DF is only there with structured replies. NBD proto,
 * "Transmission flags".
 */
export function transmissionFlags(info: ExportInfo, structured: boolean): number {
  let flags =
    TRANSMISSION_HAS_FLAGS |
    TRANSMISSION_SEND_FLUSH |
    TRANSMISSION_SEND_FUA |
    TRANSMISSION_SEND_CACHE;
  flags |= info.readOnly
    ? TRANSMISSION_READ_ONLY
    : TRANSMISSION_SEND_TRIM | TRANSMISSION_SEND_WRITE_ZEROES | TRANSMISSION_SEND_FAST_ZERO;
  if (structured) flags |= TRANSMISSION_SEND_DF;
  if (info.multiConn) flags |= TRANSMISSION_CAN_MULTI_CONN;
  return flags;
}

/** One connection's negotiation. NBD proto, "Fixed newstyle negotiation". */
export class Handshake {
  readonly #info: ExportInfo;
  readonly #replies = new OptionReplies();
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
  #complaint = '';
  #broken = false;
  #structured = false;
  #allocation = false;

  constructor(info: ExportInfo) {
    this.#info = info;
    this.#replies.greeting();
  }

  /** HANDSHAKE_MORE until the negotiation is over. */
  get outcome(): number {
    return this.#outcome;
  }

  /** The machine closed because of what the client sent, other than ABORT. */
  get broken(): boolean {
    return this.#broken;
  }

  /** What was last found wrong with what the client sent, in words. */
  get complaint(): string {
    return this.#complaint;
  }

  /** Structured replies were negotiated. */
  get structured(): boolean {
    return this.#structured;
  }

  /** base:allocation was selected. */
  get allocation(): boolean {
    return this.#allocation;
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
    const verdict = this.#judge(length);
    if (verdict === VERDICT_CLOSE) return this.#break('the name of the export is too long');
    this.#verdict = verdict;
    if (verdict !== VERDICT_COLLECT) return this.#expect(STATE_SKIP, length);
    if (length > this.#held.length) this.#held = new Uint8Array(length);
    this.#expect(STATE_COLLECT, length);
  }

  /** The reply that follows from option and length alone, or what to do with the data. */
  #judge(length: number): number {
    switch (this.#option) {
      case OPT_EXPORT_NAME:
        return length > MAX_STRING_BYTES ? VERDICT_CLOSE : VERDICT_COLLECT;
      case OPT_ABORT:
        return REP_ACK;
      case OPT_LIST:
      case OPT_STRUCTURED_REPLY:
        return length === 0 ? VERDICT_COLLECT : REP_ERR_INVALID;
      case OPT_STARTTLS:
        return REP_ERR_POLICY;
      case OPT_INFO:
      case OPT_GO:
      case OPT_LIST_META_CONTEXT:
      case OPT_SET_META_CONTEXT:
        return length > MAX_OPTION_BYTES ? REP_ERR_TOO_BIG : VERDICT_COLLECT;
      case OPT_EXTENDED_HEADERS:
      default:
        return REP_ERR_UNSUP;
    }
  }

  #skipped(): void {
    // A selection that could not be read replaces the earlier one all the same.
    if (this.#option === OPT_SET_META_CONTEXT) this.#allocation = false;
    if (this.#verdict === REP_ACK) this.#ack();
    else this.#error(this.#verdict, SKIPPED_MESSAGES.get(this.#verdict) ?? '');
    if (this.#option === OPT_ABORT) this.#outcome = HANDSHAKE_CLOSE;
  }

  #collected(): void {
    const data = this.#held.subarray(0, this.#have);
    switch (this.#option) {
      case OPT_EXPORT_NAME:
        return this.#exportName(data);
      case OPT_LIST:
        this.#replies.server(this.#option, this.#info.name, this.#info.description);
        return this.#ack();
      case OPT_STRUCTURED_REPLY:
        return this.#structuredReply();
      case OPT_INFO:
      case OPT_GO:
        return this.#infoOrGo(data);
      case OPT_LIST_META_CONTEXT:
      case OPT_SET_META_CONTEXT:
        return this.#contexts(data);
    }
  }

  /** NBD proto, "NBD_OPT_EXPORT_NAME": failure has no reply. */
  #exportName(data: Uint8Array): void {
    const name = decodeString(data);
    if (name === undefined || !this.#exports(name)) return this.#break('no such export');
    const flags = transmissionFlags(this.#info, this.#structured);
    this.#replies.exportName(this.#info.sizeBytes, flags, !this.#noZeroes);
    this.#outcome = HANDSHAKE_ENTER;
  }

  #structuredReply(): void {
    if (this.#structured) return this.#error(REP_ERR_INVALID, 'already negotiated');
    this.#structured = true;
    this.#ack();
  }

  /** NBD proto, "NBD_OPT_INFO", "NBD_OPT_GO". */
  #infoOrGo(data: Uint8Array): void {
    const request = parseInfoRequest(data);
    if (request === undefined) return this.#error(REP_ERR_INVALID, 'malformed request');
    if (!this.#exports(request.name)) return this.#error(REP_ERR_UNKNOWN, 'no such export');
    const option = this.#option;
    const info = this.#info;
    const flags = transmissionFlags(info, this.#structured);
    this.#replies.exportInfo(option, info.sizeBytes, flags);
    if (request.types.has(INFO_NAME)) this.#replies.textInfo(option, INFO_NAME, info.name);
    if (request.types.has(INFO_DESCRIPTION) && info.description !== '') {
      this.#replies.textInfo(option, INFO_DESCRIPTION, info.description);
    }
    if (request.types.has(INFO_BLOCK_SIZE)) {
      this.#replies.blockSizeInfo(option, 1, info.preferredBlockBytes, info.maxPayloadBytes);
    }
    this.#ack();
    if (option === OPT_GO) this.#outcome = HANDSHAKE_ENTER;
  }

  /** NBD proto, "NBD_OPT_LIST_META_CONTEXT", "NBD_OPT_SET_META_CONTEXT". */
  #contexts(data: Uint8Array): void {
    const selects = this.#option === OPT_SET_META_CONTEXT;
    if (selects) this.#allocation = false;
    if (!this.#structured) return this.#error(REP_ERR_INVALID, 'needs structured replies');
    const request = parseContextRequest(data);
    if (request === undefined) return this.#error(REP_ERR_INVALID, 'malformed request');
    if (!this.#exports(request.name)) return this.#error(REP_ERR_UNKNOWN, 'no such export');
    const { queries } = request;
    // "base:" and an empty list of queries stand for all contexts, but only in a list.
    const listed = !selects && (queries.length === 0 || queries.includes('base:'));
    if (listed || queries.includes(CONTEXT_BASE_ALLOCATION)) {
      this.#replies.context(this.#option, selects);
      if (selects) this.#allocation = true;
    }
    this.#ack();
  }

  /** The empty name is the default export. NBD proto, "NBD_OPT_EXPORT_NAME". */
  #exports(name: string): boolean {
    return name === '' || name === this.#info.name;
  }

  #ack(): void {
    this.#replies.ack(this.#option);
    this.#expect(STATE_HEADER, OPTION_SIZE);
  }

  #error(type: number, message: string): void {
    // To ask for what there is not is a part of negotiating.
    if (type !== REP_ERR_UNSUP) this.#complaint = message;
    this.#replies.error(this.#option, type, message);
    this.#expect(STATE_HEADER, OPTION_SIZE);
  }

  #break(complaint: string): void {
    this.#complaint = complaint;
    this.#broken = true;
    this.#outcome = HANDSHAKE_CLOSE;
  }
}

const SKIPPED_MESSAGES: ReadonlyMap<number, string> = new Map([
  [REP_ERR_INVALID, 'this option takes no data'],
  [REP_ERR_POLICY, 'TLS is not configured'],
  [REP_ERR_TOO_BIG, 'option is too large'],
  [REP_ERR_UNSUP, 'unsupported option'],
]);

/** The big-endian u32 at `at`. */
function word(bytes: Uint8Array, at: number): number {
  const high = ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  return ((high << 16) | ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0)) >>> 0;
}
