/**
 * Which faults hit a command. Each fault has a generator of its own, drawn from once for every
 * command that it might hit: adding one fault to a test moves none of the others.
 */
import { invalid } from '../arguments.ts';
import type { MemoryCommand, MemoryOperation } from '../backend/memory-command.ts';
import { Random } from './random.ts';
import {
  type SimulatedFault,
  type SimulatedFaultName,
  type FaultTarget,
  rangeOf,
  SECTOR_BYTES,
  type SimulatedFaults,
} from './simulated-disk-options.ts';

const ALL: readonly MemoryOperation[] = [
  'read',
  'write',
  'writeZeroes',
  'discard',
  'blockStatus',
  'sync',
  'extend',
];

/** The operations that a fault is about, in the order in which the faults are asked. */
const FAULTS: Readonly<Record<SimulatedFaultName, readonly MemoryOperation[]>> = {
  eio: ALL,
  enospc: ['write', 'writeZeroes', 'extend'],
  shortWrites: ['write', 'writeZeroes'],
  failingSync: ['sync'],
  lyingSync: ['sync', 'write'],
  stuck: ALL,
  slow: ALL,
};
const NAMES = Object.keys(FAULTS) as SimulatedFaultName[];
const DEFAULT_SLOW_MICROS = 1_000_000;

/** What is wrong with a command. */
export interface Affliction {
  /** The fault that decides its answer. */
  readonly answer: Exclude<SimulatedFaultName, 'stuck' | 'slow'> | undefined;
  readonly stuck: boolean;
  readonly extraMicros: number;
}

interface Rule {
  readonly ops: readonly MemoryOperation[];
  readonly sectors: readonly [number, number] | undefined;
  readonly nth: readonly number[] | undefined;
  readonly probability: number;
  readonly random: Random;
  seen: number;
}

/** The faults of one disk, and how many commands each has seen. */
export class FaultPlan {
  readonly #rules = new Map<SimulatedFaultName, Rule>();
  readonly #slow: readonly [number, number];

  constructor(faults: SimulatedFaults, seed: number) {
    for (const name of Object.keys(faults)) {
      if (Object.hasOwn(FAULTS, name)) continue;
      throw invalid(`a fault is one of ${NAMES.join(', ')}, not ${name}`);
    }
    for (const [index, name] of NAMES.entries()) {
      const fault = faults[name];
      if (fault === undefined) continue;
      this.#rules.set(name, ruleOf(name, fault, new Random(seed + 101 * (index + 1))));
    }
    const { slow } = faults;
    const micros = typeof slow === 'object' ? slow.micros : undefined;
    this.#slow = rangeOf(micros ?? DEFAULT_SLOW_MICROS, 'faults.slow.micros');
  }

  /** Counts the command towards every fault, and says what is wrong with it. */
  afflict(command: MemoryCommand): Affliction {
    const hit = NAMES.filter((name) => {
      const rule = this.#rules.get(name);
      return rule !== undefined && hits(rule, name, command);
    });
    const answer = hit.find((name) => name !== 'stuck' && name !== 'slow');
    const [least, most] = this.#slow;
    const random = this.#rules.get('slow')?.random;
    const isSlow = hit.includes('slow') && random !== undefined;
    return {
      answer: answer === 'eio' && command.op === 'sync' ? 'failingSync' : answer,
      stuck: hit.includes('stuck'),
      extraMicros: isSlow ? least + random.below(most - least + 1) : 0,
    };
  }
}

function ruleOf(name: SimulatedFaultName, fault: SimulatedFault, random: Random): Rule {
  const target: FaultTarget = fault === true ? {} : fault;
  const { ops = FAULTS[name], sectors, nth, probability = 1 } = target;
  const stranger = ops.find((op) => !FAULTS[name].includes(op));
  if (stranger !== undefined) {
    throw invalid(`faults.${name} is about ${FAULTS[name].join(', ')}, not about ${stranger}`);
  }
  if (!(probability >= 0 && probability <= 1)) {
    throw invalid(`faults.${name}.probability must be from 0 to 1, not ${probability}`);
  }
  const numbers = typeof nth === 'number' ? [nth] : nth;
  for (const number of numbers ?? []) {
    if (Number.isSafeInteger(number) && number >= 1) continue;
    throw invalid(`faults.${name}.nth counts from 1; it cannot be ${number}`);
  }
  if (sectors !== undefined && !FAULTS[name].some((op) => op !== 'sync')) {
    throw invalid(`faults.${name}.sectors: a sync has no sectors`);
  }
  if (sectors !== undefined && !(sectors[0] >= 0 && sectors[0] < sectors[1])) {
    throw invalid(`faults.${name}.sectors must be [first, end), not [${sectors.join(', ')}]`);
  }
  return { ops, sectors, nth: numbers, probability, random, seen: 0 };
}

function hits(rule: Rule, name: SimulatedFaultName, command: MemoryCommand): boolean {
  const { op, offset, length, stable } = command;
  if (!rule.ops.includes(op)) return false;
  if (name === 'lyingSync' && op === 'write' && !stable) return false;
  if (rule.sectors !== undefined) {
    const [first, end] = rule.sectors;
    const isInside = offset < end * SECTOR_BYTES && offset + length > first * SECTOR_BYTES;
    if (length === 0 || op === 'extend' || !isInside) return false;
  }
  rule.seen += 1;
  const isDrawn = rule.random.chance(rule.probability);
  return isDrawn && (rule.nth === undefined || rule.nth.includes(rule.seen));
}
