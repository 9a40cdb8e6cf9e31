/**
 * The guardrails as their template makes them, and an account under them.
 *
 * It asks the simulator what one principal may do, and Python for the policies: it renders nothing
 * itself, so that what is tried here is what `make guardrails` shows and CloudFormation makes.
 */

import { allows, EVERYTHING, python } from '../simulator.js';

export const ACCOUNT = '111122223333';
export const PARTITIONS = ['aws', 'aws-us-gov', 'aws-cn'] as const;
export type Partition = (typeof PARTITIONS)[number];
export type Parameters = Record<string, string | number>;
export type Context = Record<string, string | string[]>;

/** Some policies of one deployment, by their name in the template. */
export interface Guardrails {
  readonly partition: Partition;
  readonly parameters: Parameters;
  readonly documents: Record<string, any>;
  /** What each has, in the size that Organizations counts. */
  readonly sizes: Record<string, number>;
}

/** The policies with these parameters. */
export function render(parameters: Parameters = {}, partition: Partition = 'aws'): Guardrails {
  const script = `import guardrails
policies = guardrails.policies(given["parameters"], given["partition"])
print(json.dumps({name: [it.document, it.size] for name, it in policies.items()}))`;
  const policies = Object.entries<any>(python(script, { parameters, partition }));
  return {
    partition,
    parameters,
    documents: Object.fromEntries(policies.map(([name, [document]]) => [name, document])),
    sizes: Object.fromEntries(policies.map(([name, [, size]]) => [name, size])),
  };
}

export function role(partition: Partition, name: string): string {
  return `arn:${partition}:iam::${ACCOUNT}:role/${name}`;
}

const ALLOWS_ALL = { name: 'everything', policy: EVERYTHING };

/** Whether a role that itself may do everything may do this under the service control policies. */
export async function may(
  { partition, documents }: Guardrails,
  action: string,
  resource: string,
  { who = 'administrator', context = {} as Context } = {},
): Promise<boolean> {
  const controls = Object.entries(documents).filter(([, document]) => document.Statement);
  return allows({
    request: {
      principal: role(partition, who),
      action,
      resource: { resource, accountId: ACCOUNT },
      contextVariables: { 'aws:PrincipalArn': role(partition, who), ...context },
    },
    identityPolicies: [ALLOWS_ALL],
    serviceControlPolicies: [
      { orgIdentifier: 'ou-1', policies: [ALLOWS_ALL, ...controls.map(([name, policy]) => ({ name, policy }))] },
    ],
    resourceControlPolicies: [],
  });
}
