/** The line that says how far a verb is, for a terminal of any width. */
import { formatBytes } from '../format.ts';

const BAR_COLUMNS_MIN = 10;
const BAR_COLUMNS_MAX = 40;

/** How far it is, and since when. */
export interface Standing {
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly seconds: number;
}

/** A bar and as much text as fits; where nothing else does, the percentage. */
export function progressLine(standing: Standing, columns: number): string {
  const { doneBytes, totalBytes } = standing;
  const share = totalBytes === 0 ? 1 : Math.min(1, doneBytes / totalBytes);
  const texts = textsOf(standing, `${Math.floor(share * 100)}%`);
  const room = columns - BAR_COLUMNS_MIN - 1;
  const text = texts.find(({ length }) => length <= room);
  if (text === undefined) return (texts.at(-1) ?? '').slice(0, columns);
  const bar = Math.min(BAR_COLUMNS_MAX, columns - text.length - 1);
  const full = Math.round(share * bar);
  return `${'█'.repeat(full)}${'░'.repeat(bar - full)} ${text}`;
}

/** The longest one first. */
function textsOf({ doneBytes, totalBytes, seconds }: Standing, percentage: string): string[] {
  const rate = doneBytes / Math.max(0.001, seconds);
  const left = `${rate === 0 ? '?' : Math.ceil((totalBytes - doneBytes) / rate)} s left`;
  const speed = `${formatBytes(rate)}/s`;
  const bytes = `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
  return [
    `${percentage} | ${bytes} | ${speed} | ${left}`,
    `${percentage} | ${speed} | ${left}`,
    `${percentage} | ${left}`,
    percentage,
  ];
}
