/**
 * The command line: which commands there are, and how `sluice` says no.
 *
 * A refusal is one line `sluice: message (CODE)` on stderr, a usage error points at the help; both
 * exit with 1, and where a verb has other codes, its help says so. Results go to stdout.
 */
import { Command, CommanderError } from 'commander';
import { addCrash } from './crash-command.ts';
import { prepareExit } from './exit.ts';
import { writeResult } from './output.ts';
import { reportLines } from './report.ts';
import { addServe } from './serve-command.ts';
import { Terminal } from './terminal.ts';
import { addAmend } from './verbs/amend.ts';
import { addBitmap } from './verbs/bitmap.ts';
import { addCheck } from './verbs/check.ts';
import { addBench } from './verbs/bench.ts';
import { addCompare } from './verbs/compare.ts';
import { addDd } from './verbs/dd.ts';
import { addCommit } from './verbs/commit.ts';
import { addConvert } from './verbs/convert.ts';
import { addCreate } from './verbs/create.ts';
import { addInfo } from './verbs/info.ts';
import { addMap } from './verbs/map.ts';
import { addRebase } from './verbs/rebase.ts';
import { addResize } from './verbs/resize.ts';
import { addSnapshot } from './verbs/snapshot.ts';
import { addStats } from './verbs/stats.ts';
import { addMeasure } from './verbs/measure.ts';
import { versionText } from './version.ts';
import { addVhostUser } from './vhost-user-command.ts';

const EXAMPLES = `
Examples:
  sluice serve -t disk.img                  NBD on 127.0.0.1:10809
  sluice serve -t -k disk.sock disk.img     NBD on a unix socket
  sluice serve --help                       cache modes and more
  sluice vhost-user -k disk.sock disk.img   a disk for a virtual machine
  sluice convert -O qcow2 disk.img new.qcow2
  sluice crash                              cut the power at every step`;

/** Runs the command that `argv` names, and ends the process with its exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  const exit = prepareExit();
  const code = await run(argv, new Terminal(process.stderr, process.env));
  // Nothing is left to do; whatever a library may have left open must not keep a server alive.
  exit(code);
}

async function run(argv: readonly string[], terminal: Terminal): Promise<number> {
  try {
    await makeProgram(terminal).parseAsync(argv);
    return exitCode(0);
  } catch (error) {
    // commander or a forked server has said what was wrong, or the help was shown.
    if (error instanceof CommanderError) return error.exitCode;
    for (const line of reportLines(error)) terminal.error(line);
    return exitCode(1);
  }
}

/** What a verb has set, where its codes say more than 0 and 1. */
function exitCode(usual: number): number {
  return process.exitCode === undefined ? usual : Number(process.exitCode);
}

function makeProgram(terminal: Terminal): Command {
  const program = new Command('sluice')
    .description(
      'A block engine with honest flushes: shares disk images, and makes and changes them.',
    )
    .usage('COMMAND [OPTIONS]')
    .option('-V, --version', 'print the version')
    .option('--output <format>', 'human or json, for --version', 'human')
    .helpOption('-h, --help', 'print this help')
    .helpCommand(false)
    .configureHelp({ subcommandTerm: (command) => command.name() })
    .exitOverride()
    .configureOutput({
      outputError: (message) => terminal.error(message.trimEnd().replace(/^error: /, '')),
    })
    .showHelpAfterError("Try 'sluice --help'.")
    .enablePositionalOptions()
    .allowExcessArguments()
    .addHelpText('after', EXAMPLES);
  addServe(program, terminal);
  addStats(program);
  addVhostUser(program, terminal);
  addCrash(program, terminal);
  addCreate(program, terminal);
  addInfo(program);
  addCheck(program, terminal);
  addMap(program);
  addMeasure(program);
  addConvert(program, terminal);
  addCompare(program, terminal);
  addDd(program, terminal);
  addBench(program);
  addSnapshot(program, terminal);
  addAmend(program, terminal);
  addCommit(program, terminal);
  addRebase(program, terminal);
  addBitmap(program);
  addResize(program, terminal);
  program.action(() => {
    const [unknown] = program.args;
    const { version, output } = program.opts<{ version?: true; output: string }>();
    if (unknown !== undefined) program.error(`unknown command '${unknown}'`);
    if (version === undefined) program.error('which command?');
    if (output !== 'human' && output !== 'json') {
      program.error(`--output is human or json, not '${output}'`);
    }
    return writeResult(versionText(output === 'json'));
  });
  return program;
}
