/**
 * A strict reader of the text format of Prometheus, version 0.0.4: what its rules forbid is thrown.
 * prometheus.io, "Exposition formats", "Metric and label naming".
 */

/** One line of values. */
export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** A metric with all its lines. */
export interface Family {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly samples: Sample[];
}

const NAME = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const COMMENT = new RegExp(`^# (HELP|TYPE) (${NAME}) (.+)$`);
const SAMPLE = new RegExp(`^(${NAME})(?:\\{(.*)\\})? (\\S+)$`);
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"(?:,|$)/;
const VALUE = /^(?:[+-]?Inf|NaN|[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)$/;
const TYPES = new Set(['counter', 'gauge', 'histogram', 'summary', 'untyped']);

/** The metrics of a text. */
export function parsePrometheus(text: string): Family[] {
  if (!text.endsWith('\n')) throw new Error('the last line must end with a line feed');
  const families: Family[] = [];
  const series = new Set<string>();
  let help: string | undefined;
  for (const line of text.slice(0, -1).split('\n')) {
    const comment = COMMENT.exec(line);
    if (comment !== null) {
      const [, kind, name, rest] = comment as unknown as [string, string, string, string];
      if (kind === 'HELP') help = `${name} ${rest}`;
      else families.push(begin(families, name, rest, help));
      continue;
    }
    const sample = sampleOf(line);
    const family = families.at(-1);
    if (family === undefined) throw new Error(`no TYPE before: ${line}`);
    const labels = Object.entries(sample.labels).map((pair) => JSON.stringify(pair));
    const key = [sample.name, ...labels.toSorted()].join(' ');
    if (series.has(key)) throw new Error(`twice: ${line}`);
    series.add(key);
    check(family, sample, line);
    family.samples.push(sample);
  }
  for (const family of families) if (family.type === 'histogram') checkHistogram(family);
  return families;
}

function begin(families: readonly Family[], name: string, type: string, help = ''): Family {
  if (!TYPES.has(type)) throw new Error(`no such type: ${type}`);
  if (families.some((family) => family.name === name)) throw new Error(`TYPE twice: ${name}`);
  if (!help.startsWith(`${name} `)) throw new Error(`no HELP right before TYPE: ${name}`);
  // By convention: counters end so, nothing else does, and units are base units.
  if ((type === 'counter') !== name.endsWith('_total')) throw new Error(`_total: ${name}`);
  if (/_(milli|micro|nano|ms|us|kib|mib|kb|mb|percent)/.test(name))
    throw new Error(`unit: ${name}`);
  return { name, type, help: help.slice(name.length + 1), samples: [] };
}

function sampleOf(line: string): Sample {
  const found = SAMPLE.exec(line);
  if (found === null) throw new Error(`neither a comment nor a sample: ${line}`);
  const [, name = '', inside = '', value = ''] = found;
  if (!VALUE.test(value)) throw new Error(`no value: ${line}`);
  const labels: Record<string, string> = {};
  for (let rest = inside; rest !== '';) {
    const label = LABEL.exec(rest);
    if (label === null) throw new Error(`no label: ${rest}`);
    const [whole, key = '', text = ''] = label;
    if (Object.hasOwn(labels, key) || key.startsWith('__')) throw new Error(`label: ${line}`);
    labels[key] = text.replaceAll(/\\(.)/g, (_, one: string) => (one === 'n' ? '\n' : one));
    rest = rest.slice(whole.length);
  }
  return { name, labels, value: Number(value.replace('Inf', 'Infinity')) };
}

function check({ name, type }: Family, sample: Sample, line: string): void {
  const suffix = sample.name.slice(name.length);
  const allowed = type === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
  if (!sample.name.startsWith(name) || !allowed.includes(suffix)) {
    throw new Error(`not of ${name}: ${line}`);
  }
  if (type === 'counter' && !(sample.value >= 0)) throw new Error(`a counter below 0: ${line}`);
  if ((suffix === '_bucket') !== Object.hasOwn(sample.labels, 'le')) throw new Error(`le: ${line}`);
}

/** Buckets rise, the last is +Inf, and that is the count. */
function checkHistogram({ name, samples }: Family): void {
  const groups = new Map<string, Sample[]>();
  for (const sample of samples) {
    const { le: _, ...others } = sample.labels;
    const key = JSON.stringify(others);
    groups.set(key, [...(groups.get(key) ?? []), sample]);
  }
  for (const [labels, group] of groups) {
    const buckets = group.filter((sample) => sample.name === `${name}_bucket`);
    const bounds = buckets.map((sample) => Number(sample.labels['le']!.replace('Inf', 'Infinity')));
    const counts = buckets.map(({ value }) => value);
    const rises = (numbers: readonly number[], strictly: boolean): boolean =>
      numbers.every((number, index) => {
        const before = numbers[index - 1] ?? -1;
        return strictly ? number > before : number >= before;
      });
    const count = group.find((sample) => sample.name === `${name}_count`)?.value;
    const whole = bounds.at(-1) === Infinity && counts.at(-1) === count;
    if (!rises(bounds, true) || !rises(counts, false) || !whole) {
      throw new Error(`not a histogram: ${name} ${labels}`);
    }
    if (!group.some((sample) => sample.name === `${name}_sum`)) throw new Error(`no sum: ${name}`);
  }
}
