import { parseAst } from "rolldown/parseAst";

/** The title of a `test` or a `describe` as written in a test file: with `%s`, and with `${}` in the place of an interpolated part. */
export interface TestTitle {
  readonly kind: "test" | "describe";
  readonly title: string;
  /** The titles of the groups around it, outermost first. */
  readonly groups: readonly string[];
  /** Its line in the file, from 1. */
  readonly line: number;
}

/** All titles in the text of a test file, in order. */
export function titlesOf(text: string): TestTitle[] {
  const found: TestTitle[] = [];
  const visit = (node: unknown, groups: readonly string[]): void => {
    if (Array.isArray(node)) for (const each of node) visit(each, groups);
    if (!isNode(node)) return;
    const title = titleOf(node, groups, text);
    if (title !== undefined) found.push(title);
    const inside = title === undefined ? groups : [...groups, title.title];
    for (const child of Object.values(node)) visit(child, inside);
  };
  visit(parseAst(text, { lang: "ts" }).body, []);
  return found;
}

/** A pattern for a test's full name: the titles of its groups and its own, in which an interpolated part matches anything. */
export function fullNameOf({ groups, title }: TestTitle): RegExp {
  const parts = [...groups, title].join(" ").split(/%[sidfjo]|\$\w+|\$\{\}/);
  const literal = parts.map((part) => part.replaceAll("%%", "%").replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  return new RegExp(`^${literal.join(".+?")}$`, "s");
}

interface Node {
  readonly type: string;
  readonly start: number;
}

function isNode(value: unknown): value is Node {
  return typeof value === "object" && value !== null && "type" in value;
}

function titleOf(node: Node, groups: readonly string[], text: string): TestTitle | undefined {
  if (node.type !== "CallExpression") return undefined;
  const call = node as Node & { readonly callee: unknown; readonly arguments: readonly Node[] };
  const kind = nameOf(call.callee);
  if (kind !== "test" && kind !== "describe") return undefined;
  const title = textOf(call.arguments[0]);
  if (title === undefined) return undefined;
  return { kind, title, groups, line: text.slice(0, call.arguments[0]?.start).split("\n").length };
}

/** The name at the beginning of a callee: `test` in `test`, `test.each(rows)` and `test.skipIf(no).each(rows)`. */
function nameOf(callee: unknown): string | undefined {
  if (!isNode(callee)) return undefined;
  if (callee.type === "Identifier") return (callee as Node & { readonly name: string }).name;
  if (callee.type === "MemberExpression")
    return nameOf((callee as Node & { readonly object: unknown }).object);
  if (callee.type === "CallExpression") return nameOf((callee as Node & { readonly callee: unknown }).callee);
  return undefined;
}

function textOf(node: Node | undefined): string | undefined {
  if (node?.type === "Literal") {
    const { value } = node as Node & { readonly value: unknown };
    return typeof value === "string" ? value : undefined;
  }
  if (node?.type !== "TemplateLiteral") return undefined;
  const { quasis } = node as Node & {
    readonly quasis: readonly { readonly value: { readonly cooked?: string } }[];
  };
  // biome-ignore lint/suspicious/noTemplateCurlyInString: it stands for what is filled in
  return quasis.map(({ value }) => value.cooked ?? "").join("${}");
}
