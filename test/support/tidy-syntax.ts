/** What the rules of tidy.ts need to know about a source file: its tree, imports and lines. */

import { posix } from 'node:path';
import { parseAst } from 'vitest/node';

/** A file by its path from the root of the checkout, with forward slashes. */
export interface Source {
  readonly path: string;
  readonly text: string;
}

/** A node of an ESTree with TypeScript's additions; `start` and `end` are offsets in the text. */
export interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [property: string]: unknown;
}

export interface Import {
  /** A path from the root for a file, the specifier for a package. */
  readonly target: string;
  readonly start: number;
}

const trees = new WeakMap<Source, Node>();

/** The tree of a TypeScript, AssemblyScript or JavaScript file. */
export function treeOf(source: Source): Node {
  let tree = trees.get(source);
  if (tree === undefined) {
    const lang = source.path.endsWith('js') ? 'js' : 'ts';
    tree = parseAst(source.text, { lang }, source.path) as unknown as Node;
    trees.set(source, tree);
  }
  return tree;
}

/** Calls `visit` for a node and everything in it, outside first. */
export function walk(
  node: Node,
  visit: (node: Node, parent: Node | undefined) => void,
  parent?: Node,
): void {
  visit(node, parent);
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (isNode(child)) walk(child, visit, node);
    }
  }
}

/** All nodes of these types. */
export function nodesOf(source: Source, ...types: string[]): Node[] {
  const found: Node[] = [];
  walk(treeOf(source), (node) => {
    if (types.includes(node.type)) found.push(node);
  });
  return found;
}

export function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && 'type' in value && 'start' in value;
}

/** The child of this name, where the grammar says that there is one. */
export function child(node: Node, name: string): Node {
  const value = node[name];
  if (!isNode(value)) throw new TypeError(`${node.type} has no ${name}`);
  return value;
}

/** The last name of `a.b.c` or `c`; empty for everything else. */
export function lastName(node: Node): string {
  if (node.type === 'Identifier') return String(node['name']);
  return node.type === 'MemberExpression' ? lastName(child(node, 'property')) : '';
}

/** The first name of `a.b.c`, `a.b(x)` or `a`; empty for everything else. */
export function firstName(node: Node): string {
  if (node.type === 'Identifier') return String(node['name']);
  if (node.type === 'MemberExpression') return firstName(child(node, 'object'));
  return node.type === 'CallExpression' ? firstName(child(node, 'callee')) : '';
}

/** Static imports, re-exports, and `import()` of a literal. */
export function importsOf(source: Source): Import[] {
  const imports: Import[] = [];
  walk(treeOf(source), ({ source: from, start }) => {
    if (!isNode(from) || typeof from['value'] !== 'string') return;
    imports.push({ target: resolve(source, from['value']), start });
  });
  return imports;
}

/** A relative specifier as a path from the root; others as they are. */
export function resolve(source: Source, specifier: string): string {
  return specifier.startsWith('.') ? posix.join(posix.dirname(source.path), specifier) : specifier;
}

/** The number of the line with this offset, from 1. */
export function lineAt(text: string, offset: number): number {
  return text.slice(0, offset).split('\n').length;
}
