/** The files of an image below an explored engine, each a simulated disk. */
import { COMMAND_SYNC } from '../../abi/command.ts';
import { FILE_BACKING, FILE_COMPRESSED, FILE_DATA, FILE_IMAGE } from '../../abi/map.ts';
import type { Backend, Done } from '../../backend/backend.ts';
import type { CommandRecord } from '../../engine.ts';
import { execute } from '../../executor.ts';
import { parseHeader } from '../../image/qcow2/header.ts';
import type { Random } from '../random.ts';
import { RuleBroken } from '../rule-broken.ts';
import { SimulatedDisk } from '../simulated-disk.ts';
import type { SimulatedDiskOptions, SimulatedFaults } from '../simulated-disk-options.ts';
import type { BuiltImage } from './image-builder.ts';
import { PlainClusters } from './plain-clusters.ts';

/** What goes wrong with each of the files. */
export interface FileFaults {
  /** The image; a data file, too. */
  readonly image?: SimulatedFaults;
  readonly backing?: SimulatedFaults;
  /** The n-th compressed cluster that is read does not come. */
  readonly compressed?: number;
}

/** How long the answers take. */
export type Latency = Required<SimulatedDiskOptions>['latency'];

/** An image may become so much longer. */
const ROOM_BYTES = 262_144;
const ROOM_CLUSTERS = 20;

/** See the head of the file. */
export class Hosts {
  readonly image: SimulatedDisk;
  readonly data: SimulatedDisk | undefined;
  readonly #backing: SimulatedDisk | undefined;
  readonly #compressed: PlainClusters;
  readonly #files: (Backend | undefined)[] = [];

  private constructor(
    image: SimulatedDisk,
    data: SimulatedDisk | undefined,
    backing: SimulatedDisk | undefined,
    compressed: PlainClusters,
  ) {
    this.image = image;
    this.data = data;
    this.#backing = backing;
    this.#compressed = compressed;
    this.#files[FILE_IMAGE] = image;
    this.#files[FILE_DATA] = data;
    this.#files[FILE_BACKING] = backing;
    this.#files[FILE_COMPRESSED] = compressed;
  }

  /** Disks that hold an image, all of it stable. */
  static holding(
    { image, data, backing }: BuiltImage,
    fua: boolean,
    random: Random,
    latency: Latency,
    faults: FileFaults,
  ): Hosts {
    const disk = (contents: Uint8Array, more: Partial<SimulatedDiskOptions>): SimulatedDisk =>
      new SimulatedDisk({
        ...more,
        latency,
        fua,
        sizeBytes: contents.length,
        contents,
        seed: random.next(),
        clock: 'manual',
      });
    const own = { faults: faults.image ?? {} };
    const { clusterBytes } = parseHeader(image, 'the image');
    const roomBytes = Math.max(ROOM_BYTES, ROOM_CLUSTERS * clusterBytes);
    const first = disk(image, { ...own, mostBytes: image.length + roomBytes });
    return new Hosts(
      first,
      data && disk(data, own),
      backing && disk(backing, { faults: faults.backing ?? {}, readOnly: true }),
      new PlainClusters(first, clusterBytes, faults.compressed),
    );
  }

  /** Answers go to `done`, data to and from `memory`. */
  attach(memory: WebAssembly.Memory, done: Done): void {
    for (const disk of this.#all) disk.attach(memory, done);
  }

  /** True while a command waits for its answer. */
  get isBusy(): boolean {
    return this.#all.some(({ inFlight }) => inFlight.length > 0);
  }

  /** Gives one answer; true when there was one. `lazy`: of a compressed cluster at last. */
  step(random: Random, lazy: boolean): boolean {
    const disks = this.#disks.filter((disk) => disk !== undefined && disk.inFlight.length > 0);
    const all = this.#all.filter(({ inFlight }) => inFlight.length > 0);
    const busy = lazy && disks.length > 0 ? disks : all;
    const chosen = busy[random.below(busy.length)];
    if (chosen instanceof PlainClusters) chosen.step(random);
    else chosen?.step();
    return busy.length > 0;
  }

  /** Hands over a command, which must be inside its file. */
  execute(command: CommandRecord): void {
    const { file, offset, length, op } = command;
    const disk = file === FILE_COMPRESSED ? this.image : this.#disks[file];
    const isRange = op < COMMAND_SYNC;
    if (isRange && file !== FILE_COMPRESSED && offset + length > (disk?.sizeBytes ?? 0)) {
      const end = `${offset + length} of file ${file}, which has ${disk?.sizeBytes ?? 0} bytes`;
      throw new RuleBroken('range', `a command goes to byte ${end}`);
    }
    execute(this.#files, command);
  }

  /** The process that uses them is killed: what a new one finds. Some of it may not be stable. */
  kill(clusterBytes: number): Hosts {
    const image = this.image.killProcess({ faults: {} });
    const data = this.data?.killProcess({ faults: {} });
    const backing = this.#backing?.killProcess({ faults: {} });
    return new Hosts(image, data, backing, new PlainClusters(image, clusterBytes));
  }

  /** Copies of the files as they are now, of which the first two may change. */
  contents(): Pick<BuiltImage, 'image' | 'data'> {
    return { image: this.image.contents(), data: this.data?.contents() };
  }

  get #disks(): readonly (SimulatedDisk | undefined)[] {
    return [this.image, this.data, this.#backing];
  }

  get #all(): readonly (SimulatedDisk | PlainClusters)[] {
    const disks = this.#disks.filter((disk) => disk !== undefined);
    return [...disks, this.#compressed];
  }
}
