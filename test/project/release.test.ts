/** The workflows run pinned code with few rights, and what a release publishes can be packed. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { parse } from 'yaml';
import { testFolder } from '../support/rigs/files.ts';

interface Job {
  readonly if?: string;
  readonly needs?: string;
  readonly permissions?: Readonly<Record<string, string>>;
  readonly container?: { readonly image: string };
  readonly strategy?: { readonly matrix?: { readonly node?: readonly string[] } };
  readonly steps: readonly { readonly uses?: string; readonly run?: string }[];
}

interface Workflow {
  readonly on: Readonly<Record<string, unknown>>;
  readonly permissions: Readonly<Record<string, string>>;
  readonly jobs: Readonly<Record<string, Job>>;
}

const FOLDER = '.github/workflows';
const workflows = new Map(
  readdirSync(FOLDER).map((file) => [
    file,
    parse(readFileSync(join(FOLDER, file), 'utf8')) as Workflow,
  ]),
);

for (const [file, { jobs, permissions }] of workflows) {
  t.test(`${file}: pinned code, few rights`, async (t) => {
    t.same(permissions, { contents: 'read' });
    for (const [name, { container, strategy, steps }] of Object.entries(jobs)) {
      const images = strategy?.matrix?.node ?? [container?.image ?? ''];
      for (const image of images) t.match(image, /@sha256:[0-9a-f]{64}$/, `${name}: image`);
      for (const { uses, run } of steps) {
        if (uses !== undefined) t.match(uses, /^[\w-]+\/[\w-]+@[0-9a-f]{40}$/, `${name}: ${uses}`);
        // What others may write, such as the title of a pull request, would become shell.
        t.notMatch(run ?? '', /\$\{\{/, `${name}: no expression in a script`);
      }
    }
  });
}

t.test('a tag is tested, then published; anything else only rehearses', async (t) => {
  const release = workflows.get('release.yml');
  t.same(release?.on, { push: { tags: ['v*'] }, pull_request: null, workflow_dispatch: null });
  const { rehearse, test, publish, ...others } = release?.jobs ?? {};
  t.same(others, {});
  t.equal(rehearse?.if, "github.event_name != 'push'");
  t.equal(rehearse?.permissions, undefined);
  t.match(rehearse?.steps.at(-1)?.run, /\.ci\/release release --dry-run$/);
  t.match(test?.steps.at(-1)?.run, /\.ci\/run$/);
  t.match(publish, { needs: 'test', if: "github.event_name == 'push'" });
  t.same(publish?.permissions, { contents: 'write', 'id-token': 'write' });
  t.match(readFileSync('.ci/release', 'utf8'), /^npm publish --provenance --access public$/m);
});

t.test(
  '.ci/release packs the checkout, and lists what is in it',
  { timeout: 300_000 },
  async (t) => {
    const folder = testFolder(t);
    const argv = ['.ci/release', folder, '--dry-run'];
    const { status, stdout, stderr } = spawnSync('bash', argv, { encoding: 'utf8' });
    t.equal(status, 0, stderr);
    const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
    t.match(stdout, new RegExp(`^\\+ nodevmm@${version.replaceAll('.', '\\.')}$`, 'm'));
    const bill = JSON.parse(readFileSync(join(folder, 'nodevmm.cdx.json'), 'utf8')) as {
      bomFormat: string;
      metadata: { component: { purl: string } };
      components: { name: string }[];
    };
    // Its `name` is that of the folder.
    const { purl } = bill.metadata.component;
    t.match(
      { purl, format: bill.bomFormat },
      { purl: `pkg:npm/nodevmm@${version}`, format: 'CycloneDX' },
    );
    const names = bill.components.map(({ name }) => name);
    for (const name of ['koffi', 'commander', 'valibot']) t.ok(names.includes(name), name);
  },
);
