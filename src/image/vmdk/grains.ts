/**
 * What the tables of a hosted sparse extent say of the disk (VMware, Virtual Disk Format 5.0,
 * Grain Directory and Grain Tables).
 */
import { EntryTable, placeOf } from '../entry-table.ts';
import type { ImageFile } from '../image-file.ts';
import { mergeExtents } from '../merge-extents.ts';
import type { TableExtent } from '../qcow2/extents.ts';
import { MARKER_BYTES } from './grain-stream.ts';
import type { VmdkHeader } from './header.ts';

const ENTRY_BYTES = 4;
const ZEROED_GRAIN = 1;

/** All of the disk from `from` to `to`, in order; neighbours of one kind are one extent. */
export function grainExtents(
  file: ImageFile,
  header: VmdkHeader,
  path: string,
  from: number,
  to: number,
): AsyncGenerator<TableExtent, void, void> {
  const extents = singleExtents(file, header, path, from, to);
  return mergeExtents(
    extents,
    (one, other) => one.kind === other.kind && one.kind !== 'compressed',
  );
}

async function* singleExtents(
  file: ImageFile,
  header: VmdkHeader,
  path: string,
  from: number,
  to: number,
): AsyncGenerator<TableExtent, void, void> {
  const { grainBytes, tableEntries, directory, metadata } = header;
  const entries = new EntryTable(file, directory);
  const tableReach = tableEntries * grainBytes;
  const length = tableEntries * ENTRY_BYTES;
  for (let at = from; at < to;) {
    const index = Math.floor(at / tableReach);
    const { sector, count } = await entries.run(index);
    const end = Math.min(to, (index + count) * tableReach);
    if (sector === directory.blank) {
      yield { start: at, length: end - at, kind: 'none' };
    } else {
      const entry = (): string => `entry ${index} of the grain directory`;
      const offset = placeOf(file, { entry, sector, length }, metadata, path);
      const bytes = await file.read(offset, length);
      const view = new DataView(bytes.buffer, bytes.byteOffset, length);
      yield* tableGrains(view, { file, header, path, index }, at, end);
    }
    at = end;
  }
}

/** A grain table: the one at `index` of the directory. */
interface GrainTable {
  readonly file: ImageFile;
  readonly header: VmdkHeader;
  readonly path: string;
  readonly index: number;
}

function* tableGrains(
  view: DataView,
  table: GrainTable,
  from: number,
  to: number,
): Generator<TableExtent, void, void> {
  const { grainBytes, tableEntries, hasZeroedGrains } = table.header;
  for (let at = from; at < to;) {
    const grain = Math.floor(at / grainBytes);
    const start = grain * grainBytes;
    const end = Math.min(to, start + grainBytes);
    const sector = view.getUint32((grain % tableEntries) * ENTRY_BYTES, true);
    const range = { start: at, length: end - at };
    if (sector === 0) yield { ...range, kind: 'none' };
    else if (sector === ZEROED_GRAIN && hasZeroedGrains) yield { ...range, kind: 'zero' };
    else yield { ...range, ...placeOfGrain(table, grain, sector, at - start) };
    at = end;
  }
}

/** Where a grain lies, from its byte `skipped` on. */
function placeOfGrain(
  { file, header, path, index }: GrainTable,
  grain: number,
  sector: number,
  skipped: number,
): Pick<TableExtent, 'kind' | 'offset' | 'stream'> {
  const { grainBytes, tableEntries, isCompressed, sizeBytes, metadata } = header;
  const entry = (): string => `entry ${grain % tableEntries} of grain table ${index}`;
  // Of the last grain the file may have no more than the disk has.
  const length = isCompressed ? MARKER_BYTES : Math.min(grainBytes, sizeBytes - grain * grainBytes);
  const offset = placeOf(file, { entry, sector, length }, metadata, path);
  if (!isCompressed) return { kind: 'data', offset: offset + skipped };
  // A stream of noise is longer than what it holds; QEMU takes as much.
  const most = Math.min(MARKER_BYTES + 2 * grainBytes, file.sizeBytes - offset);
  return { kind: 'compressed', stream: { offset, length: most } };
}
