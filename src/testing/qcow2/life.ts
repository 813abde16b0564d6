/**
 * The life of one process in an exploration: an engine that has opened an image, and what it has
 * promised. When it is killed, the next one begins with what it finds, stable or not.
 */
import { OP_READ, STATUS_OK } from '../../abi/request.ts';
import { Oracle } from '../oracle.ts';
import { RuleBroken } from '../rule-broken.ts';
import { type GuestRequest, SECTOR_BYTES } from '../stream.ts';
import { codeOf, SECTOR_WORDS, wordsOf } from './guest-sectors.ts';
import type { BuiltImage } from './image-builder.ts';
import { type Elder, ImageJudge } from './image-judge.ts';
import type { OpenSubject, Qcow2Setup, Subject } from './subject.ts';

/** How a life begins. */
export interface Beginning {
  readonly first: BuiltImage;
  readonly setup: Qcow2Setup;
  /** What may come. */
  readonly requests: readonly GuestRequest[];
  /** What codes of sectors are above the numbers of writes. */
  readonly base: number;
  readonly elder?: Elder | undefined;
}

/** See the head of the file. */
export class Life {
  readonly first: BuiltImage;
  readonly base: number;
  readonly oracle: Oracle;
  readonly judge: ImageJudge;
  readonly subject: Subject;
  readonly #slotBytes: number;

  constructor(open: OpenSubject, { first, setup, requests, base, elder }: Beginning) {
    const { codes } = first;
    const { wce, barrier } = setup;
    const zeroAtFirst = (sector: number): boolean => codes[sector] === 0;
    const most = requests.length + 1;
    this.first = first;
    this.base = base;
    this.oracle = new Oracle({ sectors: codes.length, requests: most, wce, barrier, zeroAtFirst });
    this.judge = new ImageJudge(first, base, elder);
    this.#slotBytes = Math.max(...requests.map(({ from, to }) => to - from), 1) * SECTOR_BYTES;
    this.subject = open(first, setup, this.#slotBytes * most);
  }

  /** Requests so far. */
  get count(): number {
    return this.oracle.history.count;
  }

  /** Where the data of a request lies. */
  bytesOf(number: number, { from, to }: GuestRequest): Uint8Array {
    const { memory, dataAddress } = this.subject;
    const address = dataAddress + (number - 1) * this.#slotBytes;
    return new Uint8Array(memory.buffer, address, (to - from) * SECTOR_BYTES);
  }

  /** A request completes. */
  complete(number: number, status: number): void {
    const request = this.oracle.history.request(number);
    if (request.op !== OP_READ || status !== STATUS_OK) {
      this.oracle.complete(number, status);
      return;
    }
    const words = wordsOf(this.bytesOf(number, request));
    const values = Array.from({ length: request.to - request.from }, (_, index) => {
      const sector = request.from + index;
      return this.judge.valueOf(codeOf(words, index * SECTOR_WORDS, sector), sector);
    });
    this.oracle.complete(number, status, values);
  }

  /** The disk has these codes after a power cut. */
  checkCut(codes: Int32Array): void {
    this.oracle.checkCut((sector, found) => {
      found[0] = this.#valueOf(codes, sector);
      return 1;
    });
  }

  /** The disk has these codes, and the engine has nothing in memory only. */
  checkClosed(codes: Int32Array): void {
    this.oracle.checkKill((sector, found) => {
      found[0] = this.#valueOf(codes, sector);
      return 1;
    });
  }

  /** What this life leaves to the next, which has found these codes. */
  elder(codes: Int32Array): Elder {
    const known = new Map<string, boolean>();
    return {
      mayHold: (code, sector) => {
        const key = `${code} ${sector}`;
        const may = known.get(key) ?? this.#mayHold(codes, code, sector);
        known.set(key, may);
        return may;
      },
    };
  }

  #mayHold(codes: Int32Array, code: number, sector: number): boolean {
    const after = codes.slice();
    after[sector] = code;
    try {
      this.checkCut(after);
      return true;
    } catch (error) {
      if (error instanceof RuleBroken) return false;
      throw error;
    }
  }

  #valueOf(codes: Int32Array, sector: number): number {
    const { history } = this.oracle;
    return this.judge.valueOf(codes[sector] ?? 0, sector, history.hasWritten(sector, 0, 1));
  }

  /** The host has failed for somebody, maybe for its tables: any open request may fail. */
  excuse(): void {
    const { history } = this.oracle;
    for (let number = 1; number <= history.count; number++) {
      if (!history.isOpen(number)) continue;
      this.oracle.hostFailed(number, true);
      this.oracle.hostFailed(number, false);
    }
    this.oracle.syncFailed();
  }
}
