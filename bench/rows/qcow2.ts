import { METADATA_IDS } from '../../src/abi/limits.ts';
import { COMMAND_EXTEND, COMMAND_READ, COMMAND_WRITE } from '../../src/abi/command.ts';
import { REGION_SIZE } from '../../src/abi/region.ts';
import { OP_FLUSH, OP_READ, OP_WRITE } from '../../src/abi/request.ts';
import {
  type CommandRecord,
  type CompletionRecord,
  createEngine,
  type Engine,
} from '../../src/engine.ts';
import { createImage } from '../../src/image/qcow2/create.ts';
import { parseHeader, type Qcow2Header } from '../../src/image/qcow2/header.ts';
import { createMapping } from '../../src/image/qcow2/map-region.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import type { Mapping } from '../../src/mapping.ts';
import type { Contender, Contest, Row } from '../row.ts';

const BATCH = 64;
const BLOCK_BYTES = 4096;
const CLUSTER_BYTES = 65_536;
const ENTRY_BYTES = 8;
/** What openDisk takes for images of this kind. */
const RESERVE_CLUSTERS = 1024;
const L2_SLICES = 4096;
const REFCOUNT_SLICES = 512;
const BUFFERS = 64;
const REFCOUNT_ORDER = 4;

/** `in place`: of clusters that are there; `new`: of a new cluster each. */
type Kind = 'read in place' | 'write in place' | 'write new';

/**
 * The engine over a qcow2 image, for 4 KiB of a cluster each, with a flush for each batch of 64.
 * The host answers at once; only tables are kept. The peer is the engine over a raw disk.
 */
export const QCOW2_ROWS: readonly Row[] = (
  ['read in place', 'write in place', 'write new'] as const
).map((kind) => ({
  name: `qcow2 ${kind}`,
  unit: 'cluster',
  setup: (size) => contest(kind, Math.max(1, Math.floor(size / BATCH)) * BATCH),
}));

async function contest(kind: Kind, clusters: number): Promise<Contest> {
  const file = new MemoryFile();
  await createImage(file, { sizeBytes: clusters * CLUSTER_BYTES });
  return {
    operations: clusters,
    ours: new Runner('over qcow2', kind, clusters, file.bytes),
    peers: [new Runner('over raw', kind, clusters, undefined)],
  };
}

/** An engine, and a host that has tables in memory and no data. */
class Runner implements Contender {
  readonly name: string;
  readonly #kind: Kind;
  readonly #clusters: number;
  readonly #image: Uint8Array | undefined;
  readonly #mapping: Mapping | undefined;
  readonly #engine: Engine;
  readonly #dataAt: number;
  /** Clusters of tables that were written. */
  readonly #tables = new Map<number, Uint8Array>();
  readonly #command: CommandRecord = { id: 0, op: 0, flags: 0, file: 0, ...NO_DATA };
  readonly #completion: CompletionRecord = { tag: 0, status: 0, value: 0, errno: 0 };
  #hash = 0;

  constructor(name: string, kind: Kind, clusters: number, image: Uint8Array | undefined) {
    this.name = name;
    this.#kind = kind;
    this.#clusters = clusters;
    this.#image = image;
    this.#mapping = image && mappingOver(image, parseHeader(image, name));
    const mapping = this.#mapping;
    this.#dataAt = REGION_SIZE + (mapping?.regionBytes ?? 0);
    const pages = Math.ceil((this.#dataAt + BATCH * BLOCK_BYTES) / CLUSTER_BYTES);
    this.#engine = createEngine({
      memory: new WebAssembly.Memory({ initial: pages }),
      capacityBytes: clusters * CLUSTER_BYTES,
      blockSizeBytes: BLOCK_BYTES,
      depth: BATCH,
      mergeBytes: 1 << 20,
      readOnly: false,
      noFlush: false,
      wce: true,
      ...(mapping && { map: { at: REGION_SIZE, mapping } }),
    });
    if (kind !== 'write new') this.#pass(OP_WRITE);
  }

  /** A new image has no clusters. */
  prepare(): void {
    if (this.#kind !== 'write new' || this.#mapping === undefined) return;
    this.#tables.clear();
    this.#engine.startMapping(this.#mapping);
  }

  run(): void {
    this.#hash = 0;
    this.#pass(this.#kind === 'read in place' ? OP_READ : OP_WRITE);
  }

  hash(): number {
    return this.#hash >>> 0;
  }

  /** One request for each cluster. */
  #pass(op: number): void {
    const engine = this.#engine;
    for (let first = 0; first < this.#clusters; first += BATCH) {
      for (let i = 0; i < BATCH; i++) {
        const data = this.#dataAt + i * BLOCK_BYTES;
        engine.submit(i, op, 0, (first + i) * CLUSTER_BYTES, BLOCK_BYTES, 1, data);
      }
      engine.submit(BATCH, OP_FLUSH, 0, 0, 0, 0, 0);
      while (this.#drain());
    }
  }

  #drain(): boolean {
    const engine = this.#engine;
    engine.pump(0);
    while (engine.takeCompletion(this.#completion)) {
      this.#hash += this.#completion.tag + 1 + this.#completion.status * 1000;
    }
    let answered = false;
    while (engine.takeCommand(this.#command)) {
      if (this.#command.id >= METADATA_IDS) this.#execute(this.#command);
      engine.result(this.#command.id, 0, 0);
      answered = true;
    }
    return answered;
  }

  /** Pieces of tables do not cross clusters. */
  #execute({ op, offset, length, data }: CommandRecord): void {
    if (op === COMMAND_EXTEND) return;
    const cluster = Math.floor(offset / CLUSTER_BYTES);
    const at = offset % CLUSTER_BYTES;
    const bytes = new Uint8Array(this.#engine.memory.buffer);
    if (op === COMMAND_READ) bytes.set(this.#tableAt(cluster).subarray(at, at + length), data);
    if (op === COMMAND_WRITE) this.#tableAt(cluster).set(bytes.subarray(data, data + length), at);
  }

  #tableAt(cluster: number): Uint8Array {
    const known = this.#tables.get(cluster);
    if (known !== undefined) return known;
    const table = new Uint8Array(CLUSTER_BYTES);
    const start = cluster * CLUSTER_BYTES;
    table.set(this.#image?.subarray(start, start + CLUSTER_BYTES) ?? []);
    this.#tables.set(cluster, table);
    return table;
  }
}

const NO_DATA = { segments: 0, data: 0, offset: 0, length: 0, guest: 0 };

function mappingOver(image: Uint8Array, header: Qcow2Header): Mapping {
  const { l1Offset, l1Entries, refcountTableOffset, refcountTableClusters, sizeBytes } = header;
  const tableBytes = refcountTableClusters * CLUSTER_BYTES;
  const options = {
    clusterBits: header.clusterBits,
    flags: 0,
    refcountOrder: REFCOUNT_ORDER,
    l1Offset,
    l1Room: l1Entries,
    refcountTableOffset,
    refcountTableRoom: tableBytes / ENTRY_BYTES,
    fileBytes: image.length,
    backingBytes: 0,
    l2Slices: L2_SLICES,
    refcountSlices: REFCOUNT_SLICES,
    buffers: BUFFERS,
    flushIntervalMicros: 0,
    reserveClusters: RESERVE_CLUSTERS,
    header: image.subarray(0, 512),
    l1: image.subarray(l1Offset, l1Offset + l1Entries * ENTRY_BYTES),
    refcountTable: image.subarray(refcountTableOffset, refcountTableOffset + tableBytes),
    ranges: [],
  };
  const disk = { blockSizeBytes: BLOCK_BYTES, readOnly: false, depth: BATCH, fua: true };
  return createMapping(options, { ...disk, sizeBytes, unmaps: true }, 1, undefined);
}
