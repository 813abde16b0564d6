/**
 * Records of a few words in one array, linked into lists: state that is copied with one memcpy.
 * The array begins with words that are the owner's, heads of lists among them; a head or a link of
 * 0 ends a list, as no record begins at 0. Word 0 is the pool's own: its free records.
 */
const FREE = 0;

/** The word of a record that `find` compares. */
export const RECORD_ID = 0;
/** The last word of a record: the next one of its list. */
export const NEXT = 4;
const RECORD = 5;

/** See the head of the file. */
export class RecordPool {
  /** All words; another array after `take` and `copyFrom`. */
  words: Int32Array;

  /** `header` words of the owner, word 0 excepted, and room for `records` to begin with. */
  constructor(header: number, records: number) {
    this.words = new Int32Array(header);
    this.#grow(records);
  }

  /** Becomes a copy of another pool with the same header. */
  copyFrom(other: RecordPool): void {
    if (this.words.length === other.words.length) this.words.set(other.words);
    else this.words = other.words.slice();
  }

  /** Where the records of the list begin. */
  list(head: number): number[] {
    const records: number[] = [];
    for (let at = this.#get(head); at !== 0; at = this.#get(at + NEXT)) records.push(at);
    return records;
  }

  /** The record of the list with this id, or 0. */
  find(head: number, id: number): number {
    let at = this.#get(head);
    while (at !== 0 && this.words[at + RECORD_ID] !== id) at = this.#get(at + NEXT);
    return at;
  }

  /** A record at the front of the list; its words are the caller's to set. */
  take(head: number): number {
    if (this.#get(FREE) === 0) this.#grow(this.words.length);
    const { words } = this;
    const record = this.#get(FREE);
    words[FREE] = this.#get(record + NEXT);
    words[record + NEXT] = this.#get(head);
    words[head] = record;
    return record;
  }

  /** Takes a record out of its list. */
  drop(head: number, record: number): void {
    const { words } = this;
    let link = head;
    while (words[link] !== record) link = this.#get(link) + NEXT;
    words[link] = this.#get(record + NEXT);
    words[record + NEXT] = this.#get(FREE);
    words[FREE] = record;
  }

  #get(at: number): number {
    return this.words[at] ?? 0;
  }

  #grow(records: number): void {
    const start = this.words.length;
    const words = new Int32Array(start + records * RECORD);
    words.set(this.words);
    for (let at = start; at < words.length; at += RECORD) {
      words[at + NEXT] = at + RECORD < words.length ? at + RECORD : (words[FREE] ?? 0);
    }
    words[FREE] = start;
    this.words = words;
  }
}
