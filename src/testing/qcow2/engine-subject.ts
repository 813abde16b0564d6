/** The engine as the subject of an exploration: it opens an image as a host does. */
import * as abi from '../../abi/map.ts';
import { REGION_SIZE } from '../../abi/region.ts';
import {
  type CommandRecord,
  type CompletionRecord,
  createEngine,
  type Engine,
} from '../../engine.ts';
import { parseHeader, type Qcow2Header } from '../../image/qcow2/header.ts';
import { type ByteRange, createMapping } from '../../image/qcow2/map-region.ts';
import type { Mapping } from '../../mapping.ts';
import type { BuiltImage } from './image-builder.ts';
import type { HostPlace, OpenSubject, Qcow2Setup, Subject } from './subject.ts';

const WASM_PAGE = 65_536;
const HEADER_COPY_BYTES = 512;
const ENTRY_BYTES = 8;
const BLOCK_BYTES = 512;
/** Times that the refcount table may double. */
const TABLE_ROOM = 4;
const BUFFERS = 8;

/** Opens images with a build of the engine. */
export function engineSubject(module: WebAssembly.Module): OpenSubject {
  return (first, setup, dataBytes) => {
    const header = parseHeader(first.image, 'the image');
    const mapping = mappingOf(module, header, first, setup);
    const dataAddress = Math.ceil((REGION_SIZE + mapping.regionBytes) / WASM_PAGE) * WASM_PAGE;
    const initial = Math.ceil((dataAddress + dataBytes) / WASM_PAGE);
    const memory = new WebAssembly.Memory({ initial });
    const engine = createEngine({
      memory,
      module,
      capacityBytes: header.sizeBytes,
      blockSizeBytes: BLOCK_BYTES,
      depth: setup.depth,
      mergeBytes: setup.mergeBytes,
      readOnly: false,
      noFlush: false,
      wce: setup.wce,
      fua: setup.fua,
      barrier: setup.barrier,
      files: mapping.domains,
      map: { at: REGION_SIZE, mapping },
    });
    return new EngineSubject(engine, dataAddress, header.clusterBytes);
  };
}

class EngineSubject implements Subject {
  readonly dataAddress: number;
  readonly #engine: Engine;
  readonly #clusterBytes: number;

  constructor(engine: Engine, dataAddress: number, clusterBytes: number) {
    this.#engine = engine;
    this.dataAddress = dataAddress;
    this.#clusterBytes = clusterBytes;
  }

  get memory(): WebAssembly.Memory {
    return this.#engine.memory;
  }

  get waitMicros(): number {
    return this.#engine.waitMicros;
  }

  get isSettled(): boolean {
    return this.#engine.loadMap(abi.MAP_DIRTY) === 0;
  }

  submit(...request: Parameters<Subject['submit']>): void {
    this.#engine.submit(...request);
  }

  result(id: number, errno: number, value: number): void {
    this.#engine.result(id, errno, value);
  }

  pump(nowMicros: number): void {
    this.#engine.pump(nowMicros);
  }

  takeCommand(command: CommandRecord): boolean {
    return this.#engine.takeCommand(command);
  }

  takeCompletion(completion: CompletionRecord): boolean {
    return this.#engine.takeCompletion(completion);
  }

  close(): boolean {
    this.#engine.storeMap(abi.MAP_CLOSING, 1);
    return true;
  }

  placeOf(offset: number): HostPlace {
    const engine = this.#engine;
    const start = offset - (offset % this.#clusterBytes);
    const within = (from: number, entries: number): boolean =>
      offset >= from && offset < from + entries * ENTRY_BYTES;
    const l1Entries = engine.loadMap(abi.MAP_L1_ENTRIES);
    const tableEntries = engine.loadMap(abi.MAP_TABLE_ENTRIES);
    if (start === 0) return 'header';
    if (within(engine.loadMap(abi.MAP_L1_OFFSET), l1Entries)) return 'L1';
    if (within(engine.loadMap(abi.MAP_TABLE_OFFSET), tableEntries)) return 'refcount table';
    if (this.#find(abi.MAP_TABLE_AT, tableEntries, start) !== undefined) return 'refcounts';
    const l1 = this.#find(abi.MAP_L1_AT, l1Entries, start);
    if (l1 === undefined) return 'other';
    return l1 >>> 31 === 1 ? 'L2' : 'shared L2';
  }

  /** The first word of the entry that points to `offset`, in the table at a word of the region. */
  #find(table: number, entries: number, offset: number): number | undefined {
    const engine = this.#engine;
    const at = engine.base + engine.mapAt + engine.loadMap(table);
    const view = new DataView(engine.memory.buffer, at, entries * ENTRY_BYTES);
    for (let entry = 0; entry < entries; entry++) {
      // Images of an exploration are shorter than 4 GiB.
      const low = view.getUint32(entry * ENTRY_BYTES + 4);
      if (low === offset) return view.getUint32(entry * ENTRY_BYTES);
    }
    return undefined;
  }
}

function mappingOf(
  module: WebAssembly.Module,
  header: Qcow2Header,
  first: BuiltImage,
  setup: Qcow2Setup,
): Mapping {
  const { image, backing } = first;
  const { clusterBytes, l1Offset, refcountTableOffset } = header;
  const tableBytes = header.refcountTableClusters * clusterBytes;
  const options = {
    clusterBits: header.clusterBits,
    flags: flagsOf(header, first, setup),
    refcountOrder: header.refcountOrder,
    l1Offset,
    l1Room: header.l1Entries,
    refcountTableOffset,
    refcountTableRoom: (tableBytes / ENTRY_BYTES) * TABLE_ROOM,
    fileBytes: image.length,
    backingBytes: backing?.length ?? 0,
    l2Slices: setup.l2Slices,
    refcountSlices: setup.refcountSlices,
    buffers: BUFFERS,
    flushIntervalMicros: setup.flushIntervalMicros,
    reserveClusters: setup.reserveClusters,
    header: image.subarray(0, HEADER_COPY_BYTES),
    l1: image.subarray(l1Offset, l1Offset + header.l1Entries * ENTRY_BYTES),
    refcountTable: image.subarray(refcountTableOffset, refcountTableOffset + tableBytes),
    ranges: rangesOf(header),
  };
  const geometry = {
    sizeBytes: header.sizeBytes,
    blockSizeBytes: BLOCK_BYTES,
    readOnly: false,
    depth: setup.depth,
    fua: setup.fua,
    unmaps: true,
  };
  return createMapping(options, geometry, header.dataFile === undefined ? 1 : 2, module);
}

function flagsOf(header: Qcow2Header, first: BuiltImage, setup: Qcow2Setup): number {
  const flags: readonly (readonly [boolean, number])[] = [
    [header.version === 2, abi.MAP_VERSION_2],
    [header.extendedL2, abi.MAP_EXTENDED_L2],
    [first.backing !== undefined, abi.MAP_BACKING],
    [header.dataFile !== undefined, abi.MAP_DATA_FILE],
    [header.dataFile?.raw === true, abi.MAP_RAW_DATA_FILE],
    [setup.noHoles, abi.MAP_NO_HOLES],
    [setup.punch, abi.MAP_PUNCH],
  ];
  return flags.reduce((word, [on, flag]) => (on ? word | flag : word), 0);
}

/** What no write may touch beside the tables: the header and the snapshot table. */
function rangesOf({ clusterBytes, snapshots, snapshotsOffset }: Qcow2Header): ByteRange[] {
  const header = { offset: 0, length: clusterBytes };
  return snapshots === 0 ? [header] : [header, { offset: snapshotsOffset, length: clusterBytes }];
}
