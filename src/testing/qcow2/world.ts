/**
 * One stream of requests over one image: an engine, the disks below it, and those who judge.
 *
 *   submit, an answer of a disk, time that passes ──▶ the engine runs ──▶ the power is cut
 *
 * What happens next is drawn from a seed; the same seed tells the same story.
 */
import { ERRNO_ENOTSUP } from '../../abi/command.ts';
import { FILE_BACKING, FILE_COMPRESSED, FILE_DATA, FILE_IMAGE } from '../../abi/map.ts';
import { OP_READ, OP_SET_WCE, OP_WRITE, STATUS_OK } from '../../abi/request.ts';
import type { Backend, Done } from '../../backend/backend.ts';
import type { CommandRecord, CompletionRecord } from '../../engine.ts';
import { execute } from '../../executor.ts';
import { parseHeader } from '../../image/qcow2/header.ts';
import { Oracle } from '../oracle.ts';
import { Random } from '../random.ts';
import { SimulatedDisk } from '../simulated-disk.ts';
import type { SimulatedDiskOptions } from '../simulated-disk-options.ts';
import { describeRequest, type GuestRequest, SECTOR_BYTES } from '../stream.ts';
import { codeOf, fillSectors, SECTOR_WORDS, wordsOf } from './guest-sectors.ts';
import type { BuiltImage } from './image-builder.ts';
import { ImageJudge } from './image-judge.ts';
import { PlainClusters } from './plain-clusters.ts';
import { randomFaults, randomLatency } from './plan.ts';
import type { OpenSubject, Qcow2Setup, Subject } from './subject.ts';

/** What is run. */
export interface Qcow2Case {
  readonly first: BuiltImage;
  readonly setup: Qcow2Setup;
  readonly stream: readonly GuestRequest[];
  /** What codes of sectors are above the numbers of writes. */
  readonly base: number;
  /** For what happens when, and for the disks. */
  readonly seed: number;
}

type Event = 'submit' | 'answer' | 'wait';

/** States of each moment to look at, at most. */
const STATES_OF_MOMENT = 24;
/** How often time passes while nothing else can happen. */
const WAITS = 200;
/** An image may become so much longer. */
const ROOM_BYTES = 262_144;
const COMMANDS = ['read', 'write', 'zeroes', 'discard', 'status', 'sync', 'extend'];

/** See the head of the file. Broken rules are thrown as RuleBroken. */
export class Qcow2World {
  /** Power cuts so far. */
  states = 0;
  /** Calls of the engine. */
  steps = 0;
  /** The story; only when somebody wants it. */
  readonly lines: string[] | undefined;
  readonly #case: Qcow2Case;
  readonly #random: Random;
  readonly #oracle: Oracle;
  readonly #judge: ImageJudge;
  readonly #subject: Subject;
  readonly #files: Backend[] = [];
  readonly #image: SimulatedDisk;
  readonly #data: SimulatedDisk | undefined;
  /** Whatever answers commands. */
  readonly #hosts: { readonly inFlight: readonly unknown[]; step(): unknown }[] = [];
  readonly #slotBytes: number;
  readonly #command: CommandRecord = { id: 0, op: 0, flags: 0, file: 0, ...NO_DATA };
  readonly #completion: CompletionRecord = { tag: 0, status: 0, value: 0, errno: 0 };
  #now = 0;
  #next = 0;
  #hostFailed = false;
  /** Something has happened that the engine has not been called for. */
  #unheard = false;

  constructor(open: OpenSubject, explored: Qcow2Case, told = false) {
    const { first, setup, stream, seed, base } = explored;
    this.#case = explored;
    this.lines = told ? [] : undefined;
    this.#random = new Random(seed);
    const { codes } = first;
    const zeroAtFirst = (sector: number): boolean => codes[sector] === 0;
    const { wce, barrier } = setup;
    const requests = stream.length + 1;
    this.#oracle = new Oracle({ sectors: codes.length, requests, wce, barrier, zeroAtFirst });
    this.#judge = new ImageJudge(first, base);
    this.#slotBytes = Math.max(...stream.map(({ from, to }) => to - from), 1) * SECTOR_BYTES;
    this.#subject = open(first, setup, this.#slotBytes * requests);
    const options = { faults: randomFaults(this.#random), latency: randomLatency(this.#random) };
    const mostBytes = first.image.length + ROOM_BYTES;
    this.#image = this.#newDisk(FILE_IMAGE, first.image, { ...options, mostBytes });
    if (first.data !== undefined) this.#data = this.#newDisk(FILE_DATA, first.data, options);
    if (first.backing !== undefined) {
      this.#newDisk(FILE_BACKING, first.backing, { latency: options.latency, readOnly: true });
    }
    const { clusterBytes } = parseHeader(first.image, 'the image');
    this.#attach(FILE_COMPRESSED, new PlainClusters(this.#image, clusterBytes));
  }

  /** Lets everything happen. */
  run(): void {
    this.#look();
    for (let waits = 0; waits < WAITS;) {
      const event = this.#draw();
      if (event === undefined && !this.#unheard) break;
      if (event === 'wait') waits += 1;
      this.#happen(event);
    }
    this.#oracle.checkIdle();
  }

  /** An image that a power cut now may leave, and the codes of its sectors. */
  cut(): BuiltImage {
    const image = this.#image.cutPower().contents();
    const data = this.#data?.cutPower().contents();
    const { backing } = this.#case.first;
    return { image, data, backing, codes: this.#judge.codesOf({ image, data, backing }) };
  }

  #draw(): Event | undefined {
    const busy = this.#hosts.some(({ inFlight }) => inFlight.length > 0);
    const left = this.#next < this.#case.stream.length;
    if (left && (!busy || this.#random.chance(0.3))) return 'submit';
    if (busy && !this.#random.chance(0.02)) return 'answer';
    return Number.isFinite(this.#subject.waitMicros) ? 'wait' : busy ? 'answer' : undefined;
  }

  #happen(event: Event | undefined): void {
    this.#now += this.#random.below(20);
    this.#unheard = event === 'submit' || event === 'answer';
    if (event === 'submit') this.#submit();
    else if (event === 'answer') this.#answer();
    else if (event === 'wait') this.#now += this.#subject.waitMicros;
    // Several events may come between two calls of the engine.
    if (!this.#unheard || this.#random.chance(0.8)) this.#pump();
    this.#look();
  }

  #submit(): void {
    const request = this.#case.stream[this.#next];
    if (request === undefined) return;
    this.#next += 1;
    const { op, flags, queue, from, to } = request;
    const number = this.#oracle.submit(request);
    this.#note(`submit   ${number}: ${describeRequest(request)}`);
    if (this.#hostFailed) this.#excuse();
    const length = op === OP_SET_WCE ? to : (to - from) * SECTOR_BYTES;
    const bytes = this.#bytesOf(number, request);
    if (op === OP_WRITE) fillSectors(bytes, this.#case.base + number, from);
    const offset = from * SECTOR_BYTES;
    this.#subject.submit(number, op, flags, offset, length, 1, bytes.byteOffset, queue);
  }

  #answer(): void {
    const busy = this.#hosts.filter(({ inFlight }) => inFlight.length > 0);
    busy[this.#random.below(busy.length)]?.step();
  }

  #pump(): void {
    this.#unheard = false;
    const subject = this.#subject;
    this.steps += 1;
    subject.pump(this.#now);
    while (subject.takeCompletion(this.#completion)) {
      this.#complete(this.#completion.tag, this.#completion.status);
    }
    const command = this.#command;
    while (subject.takeCommand(command)) {
      const { id, op, file, offset, length } = command;
      this.#note(`  command ${id}: ${COMMANDS[op]} of file ${file} at ${offset}, ${length} bytes`);
      execute(this.#files, command);
    }
  }

  #complete(number: number, status: number): void {
    this.#note(`  complete ${number}: status ${status}`);
    const request = this.#oracle.history.request(number);
    if (request.op !== OP_READ || status !== STATUS_OK) {
      this.#oracle.complete(number, status);
      return;
    }
    const words = wordsOf(this.#bytesOf(number, request));
    const values = Array.from({ length: request.to - request.from }, (_, index) => {
      const sector = request.from + index;
      return this.#judge.valueOf(codeOf(words, index * SECTOR_WORDS, sector), sector);
    });
    this.#oracle.complete(number, status, values);
  }

  /** Where the data of a request lies. */
  #bytesOf(number: number, { from, to }: GuestRequest): Uint8Array {
    const { memory, dataAddress } = this.#subject;
    const address = dataAddress + (number - 1) * this.#slotBytes;
    return new Uint8Array(memory.buffer, address, (to - from) * SECTOR_BYTES);
  }

  #look(): void {
    const disks = { image: this.#image, data: this.#data };
    this.states += this.#judge.look(disks, STATES_OF_MOMENT, (values) => {
      this.#oracle.checkCut((sector, found) => {
        found[0] = values[sector] ?? 0;
        return 1;
      });
    });
  }

  #newDisk(
    file: number,
    contents: Uint8Array,
    options: Partial<SimulatedDiskOptions>,
  ): SimulatedDisk {
    const sizeBytes = contents.length;
    const seed = this.#random.next();
    const fixed = { sizeBytes, contents, seed, clock: 'manual' } as const;
    const disk = new SimulatedDisk({ ...options, ...fixed, fua: this.#case.setup.fua });
    this.#attach(file, disk);
    return disk;
  }

  #attach(file: number, disk: SimulatedDisk | PlainClusters): void {
    const done: Done = (id, errno, value) => {
      this.#note(`answer   ${id}: ${errno === 0 ? 'success' : `errno ${errno}`}`);
      if (errno !== 0 && errno !== ERRNO_ENOTSUP) {
        this.#hostFailed = true;
        this.#excuse();
      }
      this.#subject.result(id, errno, value);
    };
    disk.attach(this.#subject.memory, done);
    this.#files[file] = disk;
    this.#hosts.push(disk);
  }

  /** Whose metadata has failed, nobody outside knows: every request may fail from now on. */
  #excuse(): void {
    const { history } = this.#oracle;
    for (let number = 1; number <= history.count; number++) {
      if (!history.isOpen(number)) continue;
      this.#oracle.hostFailed(number, true);
      this.#oracle.hostFailed(number, false);
    }
    this.#oracle.syncFailed();
  }

  #note(text: string): void {
    this.lines?.push(text);
  }
}

const NO_DATA = { segments: 0, data: 0, offset: 0, length: 0 };
