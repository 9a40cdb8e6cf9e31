/**
 * What IAM allows, by a simulator of it, and the policies that the templates make.
 *
 * It renders nothing itself: Python does, with what the commands of `infra/deploy` show a deployment by.
 */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { runSimulation, type Simulation } from '@cloud-copilot/iam-simulate';

const PYTHON = fileURLToPath(new URL('../.venv/bin/python', import.meta.url));
const DEPLOY = fileURLToPath(new URL('deploy', import.meta.url));

/** A policy that allows everything. */
export const EVERYTHING = { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: '*', Resource: '*' }] };

/**
 * Whether a request is allowed. An action on every resource has an answer only where `wildcard` says so.
 *
 * @throws if there is no one answer, or a condition key of the request is not known to the simulator: that
 * would be left out silently, and with it its condition
 */
export async function allows(simulation: Simulation, { wildcard = false } = {}): Promise<boolean> {
  const { action, resource } = simulation.request;
  const answer = await runSimulation(simulation, {});
  if (wildcard && answer.resultType === 'wildcard') return answer.overallResult === 'Allowed';
  if (answer.resultType !== 'single') throw new Error(`${action} on ${resource.resource}: ${JSON.stringify(answer)}`);
  const { ignoredContextKeys = ['answer'], analysis } = answer.result;
  if (ignoredContextKeys.length) throw new Error(`${action} has no ${ignoredContextKeys.join(', ')}`);
  return analysis.result === 'Allowed';
}

/** What a script of Python that imports the modules of `infra/deploy` prints as JSON. */
export function python(script: string, input: unknown = null): any {
  const source = `import json, sys\nsys.path.insert(0, ${JSON.stringify(DEPLOY)})\ngiven = json.load(sys.stdin)\n${script}`;
  const env = { ...process.env, PYTHONDONTWRITEBYTECODE: '1' };
  return JSON.parse(execFileSync(PYTHON, ['-c', source], { input: JSON.stringify(input), encoding: 'utf8', env }));
}

/** The resources of a template of this folder, as a deployment with these parameters has them, by their name in it. */
export function resources(name: string, parameters: Record<string, string>, pseudo: Record<string, string> = {}): Record<string, { Properties: any }> {
  const template = fileURLToPath(new URL(name, import.meta.url));
  const script = `from resolver import Resolver
from samcli.yamlhelper import yaml_parse
template = yaml_parse(open(given["template"]).read())
print(json.dumps(Resolver(template, given["parameters"], given["pseudo"]).resources()))`;
  return python(script, { template, parameters, pseudo });
}
