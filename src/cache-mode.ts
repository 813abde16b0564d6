/**
 * Cache modes: the one table that says what a name means (QEMU's names, durability section 1).
 */
import { SluiceError } from './errors.ts';
import { type Check, isText } from './options.ts';

/** The three axes behind the names. */
export interface CacheAxes {
  /** Bypass the host page cache (O_DIRECT). */
  readonly direct: boolean;
  /** A volatile write cache is shown: completed writes need a flush to be stable. */
  readonly wce: boolean;
  /** Flushes are acknowledged without a sync. Data is lost when the host fails. */
  readonly noFlush: boolean;
}

/** A mode as it is in force. */
export type CacheMode = 'writethrough' | 'writeback' | 'none' | 'directsync' | 'unsafe';

/** What users give: a mode, or `unspecified` for the default. */
export type CacheModeName = CacheMode | 'unspecified';

/** The table. Nothing else in the package gives a mode a meaning. */
export const CACHE_MODES: Readonly<Record<CacheMode, CacheAxes>> = {
  writethrough: { direct: false, wce: false, noFlush: false },
  writeback: { direct: false, wce: true, noFlush: false },
  none: { direct: true, wce: true, noFlush: false },
  directsync: { direct: true, wce: false, noFlush: false },
  unsafe: { direct: false, wce: true, noFlush: true },
};

/** What `unspecified` means (writethrough before qemu-kvm 1.2, writeback since). */
export const DEFAULT_CACHE_MODE: CacheMode = 'writeback';

/** A mode with its axes. */
export interface ResolvedCacheMode {
  /** The name to read back; `unsafe` for everything without flushes. */
  readonly name: CacheMode;
  readonly axes: CacheAxes;
}

/** A name, or a point on the axes. */
export const isCacheMode: Check = (value, name) => {
  if (typeof value !== 'object') isText(value, name);
  resolveCacheMode(value as CacheModeName);
};

/**
 * Resolves a name or a point on the axes.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT for an unknown name
 */
export function resolveCacheMode(
  cache: CacheModeName | CacheAxes = 'unspecified',
): ResolvedCacheMode {
  if (typeof cache === 'object') return resolveAxes(cache);
  const name = cache === 'unspecified' ? DEFAULT_CACHE_MODE : cache;
  if (!Object.hasOwn(CACHE_MODES, name)) {
    throw new SluiceError(
      'ERR_SLUICE_INVALID_ARGUMENT',
      `unknown cache mode '${name}': use ${Object.keys(CACHE_MODES).join(', ')} or unspecified`,
      { operation: 'open' },
    );
  }
  return { name, axes: CACHE_MODES[name] };
}

function resolveAxes(cache: CacheAxes | null): ResolvedCacheMode {
  const { direct, wce, noFlush }: Partial<CacheAxes> = cache ?? {};
  if (typeof direct !== 'boolean' || typeof wce !== 'boolean' || typeof noFlush !== 'boolean') {
    throw new SluiceError(
      'ERR_SLUICE_INVALID_ARGUMENT',
      'a cache mode is a name, or an object with direct, wce and noFlush, each true or false',
      { operation: 'open' },
    );
  }
  const axes = { direct, wce, noFlush };
  return { name: nameOf(axes), axes };
}

function nameOf({ direct, wce, noFlush }: CacheAxes): CacheMode {
  if (noFlush) return 'unsafe';
  if (direct) return wce ? 'none' : 'directsync';
  return wce ? 'writeback' : 'writethrough';
}
