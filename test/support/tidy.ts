/** The rules of STYLE.md that a machine can check. tidy.test.ts runs them over the checkout. */

import {
  child,
  firstName,
  importsOf,
  isNode,
  lastName,
  lineAt,
  nodesOf,
  resolve,
  treeOf,
  walk,
  type Node,
  type Source,
} from './tidy-syntax.ts';

const MAX_COLUMNS = 100;
const MAX_FUNCTION_LINES = 70;
const MAX_FILE_LINES = 400;

// Imports go one way. A file may import what the first row that fits it allows.

const ABI = /^src\/abi\//;
/** The error classes, for every part of the host. */
const ERRORS = /^src\/errors\.ts$/;
const STAGES = ['ring', 'request', 'schedule', 'map', 'command'];
/** What a later stage may know of an earlier one: its record, in a file of one of these names. */
const RECORDS = '(record|slot|extent)\\.ts';
/** The files that see all stages; every other file beside them is shared by the stages. */
const STORY = '(index|pump|dispatch|land|mapped|written|bench)\\.ts';
const SHARED = new RegExp(`^assembly/(?!${STORY})[a-z-]+\\.ts$`);
const KERNELS = /^assembly\/simd\//;

interface ImportRow {
  readonly files: RegExp;
  readonly may: readonly RegExp[];
}

const IMPORT_TABLE: readonly ImportRow[] = [
  { files: ABI, may: [] },
  { files: /^src\/engine\.ts$/, may: [/^(?!assembly\/)/] },
  { files: ERRORS, may: [] },
  { files: /^src\/backend\//, may: [/^src\/backend\//, ABI, ERRORS, /^node:/, /^koffi$/] },
  { files: /^src\//, may: [/^(?!assembly\/|@assemblyscript\/loader)/] },
  { files: new RegExp(`^assembly/${STORY}$`), may: [ABI, /^assembly\//] },
  { files: SHARED, may: [ABI, SHARED] },
  { files: KERNELS, may: [ABI, SHARED, KERNELS] },
  ...STAGES.map((stage, order) => ({
    files: new RegExp(`^assembly/${stage}/`),
    may: [
      ABI,
      SHARED,
      KERNELS,
      new RegExp(`^assembly/${stage}/`),
      new RegExp(`^assembly/(${STAGES.slice(0, order).join('|')})/${RECORDS}$`),
    ],
  })),
  { files: /^assembly\//, may: [] },
];

/** One broken rule: where, and which. */
interface Finding {
  readonly offset: number;
  readonly rule: string;
}

interface Rule {
  readonly files: RegExp;
  readonly check: (source: Source) => Finding[];
}

const CODE = /\.(ts|cts|mjs)$/;
const TYPED = /\.(ts|cts)$/;
const ENGINE_AND_HOST = /^(src|assembly)\/.*\.(ts|cts)$/;

const RULES: readonly Rule[] = [
  { files: CODE, check: longLines },
  { files: CODE, check: longFunctions },
  { files: ENGINE_AND_HOST, check: longFile },
  { files: ABI, check: onlyNumbers },
  { files: ENGINE_AND_HOST, check: importsOneWay },
  { files: /^src\/(?!backend\/file).*\.(ts|cts)$/, check: openFlags },
  { files: CODE, check: emptyCatch },
  { files: CODE, check: leftovers },
  { files: /./, check: machinePaths },
  { files: /^package-lock\.json$/, check: registries },
  { files: /^test\/(?!support\/).*\.ts$/, check: skipsWithoutReason },
];

/** Everything that is wrong with these files, as `path:line: rule`. */
export function tidy(sources: readonly Source[]): string[] {
  const findings: string[] = [];
  for (const source of sources) {
    for (const { files, check } of RULES) {
      if (files.test(source.path)) findings.push(...check(source).map((f) => format(source, f)));
    }
  }
  return [...new Set([...findings, ...oneSync(sources), ...undocumented(sources)])];
}

function format(source: Source, { offset, rule }: Finding): string {
  return `${source.path}:${lineAt(source.text, offset)}: ${rule}`;
}

function longLines({ text }: Source): Finding[] {
  const findings: Finding[] = [];
  let offset = 0;
  for (const line of text.split('\n')) {
    if (Array.from(line).length > MAX_COLUMNS) {
      findings.push({ offset, rule: `a line has at most ${MAX_COLUMNS} columns` });
    }
    offset += line.length + 1;
  }
  return findings;
}

/** The body of a `describe` is a chapter, not a function. */
function longFunctions(source: Source): Finding[] {
  const findings: Finding[] = [];
  const functions = /^(FunctionDeclaration|FunctionExpression|ArrowFunctionExpression)$/;
  walk(treeOf(source), (node, parent) => {
    if (!functions.test(node.type)) return;
    if (parent?.type === 'CallExpression' && firstName(parent).startsWith('describe')) return;
    const lines = source.text.slice(node.start, node.end).split('\n').length;
    if (lines > MAX_FUNCTION_LINES) {
      const rule = `a function has at most ${MAX_FUNCTION_LINES} lines, not ${lines}`;
      findings.push({ offset: node.start, rule });
    }
  });
  return findings;
}

function longFile({ text }: Source): Finding[] {
  const lines = text.split('\n').length - 1;
  const rule = `a file has fewer than ${MAX_FILE_LINES} lines, not ${lines}`;
  return lines < MAX_FILE_LINES ? [] : [{ offset: text.length - 1, rule }];
}

/** Both compilers read src/abi, so it holds what both fold to a number. */
function onlyNumbers(source: Source): Finding[] {
  const rule = 'src/abi holds only `export const NAME = number;` and comments';
  return (treeOf(source)['body'] as Node[])
    .filter((statement) => !isNumberExport(statement))
    .map((statement) => ({ offset: statement.start, rule }));
}

function isNumberExport({ type, declaration }: Node): boolean {
  if (type !== 'ExportNamedDeclaration' || !isNode(declaration)) return false;
  if (declaration.type !== 'VariableDeclaration' || declaration['kind'] !== 'const') return false;
  return (declaration['declarations'] as Node[]).every(({ id, init }) => {
    const named =
      isNode(id) && /^[A-Z][A-Z0-9_]*$/.test(lastName(id)) && !isNode(id['typeAnnotation']);
    return named && isNode(init) && isNumber(init);
  });
}

function isNumber(node: Node): boolean {
  switch (node.type) {
    case 'Literal':
      return typeof node['value'] === 'number';
    case 'Identifier':
      return true;
    case 'UnaryExpression':
      return isNumber(child(node, 'argument'));
    case 'BinaryExpression':
      return isNumber(child(node, 'left')) && isNumber(child(node, 'right'));
    default:
      return false;
  }
}

function importsOneWay(source: Source): Finding[] {
  const row = IMPORT_TABLE.find(({ files }) => files.test(source.path));
  return importsOf(source)
    .filter(({ target }) => row?.may.every((allowed) => !allowed.test(target)))
    .map(({ target, start }) => ({ offset: start, rule: `must not import ${target}` }));
}

function openFlags(source: Source): Finding[] {
  return nodesOf(source, 'Identifier')
    .filter((node) => /^O_[A-Z]+$/.test(lastName(node)))
    .map((node) => ({ offset: node.start, rule: 'O_* flags stand in src/backend/file*.ts only' }));
}

function emptyCatch(source: Source): Finding[] {
  const clauses = nodesOf(source, 'CatchClause').filter((node) => isEmpty(child(node, 'body')));
  const calls = nodesOf(source, 'CallExpression').filter((node) => {
    const handler = (node['arguments'] as Node[])[0];
    if (lastName(child(node, 'callee')) !== 'catch' || handler === undefined) return false;
    return isNode(handler['body']) && isEmpty(handler['body']);
  });
  return [...clauses, ...calls].map((node) => ({
    offset: node.start,
    rule: 'nothing is swallowed: an empty catch',
  }));
}

function isEmpty({ type, body }: Node): boolean {
  return type === 'BlockStatement' && (body as Node[]).length === 0;
}

function leftovers({ text }: Source): Finding[] {
  // The brackets keep this line from being one.
  return matches(text, /\b(TO[D]O|FIX[M]E)\b/g, 'nothing is left to do');
}

function machinePaths({ text }: Source): Finding[] {
  return matches(text, /(?<![\w.~-])\/(home|root|work|Users)\//g, 'a path of one machine');
}

function registries({ text }: Source): Finding[] {
  return matches(text, /"resolved"|\bregistry\./g, 'the lock file names no registry');
}

function matches(text: string, pattern: RegExp, rule: string): Finding[] {
  return Array.from(text.matchAll(pattern), ({ index }) => ({ offset: index, rule }));
}

function skipsWithoutReason(source: Source): Finding[] {
  return nodesOf(source, 'MemberExpression')
    .filter((node) => /^(it|test|describe)$/.test(firstName(node)))
    .filter((node) => /^(skip|skipIf|runIf|todo)$/.test(lastName(node)))
    .map((node) => ({
      offset: node.start,
      rule: 'a skip gives its reason: use describeWithPeers or context.skip(reason)',
    }));
}

/**
 * One file decides when the disk is synced, by one call on the pool and at most one that waits:
 * whoever counts syncs knows where to look.
 */
function oneSync(sources: readonly Source[]): string[] {
  const host = sources.filter(({ path }) => path.startsWith('src/') && TYPED.test(path));
  if (host.length === 0) return [];
  const places = host.flatMap((source) => syncs(source).map((node) => ({ source, node })));
  const waiting = places.filter(({ node }) => lastName(node) === 'fdatasyncSync');
  const pooled = places.filter((place) => !waiting.includes(place));
  const found = (wrong: typeof places, rule: string): string[] =>
    wrong.map(({ source, node }) => format(source, { offset: node.start, rule }));
  const rule = `fdatasync is called in one place in src, not ${pooled.length}`;
  if (pooled.length === 0) return [`src:1: ${rule}`];
  if (pooled.length > 1) return found(pooled, rule);
  const path = pooled[0]?.source.path;
  const isBeside = waiting.every(({ source }) => source.path === path);
  if (waiting.length <= 1 && isBeside) return [];
  return found(waiting, 'fdatasyncSync is called in one place in src, beside fdatasync');
}

/** Calls, uses as an argument, and prototypes for a foreign function. */
function syncs(source: Source): Node[] {
  const names = /^(fdatasync|fdatasyncSync|datasync)$/;
  const prototype = /\bfdatasync\s*\(/;
  const places = nodesOf(source, 'Literal').filter((node) => prototype.test(String(node['value'])));
  for (const call of nodesOf(source, 'CallExpression')) {
    const used = [child(call, 'callee'), ...(call['arguments'] as Node[])];
    places.push(...used.filter((node) => names.test(lastName(node))));
  }
  return places;
}

/** Every name that the package exports has a doc comment where it is declared. */
function undocumented(sources: readonly Source[]): string[] {
  const entries = sources.filter(({ path }) => /^src\/(index|node|testing)\.ts$/.test(path));
  const rule = 'an exported name has a doc comment';
  return entries
    .flatMap((entry) => exportsOf(entry, sources))
    .filter(({ source, node }) => !hasDocComment(source.text, node.start))
    .map(({ source, node }) => format(source, { offset: node.start, rule }));
}

interface Exported {
  readonly source: Source;
  readonly node: Node;
}

/** The declarations behind the exports of a file, or behind one of them. */
function exportsOf(source: Source, sources: readonly Source[], name?: string): Exported[] {
  return nodesOf(source, 'ExportNamedDeclaration', 'ExportAllDeclaration').flatMap((node) => {
    const { declaration, source: from } = node;
    if (isNode(declaration)) {
      return name === undefined || declares(declaration, name) ? [{ source, node }] : [];
    }
    if (!isNode(from)) return [];
    const path = resolve(source, String(from['value']));
    const target = sources.find((other) => other.path === path);
    if (target === undefined) return [];
    if (node.type === 'ExportAllDeclaration') return exportsOf(target, sources, name);
    return (node['specifiers'] as Node[])
      .filter((specifier) => name === undefined || lastName(child(specifier, 'exported')) === name)
      .flatMap((specifier) => exportsOf(target, sources, lastName(child(specifier, 'local'))));
  });
}

function declares(declaration: Node, name: string): boolean {
  const declarators = (declaration['declarations'] ?? [declaration]) as Node[];
  return declarators.some(({ id }) => isNode(id) && lastName(id) === name);
}

function hasDocComment(text: string, offset: number): boolean {
  const before = text.slice(0, offset).trimEnd();
  return before.endsWith('*/') && before.startsWith('/**', before.lastIndexOf('/*'));
}
