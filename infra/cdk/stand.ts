/** What the tests of the construct share. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { App, Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import { ImdsEnforcer, ImdsEnforcerProps } from './imds-enforcer.js';

/** Code that need not be built: a template does not depend on it. */
export function anyCode(): lambda.Code {
  const folder = mkdtempSync(join(tmpdir(), 'bootstrap-'));
  writeFileSync(join(folder, 'bootstrap'), 'stands for the binary');
  return lambda.Code.fromAsset(folder);
}

/** The header of a binary for an architecture, which stands for the binary. */
export function elf(architecture: 'x86_64' | 'arm64'): Uint8Array {
  const header = Buffer.alloc(64);
  header.write('\x7fELF');
  header.writeUInt16LE({ x86_64: 62, arm64: 183 }[architecture], 18);
  return header;
}

/** Properties without what every deployment must say. */
export type Props = Partial<ImdsEnforcerProps>;

/** What every deployment must say, and code that need not be built. */
export function required(): ImdsEnforcerProps {
  return { enforceSince: 'all', code: anyCode() };
}

export function synthesize(props: (stack: Stack) => Props = () => ({})): Template {
  const stack = new Stack(new App(), 'Stack');
  new ImdsEnforcer(stack, 'ImdsEnforcer', { ...required(), ...props(stack) });
  return Template.fromStack(stack);
}
