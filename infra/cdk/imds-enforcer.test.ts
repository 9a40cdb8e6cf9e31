import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { App, Stack } from 'aws-cdk-lib';
import { Match, Template } from 'aws-cdk-lib/assertions';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as kms from 'aws-cdk-lib/aws-kms';
import * as sns from 'aws-cdk-lib/aws-sns';
import { describe, expect, test } from 'vitest';
import { allows } from '../simulator.js';
import { ACKNOWLEDGED, createApp } from './app.js';
import { propsFromContext } from './context.js';
import { ImdsEnforcer } from './imds-enforcer.js';
import { Props, required, synthesize } from './stand.js';

/** The findings of cdk-nag in the app, by rule: the synthesis then fails, and leaves a report. */
function findings(acknowledged: typeof ACKNOWLEDGED): string[] {
  const app = createApp(required, acknowledged);
  try {
    app.synth();
  } catch (error) {
    expect((error as Error).name).toBe('ValidationFailed');
  }
  const { pluginReports } = JSON.parse(readFileSync(join(app.outdir, 'validation-report.json'), 'utf8'));
  return pluginReports.flatMap((it: { violations: { ruleName: string }[] }) => it.violations.map((one) => one.ruleName));
}

describe('cdk-nag', () => {
  test('finds nothing that is not acknowledged', () => {
    expect(findings(ACKNOWLEDGED)).toEqual([]);
  });

  test('finds all that is acknowledged, so that no acknowledgement is idle', () => {
    expect(findings([]).sort()).toEqual(ACKNOWLEDGED.map((it) => it.id).sort());
  });
});

test('the stack of the app has the outputs of the template, under their names', () => {
  const { Outputs } = createApp(required).synth().getStackByName('imds-enforcer-cdk').template;
  expect(Object.keys(Outputs).sort()).toEqual([
    'AlarmTopicArn', 'ChangeRuleName', 'DeadLetterQueueArn', 'DeadLetterQueueUrl', 'FunctionArn', 'FunctionName', 'LaunchQueueArn',
    'LaunchQueueUrl', 'LaunchRuleName', 'LogGroupName', 'RoleArn', 'StateChangeRuleName', 'SweepRuleName',
  ]);
});

test('the logical ids of what outlives the stack or others name do not change, since CloudFormation would replace it', () => {
  const { Resources } = createApp(required).synth().getStackByName('imds-enforcer-cdk').template;
  expect(Resources).toMatchObject({
    ImdsEnforcerTemplateAlarmTopic27BEC186: { Type: 'AWS::SNS::Topic' },
    ImdsEnforcerTemplateDeadLetterQueueADEAAAAF: { Type: 'AWS::SQS::Queue' },
    ImdsEnforcerTemplateFunctionRoleBED2D625: { Type: 'AWS::IAM::Role' },
    ImdsEnforcerTemplateLogGroupDD56625E: { Type: 'AWS::Logs::LogGroup' },
  });
});

describe('the stack, as it is synthesized,', () => {
  const one = (template: Template, type: string, name: string) => {
    const found = Object.entries(template.findResources(type)).filter(([id]) => new RegExp(`^ImdsEnforcerTemplate${name}[0-9A-F]{8}$`).test(id));
    expect(found.map(([id]) => id)).toHaveLength(1);
    return found[0]![1];
  };

  test('keeps its log and its dead letters, and no queue of launches', () => {
    const template = synthesize();
    const kept = { DeletionPolicy: 'RetainExceptOnCreate', UpdateReplacePolicy: 'Retain' };
    expect(one(template, 'AWS::Logs::LogGroup', 'LogGroup')).toMatchObject(kept);
    expect(one(template, 'AWS::SQS::Queue', 'DeadLetterQueue')).toMatchObject(kept);
    expect(one(template, 'AWS::SQS::Queue', 'LaunchQueue')).toMatchObject({ DeletionPolicy: 'Delete', UpdateReplacePolicy: 'Delete' });
  });

  test.each([
    ['apiCallEvents', ['LaunchRule', 'ChangeRule']],
    ['stateChangeEvents', ['StateChangeRule']],
    ['sweep', ['SweepRule']],
  ])('turns %s off by %j alone', (property, off) => {
    const rules = ['LaunchRule', 'ChangeRule', 'StateChangeRule', 'SweepRule'];
    const states = (disabled: string[]) => Object.fromEntries(rules.map((it) => [it, disabled.includes(it) ? 'DISABLED' : 'ENABLED']));
    const found = (props: Props) => {
      const template = synthesize(() => props);
      return Object.fromEntries(rules.map((it) => [it, one(template, 'AWS::Events::Rule', it).Properties.State]));
    };
    expect(found({})).toEqual(states([]));
    expect(found({ [property]: false })).toEqual(states(off));
  });

  test('receives from the queue whatever is off, as a redrive needs it', () => {
    for (const on of [true, false]) {
      const template = synthesize(() => ({ stateChangeEvents: on, apiCallEvents: on }));
      const source = one(template, 'AWS::Lambda::EventSourceMapping', 'LaunchSource');
      expect(source.Properties).toMatchObject({ Enabled: true, FunctionResponseTypes: ['ReportBatchItemFailures'] });
    }
  });

  test.each<[Props, object]>([
    [{}, { Architectures: ['x86_64'], Tracing: 'PassThrough' }],
    [{ architecture: 'arm64', xRay: true }, { Architectures: ['arm64'], Tracing: 'Active' }],
  ])('has a function of the properties %j', (props, expected) => {
    expect(one(synthesize(() => props), 'AWS::Serverless::Function', 'Function').Properties).toMatchObject(expected);
  });
});

describe('what a team grants', () => {
  const granted = (props: (stack: Stack) => Props, grant: (enforcer: ImdsEnforcer, stack: Stack) => void) => {
    const stack = new Stack(new App(), 'Stack');
    const enforcer = new ImdsEnforcer(stack, 'ImdsEnforcer', { ...required(), ...props(stack) });
    grant(enforcer, stack);
    return Template.fromStack(stack);
  };
  const ofFunctionRole = Match.objectLike({ 'Fn::Select': [1, Match.objectLike({
    'Fn::Split': ['/', Match.objectLike({ 'Fn::Select': [5, { 'Fn::Split': [':', { 'Fn::GetAtt': [Match.stringLikeRegexp('FunctionRole'), 'Arn'] }] }] })],
  })] });

  test.each([
    ['role', (it: ImdsEnforcer) => it.role],
    ['function', (it: ImdsEnforcer) => it.function],
  ])('the %s is a policy of the role', (_, grantee) => {
    const template = granted(() => ({}), (enforcer, stack) => {
      sns.Topic.fromTopicArn(stack, 'Audit', 'arn:aws:sns:us-east-1:111122223333:audit').grantPublish(grantee(enforcer));
    });
    template.hasResourceProperties('AWS::IAM::Policy', {
      Roles: [ofFunctionRole],
      PolicyDocument: { Statement: [{ Action: 'sns:Publish', Effect: 'Allow', Resource: 'arn:aws:sns:us-east-1:111122223333:audit' }] },
    });
  });

  test('for a queue or a topic includes its key', () => {
    let reader!: iam.Role;
    const template = granted((stack) => ({ key: new kms.Key(stack, 'Key'), resultBus: 'security' }), (enforcer, stack) => {
      reader = new iam.Role(stack, 'Reader', { assumedBy: new iam.AccountRootPrincipal() });
      enforcer.deadLetterQueue.grantConsumeMessages(reader);
      enforcer.launchQueue.grantSendMessages(reader);
      enforcer.resultTopic!.grantPublish(reader);
    });
    const [policy] = Object.values(template.findResources('AWS::IAM::Policy'));
    const ofKey = policy!.Properties.PolicyDocument.Statement.filter((it: any) => JSON.stringify(it.Action).includes('kms:'));
    for (const statement of ofKey) expect(statement.Resource).toEqual({ 'Fn::GetAtt': [expect.stringMatching(/^Key/), 'Arn'] });
    const actions = ofKey.flatMap((it: any) => it.Action);
    expect(actions).toEqual(expect.arrayContaining(['kms:Decrypt', 'kms:Encrypt', 'kms:GenerateDataKey*']));
  });
});

describe("a team's own", () => {
  test('key encrypts queues, topics and log, and the role may use it', () => {
    const template = synthesize((stack) => ({ key: new kms.Key(stack, 'Key'), resultBus: 'security' }));
    const ofKey = { 'Fn::GetAtt': [Match.stringLikeRegexp('^Key'), 'Arn'] };
    template.allResourcesProperties('AWS::SQS::Queue', { KmsMasterKeyId: ofKey, SqsManagedSseEnabled: Match.absent() });
    template.resourceCountIs('AWS::SNS::Topic', 2);
    template.allResourcesProperties('AWS::SNS::Topic', { KmsMasterKeyId: ofKey });
    template.hasResourceProperties('AWS::Logs::LogGroup', { KmsKeyId: ofKey });
    const statement = Match.objectLike({ Action: ['kms:Decrypt', 'kms:GenerateDataKey'], Resource: ofKey });
    template.hasResourceProperties('AWS::IAM::Role', {
      Policies: Match.arrayWith([{ PolicyName: 'Key', PolicyDocument: Match.objectLike({ Statement: [statement] }) }]),
    });
  });

  test('topic gets the alarms in place of one that is created', () => {
    const arn = 'arn:aws:sns:us-east-1:111122223333:security';
    const template = synthesize((stack) => ({ alarmTopic: sns.Topic.fromTopicArn(stack, 'Topic', arn) }));
    template.resourceCountIs('AWS::SNS::Topic', 0);
    template.resourceCountIs('AWS::SNS::TopicPolicy', 0);
    template.allResourcesProperties('AWS::CloudWatch::Alarm', { AlarmActions: [arn] });
  });

  test('VPC is what the function runs in, and the role may join it', () => {
    const template = synthesize((stack) => ({ vpc: new ec2.Vpc(stack, 'Vpc') }));
    template.hasResourceProperties('AWS::Serverless::Function', {
      VpcConfig: {
        SubnetIds: Match.arrayEquals([{ Ref: Match.stringLikeRegexp('^VpcPrivate') }, { Ref: Match.stringLikeRegexp('^VpcPrivate') }]),
        SecurityGroupIds: [{ 'Fn::GetAtt': [Match.stringLikeRegexp('SecurityGroup'), 'GroupId'] }],
      },
    });
    template.hasResourceProperties('AWS::IAM::Role', {
      Policies: Match.arrayWith([Match.objectLike({ PolicyName: 'Network' })]),
    });
  });

  test('VPC has the function in its private subnets, never in public ones', () => {
    const inPublic = { vpcSubnets: { subnetType: ec2.SubnetType.PUBLIC } };
    expect(() => synthesize((stack) => ({ vpc: new ec2.Vpc(stack, 'Vpc'), ...inPublic }))).toThrow(
      'Stack/Vpc/PublicSubnet1, Stack/Vpc/PublicSubnet2 of the VPC are public, where a function reaches nothing outside the VPC',
    );
    const subnetConfiguration = [{ name: 'Public', subnetType: ec2.SubnetType.PUBLIC }];
    expect(() => synthesize((stack) => ({ vpc: new ec2.Vpc(stack, 'Vpc', { subnetConfiguration }) }))).toThrow('are public');
    expect(() => synthesize(() => inPublic)).toThrow('vpcSubnets is given without vpc');
  });

  test("permissions boundary bounds the role", () => {
    const arn = 'arn:aws:iam::111122223333:policy/boundary';
    const template = synthesize((stack) => ({
      permissionsBoundary: iam.ManagedPolicy.fromManagedPolicyArn(stack, 'Boundary', arn),
    }));
    template.hasResourceProperties('AWS::IAM::Role', { PermissionsBoundary: arn });
  });

  test('bus gets the results, and the role may put events there alone', () => {
    const template = synthesize((stack) => ({ resultEventBus: new events.EventBus(stack, 'Bus') }));
    const arn = { 'Fn::GetAtt': [Match.stringLikeRegexp('^Bus'), 'Arn'] };
    template.resourceCountIs('AWS::Events::EventBus', 1);
    template.hasResourceProperties('AWS::Serverless::Function', { Environment: { Variables: Match.objectLike({ IMDS_RESULT_BUS: arn }) } });
    const statement = Match.objectLike({ Action: 'events:PutEvents', Resource: arn });
    template.hasResourceProperties('AWS::IAM::Role', {
      Policies: Match.arrayWith([{ PolicyName: 'PublishResults', PolicyDocument: Match.objectLike({ Statement: [statement] }) }]),
    });
  });

  test('resource is not given twice', () => {
    const kmsKeyArn = 'arn:aws:kms:us-east-1:111122223333:key/1';
    const twice = () => synthesize((stack) => ({ key: new kms.Key(stack, 'Key'), kmsKeyArn }));
    expect(twice).toThrow('kmsKeyArn and the resource itself are given; give one of them');
  });

  test('bus is not given beside one to create', () => {
    const message = 'resultBus creates a bus, and resultBusArn or resultEventBus is an existing one; give one of them';
    const resultBusArn = 'arn:aws:events:us-east-1:444455556666:event-bus/all';
    expect(() => synthesize((stack) => ({ resultBus: 'security', resultEventBus: new events.EventBus(stack, 'Bus') }))).toThrow(message);
    expect(() => synthesize(() => ({ resultBus: 'security', resultBusArn }))).toThrow(message);
    const context = { enforceSince: 'all', resultBus: 'security', resultBusArn };
    expect(() => synthesize((stack) => {
      for (const [name, value] of Object.entries(context)) stack.node.setContext(name, value);
      return propsFromContext(stack);
    })).toThrow(message);
  });
});

test('a hub is not given beside another bus', () => {
  const message = 'hubBusArn takes the place of resultBus, resultBusArn and resultEventBus; give one of them';
  const hubBusArn = 'arn:aws:events:eu-west-1:444455556666:event-bus/hub';
  expect(() => synthesize(() => ({ hubBusArn, resultBus: 'security' }))).toThrow(message);
  expect(() => synthesize(() => ({ hubBusArn, resultBusArn: hubBusArn }))).toThrow(message);
  expect(() => synthesize((stack) => ({ hubBusArn, resultEventBus: new events.EventBus(stack, 'Bus') }))).toThrow(message);
});

test('two of them in one stack do not collide', () => {
  const stack = new Stack(new App(), 'Stack');
  new ImdsEnforcer(stack, 'One', required());
  new ImdsEnforcer(stack, 'Two', { ...required(), mode: 'observe' });
  const template = Template.fromStack(stack);
  template.resourceCountIs('AWS::Serverless::Function', 2);
  const modes = Object.values(template.findResources('AWS::Serverless::Function')).map((it) => it.Properties.Environment.Variables.IMDS_MODE);
  expect(modes.sort()).toEqual(['enforce', 'observe']);
});

test('in observe mode the role can not write', () => {
  const roles = synthesize(() => ({ mode: 'observe' })).findResources('AWS::IAM::Role');
  expect(JSON.stringify(roles)).not.toContain('ModifyInstanceMetadataOptions');
});

describe('the role, stolen,', () => {
  const ACCOUNT = '111122223333';
  const PSEUDO: Record<string, string> = { 'AWS::Partition': 'aws', 'AWS::Region': 'us-east-1', 'AWS::AccountId': ACCOUNT };
  const instance = (region = 'us-east-1', account = ACCOUNT) => `arn:aws:ec2:${region}:${account}:instance/i-1a2b3c4d`;

  const bus = (name: string) => `arn:aws:events:us-east-1:${ACCOUNT}:event-bus/${name}`;

  /** What CloudFormation makes of a value, with the logical id in place of what only it knows. */
  function resolved(value: any): any {
    if (Array.isArray(value)) return value.map(resolved);
    if (value === null || typeof value !== 'object') return value;
    if (value.Ref in PSEUDO) return PSEUDO[value.Ref];
    if (value['Fn::GetAtt']) {
      const [name] = value['Fn::GetAtt'];
      return name.includes('ResultEventBus') ? bus(name) : `arn:aws:sqs:us-east-1:${ACCOUNT}:${name}`;
    }
    if (value['Fn::Sub']) return value['Fn::Sub'].replace(/\$\{(.+?)\}/g, (_: string, name: string) => PSEUDO[name]);
    if (value['Fn::Join']) return resolved(value['Fn::Join'][1]).join(value['Fn::Join'][0]);
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolved(inner)]));
  }

  async function may(
    action: string,
    resource: string,
    context: Record<string, string | string[]> = {},
    props: Props = {},
  ) {
    const stack = new Stack(new App(), 'Stack', { env: { account: ACCOUNT, region: 'us-east-1' } });
    new ImdsEnforcer(stack, 'ImdsEnforcer', { ...required(), ...props });
    const [role] = Object.values(Template.fromStack(stack).findResources('AWS::IAM::Role'));
    const policies = resolved(role.Properties.Policies) as { PolicyName: string; PolicyDocument: unknown }[];
    const simulation = {
      request: {
        principal: `arn:aws:iam::${ACCOUNT}:role/stolen`,
        action,
        resource: { resource, accountId: ACCOUNT },
        contextVariables: context,
      },
      identityPolicies: policies.map((it) => ({ name: it.PolicyName, policy: it.PolicyDocument })),
      serviceControlPolicies: [],
      resourceControlPolicies: [],
    };
    return allows(simulation, { wildcard: true });
  }

  const modify = (context: Record<string, string>, arn = instance()) => may('ec2:ModifyInstanceMetadataOptions', arn, context);

  test('can require tokens', async () => {
    expect(await modify({ 'ec2:Attribute/HttpTokens': 'required' })).toBe(true);
  });

  test('can not loosen an instance, nor change an option without requiring tokens', async () => {
    expect(await modify({ 'ec2:Attribute/HttpTokens': 'optional' })).toBe(false);
    expect(await modify({})).toBe(false);
  });

  const requiring = { 'ec2:Attribute/HttpTokens': 'required', 'ec2:MetadataHttpTokens': 'optional' };
  const opening = { ...requiring, 'ec2:Attribute/HttpEndpoint': 'enabled' };

  test('can require tokens whichever of the keys on the endpoint EC2 fills', async () => {
    expect(await modify(requiring)).toBe(true);
    expect(await modify(opening)).toBe(true);
    expect(await modify({ ...requiring, 'ec2:MetadataHttpEndpoint': 'enabled' })).toBe(true);
    expect(await modify({ ...opening, 'ec2:MetadataHttpEndpoint': 'enabled' })).toBe(true);
  });

  test('can not close an endpoint, nor open one that is closed', async () => {
    expect(await modify({ ...requiring, 'ec2:Attribute/HttpEndpoint': 'disabled' })).toBe(false);
    expect(await modify({ ...requiring, 'ec2:Attribute/HttpEndpoint': 'disabled', 'ec2:MetadataHttpEndpoint': 'enabled' })).toBe(false);
    expect(await modify({ ...requiring, 'ec2:MetadataHttpEndpoint': 'disabled' })).toBe(false);
    expect(await modify({ ...opening, 'ec2:MetadataHttpEndpoint': 'disabled' })).toBe(false);
  });

  test('can still raise hop limits, and open IPv6 and tags, where it requires tokens', async () => {
    expect(await modify({ ...requiring, 'ec2:Attribute/HttpPutResponseHopLimit': '64' })).toBe(true);
    expect(await modify({ ...requiring, 'ec2:Attribute/HttpProtocolIpv6': 'enabled' })).toBe(true);
    expect(await modify({ ...requiring, 'ec2:Attribute/InstanceMetadataTags': 'enabled' })).toBe(true);
  });

  test('can not touch another Region or account', async () => {
    const required = { 'ec2:Attribute/HttpTokens': 'required' };
    expect(await modify(required, instance('eu-central-1'))).toBe(false);
    expect(await modify(required, instance('us-east-1', '444455556666'))).toBe(false);
    expect(await may('ec2:DescribeInstances', '*', { 'ec2:Region': 'eu-central-1' })).toBe(false);
    expect(await may('ec2:DescribeInstances', '*', { 'ec2:Region': 'us-east-1' })).toBe(true);
  });

  test('can send results of its own to its bus, where there is one, and nothing else', async () => {
    const withBus = { resultBus: 'security' };
    const put = (resource: string, source: string, props: Props) =>
      may('events:PutEvents', resource, { 'events:source': [source] }, props);
    const [logicalId] = Object.keys(synthesize(() => withBus).findResources('AWS::Events::EventBus'));
    const own = bus(logicalId!);
    expect(await put(own, 'imds-enforcer', withBus)).toBe(true);
    expect(await put(own, 'aws.ec2', withBus)).toBe(false);
    expect(await put(`${own}2`, 'imds-enforcer', withBus)).toBe(false);
    expect(await put(own, 'imds-enforcer', {})).toBe(false);
  });

  test('can read metrics for a grace and for a watch, alone', async () => {
    expect(await may('cloudwatch:GetMetricData', '*', {}, { graceDays: 14 })).toBe(true);
    expect(await may('cloudwatch:GetMetricData', '*', {}, { watchRefusals: '1' })).toBe(true);
    expect(await may('cloudwatch:GetMetricData', '*')).toBe(false);
  });

  test('can send to the queue of launches, where its failed events go on, and to no other', async () => {
    const ids = Object.keys(synthesize().findResources('AWS::SQS::Queue'));
    const send = (name: string) => {
      const [logicalId] = ids.filter((it) => it.startsWith(`ImdsEnforcerTemplate${name}`));
      return may('sqs:SendMessage', `arn:aws:sqs:us-east-1:${ACCOUNT}:${logicalId}`);
    };
    expect(await send('LaunchQueue')).toBe(true);
    expect(await send('DeadLetterQueue')).toBe(false);
  });

  test('can do nothing else to an instance', async () => {
    for (const action of ['ec2:TerminateInstances', 'ec2:StopInstances', 'ec2:CreateTags', 'ec2:ModifyInstanceAttribute']) {
      expect(await may(action, instance())).toBe(false);
    }
  });
});
