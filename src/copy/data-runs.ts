/** Granules of one kind that lie beside each other. */
export interface GranuleRun {
  readonly isData: boolean;
  /** Indices of granules; `to` is the first behind them. */
  readonly from: number;
  readonly to: number;
}

/** The runs of flags that say of each granule whether it has data: 1, or 0. */
export function* dataRuns(
  flags: Uint8Array,
  from = 0,
  to = flags.length,
): Generator<GranuleRun, void, void> {
  for (let at = from; at < to;) {
    const isData = flags[at] === 1;
    const next = flags.indexOf(isData ? 0 : 1, at);
    const end = next < 0 ? to : Math.min(next, to);
    yield { isData, from: at, to: end };
    at = end;
  }
}
