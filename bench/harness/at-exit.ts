/** What must not stay behind, also when the process ends early. */

/**
 * Registers something to undo.
 * @param undo synchronous; must not throw
 * @returns undoes it now, and only once
 */
export function undoAtExit(undo: () => void): () => void {
  const once = (): void => {
    if (!process.listeners('exit').includes(once)) return;
    process.removeListener('exit', once);
    undo();
  };
  process.on('exit', once);
  return once;
}
