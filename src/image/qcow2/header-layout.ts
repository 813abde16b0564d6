/**
 * Where the tables of the header lie: inside the file, and apart. What is written through tables
 * that share clusters destroys one of them, so this is asked before the first write.
 */
import { L2_ENTRY_BYTES, SNAPSHOT_ENTRY_BYTES } from '../../abi/qcow2.ts';
import { SluiceError } from '../../errors.ts';
import { hex } from './fields.ts';
import type { Qcow2Header } from './header.ts';

/** Entries of the L1 table of a disk. */
export function l1EntriesFor(
  { clusterBytes, l2Entries }: Pick<Qcow2Header, 'clusterBytes' | 'l2Entries'>,
  sizeBytes: number,
): number {
  return Math.ceil(sizeBytes / (clusterBytes * l2Entries));
}

interface Area {
  readonly name: string;
  readonly offset: number;
  readonly length: number;
}

/** The file that the header was read from, and what it is opened for. */
export interface LayoutQuestion {
  readonly fileBytes: number;
  readonly path: string;
  readonly writable: boolean;
}

/**
 * Refuses a disk whose L1 or refcount table is not there; and, for a writable one, whose tables
 * overlap or pass the end of the file.
 * @throws SluiceError ERR_SLUICE_CORRUPT
 */
export function refuseDamagedLayout(header: Qcow2Header, question: LayoutQuestion): void {
  const problem = tableMissing(header, question) ?? tablesOverlap(header, question);
  if (problem === undefined) return;
  const { path } = question;
  const message = `cannot open ${JSON.stringify(path)}: ${problem}; check and repair the image`;
  throw new SluiceError('ERR_SLUICE_CORRUPT', message, { operation: 'open', path });
}

function tableMissing(header: Qcow2Header, { fileBytes, writable }: LayoutQuestion) {
  if (header.refcountTableClusters === 0) return 'there is no refcount table';
  const tables = writable ? [l1Of(header), refcountTableOf(header)] : [l1Of(header)];
  const outside = tables.find(({ offset, length }) => length > 0 && offset + length > fileBytes);
  if (outside === undefined) return undefined;
  return `${describe(outside)} passes the end of the file, which has ${fileBytes} bytes`;
}

function tablesOverlap(header: Qcow2Header, { writable }: LayoutQuestion): string | undefined {
  if (!writable) return undefined;
  const areas = areasOf(header).toSorted((a, b) => a.offset - b.offset);
  let last: Area | undefined;
  for (const area of areas) {
    if (last !== undefined && area.offset < last.offset + last.length) {
      return `${describe(area)} overlaps ${describe(last)}`;
    }
    last = area;
  }
  return undefined;
}

/** What the header names, as far as it takes up space. */
function areasOf(header: Qcow2Header): Area[] {
  const { clusterBytes, snapshots, snapshotsOffset, encryption, bitmaps } = header;
  const areas = [
    { name: 'the header', offset: 0, length: clusterBytes },
    l1Of(header),
    refcountTableOf(header),
    {
      name: 'the snapshot table',
      offset: snapshotsOffset,
      length: snapshots * SNAPSHOT_ENTRY_BYTES,
    },
    { name: 'the encryption header', offset: 0, length: 0, ...encryption },
    {
      name: 'the bitmap directory',
      offset: bitmaps?.directoryOffset ?? 0,
      length: bitmaps?.directoryBytes ?? 0,
    },
  ];
  return areas.filter(({ length }) => length > 0);
}

function l1Of({ l1Offset, l1Entries }: Qcow2Header): Area {
  return { name: 'the L1 table', offset: l1Offset, length: l1Entries * L2_ENTRY_BYTES };
}

function refcountTableOf(header: Qcow2Header): Area {
  const { refcountTableOffset: offset, refcountTableClusters, clusterBytes } = header;
  return { name: 'the refcount table', offset, length: refcountTableClusters * clusterBytes };
}

function describe({ name, offset, length }: Area): string {
  return `${name} at ${hex(offset)} (${length} bytes)`;
}
