/** The story of a run that broke a rule: one line for each event. */
import { COMMAND_SYNC } from '../abi/command.ts';
import type { HostCommand } from './host-commands.ts';
import type { Lane } from './lane.ts';
import { RuleBroken } from './rule-broken.ts';
import { type Finding, sectorsKept } from './search.ts';
import { describeRequest, nameOf } from './stream.ts';
import { ANSWER, ANSWER_QUIETLY, FAIL, FILL, TEAR } from './events.ts';
import type { Witness, World } from './world.ts';

const COMMANDS = ['read', 'write', 'zeroes', 'discard', 'status', 'sync'];
const STATUSES = [
  'ok',
  'IO_ERROR',
  'NO_SPACE',
  'READ_ONLY',
  'OUT_OF_RANGE',
  'INVALID',
  'UNSUPPORTED',
  'FLUSH_LATCHED',
  'ABORTED',
];
const OUTCOMES = new Map([
  [ANSWER, 'succeeds'],
  [ANSWER_QUIETLY, 'succeeds, and the engine is not called yet'],
  [FAIL, 'FAILS with EIO, nothing was changed'],
  [TEAR, 'FAILS with EIO, the first half was changed'],
  [FILL, 'FAILS with ENOSPC, nothing was changed'],
]);
/** Rules that are broken by what a power cut leaves. */
const CUT_RULES = new Set(['durability']);

/** Tells what a world goes through; see `retell`. */
class Narrator implements Witness {
  readonly lines = ['start      an earlier process has written every sector and not flushed'];
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  submitted(number: number): void {
    const request = this.#world.oracle.history.request(number);
    this.lines.push(`submit     ${nameOf(request, number)} ${describeRequest(request)}`);
  }

  sending({ op, file, from, to }: Lane['command']): void {
    const where = op === COMMAND_SYNC ? '' : ` [${from},${to})`;
    this.lines.push(`  command  ${COMMANDS[op] ?? `operation ${op}`}${where} of file ${file}`);
  }

  command(command: HostCommand): void {
    this.lines.pop();
    this.lines.push(`  command  ${this.#describe(command)}`);
  }

  answered(command: HostCommand, outcome: number): void {
    this.lines.push(`answer     ${this.#describe(command)} ${OUTCOMES.get(outcome) ?? ''}`);
  }

  completed(number: number, status: number): void {
    const name = this.#world.oracle.history.name(number);
    this.lines.push(`  complete ${name} ${STATUSES[status] ?? `status ${status}`}`);
  }

  note(text: string): void {
    this.lines.push(text);
  }

  #describe({ op, file, from, count, stable, owners }: HostCommand): string {
    const { setup, check, oracle } = this.#world;
    const { history } = oracle;
    const where = setup.files > 1 ? ` of file ${file}` : '';
    if (op === COMMAND_SYNC) return `sync${where}`;
    const names = [...new Set(owners)].map((owner) => history.name(owner));
    const first = from - file * check.fileSectors;
    const words = [COMMANDS[op] ?? `operation ${op}`, `[${first},${first + count})${where}`];
    if (stable) words.push('stable');
    return `${words.join(' ')} for ${names.join(', ')}`;
  }
}

/**
 * Lets the events of a finding happen again, from a new engine and without a fork, and tells them.
 * Undefined when no rule breaks: then the forks are at fault and not the engine.
 */
export function retell(
  world: World,
  { events, killed }: Finding,
): { readonly broken: RuleBroken; readonly timeline: string } | undefined {
  const narrator = new Narrator(world);
  world.begin();
  world.witness = narrator;
  try {
    world.cut();
    for (const event of events) {
      world.apply(event);
      world.cut();
    }
    if (killed === undefined && world.events([]) === 0) world.checkEnd();
    if (killed !== undefined) world.kill(sectorsKept(killed));
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const broken = error instanceof RuleBroken ? error : new RuleBroken('trap', error.message);
    if (CUT_RULES.has(broken.rule)) narrator.note('POWER CUT');
    narrator.note(`BROKEN     ${broken.rule}: ${broken.message}`);
    return { broken, timeline: narrator.lines.join('\n') };
  } finally {
    world.witness = undefined;
  }
  return undefined;
}
