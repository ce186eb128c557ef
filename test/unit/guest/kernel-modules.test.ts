/** Modules' own words, and the order to load them in. */
import t from 'tap';
import { ModuleGraph, moduleName, readModuleInfo } from '../../../src/guest/kernel-modules.ts';
import { moduleFile } from '../../support/fixtures/guest-inputs.ts';

t.test('.modinfo names what a module needs and serves', async (t) => {
  const elf = moduleFile(
    'license=GPL',
    'depends=a-b,c',
    'alias=virtio:d00000001v*',
    'alias=net',
    'vermagic=6.12.1-cloud SMP',
  );
  t.same(readModuleInfo('kernel/net/my-net.ko', elf), {
    name: 'my_net',
    depends: ['a_b', 'c'],
    aliases: ['virtio:d00000001v*', 'net'],
    kernel: '6.12.1-cloud',
  });
  t.same(readModuleInfo('x.ko', moduleFile('depends=')).depends, []);
  t.throws(() => readModuleInfo('x.ko', Buffer.alloc(100)), { code: 'E_MODULE' });
  t.equal(moduleName('kernel/drivers/virtio-rng.ko.xz'), 'virtio_rng');
});

t.test('a module comes after all that it needs', async (t) => {
  const graph = new ModuleGraph();
  const add = (path: string, depends: string[], aliases: string[] = []): void =>
    graph.add(path, { name: moduleName(path), depends, aliases, kernel: undefined });
  add('k/top.ko', ['left', 'right'], ['pci:v1']);
  add('k/left.ko', ['base']);
  add('k/right.ko', ['base', 'builtin']);
  add('k/base.ko', []);
  add('k/other.ko', []);
  const closure = graph.closure(['top', 'not_there']);
  t.same(closure, ['k/base.ko', 'k/left.ko', 'k/right.ko', 'k/top.ko']);
  t.equal(graph.dep(['k/left.ko', 'k/base.ko']), 'k/left.ko: k/base.ko\nk/base.ko:\n');
  t.equal(
    graph.dep(['k/top.ko']),
    'k/top.ko: k/right.ko k/left.ko k/base.ko\n',
    'modules.dep has the last to load first',
  );
  t.equal(graph.alias(closure), 'alias pci:v1 top\n');
});
