/**
 * An app with one stack of one {@link ImdsEnforcer}, checked by cdk-nag.
 *
 * `npx cdk deploy -c mode=observe -c alarmEmail=security@example.com`
 */
import { App, CfnOutput, Duration, Stack, Validations } from 'aws-cdk-lib';
import * as events from 'aws-cdk-lib/aws-events';
import * as kms from 'aws-cdk-lib/aws-kms';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import { AwsSolutionsChecks } from 'cdk-nag';
import { ImdsEnforcer, ImdsEnforcerProps } from './imds-enforcer.js';

/** What cdk-nag finds and is right as it is, each with the reason. */
export const ACKNOWLEDGED = [
  {
    id: 'AwsSolutions-IAM5[Resource::*]',
    reason: 'DescribeInstances knows no resource; it is limited to the Region',
  },
  {
    id: 'AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:ec2:<AWS::Region>:<AWS::AccountId>:instance/*]',
    reason: 'Every instance of the account and Region is looked after; HttpTokens=required alone may be requested',
  },
];

/** What the context (`-c name=value`) says of the construct's properties. */
function fromContext(stack: Stack): ImdsEnforcerProps {
  const known = ['mode', 'apiCallEvents', 'stateChangeEvents', 'sweep', 'sweepSchedule', 'sweepAlarmHours', 'alarmEmail'];
  known.push('exemptionTag', 'exemptionMaxDays', 'sweepGraceDays', 'resultBus', 'resultBusArn', 'resultEmail');
  known.push('timeToEnforceAlarmMilliseconds', 'dashboard');
  known.push('logRetention', 'architecture', 'reservedConcurrency', 'keyArn', 'xray', 'code');
  const given = (name: string): string | undefined => {
    if (!known.includes(name)) throw new Error(`${name} is not read from the context; there are ${known.join(', ')}`);
    return stack.node.tryGetContext(name)?.toString();
  };
  const oneOf = <T extends string>(name: string, ...allowed: T[]): T | undefined => {
    const value = given(name);
    if (value !== undefined && !allowed.includes(value as T)) {
      throw new Error(`context ${name} is ${value}; allowed: ${allowed.join(', ')}`);
    }
    return value as T | undefined;
  };
  const aSwitch = (name: string) => ({ on: true, off: false, none: undefined })[oneOf(name, 'on', 'off') ?? 'none'];
  const number = (name: string) => (given(name) === undefined ? undefined : Number(given(name)));
  const made = <T>(name: string, make: (value: string) => T) => (given(name) ? make(given(name)!) : undefined);
  return {
    mode: oneOf('mode', 'enforce', 'observe'),
    exemptionTag: given('exemptionTag'),
    exemptionMaxDays: number('exemptionMaxDays'),
    sweepGraceDays: number('sweepGraceDays'),
    resultBus: given('resultBus') ?? made('resultBusArn', (arn) => events.EventBus.fromEventBusArn(stack, 'ResultBus', arn)),
    resultEmail: given('resultEmail'),
    timeToEnforceAlarm: made('timeToEnforceAlarmMilliseconds', (it) => Duration.millis(Number(it))),
    dashboard: aSwitch('dashboard'),
    apiCallEvents: aSwitch('apiCallEvents'),
    stateChangeEvents: aSwitch('stateChangeEvents'),
    sweep: aSwitch('sweep'),
    sweepSchedule: made('sweepSchedule', events.Schedule.expression),
    sweepAlarmHours: number('sweepAlarmHours'),
    alarmEmail: given('alarmEmail'),
    logRetention: number('logRetention'),
    architecture: oneOf('architecture', 'x86_64', 'arm64') === 'arm64' ? lambda.Architecture.ARM_64 : undefined,
    reservedConcurrency: number('reservedConcurrency'),
    key: made('keyArn', (arn) => kms.Key.fromKeyArn(stack, 'Key', arn)),
    xray: aSwitch('xray'),
    code: made('code', (path) => lambda.Code.fromAsset(path)),
  };
}

/** The app. What cdk-nag finds and is not acknowledged fails its synthesis. */
export function makeApp(props: (stack: Stack) => ImdsEnforcerProps, acknowledged = ACKNOWLEDGED): App {
  const app = new App();
  const stack = new Stack(app, 'imds-enforcer-cdk', {
    description: 'imds-enforcer: requires IMDSv2 session tokens on the EC2 instances of this account and Region',
  });
  const enforcer = new ImdsEnforcer(stack, 'ImdsEnforcer', props(stack));
  for (const [name, value] of Object.entries({
    FunctionName: enforcer.function.functionName,
    DeadLetterQueueUrl: enforcer.deadLetterQueue.queueUrl,
    DeadLetterQueueArn: enforcer.deadLetterQueue.queueArn,
    StateChangeQueueUrl: enforcer.stateChangeQueue.queueUrl,
    StateChangeQueueArn: enforcer.stateChangeQueue.queueArn,
    ApiCallRuleName: enforcer.rules.apiCalls.ref,
    StateChangeRuleName: enforcer.rules.stateChanges.ref,
    SweepRuleName: enforcer.rules.sweep.ref,
    AlarmTopicArn: enforcer.alarmTopic.topicArn,
    LogGroupName: enforcer.logGroup.logGroupName,
    RoleArn: enforcer.role.roleArn,
    ...(enforcer.resultTopic && { ResultTopicArn: enforcer.resultTopic.topicArn }),
  })) {
    new CfnOutput(stack, name, { value });
  }
  Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
  for (const finding of acknowledged) {
    Validations.of(stack).acknowledge(finding);
  }
  return app;
}

if (process.argv[1] === import.meta.filename) {
  makeApp(fromContext).synth();
}
