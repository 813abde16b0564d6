/** An engine over qcow2 with disks that answer at once, for tests of single requests. */
import type { CommandRecord, CompletionRecord } from '../../../src/engine.ts';
import { engineSubject } from '../../../src/testing/qcow2/engine-subject.ts';
import { Hosts } from '../../../src/testing/qcow2/hosts.ts';
import type { BuiltImage } from '../../../src/testing/qcow2/image-builder.ts';
import { randomLatency } from '../../../src/testing/qcow2/plan.ts';
import type { Qcow2Setup, Subject } from '../../../src/testing/qcow2/subject.ts';
import { Random } from '../../../src/testing/random.ts';
import { SECTOR_BYTES } from '../../../src/testing/stream.ts';
import { BUILDS } from '../../support/engine.ts';

const SETUP: Qcow2Setup = {
  depth: 8,
  mergeBytes: 0,
  wce: true,
  fua: true,
  barrier: 'off',
  l2Slices: 8,
  refcountSlices: 8,
  reserveClusters: 4,
  flushIntervalMicros: 0,
  noHoles: false,
  punch: false,
};
const [{ module }] = BUILDS as [(typeof BUILDS)[number]];

/** See the head of the file. */
export class Runner {
  readonly hosts: Hosts;
  readonly subject: Subject;
  readonly #random = new Random(1);
  readonly #statuses = new Map<number, number>();
  readonly #command: CommandRecord = {
    id: 0,
    op: 0,
    flags: 0,
    file: 0,
    segments: 0,
    data: 0,
    offset: 0,
    length: 0,
    guest: 0,
  };
  readonly #completion: CompletionRecord = { tag: 0, status: 0, value: 0, errno: 0 };
  #tag = 0;

  /** @param dataBytes the longest request */
  constructor(first: BuiltImage, dataBytes: number, setup: Partial<Qcow2Setup> = {}) {
    const latency = randomLatency(this.#random);
    this.hosts = Hosts.holding(first, true, this.#random, latency, {});
    this.subject = engineSubject(module)(first, { ...SETUP, ...setup }, dataBytes);
    this.hosts.attach(this.subject.memory, (id, errno, value) => {
      this.subject.result(id, errno, value);
    });
  }

  /** Submits requests of one kind, and lets them end; their statuses. */
  run(op: number, ranges: readonly (readonly [from: number, to: number])[]): number[] {
    const first = this.#tag + 1;
    for (const [from, to] of ranges) {
      const { subject } = this;
      const bytes = (to - from) * SECTOR_BYTES;
      subject.submit(++this.#tag, op, 0, from * SECTOR_BYTES, bytes, 1, subject.dataAddress, 0);
    }
    this.settle();
    return ranges.map((_, index) => this.#statuses.get(first + index) ?? -1);
  }

  /** What the image holds. */
  get image(): Uint8Array {
    return this.hosts.contents().image;
  }

  /** Lets everything happen. */
  settle(): void {
    do {
      this.subject.pump(0);
      while (this.subject.takeCompletion(this.#completion)) {
        this.#statuses.set(this.#completion.tag, this.#completion.status);
      }
      while (this.subject.takeCommand(this.#command)) this.hosts.execute(this.#command);
    } while (this.hosts.step(this.#random, false));
  }
}
