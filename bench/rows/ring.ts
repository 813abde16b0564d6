// Taking chains from virtqueues: head, checks, walk, translation, header, status byte.

import { REGION_SIZE } from '../../src/abi/region.ts';
import { DEVICE_KICKED, QUEUE_INDIRECT, QUEUE_PACKED } from '../../src/abi/virtio-device.ts';
import { attachEngine, type QueueConfig } from '../guest/device.ts';
import { ENGINE_PLACE, GUEST_MEMORY_BYTES } from '../guest/memory.ts';
import { nativeRing, typeScriptRing } from '../guest/ring-peers.ts';
import { guestQueue, GuestRings, type RingShape } from '../guest/rings.ts';
import { loadKernels } from '../kernels.ts';
import { Random } from '../random.ts';
import type { Contender, Contest, Row } from '../row.ts';

/** Sets of inputs that samples take in turn. */
const SETS = 4;
const MOST_QUEUES = 16;
/** Descriptors of a queue: those of its ring, and of its indirect tables. */
const DIRECT_DESCRIPTORS = 256;
const INDIRECT_DESCRIPTORS = 1024;
const MOST_CHAINS = 256;

function ringRow(packed: boolean, indirect: boolean, descriptors: number): Row {
  const kind = `${packed ? 'packed' : 'split'}${indirect ? ' indirect' : ''}`;
  return {
    name: `ring ${kind} ${descriptors}`,
    unit: 'chain',
    setup: (size) => ringContest(size, packed, indirect, descriptors),
  };
}

/** Chains of so many descriptors, taken and given back. */
export const RING_ROWS: readonly Row[] = [false, true].flatMap((packed) =>
  [false, true].flatMap((indirect) =>
    [2, 3, 8, 64].map((descriptors) => ringRow(packed, indirect, descriptors)),
  ),
);

function shapeOf(size: number, packed: boolean, indirect: boolean, descriptors: number): RingShape {
  const room = (indirect ? INDIRECT_DESCRIPTORS : DIRECT_DESCRIPTORS) / descriptors;
  const chains = Math.min(MOST_CHAINS, 2 ** Math.floor(Math.log2(room)));
  const queues = Math.ceil(size / (chains * descriptors));
  return { packed, indirect, descriptors, chains, queues: Math.min(MOST_QUEUES, queues) };
}

/** What assembly/bench.ts exports for us. */
interface ParseExports {
  parseChains(base: number, count: number): number;
}

/** What takes `count` chains from queue `number` and returns their hash. */
type Parse = (number: number, count: number) => number;

async function ringContest(
  size: number,
  packed: boolean,
  indirect: boolean,
  descriptors: number,
): Promise<Contest> {
  const shape = shapeOf(size, packed, indirect, descriptors);
  const { memory, exports } = await loadKernels(GUEST_MEMORY_BYTES);
  const { buffer } = memory;
  const rings = new GuestRings(buffer, shape, SETS, new Random(descriptors));
  const hashes: number[] = [];
  const enter = (name: string, parse: Parse): Contender => contender(name, rings, hashes, parse);
  const flags = (packed ? QUEUE_PACKED : 0) | (indirect ? QUEUE_INDIRECT : 0);
  const queues = Array.from({ length: shape.queues }, (_, number) => {
    const { size, desc, driver, device } = guestQueue(shape, number);
    return { size, flags, desc, driver, device };
  });
  const ours = enter('parseChains', engine(memory, exports as object as ParseExports, queues));
  const peers = (['O2', 'O3 native'] as const).flatMap((optimization) => {
    const peer = nativeRing(buffer, queues, optimization);
    return peer === undefined ? [] : [enter(`gcc -${optimization}`, peer.parse)];
  });
  const ts = enter('TypeScript', typeScriptRing(buffer, queues).parse);
  const operations = shape.queues * shape.chains;
  return { operations, ours, peers: [...peers, ts] };
}

/** @param hashes of the sets, from whoever was first: each later run of anybody must agree */
function contender(name: string, rings: GuestRings, hashes: number[], parse: Parse): Contender {
  const { chains, queues } = rings.shape;
  let laps = 0;
  let set = 0;
  let hash = 0;
  return {
    name,
    prepare: (sample) => {
      set = sample % SETS;
      rings.install(set, laps);
    },
    run: () => {
      let sum = 0;
      for (let number = 0; number < queues; number++) sum += parse(number, chains);
      hash = sum >>> 0;
      hashes[set] ??= hash;
      if (hash !== hashes[set]) throw new Error(`${name}: another result in lap ${laps}`);
      laps++;
    },
    hash: () => hash,
  };
}

/** The engine's own: it looks at the queues that are kicked, and leaves them so. */
function engine(
  memory: WebAssembly.Memory,
  exports: ParseExports,
  queues: readonly QueueConfig[],
): Parse {
  const device = attachEngine(memory, queues);
  device.store(REGION_SIZE + DEVICE_KICKED, 0xffff_ffff);
  device.store(REGION_SIZE + DEVICE_KICKED + 4, 0xffff_ffff);
  return (_number, count) => exports.parseChains(ENGINE_PLACE, count);
}
