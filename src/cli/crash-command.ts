/** `sluice crash`: its options and its help. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import {
  DEFAULT_EXHAUSTIVE_REQUESTS,
  DEFAULT_REQUESTS,
  DEFAULT_STATES,
  type FaultName,
  FAULTS,
} from '../testing/explore-types.ts';
import { LANE_REQUESTS } from '../testing/lane.ts';
import { wholeNumber } from './served-image-options.ts';
import type { Terminal } from './terminal.ts';

const LARGEST_SEED = 2 ** 32 - 1;

const NOTES = `
The engine runs on a simulated disk. At every step the power is cut: whatever
may then be left of the disk must keep the promises that were made, such as
what a flush had acknowledged. The disk answers in every order, and fails:

  write  a write fails and has changed nothing    read   a read fails
  torn   a write fails and has changed a part     space  the same, disk full
  sync   a sync fails, and what it should have written counts as clean

On a terminal one line shows how far it is. Ctrl-C ends it with what was done; a
second one gives up. The result goes to stdout. Exit codes: 0 every promise was
kept; 1 one was broken, or something was wrong; 130 stopped before the end.

Examples:
  sluice crash
  sluice crash --states 100000 --seed 7
  sluice crash --exhaustive --requests 2 --states 10000000
  sluice crash --engine build/engine.wasm --output json`;

/** What the command line says, parsed. */
export interface CrashOptions {
  /** Absent: one is drawn. */
  readonly seed?: number;
  readonly states: number;
  /** Absent: as long as is usual. */
  readonly requests?: number;
  readonly exhaustive?: true;
  /** Absent: all. */
  readonly faults?: readonly FaultName[];
  readonly engine?: string;
  readonly output: 'human' | 'json';
}

/** Adds the command to the program. */
export function addCrash(program: Command, terminal: Terminal): void {
  const command = program
    .command('crash')
    .summary('look for a crash that loses what was flushed')
    .description('Looks for a power cut, a failure or an order of events that loses data.')
    .usage('[OPTIONS]')
    .helpOption('-h, --help', 'print this help')
    .allowExcessArguments()
    .showHelpAfterError("Try 'sluice crash --help'.")
    .addHelpText('after', NOTES)
    .action(async (options: CrashOptions) => {
      const [stranger] = command.args;
      if (stranger !== undefined) {
        command.error(`too many arguments: crash takes options only, not '${stranger}'`);
      }
      // Other commands start without it.
      const { crash } = await import('./crash.ts');
      await crash(options, terminal);
    });
  for (const option of options()) command.addOption(option);
}

function options(): Option[] {
  const requests = `${DEFAULT_REQUESTS}, or ${DEFAULT_EXHAUSTIVE_REQUESTS} with --exhaustive`;
  return [
    new Option(
      '--seed <seed>',
      'what to explore; the same again explores the same (default: any)',
    ).argParser((text) => wholeNumber(text, LARGEST_SEED)),
    new Option('--states <n>', 'end after so many crash states')
      .argParser((text) => wholeNumber(text, Number.MAX_SAFE_INTEGER, 1))
      .default(DEFAULT_STATES),
    new Option('--requests <n>', `requests of the longest stream (default: ${requests})`).argParser(
      (text) => wholeNumber(text, LANE_REQUESTS, 1),
    ),
    new Option('--exhaustive', 'first all streams of up to --requests, in every order of events'),
    new Option(
      '--faults <list>',
      'what may fail: names with commas, or none (default: all)',
    ).argParser(faultNames),
    new Option('--engine <file>', 'a WebAssembly build of the engine (default: the one inside)'),
    new Option('--output <format>', 'how the result is written')
      .choices(['human', 'json'])
      .default('human'),
  ];
}

function faultNames(text: string): FaultName[] {
  if (text === 'none') return [];
  return text.split(',').map((name) => {
    const known = FAULTS.find((fault) => fault === name);
    if (known !== undefined) return known;
    throw new InvalidArgumentError(`It is none, or a list of ${FAULTS.join(', ')}.`);
  });
}
