/** The function's code: the zip that `make package` builds, and no other. */
import { execFileSync } from 'node:child_process';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AssetHashType, BundlingOutput, DockerImage } from 'aws-cdk-lib';
import * as lambda from 'aws-cdk-lib/aws-lambda';

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));

/**
 * The zip for an architecture. Only commands that need the code (deploy, diff, synth, watch) build
 * it: cargo, which is quick where nothing has changed, decides what there is to build.
 */
export function packaged(architecture: string): lambda.Code {
  const tryBundle = (outputFolder: string) => {
    // Standard output is the template's, in `cdk synth`.
    execFileSync('make', ['package', `ARCHITECTURE=${architecture}`], { cwd: REPOSITORY, stdio: ['ignore', 2, 2] });
    copyFileSync(join(REPOSITORY, 'target/imds-enforcer.zip'), join(outputFolder, 'imds-enforcer.zip'));
    return true;
  };
  return lambda.Code.fromAsset(join(REPOSITORY, 'infra/function'), {
    assetHashType: AssetHashType.OUTPUT,
    // The image is never used, since the local build never declines.
    bundling: { image: DockerImage.fromRegistry('scratch'), local: { tryBundle }, outputType: BundlingOutput.ARCHIVED },
  });
}
