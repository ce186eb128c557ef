/** The program of `npm run bench`, and the one that runs in the lab: the same as `nodevmm bench`. */
import { bench } from './command.ts';

process.exitCode = await bench(process.argv.slice(2));
