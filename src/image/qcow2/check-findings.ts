/** What a check of an image finds: the kinds, their counts, and texts for people. */

/** Every kind of finding. All but the last two are corruptions. */
export const FINDINGS = {
  'l1-reserved': 'an L1 entry has reserved bits set',
  'l1-no-table': 'an L1 entry has flags, and names no L2 table',
  'l1-unaligned': 'an L1 entry names an L2 table that is not at the start of a cluster',
  'l1-copied': 'the COPIED flag of an L1 entry does not fit the refcount of its L2 table',
  'l2-reserved': 'an L2 entry has reserved bits set',
  'l2-unaligned': 'an L2 entry names a cluster that is not at the start of a cluster',
  'l2-copied': 'the COPIED flag of an L2 entry does not fit the refcount of its cluster',
  'compressed-copied': 'a compressed cluster has the COPIED flag',
  'compressed-data-file': 'a compressed cluster in an image with an external data file',
  'compressed-subclusters': 'a compressed cluster has subclusters',
  'subcluster-both': 'a subcluster is both allocated and zero',
  'subcluster-no-cluster': 'a subcluster is allocated where the cluster is not',
  'zero-version-2': 'a zero flag in an image of version 2',
  'zero-extended': 'the zero flag of a standard entry in an extended L2 entry',
  'data-file-offset': 'the offset in the external data file is not the one on the disk',
  'past-end': 'the image refers to what lies past the end of its file',
  'cut-off': 'the file ends inside a table or cluster',
  overlap: 'one cluster of the file is used for two purposes',
  'table-overlap': 'an L1 table or a bitmap table begins in or reaches into something else',
  'too-many-references': 'a cluster has more references than a refcount can count',
  'refcount-table-reserved': 'a refcount table entry has reserved bits set',
  'refcount-block-unaligned': 'a refcount block is not at the start of a cluster',
  'refcount-block-past-end': 'a refcount block lies past the end of the file',
  'refcount-block-shared': 'a refcount block is referred to more than once',
  'refcount-too-low': 'a cluster has more references than its refcount says',
  'snapshot-table': 'the snapshot table is damaged',
  'snapshot-l1': 'the L1 table of a snapshot is not where it can be',
  'snapshot-extra': 'a snapshot says less about itself than version 3 asks for',
  'bitmap-directory': 'the bitmap directory is damaged',
  'bitmap-entry': 'an entry of a bitmap table has a value that it cannot have',
  // Clusters that nothing refers to.
  leak: 'a cluster has fewer references than its refcount says',
  // What kept the check from looking.
  'unreadable-refcounts': 'a refcount block cannot be read',
} as const;

/** One of FINDINGS. */
export type FindingKind = keyof typeof FINDINGS;

/** How often each kind was found; a kind that was not is absent. */
export type FindingCounts = Readonly<Partial<Record<FindingKind, number>>>;

const TEXTS_MAX = 1000;

/** Counts every finding and keeps the texts of the first thousand. */
export class Findings {
  readonly counts: Partial<Record<FindingKind, number>> = {};
  readonly texts: string[] = [];
  corruptions = 0;
  leaks = 0;
  checkErrors = 0;

  /** An entry of 64 bits at this offset of the file; `times` is how often it is in use. */
  entry(kind: FindingKind, offset: number, high: number, low: number, times = 1): void {
    if (!this.#count(kind, times)) return;
    this.#say(kind, `entry ${hex64(high, low)} at offset ${hex(offset)}`);
  }

  /** A range of the file. */
  range(kind: FindingKind, offset: number, lengthBytes: number, times = 1): void {
    if (!this.#count(kind, times)) return;
    this.#say(kind, `${lengthBytes} bytes at offset ${hex(offset)}`);
  }

  /** A cluster whose refcount is not the number of its references. */
  refcount(kind: FindingKind, offset: number, refcount: number, references: number): void {
    if (!this.#count(kind, 1)) return;
    this.#say(kind, `offset ${hex(offset)}, refcount ${refcount}, references ${references}`);
  }

  /** Something that words describe better. */
  text(kind: FindingKind, text: string): void {
    if (this.#count(kind, 1)) this.#say(kind, text);
  }

  /** True while texts are kept. */
  #count(kind: FindingKind, times: number): boolean {
    this.counts[kind] = (this.counts[kind] ?? 0) + times;
    if (kind === 'leak') this.leaks += times;
    else if (kind === 'unreadable-refcounts') this.checkErrors += times;
    else this.corruptions += times;
    return times > 0 && this.texts.length < TEXTS_MAX;
  }

  #say(kind: FindingKind, place: string): void {
    this.texts.push(`${FINDINGS[kind]}: ${place}`);
  }
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function hex64(high: number, low: number): string {
  return `0x${[high, low].map((half) => (half >>> 0).toString(16).padStart(8, '0')).join('')}`;
}
