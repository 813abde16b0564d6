/** The ranges of a disk, cut into the pieces that a target takes. */
import type { SourceExtent } from './source.ts';
import type { Range, Target } from './target.ts';

/** A piece, and what it is made of. */
export interface CutPiece<E extends SourceExtent> extends Range {
  /** What has to be read for it; nothing: it has no bytes. */
  readonly parts: readonly E[];
  readonly left: readonly Range[];
}

/** How pieces are cut. */
type Cut = Pick<Target, 'pieceBytes' | 'granuleBytes' | 'wantsZeroes'>;

/** All pieces in order; what has no bytes for long is one. */
export async function* piecesOf<E extends SourceExtent>(
  extents: AsyncIterable<E>,
  sizeBytes: number,
  cut: Cut,
): AsyncGenerator<CutPiece<E>, void, void> {
  const { pieceBytes } = cut;
  let parts: E[] = [];
  for await (const extent of extents) {
    const end = extent.start + extent.length;
    for (let at = extent.start; at < end;) {
      const border = Math.min(sizeBytes, (Math.floor(at / pieceBytes) + 1) * pieceBytes);
      const lastBorder = end === sizeBytes ? end : end - (end % pieceBytes);
      const isLong = at % pieceBytes === 0 && lastBorder > at && isEmpty(extent, cut);
      const to = isLong ? lastBorder : Math.min(end, border);
      parts.push({ ...extent, start: at, length: to - at });
      at = to;
      if (!isLong && to < border) continue;
      yield pieceOf(parts, sizeBytes, cut);
      parts = [];
    }
  }
}

function isEmpty({ kind }: SourceExtent, { wantsZeroes }: Cut): boolean {
  return kind === 'none' || (kind === 'zero' && !wantsZeroes);
}

function pieceOf<E extends SourceExtent>(
  parts: readonly E[],
  sizeBytes: number,
  cut: Cut,
): CutPiece<E> {
  const [first] = parts as [E, ...E[]];
  const last = parts.at(-1) as E;
  const left = leftOf(parts, sizeBytes, cut.granuleBytes);
  const range = { start: first.start, length: last.start + last.length - first.start };
  const wanted = parts.filter((part) => !left.some((range) => contains(range, part)));
  const hasBytes = wanted.some(({ kind }) => kind !== 'zero' || cut.wantsZeroes);
  return { ...range, left, parts: hasBytes ? wanted : [] };
}

/** The whole granules that are left to the backing file. */
function leftOf(parts: readonly SourceExtent[], sizeBytes: number, granuleBytes: number): Range[] {
  const ranges: { from: number; to: number }[] = [];
  for (const { kind, start, length } of parts) {
    if (kind !== 'none') continue;
    const last = ranges.at(-1);
    if (last?.to === start) last.to += length;
    else ranges.push({ from: start, to: start + length });
  }
  return ranges
    .map(({ from, to }) => {
      const start = Math.ceil(from / granuleBytes) * granuleBytes;
      const end = to === sizeBytes ? to : to - (to % granuleBytes);
      return { start, length: end - start };
    })
    .filter(({ length }) => length > 0);
}

function contains(range: Range, part: Range): boolean {
  return range.start <= part.start && part.start + part.length <= range.start + range.length;
}
