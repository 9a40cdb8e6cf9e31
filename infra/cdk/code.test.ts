import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { App, Stack } from 'aws-cdk-lib';
import { Match, Template } from 'aws-cdk-lib/assertions';
import { unzipSync, zipSync } from 'fflate';
import { expect, test } from 'vitest';
import { createApp } from './app.js';
import { packaged } from './code.js';
import { propsFromContext } from './context.js';
import { ImdsEnforcer } from './imds-enforcer.js';
import { elf } from './stand.js';

const folder = () => mkdtempSync(join(tmpdir(), 'code-'));

function written(name: string, content: Uint8Array): string {
  const path = join(folder(), name);
  writeFileSync(path, content);
  return path;
}

const zip = (architecture: 'x86_64' | 'arm64') => zipSync({ bootstrap: elf(architecture) });

/** The files of the assets of an app that is synthesized, by their names. */
function assets(app: App): Record<string, string> {
  const { directory } = app.synth();
  return Object.fromEntries(readdirSync(directory).filter((it) => it.startsWith('asset.')).map((it) => [it, join(directory, it)]));
}

test('two architectures in one app are two builds, each with the code for its own', () => {
  const repository = folder();
  mkdirSync(join(repository, 'src'));
  for (const architecture of ['x86_64', 'arm64'] as const) writeFileSync(join(repository, `${architecture}.zip`), zip(architecture));
  const recipe = 'package:\n\tmkdir -p target\n\tcp $(ARCHITECTURE).zip target/imds-enforcer.zip\n\techo $(ARCHITECTURE) >> builds\n';
  writeFileSync(join(repository, 'Makefile'), recipe);
  const app = new App();
  const stacks = (['x86_64', 'arm64', 'x86_64'] as const).map((architecture, index) => {
    const stack = new Stack(app, `Stack${index}`);
    new ImdsEnforcer(stack, 'ImdsEnforcer', { enforceSince: 'all', architecture, code: packaged(architecture, repository) });
    return stack;
  });
  const functions = stacks.flatMap((it) => Object.values(Template.fromStack(it).findResources('AWS::Serverless::Function')));
  const files = assets(app);
  expect(readFileSync(join(repository, 'builds'), 'utf8')).toBe('x86_64\narm64\n');
  expect(functions.map((it) => it.Properties.Architectures)).toEqual([['x86_64'], ['arm64'], ['x86_64']]);
  for (const { Properties: { Architectures: [architecture], CodeUri } } of functions) {
    const { bootstrap } = unzipSync(readFileSync(files[`asset.${CodeUri.Key}`]!));
    expect(Buffer.from(bootstrap!)).toEqual(elf(architecture));
  }
});

test('the zip of the context is deployed as it is, and nothing is built', () => {
  const code = written('built-elsewhere.zip', zip('arm64'));
  const app = createApp((stack) => {
    stack.node.setContext('architecture', 'arm64');
    stack.node.setContext('enforceSince', 'all');
    stack.node.setContext('code', code);
    return propsFromContext(stack);
  });
  const [asset] = Object.values(assets(app));
  expect(readFileSync(asset!)).toEqual(readFileSync(code));
  const { Resources } = app.synth().getStackByName('imds-enforcer-cdk').template;
  const found = Object.values<any>(Resources).filter((it) => it.Type === 'AWS::Serverless::Function');
  expect(found.map((it) => it.Properties.Architectures)).toEqual([['arm64']]);
});

test('of a folder in the context, bootstrap alone is deployed', () => {
  const code = folder();
  writeFileSync(join(code, 'bootstrap'), elf('x86_64'));
  writeFileSync(join(code, 'notes.txt'), 'not for Lambda');
  const app = createApp((stack) => {
    stack.node.setContext('enforceSince', 'all');
    stack.node.setContext('code', code);
    return propsFromContext(stack);
  });
  const [asset] = Object.values(assets(app));
  expect(readdirSync(asset!)).toEqual(['bootstrap']);
});

test.each([
  ['nothing there', () => join(folder(), 'missing.zip'), /^code is .*missing\.zip \(ENOENT.*; it must be a zip as make package writes it, or a folder with bootstrap$/],
  ['a folder without bootstrap', folder, /^code is .* \(ENOENT.*bootstrap.*; it must be a zip/],
  ['a zip without bootstrap', () => written('other.zip', zipSync({ main: elf('x86_64') })), /\(the zip has no bootstrap\); it must be a zip/],
  ['no zip', () => written('text.zip', Buffer.from('text')), /\(invalid zip data\); it must be a zip/],
  ['another architecture', () => written('arm64.zip', zip('arm64')), /arm64\.zip, whose bootstrap is for arm64, and architecture is x86_64; give the one that fits the other$/],
  ['no binary', () => written('script.zip', zipSync({ bootstrap: Buffer.from('#!/bin/sh\nexit 1 # for no machine') })), /is for neither x86_64 nor arm64, and architecture is x86_64/],
])('the code of the context is refused: %s', (_, code, message) => {
  expect(() => propsFromContext(new Stack(new App({ context: { enforceSince: 'all', code: code() } }), 'Stack'))).toThrow(message);
});

test('arm64 is what the function runs on', () => {
  const stack = new Stack(new App({ context: { enforceSince: 'all', architecture: 'arm64', code: written('arm64.zip', zip('arm64')) } }), 'Stack');
  new ImdsEnforcer(stack, 'ImdsEnforcer', propsFromContext(stack));
  Template.fromStack(stack).hasResourceProperties('AWS::Serverless::Function', { Architectures: ['arm64'], CodeUri: Match.anyValue() });
});
