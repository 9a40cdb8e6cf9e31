import { readFileSync } from 'node:fs';
import { runSimulation, type Simulation } from '@cloud-copilot/iam-simulate';
import { describe, expect, test } from 'vitest';

const ACCOUNT = '111122223333';
const INSTANCE = `arn:aws:ec2:us-east-1:${ACCOUNT}:instance/i-0123456789abcdef0`;
const FUNCTION = `arn:aws:lambda:us-east-1:${ACCOUNT}:function:imds-enforcer-Function-EXAMPLE`;
const ROLE = (name: string) => `arn:aws:iam::${ACCOUNT}:role/${name}`;

const everything = {
  name: 'everything',
  policy: { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: '*', Resource: '*' }] },
};
const scp = { name: 'guardrail', policy: load('service-control-policy.json') };

function load(name: string): any {
  return JSON.parse(readFileSync(new URL(name, import.meta.url), 'utf8'));
}

/** Whether an administrator of a member account may do this under the service control policy. */
async function may(action: string, resource: string, context: Record<string, string | string[]> = {}, who = 'admin') {
  const simulation: Simulation = {
    request: {
      principal: ROLE(who),
      action,
      resource: { resource, accountId: ACCOUNT },
      contextVariables: { 'aws:PrincipalArn': ROLE(who), ...context },
    },
    identityPolicies: [everything],
    serviceControlPolicies: [{ orgIdentifier: 'ou-1', policies: [everything, scp] }],
    resourceControlPolicies: [],
  };
  const answer = await runSimulation(simulation, {});
  if (answer.resultType === 'error') throw new Error(JSON.stringify(answer.errors));
  if (answer.resultType !== 'single') throw new Error(`one answer was expected: ${answer.resultType}`);
  // A key that the simulator does not know would be left out silently, and with it its condition.
  expect(answer.result.ignoredContextKeys).toEqual([]);
  return answer.result.analysis.result === 'Allowed';
}

describe('the service control policy', () => {
  test.each([
    ['required', true],
    ['optional', false],
    ['Required', false],
  ])('lets a launch with tokens %s through: %s', async (tokens, allowed) => {
    expect(await may('ec2:RunInstances', INSTANCE, { 'ec2:MetadataHttpTokens': tokens })).toBe(allowed);
  });

  test('refuses a launch that says nothing of tokens', async () => {
    expect(await may('ec2:RunInstances', INSTANCE)).toBe(false);
  });

  test('lets a launch use other resources, which have no tokens', async () => {
    expect(await may('ec2:RunInstances', `arn:aws:ec2:us-east-1:${ACCOUNT}:subnet/subnet-0123456789abcdef0`)).toBe(true);
  });

  test('refuses a downgrade and nothing else of a modification', async () => {
    const modify = (context: Record<string, string>) => may('ec2:ModifyInstanceMetadataOptions', INSTANCE, context);
    expect(await modify({ 'ec2:Attribute/HttpTokens': 'optional' })).toBe(false);
    expect(await modify({ 'ec2:Attribute/HttpTokens': 'required' })).toBe(true);
    expect(await modify({})).toBe(true);
  });

  test('leaves the exemption tag to those who may exempt', async () => {
    for (const action of ['ec2:CreateTags', 'ec2:DeleteTags']) {
      expect(await may(action, INSTANCE, { 'aws:TagKeys': ['Name', 'imds-exemption'] })).toBe(false);
      expect(await may(action, INSTANCE, { 'aws:TagKeys': ['imds-exemption'] }, 'imds-exemption-admin')).toBe(true);
      expect(await may(action, INSTANCE, { 'aws:TagKeys': ['Name'] })).toBe(true);
    }
  });

  test.each([
    ['lambda:DeleteFunction', FUNCTION],
    ['lambda:UpdateFunctionConfiguration', FUNCTION],
    ['lambda:PutFunctionConcurrency', FUNCTION],
    ['events:DisableRule', `arn:aws:events:us-east-1:${ACCOUNT}:rule/imds-enforcer-ApiCallRule-EXAMPLE`],
    ['sqs:PurgeQueue', `arn:aws:sqs:us-east-1:${ACCOUNT}:imds-enforcer-DeadLetterQueue-EXAMPLE`],
    ['iam:PutRolePolicy', ROLE('imds-enforcer-FunctionRole-EXAMPLE')],
    ['cloudformation:DeleteStack', `arn:aws:cloudformation:us-east-1:${ACCOUNT}:stack/imds-enforcer/1`],
  ])('keeps the stack from %s, but for its deployers', async (action, resource) => {
    expect(await may(action, resource)).toBe(false);
    expect(await may(action, resource, {}, 'imds-enforcer-deployer')).toBe(true);
    expect(await may(action, resource.replace('imds-enforcer', 'another-stack'))).toBe(true);
  });

  test('keeps the defaults of the account', async () => {
    expect(await may('ec2:ModifyInstanceMetadataDefaults', '*')).toBe(false);
    expect(await may('ec2:ModifyInstanceMetadataDefaults', '*', {}, 'stacksets-exec-example')).toBe(true);
  });

  test('keeps within the size that Organizations takes', () => {
    expect(JSON.stringify(scp.policy).length).toBeLessThanOrEqual(5120);
  });
});

test('the declarative policy requires tokens, and leaves hop limit, endpoint and tags to their owners', () => {
  const { instance_metadata_defaults: defaults } = load('declarative-policy.json').ec2_attributes;
  expect(defaults).toEqual({
    http_tokens: { '@@assign': 'required' },
    http_tokens_enforced: { '@@assign': 'enabled' },
    http_endpoint: { '@@assign': 'no_preference' },
    http_put_response_hop_limit: { '@@assign': 'no_preference' },
    instance_metadata_tags: { '@@assign': 'no_preference' },
  });
});
