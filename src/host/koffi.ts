/** koffi, for src/host. Required, not imported: bundled imports are evaluated before what is to refuse them. */
import './surroundings.ts';
import { createRequire } from 'node:module';

export const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
