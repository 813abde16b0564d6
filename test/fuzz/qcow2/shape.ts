/** What an image of the fuzzer is like, before anybody writes to it or damages it. */

/** See image.ts for what becomes of it. */
export interface ImageShape {
  readonly clusterBits: number;
  /** Extended L2 entries: subclusters. */
  readonly extended: boolean;
  readonly version: 2 | 3;
  readonly refcountOrder: number;
  readonly files:
    | 'none'
    | 'backing'
    | 'short backing'
    | 'data'
    | 'raw data'
    | 'ciphered'
    | 'ciphered backing';
  /**
   * Letters of the clusters of the disk, over and over: `.` unallocated, `d` data, `z` zeroes,
   * `p` zeroes that have a place, `c` compressed, `h` half of its subclusters are data, `s` some
   * are zeroes.
   */
  readonly pattern: string;
  /** All of it is a snapshot's, too. */
  readonly snapshot: boolean;
  /** Clusters of the disk. */
  readonly clusters: number;
  /** Data until the refcount table counts no further cluster. */
  readonly isFull: boolean;
  /** Bytes that the disk lacks of its last cluster. */
  readonly cutBytes: number;
  /** Clusters of the file that are free. */
  readonly free: number;
  /** The file ends within its last cluster, which is free or data. */
  readonly isCut: boolean;
}
