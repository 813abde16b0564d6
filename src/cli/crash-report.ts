/** What `sluice crash` says: while it explores, and at the end. */
import type { ExploreFailure, ExploreProgress, ExploreResult } from '../testing/explore.ts';
import type { CrashOptions } from './crash-command.ts';
import { formatCount } from './format.ts';

/** How an exploration ended. */
export interface CrashReport {
  readonly options: CrashOptions;
  readonly seed: number;
  readonly result: ExploreResult;
  /** A signal ended it. */
  readonly stopped: boolean;
}

/** How far it is and how long it will take: the long text, and shorter ones. */
export function progressTexts(
  { states, streams, phase }: ExploreProgress,
  budget: number,
  seconds: number,
): string[] {
  const percent = `${Math.min(100, Math.floor((100 * states) / budget))}%`;
  const rate = states / Math.max(seconds, 0.001);
  const left = states === 0 ? '? left' : `${duration((budget - states) / rate)} left`;
  const done = `${formatCount(states)} crash states, ${percent} of the budget`;
  const speed = `${formatCount(rate)} states/s`;
  const counts = `${formatCount(streams)} streams`;
  return [
    [done, speed, left, counts, phase].join(', '),
    [done, speed, left].join(', '),
    `${formatCount(states)} states ${percent} ${formatCount(rate)}/s ${left}`,
  ];
}

/** The result as lines: one when every promise was kept. */
export function humanReport(report: CrashReport): string {
  const { failure } = report.result;
  const lines = failure === undefined ? [] : failureLines(failure, repeatCommand(report));
  return [...lines, `${verdict(report)}: ${countsText(report)}`, ''].join('\n');
}

/** The result as one object. Its keys are always the same. */
export function jsonReport(report: CrashReport): string {
  const { options, seed, result } = report;
  const { states, streams, steps, survivors, kills, phase, seconds, failure } = result;
  const object = {
    result: outcome(report),
    seed,
    states,
    streams,
    steps,
    survivors,
    kills,
    seconds: Math.round(seconds * 1000) / 1000,
    budget: options.states,
    phase,
    failure:
      failure === undefined
        ? null
        : {
            rule: failure.rule,
            message: failure.message,
            config: failure.config,
            stream: failure.stream,
            timeline: failure.timeline.trimEnd().split('\n'),
          },
    repeat: repeatCommand(report),
  };
  return `${JSON.stringify(object, null, 2)}\n`;
}

/** The command that explores the same again. */
function repeatCommand({ options, seed }: CrashReport): string {
  const { states, requests, exhaustive, faults, engine } = options;
  const words = ['sluice', 'crash', '--seed', String(seed), '--states', String(states)];
  if (requests !== undefined) words.push('--requests', String(requests));
  if (exhaustive === true) words.push('--exhaustive');
  if (faults !== undefined) words.push('--faults', faults.join(',') || 'none');
  if (engine !== undefined) words.push('--engine', engine);
  return words.map(quoted).join(' ');
}

function failureLines(failure: ExploreFailure, repeat: string): string[] {
  const { rule, message, config, stream, timeline } = failure;
  return [
    `broken: ${rule}: ${message}`,
    `engine: ${config}`,
    `stream of ${counted(stream.length, 'request')}:`,
    ...stream.map((request) => `  ${request}`),
    'what happened:',
    ...timeline
      .trimEnd()
      .split('\n')
      .map((line) => `  ${line}`),
    `again: ${repeat}`,
  ];
}

function outcome({ result, stopped }: CrashReport): 'kept' | 'broken' | 'stopped' {
  if (result.failure !== undefined) return 'broken';
  return stopped ? 'stopped' : 'kept';
}

function verdict(report: CrashReport): string {
  switch (outcome(report)) {
    case 'broken':
      return 'a promise is broken';
    case 'stopped':
      return 'stopped, every promise kept so far';
    case 'kept':
      return 'every promise kept';
  }
}

function countsText({ options, result, seed }: CrashReport): string {
  const { states, streams, steps, phase, seconds } = result;
  const rate = formatCount(states / Math.max(seconds, 0.001));
  return [
    counted(states, 'crash state'),
    counted(streams, 'stream'),
    counted(steps, 'step'),
    `${seconds.toFixed(1)} s`,
    `${rate} states/s`,
    `seed ${seed}`,
    // What is exhaustive takes as long as it takes: this tells whether the budget was enough.
    ...(options.exhaustive === true ? [`ended at: ${phase}`] : []),
  ].join(', ');
}

function counted(count: number, one: string): string {
  return `${count} ${count === 1 ? one : `${one}s`}`;
}

/** `45 s`, `12 min`, `3.5 h`. */
function duration(seconds: number): string {
  if (seconds < 120) return `${Math.ceil(seconds)} s`;
  if (seconds < 7200) return `${Math.ceil(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** For a shell. */
function quoted(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
