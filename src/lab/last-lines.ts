/** The end of a program's output, for messages about its failure. */
import type { ChildProcess } from 'node:child_process';

/** A panic with its registers and its trace. */
const LINES = 60;
const CHARACTERS = 8192;

/** The last lines of a text that may be long. */
export function lastLinesOf(text: string): string[] {
  const lines = text.slice(-CHARACTERS).split(/\r?\n/);
  return lines
    .filter((line) => line.trim() !== '' && !line.includes("TCG doesn't support"))
    .slice(-LINES);
}

/** Keeps the end of a program's output and errors. @returns gives it */
export function lastLines(child: ChildProcess): () => string[] {
  let text = '';
  const take = (chunk: Buffer): void => {
    text = (text + chunk.toString('latin1')).slice(-CHARACTERS);
  };
  child.stdout?.on('data', take);
  child.stderr?.on('data', take);
  return () => lastLinesOf(text);
}
