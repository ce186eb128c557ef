/** Compiles and runs a small C program: the installed kernel headers, for comparison. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { Field } from '../../../src/abi/struct.ts';

/** Why C programs over the given headers can't be compiled here, or false. */
export function compilerMissing(headers: readonly string[]): string | false {
  const source = headers.map((header) => `#include <${header}>\n`).join('');
  const { status, error } = spawnSync('cc', ['-x', 'c', '-E', '-o', '/dev/null', '-'], {
    input: source,
  });
  if (error !== undefined) return 'no C compiler (cc)';
  return status === 0 ? false : `a header of ${headers.join(', ')} is missing (linux-libc-dev)`;
}

/** Runs `main` with the given body; returns the lines it printed. */
export function runC(headers: readonly string[], body: string): string[] {
  const directory = mkdtempSync(join(tmpdir(), 'nodevmm-abi-'));
  try {
    const source = join(directory, 'abi.c');
    const program = join(directory, 'abi');
    const includes = ['stddef.h', 'stdio.h', ...headers].map((header) => `#include <${header}>`);
    writeFileSync(source, `${includes.join('\n')}\nint main(void) {\n${body}\nreturn 0;\n}\n`);
    const compiled = spawnSync('cc', ['-o', program, source], { encoding: 'utf8' });
    if (compiled.status !== 0) throw new Error(compiled.stderr);
    return spawnSync(program, { encoding: 'utf8' }).stdout.trim().split('\n');
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** A struct of ours, and its C type and member path. */
export interface StructCase {
  readonly name: string;
  readonly layout: { readonly size: number };
  /** e.g. `struct kvm_run`. */
  readonly type: string;
  /** Member path of a field in the C type. */
  readonly path: (field: string) => string;
  /** Member whose size is the layout's; the whole type when absent. */
  readonly member?: string;
}

/** C statements that print `name.field offset length` for every field, and `name size`. */
export function printStruct({ name, layout, type, path, member }: StructCase): string {
  const size = member === undefined ? `sizeof(${type})` : `sizeof(((${type} *)0)->${member})`;
  const fields = Object.keys(layout).filter((field) => field !== 'size');
  const prints = fields.map((field) => {
    const at = `offsetof(${type}, ${path(field)})`;
    const length = `sizeof(((${type} *)0)->${path(field)})`;
    return `printf("${name}.${field} %zu %zu\\n", ${at}, ${length});`;
  });
  return [...prints, `printf("${name} %zu\\n", ${size});`].join('\n');
}

/** The same lines from our own layout. */
export function expectedLines({ name, layout }: StructCase): string[] {
  const fields = Object.entries(layout).filter(([field]) => field !== 'size');
  const lines = fields.map(([field, value]) => {
    const { offset, length } = value as unknown as Field;
    return `${name}.${field} ${offset} ${length}`;
  });
  return [...lines, `${name} ${layout.size}`];
}

/** C statements that print `name value` for each constant that the headers define. */
export function printConstants(names: readonly string[]): string {
  return names
    .map(
      (name) => `#ifdef ${name}\nprintf("${name} %llu\\n", (unsigned long long)${name});\n#endif`,
    )
    .join('\n');
}

/**
 * Tests that some structs of a module, by their names in C, and all of its constants are those of the headers.
 * @param path member path of a field in the C type
 * @param newer constants that older headers lack
 */
export function testHeader(
  t: Test,
  headers: readonly string[],
  structs: Readonly<Record<string, StructCase['layout']>>,
  abi: object,
  path: StructCase['path'] = (field) => field,
  newer: readonly string[] = [],
): void {
  const cases = Object.entries(structs).map(([name, layout]) => ({
    name,
    layout,
    type: `struct ${name}`,
    path,
  }));
  const all = Object.entries(abi).filter(([, value]) => typeof value === 'number');
  const constants = all.filter(([name]) => !newer.includes(name));
  const skip = compilerMissing(headers);
  t.test("offsets, sizes and values are the C compiler's", { skip }, async (t) => {
    const prints = constants.map(([name]) => `printf("${name} %lld\\n", (long long)${name});`);
    const added = runC(headers, printConstants(newer));
    for (const line of added.filter((line) => line !== '')) {
      t.ok(
        all.some(([name, value]) => line === `${name} ${value as number}`),
        line,
      );
    }
    const printed = runC(headers, [...cases.map(printStruct), ...prints].join('\n'));
    t.ok(constants.length > 7);
    t.same(printed, [
      ...cases.flatMap(expectedLines),
      ...constants.map(([name, value]) => `${name} ${value as number}`),
    ]);
  });
}
