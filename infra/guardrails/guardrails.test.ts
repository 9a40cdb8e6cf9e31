/** The guardrails hold what they promise, in every partition and configuration, and each seeded fault is found. */

import { describe, expect, test } from 'vitest';
import { CHECKS } from './checks.js';
import { python } from '../simulator.js';
import { ACCOUNT, may, PARTITIONS, render, type Guardrails, type Parameters } from './stand.js';

const LAUNCHING = 'service-role/AWSBackupDefaultServiceRole,EMR_DefaultRole';
const ALL_ON = { HttpTokensEnforced: 'on', TokensPolicy: 'on', HighestHopLimit: 2, RoleDelivery: 'on', LaunchingRoles: LAUNCHING };

const CONFIGURATIONS: Record<string, Parameters> = {
  'by default': {},
  'with everything on': { ...ALL_ON, TargetIds: 'r-abcd', ExemptionTag: 'team:no-imdsv2', DeployingRoles: 'platform,imds-enforcer-deployer' },
  'without exemptions': { ExemptionTag: '', TokensPolicy: 'on' },
};

const cases = [
  ...Object.keys(CONFIGURATIONS).map((name) => ['aws', name] as const),
  ...PARTITIONS.slice(1).map((partition) => [partition, 'with everything on'] as const),
];

describe.each(cases)('in partition %s, %s', (partition, configuration) => {
  const guardrails = render(CONFIGURATIONS[configuration], partition);
  test.each(Object.keys(CHECKS))('%s', async (name) => {
    expect(await CHECKS[name]!(guardrails)).toEqual([]);
  });

  test('every policy keeps within the size that Organizations takes', () => {
    expect(guardrails.sizes.KeepEnforcer).toBeLessThanOrEqual(5120);
    expect(guardrails.sizes.TokensAtLaunch ?? 0).toBeLessThanOrEqual(5120);
    expect(guardrails.sizes.MetadataDefaults).toBeLessThanOrEqual(10000);
  });
});

describe('roles by other names', () => {
  const guardrails = render({ DeployingRoles: 'imds-enforcer-deployer, cdk-hnb659fds-*', ExemptingRoles: 'imds-exemption-admin,aws-reserved/sso.amazonaws.com/*AWSReservedSSO_Security_*' });

  test.each(['whoIsLetThroughIsKept', 'theStackIsKept', 'theExemptionTagIsKept'])('%s', async (name) => {
    expect(await CHECKS[name]!(guardrails)).toEqual([]);
  });

  // Where Identity Center's home is us-east-1, the path has no Region.
  test.each(['AWSReservedSSO_Security_0123456789abcdef', 'eu-central-1/AWSReservedSSO_Security_0123456789abcdef'])(
    'a permission set of Identity Center, as %s, may exempt', async (name) => {
      const tag = { context: { 'aws:TagKeys': ['imds-exemption'] } };
      const instance = `arn:aws:ec2:us-east-1:${ACCOUNT}:instance/i-0123456789abcdef0`;
      expect(await may(guardrails, 'ec2:CreateTags', instance, { ...tag, who: `aws-reserved/sso.amazonaws.com/${name}` })).toBe(true);
      expect(await may(guardrails, 'ec2:CreateTags', instance, { ...tag, who: `aws-reserved/sso.amazonaws.com/${name.replace('Security', 'Developer')}` })).toBe(false);
    },
  );
});

test('nobody is let through where no role is named', async () => {
  const guardrails = render({ DeployingRoles: '', ExemptingRoles: '' });
  expect(await CHECKS.theStackIsKept!(guardrails)).toEqual([]);
  expect(await CHECKS.whoIsLetThroughIsKept!(guardrails)).toEqual([]);
  expect(await CHECKS.theExemptionTagIsKept!(guardrails)).toContain(
    `denies ec2:DeleteTags on arn:aws:ec2:us-east-1:111122223333:instance/i-0123456789abcdef0 to imds-exemption-admin`,
  );
});

test('by default, nothing denies a launch', () => {
  const { documents } = render();
  expect(Object.keys(documents)).toEqual(['KeepEnforcer', 'MetadataDefaults']);
  expect(documents.MetadataDefaults.ec2_attributes.instance_metadata_defaults.http_tokens_enforced).toEqual({ '@@assign': 'no_preference' });
});

test('what is off is not there', () => {
  const { documents } = render({ DeclarativePolicy: 'off', ExemptionTag: '' });
  expect(Object.keys(documents)).toEqual(['KeepEnforcer']);
  expect(documents.KeepEnforcer.Statement.map((it: any) => it.Sid)).toEqual(['KeepEnforcer', 'KeepItsQueueConnected', 'KeepAccountDefaults']);
  const hops = render({ HighestHopLimit: 1, LaunchingRoles: LAUNCHING }).documents.TokensAtLaunch;
  expect(hops.Statement.map((it: any) => it.Sid)).toEqual(['LaunchWithFewHops', 'NeverRaiseHops']);
});

// Every type of resource that the stack has is of a kind that the checks know, or needs no keeping.
const KNOWN_TYPES: Record<string, string> = {
  'AWS::CloudWatch::Alarm': 'alarm',
  'AWS::CloudWatch::CompositeAlarm': 'alarm',
  'AWS::CloudWatch::Dashboard': 'only shows; and CloudFormation names it by its logical id alone',
  'AWS::Events::EventBus': 'event-bus',
  'AWS::Events::Rule': 'rule-on-default-event-bus',
  'AWS::IAM::Role': 'role',
  'AWS::Lambda::EventSourceMapping': 'by its function: theQueueStaysConnected',
  'AWS::Lambda::Permission': 'of the function',
  'AWS::Logs::LogGroup': 'log-group',
  'AWS::SNS::Subscription': 'of the topic',
  'AWS::SNS::Topic': 'topic',
  'AWS::SNS::TopicPolicy': 'of the topic',
  'AWS::SQS::Queue': 'queue',
  'AWS::SQS::QueuePolicy': 'of the queue',
  'AWS::Serverless::Function': 'function',
};

test('every type of resource of the stack is known here', () => {
  const types: string[] = python('import sam\nprint(json.dumps(sorted({it["Type"] for it in sam.raw()["Resources"].values()})))');
  expect(types.filter((type) => !(type in KNOWN_TYPES))).toEqual([]);
});

const statement = ({ documents }: Guardrails, sid: string): any =>
  Object.values(documents).flatMap((it) => it.Statement ?? []).find((it: any) => it.Sid === sid);
const keep = (guardrails: Guardrails) => statement(guardrails, 'KeepEnforcer');
const allow = (...actions: string[]) => (it: Guardrails) => keep(it).NotAction.push(...actions);
const leaveOut = (part: string) => (it: Guardrails) => { keep(it).Resource = keep(it).Resource.filter((arn: string) => !arn.includes(part)); };
const letThrough = (...names: string[]) => (it: Guardrails) => {
  keep(it).Condition.ArnNotLike['aws:PrincipalArn'].push(...names.map((name) => `arn:*:iam::*:role/${name}`));
};
const letNobodyThrough = (part: string) => (it: Guardrails) => {
  const { ArnNotLike } = keep(it).Condition;
  ArnNotLike['aws:PrincipalArn'] = ArnNotLike['aws:PrincipalArn'].filter((arn: string) => !arn.includes(part));
};
const defaults = ({ documents }: Guardrails) => documents.MetadataDefaults.ec2_attributes.instance_metadata_defaults;

// By the check that must find them; other checks may, too.
const SEEDED_FAULTS: Record<string, Record<string, (guardrails: Guardrails) => unknown>> = {
  theStackIsKept: {
    'no resource of a stack set': leaveOut('StackSet-'),
    'a name of a stack set that is longer than what CloudFormation keeps': (it) => { keep(it).Resource = keep(it).Resource.map((arn: string) => arn.replace('StackSet-imds-enforcer-*', 'StackSet-imds-enforcer-????????-????-*')); },
    'no stack': leaveOut(':cloudformation:'),
    'no rule of a bus of its own': leaveOut(':rule/*/'),
    'no log': leaveOut(':logs:'),
    'a permissions boundary on its role': allow('iam:PutRolePermissionsBoundary'),
    'its boundary deleted': allow('iam:DeleteRolePermissionsBoundary'),
    'its role for another function': allow('iam:PassRole'),
    'its role trusts others': allow('iam:UpdateAssumeRolePolicy'),
    'an alarm overwritten': allow('cloudwatch:PutMetricAlarm'),
    'an alarm muted': allow('cloudwatch:DisableAlarmActions'),
    'an alarm set to ok': allow('cloudwatch:SetAlarmState'),
    'alarms deleted': allow('cloudwatch:DeleteAlarms'),
    'another policy of the topic': allow('sns:SetTopicAttributes'),
    'a subscription ended': allow('sns:Unsubscribe'),
    'no concurrency': allow('lambda:PutFunctionConcurrency'),
    'concurrency taken away': allow('lambda:DeleteFunctionConcurrency'),
    'other variables and layers': allow('lambda:UpdateFunctionConfiguration'),
    'its code replaced': allow('lambda:UpdateFunctionCode'),
    'others may invoke it': allow('lambda:AddPermission'),
    'rules may not invoke it': allow('lambda:RemovePermission'),
    'the queue closed': allow('sqs:SetQueueAttributes'),
    "the queue's policy taken apart": allow('sqs:RemovePermission'),
    'the queue purged': allow('sqs:PurgeQueue'),
    'messages deleted': allow('sqs:DeleteMessage'),
    'a rule overwritten': allow('events:PutRule'),
    'a rule disabled': allow('events:DisableRule'),
    'other targets': allow('events:PutTargets'),
    'anybody sends results to the hub': allow('events:PutEvents'),
    'the log kept for a day': allow('logs:PutRetentionPolicy'),
    'the log deleted': allow('logs:DeleteLogGroup'),
    'the stack deleted': allow('cloudformation:DeleteStack'),
    'the stack updated': allow('cloudformation:*'),
    'the actions of a list, in place of all but a list': (it) => { delete keep(it).NotAction; keep(it).Action = ['lambda:Delete*', 'lambda:Put*', 'lambda:Update*', 'sqs:DeleteQueue', 'events:DisableRule', 'iam:PutRolePolicy']; },
    'anybody': letThrough('*'),
    'no message to people': (it) => { keep(it).NotAction = keep(it).NotAction.filter((action: string) => action !== 'sns:Subscribe'); },
  },
  theStackSetIsKept: { 'no stack set': leaveOut(':stackset/') },
  everybodyReads: {
    'nobody reads the log': (it) => { keep(it).NotAction = keep(it).NotAction.filter((action: string) => !action.startsWith('logs:')); },
  },
  whatIsOthersStaysTheirs: { 'every queue': (it) => keep(it).Resource.push(`arn:${it.partition}:sqs:*:*:*`) },
  exemptedRolesAreKept: {
    'stacksets-exec-evil is created': leaveOut('role/stacksets-exec-'),
    'imds-exemption-admin is created': leaveOut('role/imds-exemption-admin'),
    'a role by the name of the function': leaveOut('role/imds-enforcer*'),
    'policies of an exempted role': allow('iam:AttachRolePolicy'),
  },
  whoIsLetThroughIsKept: {
    'more is let through than is kept': letThrough('stacksets-*'),
    'a role that may launch trusts others': (it) => statement(it, 'KeepLaunchingRoles').Action.pop(),
    'a role that may launch is created': (it) => statement(it, 'KeepLaunchingRoles').Action.shift(),
    'a role that is not kept may exempt': (it) => statement(it, 'KeepExemptionTag').Condition.ArnNotLike['aws:PrincipalArn'].push('arn:*:iam::*:role/helpdesk'),
  },
  deployersMayChangeTheStack: { 'no deployer': letNobodyThrough('platform'), 'no stack set': letNobodyThrough('stacksets-exec') },
  theFunctionsOwnCallsPass: {
    'the function itself is denied': (it) => { letNobodyThrough('role/imds-enforcer*')(it); letNobodyThrough('role/StackSet-')(it); },
    'no change to required': (it) => { statement(it, 'NeverLoosenTokens').Condition = { StringNotEquals: { 'ec2:MetadataHttpTokens': 'required' } }; },
  },
  theQueueStaysConnected: {
    'the event source of a stack set': (it) => statement(it, 'KeepItsQueueConnected').Condition.ArnLike['lambda:FunctionArn'].pop(),
    'an event source disabled': (it) => statement(it, 'KeepItsQueueConnected').Action.pop(),
    'the event sources of others': (it) => delete statement(it, 'KeepItsQueueConnected').Condition.ArnLike,
  },
  theDefaultsAreKept: {
    'the defaults are anybody\'s': (it) => { statement(it, 'KeepAccountDefaults').Action = 'ec2:ModifyInstanceMetadataOptions'; },
    'the defaults are nobody\'s': (it) => delete statement(it, 'KeepAccountDefaults').Condition,
  },
  theExemptionTagIsKept: {
    'the tag of another stack': (it) => { statement(it, 'KeepExemptionTag').Condition['ForAnyValue:StringEquals']['aws:TagKeys'] = ['no-imdsv2']; },
    'the tag at launch': (it) => { statement(it, 'KeepExemptionTag').Condition.Null = { 'ec2:CreateAction': 'true' }; },
    'the tag deleted': (it) => statement(it, 'KeepExemptionTag').Action.pop(),
    'all tags together': (it) => { const { Condition } = statement(it, 'KeepExemptionTag'); Condition['ForAllValues:StringEquals'] = Condition['ForAnyValue:StringEquals']; delete Condition['ForAnyValue:StringEquals']; },
    'every tag deleted without a key': (it) => { statement(it, 'KeepExemptionTagAmongAll').Condition.Null['aws:TagKeys'] = 'false'; },
    'every tag': (it) => delete statement(it, 'KeepExemptionTag').Condition['ForAnyValue:StringEquals'],
    'nobody exempts': (it) => delete statement(it, 'KeepExemptionTag').Condition.ArnNotLike,
  },
  tokensAreRequired: {
    'a launch that says nothing': (it) => { statement(it, 'LaunchWithRequiredTokens').Condition = { StringNotEqualsIfExists: { 'ec2:MetadataHttpTokens': 'required' }, Null: { 'ec2:MetadataHttpTokens': 'false' } }; },
    'a role that is named may not launch': (it) => delete statement(it, 'LaunchWithRequiredTokens').Condition.ArnNotLike,
    'a role that is named may loosen': (it) => { statement(it, 'NeverLoosenTokens').Condition.ArnNotLike = statement(it, 'LaunchWithRequiredTokens').Condition.ArnNotLike; },
    'other roles may launch': (it) => statement(it, 'LaunchWithRequiredTokens').Condition.ArnNotLike['aws:PrincipalArn'].push('arn:*:iam::*:role/service-role/*'),
    'a downgrade': (it) => { statement(it, 'NeverLoosenTokens').Condition = { StringEquals: { 'ec2:MetadataHttpTokens': 'optional' } }; },
    'launches that have a network': (it) => { statement(it, 'LaunchWithRequiredTokens').Resource = '*'; },
  },
  hopsAreLimited: {
    'a launch with many hops': (it) => delete statement(it, 'LaunchWithFewHops').Condition.NumericGreaterThan['ec2:MetadataHttpPutResponseHopLimit'] && (statement(it, 'LaunchWithFewHops').Condition = { NumericGreaterThan: { 'ec2:MetadataHttpPutResponseHopLimit': '64' } }),
    'the highest limit itself': (it) => { statement(it, 'NeverRaiseHops').Condition = { NumericGreaterThanEquals: { 'ec2:Attribute/HttpPutResponseHopLimit': '2' } }; },
  },
  oldCredentialsAreRefused: {
    'new credentials too': (it) => { statement(it, 'RefuseCredentialsOfIMDSv1').Condition = { NumericLessThanEquals: { 'ec2:RoleDelivery': '2.0' } }; },
    'no credentials': (it) => { statement(it, 'RefuseCredentialsOfIMDSv1').Condition = { NumericLessThan: { 'ec2:RoleDelivery': '1.0' } }; },
  },
  theDefaultsAreDeclared: {
    'no preference of a hop limit as a word': (it) => { defaults(it).http_put_response_hop_limit = { '@@assign': 'no_preference' }; },
    'no preference of a hop limit as a text': (it) => { defaults(it).http_put_response_hop_limit = { '@@assign': '-1' }; },
    'a field that there is not': (it) => { defaults(it).http_protocol_ipv6 = { '@@assign': 'no_preference' }; },
    'a value with a hyphen, as EC2 spells it': (it) => { defaults(it).http_endpoint = { '@@assign': 'no-preference' }; },
    'optional tokens': (it) => { defaults(it).http_tokens = { '@@assign': 'optional' }; },
  },
};

describe('a seeded fault', () => {
  const everything = render({ ...ALL_ON, DeployingRoles: 'platform,imds-enforcer-deployer' });
  const faults = Object.entries(SEEDED_FAULTS).flatMap(([check, its]) => Object.entries(its).map(([name, seed]) => [name, check, seed] as const));
  test.each(faults)('"%s" is found by %s', async (_, check, seed) => {
    const guardrails = structuredClone(everything);
    seed(guardrails);
    expect(await CHECKS[check]!(guardrails)).not.toEqual([]);
  });

  test.each(['aws-us-gov', 'aws-cn'] as const)('a partition that is written out is found in %s', async (partition) => {
    const elsewhere = { ...render({ TokensPolicy: 'on' }, 'aws'), partition };
    expect(await CHECKS.theStackIsKept!(elsewhere)).not.toEqual([]);
    expect(await CHECKS.tokensAreRequired!(elsewhere)).not.toEqual([]);
  });

  test('every check has one', () => {
    expect(Object.keys(SEEDED_FAULTS).sort()).toEqual(Object.keys(CHECKS).sort());
  });
});
