/**
 * What options mean: each is judged by its length as soon as its header is there, and answered
 * when its data is. What they have negotiated so far is kept here, what transmission begins with.
 * NBD proto, "Option types".
 */
import { isSelected, contextId, NO_CONTEXTS, selectionOf } from './contexts.ts';
import {
  type ExportInfo,
  HEADERS_EXTENDED,
  HEADERS_SIMPLE,
  HEADERS_STRUCTURED,
  transmissionFlags,
} from './export-info.ts';
import { MAX_OPTION_BYTES } from './limits.ts';
import { decodeString, parseContextRequest, parseInfoRequest } from './option-data.ts';
import type { OptionReplies } from './option-replies.ts';
import {
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
  REP_ACK,
  REP_ERR_EXT_HEADER_REQD,
  REP_ERR_INVALID,
  REP_ERR_POLICY,
  REP_ERR_TLS_REQD,
  REP_ERR_TOO_BIG,
  REP_ERR_UNKNOWN,
  REP_ERR_UNSUP,
} from './protocol.ts';

/** The negotiation goes on. */
export const HANDSHAKE_MORE = 0;
/** Transmission begins as soon as the replies are sent. */
export const HANDSHAKE_ENTER = 1;
/** The connection ends as soon as the replies are sent. */
export const HANDSHAKE_CLOSE = 2;
/** TLS begins as soon as the replies are sent; what was negotiated before is forgotten. */
export const HANDSHAKE_SECURE = 3;

/** What a server says of TLS, and where a connection stands. NBD proto, "TLS support". */
export type TlsState =
  /** There is none: NOTLS. */
  | 'none'
  /** In clear, and it may stay so: SELECTIVETLS. */
  | 'allowed'
  /** In clear, and nothing else is answered: FORCEDTLS. */
  | 'required'
  /** Everything is encrypted. */
  | 'secure';

/** No answer yet: the data decides. */
export const VERDICT_COLLECT = 0;
/** No answer at all. */
export const VERDICT_CLOSE = -1;

/** The options of one connection. */
export class ExportOptions<E extends ExportInfo> {
  readonly #exports: readonly E[];
  readonly #replies: OptionReplies;
  readonly #tls: TlsState;
  #headers = HEADERS_SIMPLE;
  #selection = NO_CONTEXTS;
  /** The export whose contexts were selected. */
  #contextsOf: E | undefined;
  #chosen: E | undefined;
  #complaint = '';

  /**
   * @param exports what there is; may change
   * @param replies where answers go
   */
  constructor(exports: readonly E[], replies: OptionReplies, tls: TlsState) {
    this.#exports = exports;
    this.#replies = replies;
    this.#tls = tls;
  }

  /** What transmission is about. */
  get chosen(): E | undefined {
    return this.#chosen;
  }

  /** What messages look like: a HEADERS_* number. */
  get headers(): number {
    return this.#headers;
  }

  /** The metadata contexts that were selected (contexts.ts). */
  get selection(): number {
    return this.#selection;
  }

  /** What was last found wrong with what the client sent, in words. */
  get complaint(): string {
    return this.#complaint;
  }

  /**
   * What follows from option and length alone.
   * @returns VERDICT_CLOSE, VERDICT_COLLECT, or the reply to give when the data has gone by
   */
  judge(option: number, lengthBytes: number): number {
    if (this.#tls === 'required' && option !== OPT_STARTTLS && option !== OPT_ABORT) {
      // It has no error reply.
      return option === OPT_EXPORT_NAME ? this.#close(NEEDS_TLS) : REP_ERR_TLS_REQD;
    }
    switch (option) {
      case OPT_EXPORT_NAME:
        if (lengthBytes > MAX_STRING_BYTES)
          return this.#close('the name of the export is too long');
        return this.#headers === HEADERS_EXTENDED
          ? this.#close('it sent EXPORT_NAME after extended headers')
          : VERDICT_COLLECT;
      case OPT_ABORT:
        return REP_ACK;
      case OPT_LIST:
      case OPT_STRUCTURED_REPLY:
      case OPT_EXTENDED_HEADERS:
        return lengthBytes === 0 ? VERDICT_COLLECT : REP_ERR_INVALID;
      case OPT_STARTTLS:
        if (this.#tls === 'none') return REP_ERR_POLICY;
        return lengthBytes === 0 ? VERDICT_COLLECT : REP_ERR_INVALID;
      case OPT_INFO:
      case OPT_GO:
      case OPT_LIST_META_CONTEXT:
      case OPT_SET_META_CONTEXT:
        return lengthBytes > MAX_OPTION_BYTES ? REP_ERR_TOO_BIG : VERDICT_COLLECT;
      default:
        return REP_ERR_UNSUP;
    }
  }

  /**
   * Answers an option whose data was not looked at.
   * @param verdict what `judge` said of it
   * @returns a HANDSHAKE_* number
   */
  skipped(option: number, verdict: number): number {
    // A selection that could not be read replaces the earlier one all the same.
    if (option === OPT_SET_META_CONTEXT) this.#selection = NO_CONTEXTS;
    if (verdict === REP_ACK) this.#replies.ack(option);
    else this.#error(option, verdict, SKIPPED_MESSAGES.get(verdict) ?? '');
    return option === OPT_ABORT ? HANDSHAKE_CLOSE : HANDSHAKE_MORE;
  }

  /**
   * Answers an option with its data.
   * @param zeroes the answer to EXPORT_NAME has its 124 zeroes
   * @returns a HANDSHAKE_* number
   */
  answer(option: number, data: Uint8Array, zeroes: boolean): number {
    switch (option) {
      case OPT_EXPORT_NAME:
        return this.#exportName(data, zeroes);
      case OPT_LIST:
        return this.#list(option);
      case OPT_STARTTLS:
        return this.#startTls(option);
      case OPT_STRUCTURED_REPLY:
        return this.#structuredReply(option);
      case OPT_EXTENDED_HEADERS:
        return this.#extendedHeaders(option);
      case OPT_INFO:
      case OPT_GO:
        return this.#infoOrGo(option, data);
      default:
        return this.#contexts(option, data);
    }
  }

  /** NBD proto, "NBD_OPT_EXPORT_NAME": failure has no reply. */
  #exportName(data: Uint8Array, zeroes: boolean): number {
    const name = decodeString(data);
    const found = name === undefined ? undefined : this.#find(name);
    if (found === undefined) {
      this.#complaint = 'no such export';
      return HANDSHAKE_CLOSE;
    }
    const flags = transmissionFlags(found, this.#headers, false);
    this.#replies.exportName(found.sizeBytes, flags, zeroes);
    return this.#enter(found);
  }

  #list(option: number): number {
    for (const { name, description } of this.#exports) {
      this.#replies.server(option, name, description);
    }
    return this.#ack(option);
  }

  /** NBD proto, "NBD_OPT_STARTTLS". */
  #startTls(option: number): number {
    if (this.#tls === 'secure') return this.#error(option, REP_ERR_INVALID, 'this is TLS already');
    this.#ack(option);
    return HANDSHAKE_SECURE;
  }

  /** NBD proto, "NBD_OPT_STRUCTURED_REPLY": extended headers take its place for good. */
  #structuredReply(option: number): number {
    if (this.#headers === HEADERS_EXTENDED) {
      const found = 'extended headers are negotiated already, and stay';
      return this.#error(option, REP_ERR_EXT_HEADER_REQD, found);
    }
    return this.#negotiated(option, HEADERS_STRUCTURED);
  }

  /** NBD proto, "NBD_OPT_EXTENDED_HEADERS". */
  #extendedHeaders(option: number): number {
    return this.#negotiated(option, HEADERS_EXTENDED);
  }

  #negotiated(option: number, headers: number): number {
    if (this.#headers === headers)
      return this.#error(option, REP_ERR_INVALID, 'already negotiated');
    this.#headers = headers;
    return this.#ack(option);
  }

  /** NBD proto, "NBD_OPT_INFO", "NBD_OPT_GO". */
  #infoOrGo(option: number, data: Uint8Array): number {
    const request = parseInfoRequest(data);
    if (request === undefined) return this.#error(option, REP_ERR_INVALID, 'malformed request');
    const info = this.#find(request.name);
    if (info === undefined) return this.#error(option, REP_ERR_UNKNOWN, 'no such export');
    // What INFO says is what there will be once contexts are selected.
    const isNaming = option === OPT_INFO || this.#selectionOf(info) !== NO_CONTEXTS;
    const takesIds = isNaming && this.#headers === HEADERS_EXTENDED;
    const flags = transmissionFlags(info, this.#headers, takesIds);
    this.#replies.exportInfo(option, info.sizeBytes, flags);
    if (request.types.has(INFO_NAME)) this.#replies.textInfo(option, INFO_NAME, info.name);
    if (request.types.has(INFO_DESCRIPTION) && info.description !== '') {
      this.#replies.textInfo(option, INFO_DESCRIPTION, info.description);
    }
    if (request.types.has(INFO_BLOCK_SIZE)) {
      this.#replies.blockSizeInfo(option, 1, info.preferredBlockBytes, info.maxPayloadBytes);
    }
    this.#ack(option);
    return option === OPT_GO ? this.#enter(info) : HANDSHAKE_MORE;
  }

  /** NBD proto, "NBD_OPT_LIST_META_CONTEXT", "NBD_OPT_SET_META_CONTEXT". */
  #contexts(option: number, data: Uint8Array): number {
    const selects = option === OPT_SET_META_CONTEXT;
    if (selects) this.#selection = NO_CONTEXTS;
    if (this.#headers === HEADERS_SIMPLE) {
      return this.#error(option, REP_ERR_INVALID, 'needs structured replies or extended headers');
    }
    const request = parseContextRequest(data);
    if (request === undefined) return this.#error(option, REP_ERR_INVALID, 'malformed request');
    const found = this.#find(request.name);
    if (found === undefined) return this.#error(option, REP_ERR_UNKNOWN, 'no such export');
    if (selects) this.#contextsOf = found;
    const { contexts } = found;
    const selection = selectionOf(contexts, request.queries, !selects);
    for (const [place, { name }] of contexts.entries()) {
      // A list has no ids.
      const id = selects ? contextId(place) : 0;
      if (isSelected(selection, place)) this.#replies.context(option, id, name);
    }
    if (selects) this.#selection = selection;
    return this.#ack(option);
  }

  /**
   * The empty name is the default export: the one that is named so, or the first. NBD proto,
   * "NBD_OPT_EXPORT_NAME".
   */
  #find(name: string): E | undefined {
    const found = this.#exports.find((one) => one.name === name);
    return found ?? (name === '' ? this.#exports[0] : undefined);
  }

  /** Contexts of another export are not selected. NBD proto, "NBD_OPT_SET_META_CONTEXT". */
  #selectionOf(info: E): number {
    return this.#contextsOf === info ? this.#selection : NO_CONTEXTS;
  }

  #enter(found: E): number {
    this.#chosen = found;
    this.#selection = this.#selectionOf(found);
    return HANDSHAKE_ENTER;
  }

  #ack(option: number): number {
    this.#replies.ack(option);
    return HANDSHAKE_MORE;
  }

  #close(complaint: string): number {
    this.#complaint = complaint;
    return VERDICT_CLOSE;
  }

  #error(option: number, type: number, message: string): number {
    // To ask for what there is not is a part of negotiating.
    if (type !== REP_ERR_UNSUP) this.#complaint = message;
    this.#replies.error(option, type, message);
    return HANDSHAKE_MORE;
  }
}

const NEEDS_TLS = 'this server needs TLS: begin with STARTTLS';

const SKIPPED_MESSAGES: ReadonlyMap<number, string> = new Map([
  [REP_ERR_INVALID, 'this option takes no data'],
  [REP_ERR_POLICY, 'TLS is not configured'],
  [REP_ERR_TLS_REQD, NEEDS_TLS],
  [REP_ERR_TOO_BIG, 'option is too large'],
  [REP_ERR_UNSUP, 'unsupported option'],
]);
