/** The function's code: the zip that `make package` builds, or one that was built before. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AssetHashType, BundlingOutput, DockerImage } from 'aws-cdk-lib';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import { unzipSync } from 'fflate';

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));

/** The field e_machine in the header of an ELF file. */
const MACHINES: Record<number, string> = { 62: 'x86_64', 183: 'arm64' };

/**
 * The zip for an architecture. Only commands that need the code (deploy, diff, synth, watch) build
 * it: cargo, which is quick where nothing has changed, decides what there is to build.
 */
export function packaged(architecture: string, repository = REPOSITORY): lambda.Code {
  const tryBundle = (outputFolder: string) => {
    // Standard output is the template's, in `cdk synth`.
    execFileSync('make', ['package', `ARCHITECTURE=${architecture}`], { cwd: repository, stdio: ['ignore', 2, 2] });
    copyFileSync(join(repository, 'target/imds-enforcer.zip'), join(outputFolder, 'imds-enforcer.zip'));
    return true;
  };
  return lambda.Code.fromAsset(join(repository, 'src'), {
    assetHashType: AssetHashType.OUTPUT,
    bundling: {
      // Never used, since the local build never declines.
      image: DockerImage.fromRegistry('scratch'),
      local: { tryBundle },
      outputType: BundlingOutput.ARCHIVED,
      // The CDK builds once for equal options, among which it compares no functions.
      environment: { ARCHITECTURE: architecture },
    },
  });
}

/**
 * The code at a path: a zip as `make package` writes it, or a folder with a `bootstrap`.
 *
 * @throws if there is none, or the binary is for another architecture
 */
export function codeAt(path: string, architecture: string): lambda.Code {
  const found = architectureOf(bootstrapAt(path));
  if (found !== architecture) {
    throw new Error(`code is ${resolve(path)}, whose bootstrap is for ${found}, and architecture is ${architecture}; give the one that fits the other`);
  }
  return lambda.Code.fromAsset(path, { exclude: ['**', '!bootstrap'] });
}

function bootstrapAt(path: string): Buffer {
  try {
    if (statSync(path).isDirectory()) return readFileSync(join(path, 'bootstrap'));
    const { bootstrap } = unzipSync(readFileSync(path), { filter: (it) => it.name === 'bootstrap' });
    if (bootstrap) return Buffer.from(bootstrap);
    throw new Error('the zip has no bootstrap');
  } catch (error) {
    const { message } = error as Error;
    throw new Error(`code is ${resolve(path)} (${message}); it must be a zip as make package writes it, or a folder with bootstrap`);
  }
}

/** What a binary runs on, in Lambda's words. */
function architectureOf(binary: Buffer): string {
  const isElf = binary.length >= 20 && binary.subarray(0, 4).equals(Buffer.from('\x7fELF'));
  return (isElf && MACHINES[binary.readUInt16LE(18)]) || 'neither x86_64 nor arm64';
}
