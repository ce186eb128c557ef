/** Every struct and constant of src/abi/kvm*.ts against the installed kernel headers. */
import t from 'tap';
import * as structs from '../../../src/abi/kvm.ts';
import * as constants from '../../../src/abi/kvm-constants.ts';
import * as ioctls from '../../../src/abi/kvm-ioctl.ts';
import {
  compilerMissing,
  expectedLines,
  printConstants,
  printStruct,
  runC,
  type StructCase,
} from './c-program.ts';

const headers = ['linux/kvm.h', 'linux/kvm_para.h'];
const skip = compilerMissing(headers);

/** Unions: our flat names stand for member paths. */
function structCase(name: string, layout: { readonly size: number }): StructCase {
  const spelled = (field: string): string => (field === 'size_' ? 'size' : field);
  const inUnion = /^kvm_run_(\w+)$/.exec(name)?.[1];
  if (inUnion !== undefined) {
    return {
      name,
      layout,
      type: 'struct kvm_run',
      path: (field) => `${inUnion}.${spelled(field)}`,
      member: inUnion,
    };
  }
  const route = /^kvm_irq_routing_(msi|irqchip)$/.exec(name)?.[1];
  if (route !== undefined) {
    const path = (field: string): string => `u.${route}.${field}`;
    return { name, layout, type: 'struct kvm_irq_routing_entry', path, member: `u.${route}` };
  }
  const path = (field: string): string =>
    name === 'kvm_run' && field === 'exit' ? 'padding' : spelled(field);
  return { name, layout, type: `struct ${name}`, path };
}

t.test('linux/kvm.h: offset and length of every field, size of every struct', { skip }, (t) => {
  const cases = Object.entries(structs).map(([name, layout]) => structCase(name, layout));
  const output = runC(headers, cases.map(printStruct).join('\n'));
  t.same(output, cases.flatMap(expectedLines));
  t.end();
});

t.test('linux/kvm.h: every constant that the installed header has', { skip }, (t) => {
  const all = Object.entries({ ...constants, ...ioctls });
  const output = runC(headers, printConstants(all.map(([name]) => name)));
  const defined = new Set(output.map((line) => line.split(' ')[0]));
  const expected = all.filter(([name]) => defined.has(name)).map(([name, v]) => `${name} ${v}`);
  t.same(output, expected);
  t.ok(defined.size > all.length * 0.9, 'the header knows nearly all of them');
  t.end();
});
