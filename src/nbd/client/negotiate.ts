/**
 * The client's side of the negotiation: extended headers or structured replies, base:allocation
 * where the server has it, then GO, or EXPORT_NAME where it does not know that. NBD proto,
 * "Newstyle negotiation".
 *
 * H1 Memory does not depend on announced numbers: an option reply has at most MAX_REPLY_BYTES.
 * H2 An option is answered before the next is sent, by at most MAX_REPLIES replies.
 */
import { SluiceError } from '../../errors.ts';
import {
  CONTEXT_BASE_ALLOCATION,
  EXPORT_NAME_ZEROES,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  GREETING_SIZE,
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  INIT_MAGIC_HIGH,
  INIT_MAGIC_LOW,
  OLDSTYLE_MAGIC_HIGH,
  OLDSTYLE_MAGIC_LOW,
  OPT_EXPORT_NAME,
  OPT_EXTENDED_HEADERS,
  OPT_GO,
  OPT_SET_META_CONTEXT,
  OPT_STARTTLS,
  OPT_STRUCTURED_REPLY,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
  OPTION_REPLY_SIZE,
  OPTION_SIZE,
  REP_ACK,
  REP_ERR_TLS_REQD,
  REP_ERR_UNKNOWN,
  REP_ERR_UNSUP,
  REP_INFO,
  REP_META_CONTEXT,
} from '../protocol.ts';
import { Breach, quoted } from './failures.ts';

/** What a server is told and says, byte by byte. */
export interface Wire {
  read(length: number): Promise<Uint8Array>;
  write(bytes: Uint8Array): void;
  /** Goes on over TLS, where that is wanted; resolves when it has begun. */
  readonly secure?: (() => Promise<void>) | undefined;
}

/** What was agreed on. */
export interface Agreement {
  readonly sizeBytes: number;
  /** Transmission flags. */
  readonly flags: number;
  readonly structured: boolean;
  /** Headers are extended; replies are structured then. */
  readonly extended: boolean;
  /** The id of base:allocation; undefined: the server does not have it. */
  readonly contextId: number | undefined;
  /** Requests begin and end at multiples of it, a power of two. */
  readonly minimumBlockBytes: number;
  /** Data of one request, a multiple of the minimum. */
  readonly maxPayloadBytes: number;
}

/** Option replies have strings of at most 4096 bytes, two at most. */
const MAX_REPLY_BYTES = 16_384;
const MAX_REPLIES = 100;
const ERROR_BIT = 0x80000000;
/** What clients may assume, and never ask more. NBD proto, "Size constraints". */
const PAYLOAD_BYTES = 32 * 1024 * 1024;
const LEAST_PAYLOAD_BYTES = 512;
const MAX_MINIMUM_BYTES = 65_536;
const WORD = 2 ** 32;

interface OptionReply {
  readonly type: number;
  readonly data: DataView;
}

/** Agrees with a server; `exportName` is the one that is opened. */
export async function negotiate(wire: Wire, exportName: string, uri: string): Promise<Agreement> {
  const flags = await greet(wire);
  const name = new TextEncoder().encode(exportName);
  if (wire.secure !== undefined) await startTls(wire, flags, uri, wire.secure);
  if ((flags & FLAG_FIXED_NEWSTYLE) === 0) return selectByName(wire, name, flags, UNSTRUCTURED);
  const extended = await has(wire, OPT_EXTENDED_HEADERS);
  const structured = extended || (await has(wire, OPT_STRUCTURED_REPLY));
  if (!structured) return select(wire, name, flags, uri, UNSTRUCTURED);
  const contextId = await selectContext(wire, name);
  return select(wire, name, flags, uri, { structured, extended, contextId });
}

type Replies = Pick<Agreement, 'structured' | 'extended' | 'contextId'>;
const UNSTRUCTURED: Replies = { structured: false, extended: false, contextId: undefined };

/** Asks for what a server has or has not. */
async function has(wire: Wire, option: number): Promise<boolean> {
  const replies = await ask(wire, option, new Uint8Array(0));
  return replies.at(-1)?.type === REP_ACK;
}

/** Reads the greeting, and answers what of it is understood. */
async function greet(wire: Wire): Promise<number> {
  const greeting = viewOf(await wire.read(GREETING_SIZE));
  if (!isMagic(greeting, 0, INIT_MAGIC_HIGH, INIT_MAGIC_LOW)) {
    throw new Breach(`it greets with ${hexOf(greeting, 0, 8)}, not with NBDMAGIC`);
  }
  if (isMagic(greeting, 8, OLDSTYLE_MAGIC_HIGH, OLDSTYLE_MAGIC_LOW)) {
    throw new Breach('it speaks the oldstyle protocol, which has no exports with names');
  }
  if (!isMagic(greeting, 8, OPTION_MAGIC_HIGH, OPTION_MAGIC_LOW)) {
    throw new Breach(`its greeting goes on with ${hexOf(greeting, 8, 8)}, not with IHAVEOPT`);
  }
  const flags = greeting.getUint16(16) & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
  const answer = new Uint8Array(4);
  viewOf(answer).setUint32(0, flags);
  wire.write(answer);
  return flags;
}

/** NBD proto, "NBD_OPT_STARTTLS". Nothing is asked in clear where TLS is wanted. */
async function startTls(
  wire: Wire,
  flags: number,
  uri: string,
  secure: () => Promise<void>,
): Promise<void> {
  const found = `cannot open ${JSON.stringify(uri)}: the server has no TLS`;
  const place = { operation: 'open', path: uri };
  if ((flags & FLAG_FIXED_NEWSTYLE) === 0) {
    throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${found}; use another server`, place);
  }
  const [reply] = await ask(wire, OPT_STARTTLS, new Uint8Array(0));
  if (reply?.type === REP_ACK) return await secure();
  const text = new TextDecoder().decode(reply?.data);
  const said = text === '' ? '' : ` (${quoted(text)})`;
  const advice = 'set it up there, or write nbd:// to do without';
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${found}${said}; ${advice}`, place);
}

/** NBD proto, "NBD_OPT_SET_META_CONTEXT". An error means that there is none. */
async function selectContext(wire: Wire, name: Uint8Array): Promise<number | undefined> {
  const query = new TextEncoder().encode(CONTEXT_BASE_ALLOCATION);
  const parts = [u32(name.length), name, u32(1), u32(query.length), query];
  const replies = await ask(wire, OPT_SET_META_CONTEXT, Buffer.concat(parts));
  if (replies.at(-1)?.type !== REP_ACK) return undefined;
  for (const { type, data } of replies) {
    if (type !== REP_META_CONTEXT) continue;
    if (data.byteLength < 4) throw new Breach('it names a metadata context without an id');
    const found = Buffer.from(data.buffer, data.byteOffset + 4, data.byteLength - 4);
    if (found.equals(query)) return data.getUint32(0);
  }
  return undefined;
}

/** NBD proto, "NBD_OPT_GO". */
async function select(
  wire: Wire,
  name: Uint8Array,
  flags: number,
  uri: string,
  chosen: Replies,
): Promise<Agreement> {
  const request = [u32(name.length), name, Uint8Array.of(0, 1, 0, INFO_BLOCK_SIZE)];
  const replies = await ask(wire, OPT_GO, Buffer.concat(request));
  const last = replies.at(-1);
  if (last?.type === REP_ERR_UNSUP && chosen.extended) {
    throw new Breach('it has extended headers and does not know GO, without which there are none');
  }
  if (last?.type === REP_ERR_UNSUP) return selectByName(wire, name, flags, chosen);
  if (last?.type !== REP_ACK) throw refusal(uri, last);
  const infos = replies.filter(({ type }) => type === REP_INFO);
  const found = infoOf(infos, INFO_EXPORT, 12);
  if (found === undefined) throw new Breach('it opens an export and does not say its size');
  const blocks = blockSizesOf(infoOf(infos, INFO_BLOCK_SIZE, 14));
  return { ...chosen, ...exportOf(found, 2, blocks.minimumBlockBytes), ...blocks };
}

/** NBD proto, "NBD_OPT_EXPORT_NAME": the server closes the connection where there is none. */
async function selectByName(
  wire: Wire,
  name: Uint8Array,
  flags: number,
  chosen: Replies,
): Promise<Agreement> {
  send(wire, OPT_EXPORT_NAME, name);
  const found = viewOf(await wire.read(10));
  if ((flags & FLAG_NO_ZEROES) === 0) await wire.read(EXPORT_NAME_ZEROES);
  return { ...chosen, ...exportOf(found, 0, 1), ...blockSizesOf(undefined) };
}

function exportOf(view: DataView, at: number, minimumBytes: number) {
  const sizeBytes = view.getUint32(at) * WORD + view.getUint32(at + 4);
  if (!Number.isSafeInteger(sizeBytes)) {
    throw new Breach(`an export has at most 2^53-1 bytes here, and this one ${sizeBytes}`);
  }
  if (sizeBytes % minimumBytes !== 0) {
    throw new Breach(`its ${sizeBytes} bytes are no multiple of its block size, ${minimumBytes}`);
  }
  return { sizeBytes, flags: view.getUint16(at + 8) };
}

/** NBD proto, "Size constraints". */
function blockSizesOf(view: DataView | undefined) {
  if (view === undefined) return { minimumBlockBytes: 1, maxPayloadBytes: PAYLOAD_BYTES };
  const minimumBlockBytes = view.getUint32(2);
  const most = view.getUint32(10);
  const isPower = Number.isInteger(Math.log2(minimumBlockBytes));
  if (!isPower || minimumBlockBytes > MAX_MINIMUM_BYTES) {
    throw new Breach(`its minimum block size is ${minimumBlockBytes}, no power of two to 65536`);
  }
  if (most < Math.max(minimumBlockBytes, LEAST_PAYLOAD_BYTES)) {
    throw new Breach(`its maximum payload is ${most} bytes, less than one block`);
  }
  const payload = Math.min(most, PAYLOAD_BYTES);
  return { minimumBlockBytes, maxPayloadBytes: payload - (payload % minimumBlockBytes) };
}

function infoOf(infos: readonly OptionReply[], kind: number, length: number): DataView | undefined {
  for (const { data } of infos) {
    if (data.byteLength < 2)
      throw new Breach('it sends information about an export without a type');
    if (data.getUint16(0) !== kind) continue;
    if (data.byteLength === length) return data;
    throw new Breach(`information ${kind} about an export has ${data.byteLength} bytes`);
  }
  return undefined;
}

function refusal(uri: string, reply: OptionReply | undefined): SluiceError {
  const place = { operation: 'open', path: uri };
  const type = reply?.type ?? 0;
  if (type === REP_ERR_TLS_REQD) {
    const found = `cannot open ${JSON.stringify(uri)}: the server asks for TLS`;
    const advice = 'write nbds:// with tls-certificates=FOLDER or tls-psk-file=FILE';
    return new SluiceError('ERR_SLUICE_OPEN', `${found}; ${advice}`, place);
  }
  const text = new TextDecoder().decode(reply?.data);
  const said = text === '' ? `error ${type - ERROR_BIT}` : quoted(text);
  const isMissing = type === REP_ERR_UNKNOWN;
  const found = isMissing ? 'the server has no export of this name' : 'the server refuses it';
  const what = `${found} (${said}); look with nbdinfo --list`;
  const message = `cannot open ${JSON.stringify(uri)}: ${what}`;
  return new SluiceError('ERR_SLUICE_OPEN', message, place);
}

/** Sends an option; answers its replies, the final one last. */
async function ask(wire: Wire, option: number, data: Uint8Array): Promise<OptionReply[]> {
  send(wire, option, data);
  const replies: OptionReply[] = [];
  while (replies.length < MAX_REPLIES) {
    const reply = await replyTo(wire, option);
    replies.push(reply);
    if (reply.type === REP_ACK || reply.type >= ERROR_BIT) return replies;
    if (reply.type !== REP_INFO && reply.type !== REP_META_CONTEXT) {
      throw new Breach(`it answers option ${option} with a reply of type ${reply.type}`);
    }
  }
  throw new Breach(`it answers option ${option} with more than ${MAX_REPLIES} replies`);
}

async function replyTo(wire: Wire, option: number): Promise<OptionReply> {
  const header = viewOf(await wire.read(OPTION_REPLY_SIZE));
  if (!isMagic(header, 0, OPTION_REPLY_MAGIC_HIGH, OPTION_REPLY_MAGIC_LOW)) {
    throw new Breach(`a reply to an option begins with ${hexOf(header, 0, 8)}`);
  }
  const answered = header.getUint32(8);
  if (answered !== option) {
    throw new Breach(`it was asked for option ${option} and answers option ${answered}`);
  }
  const length = header.getUint32(16);
  if (length > MAX_REPLY_BYTES) {
    throw new Breach(`a reply to option ${option} has ${length} bytes, more than any can need`);
  }
  return { type: header.getUint32(12), data: viewOf(await wire.read(length)) };
}

function send(wire: Wire, option: number, data: Uint8Array): void {
  const bytes = new Uint8Array(OPTION_SIZE + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, OPTION_MAGIC_HIGH);
  view.setUint32(4, OPTION_MAGIC_LOW);
  view.setUint32(8, option);
  view.setUint32(12, data.length);
  bytes.set(data, OPTION_SIZE);
  wire.write(bytes);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value);
  return bytes;
}

function isMagic(view: DataView, at: number, high: number, low: number): boolean {
  return view.getUint32(at) === high && view.getUint32(at + 4) === low;
}

function hexOf(view: DataView, at: number, length: number): string {
  return `0x${Buffer.from(view.buffer, view.byteOffset + at, length).toString('hex')}`;
}
