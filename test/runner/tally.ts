/** Counts the assertions of a TAP stream, not the subtests that hold them. */
import { Parser, type Result } from 'tap-parser';

/** A test point that failed or was skipped. */
export interface Point {
  /** Its name, after those of the tests around it. */
  readonly name: string;
  /** Why it was skipped, or the diagnostics of a failure. */
  readonly detail: string;
}

/** The outcome of one TAP stream so far. */
export class Tally {
  passed = 0;
  readonly failures: Point[] = [];
  readonly skips: Point[] = [];
  readonly #parser = new Parser();

  constructor() {
    this.#follow(this.#parser, []);
    this.#parser.on('bailout', (reason: string) => this.fail('bail out', reason));
  }

  write(text: string): void {
    this.#parser.write(text);
  }

  /** The stream is at its end. Resolves when all of it is counted. */
  async end(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#parser.on('complete', (results) => {
        const { plan } = results;
        // The parser's own word for a stream with no plan and no test.
        if (plan.skipReason === 'no tests found') this.fail('tests', 'the file ran no test');
        else if (plan.skipAll) this.skips.push({ name: 'the whole file', detail: plan.skipReason });
        for (const failure of results.failures) {
          // Broken TAP (no plan, a wrong count) is no test point of its own.
          if ('tapError' in failure && failure.tapError) this.fail('TAP', String(failure.tapError));
        }
        resolve();
      });
      this.#parser.end();
    });
  }

  fail(name: string, detail: string): void {
    this.failures.push({ name, detail });
  }

  get #points(): number {
    return this.passed + this.failures.length + this.skips.length;
  }

  #follow(parser: Parser, names: readonly string[]): void {
    let before: { readonly failed: number; readonly points: number } | undefined;
    parser.on('child', (child: Parser) => {
      before = { failed: this.failures.length, points: this.#points };
      this.#follow(child, [...names, child.name]);
    });
    parser.on('assert', (result: Result) => {
      // The point that closes a subtest only repeats what was counted inside it.
      const closed = before;
      before = undefined;
      const name = [...names, result.name].join(' > ');
      if (result.skip) {
        const reason = result.skip === true ? '' : String(result.skip);
        this.skips.push({ name, detail: reason });
      } else if (result.todo) {
        this.skips.push({ name, detail: `to do: ${String(result.todo)}` });
      } else if (closed !== undefined) {
        if (!result.ok && this.failures.length === closed.failed) {
          this.fail(name, diagnostics(result));
        } else if (result.ok && this.#points === closed.points) {
          // A test that asserts by not throwing.
          this.passed++;
        }
      } else if (result.ok) this.passed++;
      else this.fail(name, diagnostics(result));
    });
  }
}

function diagnostics(result: Result): string {
  const diag: unknown = result.diag;
  if (typeof diag !== 'object' || diag === null) return '';
  return Object.entries(diag)
    .filter(([key]) => key !== 'source')
    .map(([key, value]) => {
      const text = typeof value === 'string' ? value : JSON.stringify(value);
      return `${key}: ${text.includes('\n') ? `\n${text.trimEnd().replace(/^/gm, '  ')}` : text}`;
    })
    .join('\n');
}
