/**
 * Cache modes: the one table that says what a name means (QEMU's names, durability section 1).
 */

/** The three axes behind the names. */
export interface CacheAxes {
  /** Bypass the host page cache (O_DIRECT). */
  readonly direct: boolean;
  /** A volatile write cache is shown: completed writes need a flush to be stable. */
  readonly wce: boolean;
  /** Flushes are acknowledged without a sync. Data is lost when the host fails. */
  readonly noFlush: boolean;
}

/** The names users give. `unspecified` is an alias and never read back. */
export type CacheModeName =
  | 'writethrough'
  | 'writeback'
  | 'none'
  | 'directsync'
  | 'unsafe'
  | 'unspecified';

/** A mode as it is in force. */
export type CacheMode = Exclude<CacheModeName, 'unspecified'>;

export const CACHE_MODES: Readonly<Record<CacheMode, CacheAxes>> = {
  writethrough: { direct: false, wce: false, noFlush: false },
  writeback: { direct: false, wce: true, noFlush: false },
  none: { direct: true, wce: true, noFlush: false },
  directsync: { direct: true, wce: false, noFlush: false },
  unsafe: { direct: false, wce: true, noFlush: true },
};

/** What `unspecified` means (writethrough before qemu-kvm 1.2, writeback since). */
export const DEFAULT_CACHE_MODE: CacheMode = 'writeback';
