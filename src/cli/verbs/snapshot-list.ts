/** Internal snapshots as a table, in the columns of qemu-img. */
import type { image } from '../../node.ts';
import { humanSize } from '../format.ts';

const MILLISECONDS = 1_000_000;

/** A title, the names of the columns, and a line for each snapshot. */
export function snapshotLines(snapshots: readonly image.SnapshotInfo[]): string[] {
  const head = row('ID', 'TAG', 'VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT');
  return ['Snapshot list:', head, ...snapshots.map(lineOf)];
}

function lineOf(snapshot: image.SnapshotInfo): string {
  const { id, name, icount } = snapshot;
  const size = humanSize(snapshot['vm-state-size']);
  const date = localTime(new Date(snapshot['date-sec'] * 1000));
  const clock = clockText(snapshot['vm-clock-sec'], snapshot['vm-clock-nsec']);
  return row(id, name, size, date, clock, icount === undefined ? '' : String(icount));
}

function row(
  id: string,
  name: string,
  size: string,
  date: string,
  clock: string,
  icount: string,
): string {
  const left = `${id.padEnd(9)} ${name.padEnd(16)} ${size.padStart(8)}`;
  return `${left}${date.padStart(20)}${clock.padStart(13)}${icount.padStart(11)}`;
}

function localTime(date: Date): string {
  const days = [date.getFullYear(), date.getMonth() + 1, date.getDate()].map(two).join('-');
  return `${days} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':')}`;
}

/** Hours, minutes, seconds and milliseconds. */
function clockText(seconds: number, nanoseconds: number): string {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const milliseconds = String(Math.floor(nanoseconds / MILLISECONDS)).padStart(3, '0');
  return `${parts.map(two).join(':')}.${milliseconds}`;
}

function two(number: number): string {
  return String(number).padStart(2, '0');
}
