/** The program of `npm run bench`, and what runs in the lab: does the same as `nodevmm bench`. */
import { bench } from './command.ts';

process.exitCode = await bench(process.argv.slice(2));
