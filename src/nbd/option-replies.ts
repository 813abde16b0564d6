/**
 * What the server says while negotiating: the greeting and option replies, collected until the
 * socket takes them. NBD proto, "Fixed newstyle negotiation".
 */
import {
  EXPORT_NAME_ZEROES,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  GREETING_SIZE,
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  INIT_MAGIC_HIGH,
  INIT_MAGIC_LOW,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
  OPTION_REPLY_SIZE,
  REP_ACK,
  REP_INFO,
  REP_META_CONTEXT,
  REP_SERVER,
} from './protocol.ts';

const UTF8 = new TextEncoder();
const WORD = 2 ** 32;
const FIRST_BYTES = 512;

export class OptionReplies {
  #bytes = new Uint8Array(FIRST_BYTES);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  /** Bytes that wait to be taken. */
  get length(): number {
    return this.#length;
  }

  /** Everything collected so far, which is forgotten here. */
  take(): Uint8Array {
    const taken = this.#bytes.slice(0, this.#length);
    this.#length = 0;
    return taken;
  }

  /** NBD proto, "Newstyle negotiation". */
  greeting(): void {
    const at = this.#grow(GREETING_SIZE);
    this.#view.setUint32(at, INIT_MAGIC_HIGH);
    this.#view.setUint32(at + 4, INIT_MAGIC_LOW);
    this.#view.setUint32(at + 8, OPTION_MAGIC_HIGH);
    this.#view.setUint32(at + 12, OPTION_MAGIC_LOW);
    this.#view.setUint16(at + 16, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
  }

  /** NBD_REP_ACK. */
  ack(option: number): void {
    this.#header(option, REP_ACK, 0);
  }

  /** An error with a message for humans. NBD proto, "Option reply types". */
  error(option: number, type: number, message: string): void {
    const text = UTF8.encode(message);
    this.#text(this.#header(option, type, text.length), text);
  }

  /** NBD_REP_SERVER: one export of a list. */
  server(option: number, name: string, description: string): void {
    const nameBytes = UTF8.encode(name);
    const descriptionBytes = UTF8.encode(description);
    const length = 4 + nameBytes.length + descriptionBytes.length;
    const at = this.#header(option, REP_SERVER, length);
    this.#view.setUint32(at, nameBytes.length);
    this.#text(at + 4, nameBytes);
    this.#text(at + 4 + nameBytes.length, descriptionBytes);
  }

  /** NBD_REP_INFO of NBD_INFO_EXPORT. */
  exportInfo(option: number, sizeBytes: number, flags: number): void {
    const at = this.#header(option, REP_INFO, 12);
    this.#view.setUint16(at, INFO_EXPORT);
    this.#sizeAndFlags(at + 2, sizeBytes, flags);
  }

  /** NBD_REP_INFO of NBD_INFO_NAME or NBD_INFO_DESCRIPTION. */
  textInfo(option: number, type: number, value: string): void {
    const text = UTF8.encode(value);
    const at = this.#header(option, REP_INFO, 2 + text.length);
    this.#view.setUint16(at, type);
    this.#text(at + 2, text);
  }

  /** NBD_REP_INFO of NBD_INFO_BLOCK_SIZE. NBD proto, "Size constraints". */
  blockSizeInfo(option: number, minimum: number, preferred: number, maxPayload: number): void {
    const at = this.#header(option, REP_INFO, 14);
    this.#view.setUint16(at, INFO_BLOCK_SIZE);
    this.#view.setUint32(at + 2, minimum);
    this.#view.setUint32(at + 6, preferred);
    this.#view.setUint32(at + 10, maxPayload);
  }

  /** NBD_REP_META_CONTEXT: one context of a list or a selection. */
  context(option: number, id: number, name: string): void {
    const text = UTF8.encode(name);
    const at = this.#header(option, REP_META_CONTEXT, 4 + text.length);
    this.#view.setUint32(at, id);
    this.#text(at + 4, text);
  }

  /** The answer to NBD_OPT_EXPORT_NAME, which is no option reply. */
  exportName(sizeBytes: number, flags: number, zeroes: boolean): void {
    const at = this.#grow(10 + (zeroes ? EXPORT_NAME_ZEROES : 0));
    this.#sizeAndFlags(at, sizeBytes, flags);
    this.#bytes.fill(0, at + 10, this.#length);
  }

  #header(option: number, type: number, lengthBytes: number): number {
    const at = this.#grow(OPTION_REPLY_SIZE + lengthBytes);
    this.#view.setUint32(at, OPTION_REPLY_MAGIC_HIGH);
    this.#view.setUint32(at + 4, OPTION_REPLY_MAGIC_LOW);
    this.#view.setUint32(at + 8, option);
    this.#view.setUint32(at + 12, type);
    this.#view.setUint32(at + 16, lengthBytes);
    return at + OPTION_REPLY_SIZE;
  }

  #sizeAndFlags(at: number, sizeBytes: number, flags: number): void {
    this.#view.setUint32(at, Math.floor(sizeBytes / WORD));
    this.#view.setUint32(at + 4, sizeBytes % WORD);
    this.#view.setUint16(at + 8, flags);
  }

  #text(at: number, text: Uint8Array): void {
    this.#bytes.set(text, at);
  }

  /** Makes room and returns where it starts. */
  #grow(lengthBytes: number): number {
    const at = this.#length;
    this.#length += lengthBytes;
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(2 * this.#length);
      larger.set(this.#bytes.subarray(0, at));
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }
}
