/** Limits and defaults of images; all are ours. */

export const DEFAULT_METADATA_CACHE_BYTES = 16 * 1024 * 1024;
export const MAX_METADATA_CACHE_BYTES = 1024 * 1024 * 1024;
export const DEFAULT_FLUSH_INTERVAL_MS = 5000;
export const MAX_FLUSH_INTERVAL_MS = 4_000_000;
