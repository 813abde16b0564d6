// The host of the fuzzer notices what an engine must not do.

import { describe, expect, it } from 'vitest';
import { COMMAND_OFFSET } from '../../../src/abi/command.ts';
import { MAP_L1_AT } from '../../../src/abi/map.ts';
import * as region from '../../../src/abi/region.ts';
import { BUILDS, instantiate } from '../../support/engine.ts';
import { fromLine } from '../input.ts';
import { Qcow2Host } from './host.ts';
import { ARENA_END, createQcow2Memory, MAP, REGION } from './layout.ts';

/** A write in place of a cluster of data, and a read of another one. */
const PROGRAM = fromLine('0000000001 00 0a 0001000003 0a');

/** What the host says of an engine to which `change` is done after each pump. */
function verdictOn(change: (memory: DataView, pumps: number) => void): string {
  const memory = createQcow2Memory();
  const view = new DataView(memory.buffer);
  const exports = instantiate(BUILDS[0]!, memory);
  let pumps = 0;
  const changed = {
    ...exports,
    pump: (base: number, now: number): number => {
      const commands = exports.pump(base, now);
      pumps += 1;
      change(view, pumps);
      return commands;
    },
  };
  try {
    new Qcow2Host(changed, memory).run(PROGRAM);
  } catch (error) {
    return String(error);
  }
  return 'fine';
}

/** True while a command waits; `at` is where the first one stands. */
function firstCommand(view: DataView): number | undefined {
  const head = view.getUint32(REGION + region.COMMAND_HEAD, true);
  const tail = view.getUint32(REGION + region.COMMAND_TAIL, true);
  return head === tail ? undefined : REGION + region.COMMAND_RING + (head % 2048) * RECORD;
}

const RECORD = (region.RESULT_RING - region.COMMAND_RING) / 2048;

describe("the fuzzer's host below a qcow2 mapping", () => {
  it('has nothing against the engine as it is', () => {
    expect(verdictOn(() => undefined)).toBe('fine');
  });

  it('sees guest data on its way to the header', () => {
    const verdict = verdictOn((view) => {
      const at = firstCommand(view);
      const isGuests = at !== undefined && view.getUint32(at, true) < 256;
      if (isGuests) view.setBigUint64(at + COMMAND_OFFSET, 0n, true);
    });
    expect(verdict).toContain('firewall');
  });

  it('sees a command behind the end of its file', () => {
    const verdict = verdictOn((view) => {
      const at = firstCommand(view);
      if (at !== undefined) view.setBigUint64(at + COMMAND_OFFSET, 2n ** 40n, true);
    });
    expect(verdict).toContain('outside');
  });

  it('sees a read that brings something else', () => {
    const verdict = verdictOn((view) => {
      const at = firstCommand(view);
      const isRead =
        at !== undefined && view.getUint8(at + 4) === 0 && view.getUint32(at, true) < 256;
      if (!isRead) return;
      const offset = view.getBigUint64(at + COMMAND_OFFSET, true);
      view.setBigUint64(at + COMMAND_OFFSET, offset + 512n, true);
    });
    expect(verdict).toContain('data: byte');
  });

  it('sees a write to the memory of nobody', () => {
    expect(verdictOn((view) => view.setUint8(ARENA_END - 1, 0))).toContain('(d)');
    expect(verdictOn((view) => view.setUint8(5, 0))).toContain('(j)');
  });

  it('sees requests that never end', () => {
    const verdict = verdictOn((view) => {
      view.setUint32(REGION + region.COMPLETION_TAIL, 0, true);
    });
    expect(verdict).toContain('(i)');
  });

  it('sees a table that was changed behind the back of the engine', () => {
    const verdict = verdictOn((view, pumps) => {
      // Bytes of the L1 table in memory: the next look at it finds nothing.
      const l1 = MAP + view.getUint32(MAP + MAP_L1_AT, true);
      if (pumps === 2) view.setBigUint64(l1, 0n);
    });
    expect(verdict).not.toBe('fine');
  });
});
