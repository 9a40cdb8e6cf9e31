import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { App, Stack } from 'aws-cdk-lib';
import { Match, Template } from 'aws-cdk-lib/assertions';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as kms from 'aws-cdk-lib/aws-kms';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import * as sns from 'aws-cdk-lib/aws-sns';
import { describe, expect, test } from 'vitest';
import { ACKNOWLEDGED, makeApp } from './app.js';
import { ImdsEnforcer, ImdsEnforcerProps } from './imds-enforcer.js';

/** Code that need not be built: what it is does not matter to a template. */
function anyCode(): lambda.Code {
  const folder = mkdtempSync(join(tmpdir(), 'bootstrap-'));
  writeFileSync(join(folder, 'bootstrap'), 'stands for the binary');
  return lambda.Code.fromAsset(folder);
}

function synthesize(props: (stack: Stack) => ImdsEnforcerProps = () => ({})): Template {
  const stack = new Stack(new App(), 'Stack');
  new ImdsEnforcer(stack, 'ImdsEnforcer', { code: anyCode(), ...props(stack) });
  return Template.fromStack(stack);
}

/** What cdk-nag finds in the app, by rule: the synthesis then fails, and leaves a report. */
function findings(acknowledged: typeof ACKNOWLEDGED): string[] {
  const app = makeApp(() => ({ code: anyCode() }), acknowledged);
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

test('the template is as its snapshot says', () => {
  const template = synthesize().toJSON();
  const [code] = Object.values<any>(template.Resources).filter((it) => it.Type === 'AWS::Lambda::Function');
  code.Properties.Code = 'the asset';
  expect(template).toMatchSnapshot();
});

describe("a team's own", () => {
  test('key encrypts queues, topic and log, and the role may use it', () => {
    const template = synthesize((stack) => ({ key: new kms.Key(stack, 'Key') }));
    const ofKey = { 'Fn::GetAtt': [Match.stringLikeRegexp('^Key'), 'Arn'] };
    template.allResourcesProperties('AWS::SQS::Queue', { KmsMasterKeyId: ofKey, SqsManagedSseEnabled: Match.absent() });
    template.hasResourceProperties('AWS::SNS::Topic', { KmsMasterKeyId: ofKey });
    template.hasResourceProperties('AWS::Logs::LogGroup', { KmsKeyId: ofKey });
    template.hasResourceProperties('AWS::IAM::Role', {
      Policies: Match.arrayWith([Match.objectLike({ PolicyName: 'Key' })]),
    });
  });

  test('topic gets the alarms in place of one that is made', () => {
    const arn = 'arn:aws:sns:us-east-1:111122223333:security';
    const template = synthesize((stack) => ({ alarmTopic: sns.Topic.fromTopicArn(stack, 'Topic', arn) }));
    template.resourceCountIs('AWS::SNS::Topic', 0);
    template.resourceCountIs('AWS::SNS::TopicPolicy', 0);
    template.allResourcesProperties('AWS::CloudWatch::Alarm', { AlarmActions: [arn] });
  });

  test('VPC is what the function runs in, and the role may join it', () => {
    const template = synthesize((stack) => ({ vpc: new ec2.Vpc(stack, 'Vpc') }));
    template.hasResourceProperties('AWS::Lambda::Function', { VpcConfig: Match.objectLike({ SubnetIds: Match.anyValue() }) });
    template.hasResourceProperties('AWS::IAM::Role', {
      Policies: Match.arrayWith([Match.objectLike({ PolicyName: 'Network' })]),
    });
  });

  test("permissions boundary bounds the role", () => {
    const arn = 'arn:aws:iam::111122223333:policy/boundary';
    const template = synthesize((stack) => ({
      permissionsBoundary: iam.ManagedPolicy.fromManagedPolicyArn(stack, 'Boundary', arn),
    }));
    template.hasResourceProperties('AWS::IAM::Role', { PermissionsBoundary: arn });
  });
});

test('two of them in one stack do not collide', () => {
  const stack = new Stack(new App(), 'Stack');
  new ImdsEnforcer(stack, 'One', { code: anyCode() });
  new ImdsEnforcer(stack, 'Two', { code: anyCode(), mode: 'observe' });
  Template.fromStack(stack).resourceCountIs('AWS::Lambda::Function', 2);
});

test('in observe mode the role can not write', () => {
  const roles = synthesize(() => ({ mode: 'observe' })).findResources('AWS::IAM::Role');
  expect(JSON.stringify(roles)).not.toContain('ModifyInstanceMetadataOptions');
});
