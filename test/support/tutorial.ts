/** docs/tutorial-first-device.md as a program: what it says to write and to run, in its order. */
import { type ExecFileException, execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const MAIN = path.join(root, 'dist/src/cli/main.js');

/** One fenced block. */
interface Block {
  readonly language: string;
  /** Of blocks that are files. */
  readonly file: string | undefined;
  readonly text: string;
}

const blocks: readonly Block[] = [
  ...readFileSync(path.join(root, 'docs/tutorial-first-device.md'), 'utf8').matchAll(
    /^```(\w+)(?: (\S+))?\n(.*?)^```$/gms,
  ),
].map(([, language = '', file, text = '']) => ({ language, file, text }));

/** The lines that the tutorial says are printed. */
export const promised: readonly string[] = blocks
  .filter(({ language }) => language === 'text')
  .flatMap(({ text }) => text.trimEnd().split('\n'));

/** What a run printed. */
export interface TutorialRun {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Writes all files and runs the commands that are wanted, as one script in an empty folder.
 * @param wanted says of each block of commands whether it is run
 */
export async function runTutorial(wanted: (commands: string) => boolean): Promise<TutorialRun> {
  const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-tutorial-'));
  try {
    writeFileSync(path.join(folder, 'nodevmm'), `#!/bin/sh\nexec node ${MAIN} "$@"\n`);
    chmodSync(path.join(folder, 'nodevmm'), 0o755);
    const script = blocks.map(({ language, file, text }) => {
      if (file !== undefined) return `cat >${file} <<'END OF FILE'\n${text}END OF FILE\n`;
      return language === 'sh' && wanted(text) ? text : '';
    });
    // The runner of these tests would take the output of Node's for its own.
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const options = { cwd: folder, env: { ...env, PATH: `${folder}:${env.PATH}` } };
    return await new Promise((resolve) => {
      execFile(
        'bash',
        ['-e', '-o', 'pipefail', '-c', script.join('\n')],
        options,
        (error: ExecFileException | null, stdout, stderr) =>
          resolve({ status: error === null ? 0 : Number(error.code ?? 1), stdout, stderr }),
      );
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
