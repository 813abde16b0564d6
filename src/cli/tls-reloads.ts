/** How reading the files of TLS anew has gone: what a running server tells of it. */

export interface TlsReloads {
  readonly done: number;
  readonly failed: number;
  /** The last one failed: what is in use was read before it. */
  readonly stale: boolean;
  /** The last that failed; the time as of ISO 8601. */
  readonly lastFailure?: { readonly time: string; readonly error: string };
}

/** Which files are in use when the new ones cannot be, and why. */
export function staleText(reason: string): string {
  return `TLS goes on with the files that were read before: ${reason}`;
}

/** A line, while the last reload is one that failed. */
export function staleLines(reloads: TlsReloads | undefined): string[] {
  if (reloads?.stale !== true || reloads.lastFailure === undefined) return [];
  const { time, error } = reloads.lastFailure;
  return [`${staleText(error)}, at ${time}`];
}
