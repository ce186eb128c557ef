/** The process of a nodevmm that is measured: a machine, and commands in it for the parent. */
import type { MachineOptions } from '../../src/machine/options.ts';
import { VirtualMachine } from '../../src/machine/virtual-machine.ts';
import type { ProcessReply, ProcessRequest } from './nodevmm.ts';

const options = JSON.parse(process.argv[2] ?? '{}') as MachineOptions;
const reply = (message: ProcessReply): void => void process.send?.(message);

const vm = await VirtualMachine.create(options);
let ending = false;
const end = async (status: number): Promise<void> => {
  if (ending) return;
  ending = true;
  await vm[Symbol.asyncDispose]();
  process.exit(status);
};
process.on('SIGTERM', () => void end(0));
process.on('disconnect', () => void end(0));
vm.on('log', (text) => process.stderr.write(`${text}\n`));
vm.console.pipe(process.stdout);
vm.on('exit', ({ reason, detail }) => {
  process.stderr.write(`the guest ended: ${reason} ${detail ?? ''}\n`, () => void end(1));
});
process.on('message', ({ id, argv }: ProcessRequest) => {
  vm.exec(argv).then(
    (result) => reply({ id, result }),
    (error: Error) => reply({ id, error: error.message }),
  );
});
await vm.start();
await vm.ready();
reply({ id: 0 });
