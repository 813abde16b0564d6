// An asc transform that counts what runs: one counter byte for each statement, branch and
// operand of a logical operator. The coverage build exports
//
//   coverageBase     a mutable global: where the counters are. Set it before the first call
//   coverageCount    how many counter bytes there are; each stops at 255
//
// and build/engine.cov.json says what each counter counts: [{ file, line, column, kind, function }]
// in the order of the counters.
//
// What only the debug and coverage builds contain is not counted: `if (VERIFY) ...` with all that
// is in it, and assembly/verify.ts. So a point is something that the release build can reach.

// @ts-nocheck: the declarations of asc's tree have const enums and lack what the CLI adds.

import { Node, NodeKind, SourceKind, Token } from 'assemblyscript';
import { Transform } from 'assemblyscript/transform';

const MAP_FILE = 'build/engine.cov.json';
/** The condition of a check of our own beliefs, and the file of the function that checks. */
const CHECK = 'VERIFY';
const CHECK_FILE = 'assembly/verify.ts';

/** AssemblyScript that is compiled into the coverage build, next to the engine. */
const runtime = (count) => `
export let coverageBase: usize = 0;
export const coverageCount: u32 = ${count};

// @ts-ignore: a decorator on a function makes it visible to every file
@global @inline function __coverage(point: usize): void {
  const counter = coverageBase + point;
  const count = <u32>load<u8>(counter) + 1;
  store<u8>(counter, <u8>(count | (0 - (count >> 8))));
}
`;

export default class CoverageTransform extends Transform {
  points = [];
  functionName = '';

  /** Called by asc when all sources are parsed. */
  afterParse(parser) {
    for (const source of parser.sources) {
      const ours =
        source.sourceKind === SourceKind.User || source.sourceKind === SourceKind.UserEntry;
      if (ours && source.normalizedPath !== CHECK_FILE)
        source.statements.forEach((statement) => this.findFunctions(statement));
    }
    parser.parseFile(runtime(this.points.length), 'coverage-runtime.ts', true);
    this.writeFile(MAP_FILE, JSON.stringify(this.points, null, 1), this.baseDir);
  }

  /** Only function bodies are counted: what stands outside is evaluated by the compiler. */
  findFunctions(node) {
    const isFunction =
      node.kind === NodeKind.FunctionDeclaration || node.kind === NodeKind.MethodDeclaration;
    if (isFunction) return this.instrumentFunction(node);
    return mapChildren(node, (child) => this.findFunctions(child));
  }

  instrumentFunction(node) {
    this.functionName = node.name.text;
    mapChildren(node, (child) => this.instrument(child));
    // The body of an arrow function may be a bare expression, which is counted where it is used.
    if (node.body?.kind === NodeKind.Block) this.countArm(node.body, 'function');
    return node;
  }

  /** Adds counters to everything in `node`, the inside first. */
  instrument(node) {
    if (isCheck(node)) return node;
    mapChildren(node, (child) => this.instrument(child));
    switch (node.kind) {
      case NodeKind.Block:
        node.statements = this.countStatements(node.statements);
        break;
      case NodeKind.SwitchCase:
        node.statements = [this.hit(node, 'case'), ...this.countStatements(node.statements)];
        break;
      case NodeKind.If:
        node.ifTrue = this.countArm(node.ifTrue, 'then');
        // A missing `else` is a branch too: the one that was not taken.
        node.ifFalse = this.countArm(node.ifFalse ?? block([], node.range), 'else');
        break;
      case NodeKind.Do:
      case NodeKind.For:
      case NodeKind.While:
        node.body = this.countArm(node.body, 'loop');
        break;
      case NodeKind.Ternary:
        node.ifThen = this.countOperand(node.ifThen, 'then');
        node.ifElse = this.countOperand(node.ifElse, 'else');
        break;
      case NodeKind.Binary:
        if (isLogical(node)) node.right = this.countOperand(node.right, 'operand');
        break;
    }
    return node;
  }

  countStatements(statements) {
    return statements.flatMap((statement) =>
      statement.kind === NodeKind.Block || isCheck(statement)
        ? [statement]
        : [this.hit(statement, 'statement'), statement],
    );
  }

  /** A statement that runs or not: its counter comes first. */
  countArm(statement, kind) {
    const hit = this.hit(statement, kind);
    if (statement.kind !== NodeKind.Block) return block([hit, statement], statement.range);
    statement.statements = [hit, ...statement.statements];
    return statement;
  }

  /** An expression that is evaluated or not: `x` becomes `(count, x)`. */
  countOperand(expression, kind) {
    const pair = [this.call(expression, kind), expression];
    const comma = Node.createCommaExpression(pair, expression.range);
    return Node.createParenthesizedExpression(comma, expression.range);
  }

  hit(node, kind) {
    return Node.createExpressionStatement(this.call(node, kind));
  }

  /** The call that counts a new point at the place of `node`. */
  call(node, kind) {
    const { range } = node;
    const point = this.points.length;
    this.points.push({
      file: range.source.normalizedPath,
      line: range.source.lineAt(range.start),
      column: range.source.columnAt(),
      kind,
      function: this.functionName,
    });
    const callee = Node.createIdentifierExpression('__coverage', range);
    const argument = Node.createIntegerLiteralExpression(i64_new(point), range);
    return Node.createCallExpression(callee, null, [argument], range);
  }
}

/** Replaces every child node, single or in a list, by what `change` makes of it. */
function mapChildren(node, change) {
  for (const [key, value] of Object.entries(node)) {
    if (value instanceof Node) node[key] = change(value);
    else if (Array.isArray(value) && value[0] instanceof Node) node[key] = value.map(change);
  }
  return node;
}

function block(statements, range) {
  return Node.createBlockStatement(statements, range);
}

function isCheck(node) {
  return node.kind === NodeKind.If && node.condition.text === CHECK;
}

function isLogical(node) {
  return node.operator === Token.Ampersand_Ampersand || node.operator === Token.Bar_Bar;
}
