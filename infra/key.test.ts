/**
 * Who may use the key that `key.yaml` makes: its policy, evaluated by a simulator of IAM for each principal
 * that must, and for strangers. It knows nothing of what the services really send: the comments there do.
 */
import { describe, expect, test } from 'vitest';
import { allows, EVERYTHING, resources } from './simulator.js';

const ACCOUNT = '111122223333';
const OTHER = '444455556666';
const ORGANIZATION = 'o-a1b2c3d4e5';
const KEY = `arn:aws:kms:eu-west-1:${ACCOUNT}:key/0a1b2c3d-0000-4000-8000-000000000001`;
const OF_AWS = { 'AWS::Partition': 'aws', 'AWS::Region': 'eu-west-1', 'AWS::AccountId': ACCOUNT, 'AWS::URLSuffix': 'amazonaws.com' };

// The simulator knows no encryption context by its name: in policy and request, another key that is an ARN stands for it.
const LOGGED = 'kms:EncryptionContext:aws:logs:arn';
const FOR_SIMULATOR = 'aws:SourceArn';

/** The policy as a deployment for the account alone has it, and for the organization. */
const [OF_THE_ACCOUNT, OF_THE_ORGANIZATION] = ['', ORGANIZATION].map((OrganizationId) => {
  const { Key } = resources('key.yaml', { OrganizationId }, OF_AWS);
  return JSON.parse(JSON.stringify(Key!.Properties.KeyPolicy).replaceAll(LOGGED, FOR_SIMULATOR));
});
const policy = (forOrganization: boolean) => (forOrganization ? OF_THE_ORGANIZATION : OF_THE_ACCOUNT);

interface Use {
  readonly principal: string;
  readonly action?: string;
  readonly context?: Record<string, string>;
}

async function may(document: any, { principal, action = 'kms:GenerateDataKey', context = {} }: Use) {
  return allows({
    request: { principal, action, resource: { resource: KEY, accountId: ACCOUNT }, contextVariables: context },
    identityPolicies: principal.startsWith('arn:') ? [{ name: 'own', policy: EVERYTHING }] : [],
    resourcePolicy: document,
    serviceControlPolicies: [],
    resourceControlPolicies: [],
  });
}

const LOG_GROUP = (account: string, name = 'imds-enforcer-LogGroup-EXAMPLE') =>
  ({ [FOR_SIMULATOR]: `arn:aws:logs:eu-west-1:${account}:log-group:${name}` });
const role = (account: string) => `arn:aws:iam::${account}:role/imds-enforcer-FunctionRole-EXAMPLE`;
const FROM_QUEUE = { 'kms:ViaService': 'sqs.eu-west-1.amazonaws.com' };

// Each use, by the statement without which it is refused.
const USES: [string, boolean, Use][] = [
  ['AccountByItsOwnPolicies', false, { principal: role(ACCOUNT), context: FROM_QUEUE }],
  ['Log', false, { principal: 'logs.eu-west-1.amazonaws.com', context: LOG_GROUP(ACCOUNT) }],
  ['Log', false, { principal: 'logs.eu-west-1.amazonaws.com', action: 'kms:ReEncryptFrom', context: LOG_GROUP(ACCOUNT) }],
  ['Events', false, { principal: 'events.amazonaws.com' }],
  ['Events', false, { principal: 'events.amazonaws.com', action: 'kms:Decrypt' }],
  ['Alarms', false, { principal: 'cloudwatch.amazonaws.com', context: { 'aws:SourceAccount': ACCOUNT } }],
  ['Log', true, { principal: 'logs.eu-west-1.amazonaws.com', context: LOG_GROUP(OTHER) }],
  ['Alarms', true, { principal: 'cloudwatch.amazonaws.com', context: { 'aws:SourceAccount': OTHER, 'aws:SourceOrgID': ORGANIZATION } }],
  ['QueuesOfTheOrganization', true, { principal: role(OTHER), context: { ...FROM_QUEUE, 'aws:PrincipalOrgID': ORGANIZATION } }],
  ['DescribedByTheOrganization', true, { principal: role(OTHER), action: 'kms:DescribeKey', context: { 'aws:PrincipalOrgID': ORGANIZATION } }],
];

describe('the key', () => {
  test.each(USES)('is used by way of %s, for the organization: %s, and without it is not: %o', async (sid, forOrganization, use) => {
    const whole = policy(forOrganization);
    expect(await may(whole, use)).toBe(true);
    const without = { ...whole, Statement: whole.Statement.filter((it: any) => it.Sid !== sid) };
    expect(without.Statement).toHaveLength(whole.Statement.length - 1);
    expect(await may(without, use)).toBe(false);
  });

  test.each<[boolean, Use]>([
    [false, { principal: role(OTHER), context: FROM_QUEUE }],
    [false, { principal: 'logs.eu-west-1.amazonaws.com', context: LOG_GROUP(OTHER) }],
    [false, { principal: 'logs.us-east-1.amazonaws.com', context: LOG_GROUP(ACCOUNT) }],
    [false, { principal: 'cloudwatch.amazonaws.com', context: { 'aws:SourceAccount': OTHER } }],
    [false, { principal: 's3.amazonaws.com' }],
    [true, { principal: role(OTHER), context: { ...FROM_QUEUE, 'aws:PrincipalOrgID': 'o-0000000000' } }],
    [true, { principal: role(OTHER), context: { 'aws:PrincipalOrgID': ORGANIZATION } }],
    [true, { principal: 'logs.eu-west-1.amazonaws.com', context: LOG_GROUP(OTHER, 'another') }],
    [true, { principal: 'cloudwatch.amazonaws.com', context: { 'aws:SourceOrgID': 'o-0000000000' } }],
  ])('is not for strangers, for the organization: %s, %o', async (forOrganization, use) => {
    expect(await may(policy(forOrganization), use)).toBe(false);
  });
});
