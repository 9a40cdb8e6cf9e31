/**
 * imds-enforcer as one construct: requires IMDSv2 session tokens on the EC2 instances of the
 * stack's account and Region, within seconds of a launch or a downgrade.
 *
 * Equal in effect to `infra/template.yaml`, resource by resource and name by name, which a test
 * holds it to: what is explained there is not explained here again.
 */
import { fileURLToPath } from 'node:url';
import { Duration, RemovalPolicy, Stack } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as kms from 'aws-cdk-lib/aws-kms';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as sns from 'aws-cdk-lib/aws-sns';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';

/** How an {@link ImdsEnforcer} is to work. Every property has a default. */
export interface ImdsEnforcerProps {
  /**
   * `enforce` requires tokens where they are not required; `observe` only reports, and its role
   * can't write.
   * @default enforce
   */
  readonly mode?: 'enforce' | 'observe';
  /**
   * The key of the tag that exempts an instance: its value is the last day (`YYYY-MM-DD`) and a
   * reason. Whoever may set it may exempt.
   * @default there are no exemptions
   */
  readonly exemptionTag?: string;
  /**
   * How many days ahead the last day of an exemption may be at the most: 1 to 365.
   * @default 90
   */
  readonly exemptionMaxDays?: number;
  /**
   * The sweep leaves instances as they are that were used without tokens in so many days before,
   * 1 to 90.
   * @default 0: the sweep enforces all
   */
  readonly sweepGraceDays?: number;
  /**
   * A bus that gets an event for each violator: the name of one that is made here, with a rule and
   * a topic for messages, or one that there is.
   * @default no results are sent
   */
  readonly resultBus?: string | events.IEventBus;
  /**
   * Who gets a message for each event of a bus that is made here; the address must confirm once.
   * @default nobody
   */
  readonly resultEmail?: string;
  /**
   * From how long between an event and the answer that tokens are required the alarm fires.
   * @default 5 minutes
   */
  readonly timeToEnforceAlarm?: Duration;
  /**
   * Whether a CloudWatch dashboard is made.
   * @default true
   */
  readonly dashboard?: boolean;
  /**
   * Whether RunInstances and ModifyInstanceMetadataOptions calls are heard. Needs a trail that
   * records management events.
   * @default true
   */
  readonly apiCallEvents?: boolean;
  /**
   * Whether state changes to `pending` and `running` are heard.
   * @default true
   */
  readonly stateChangeEvents?: boolean;
  /**
   * Whether every instance of the Region is looked at on a schedule.
   * @default true
   */
  readonly sweep?: boolean;
  /**
   * When the sweep runs.
   * @default every hour
   */
  readonly sweepSchedule?: events.Schedule;
  /**
   * After how many hours without a sweep the alarm fires: more than the schedule's period.
   * @default 3
   */
  readonly sweepAlarmHours?: number;
  /**
   * Who gets the alarms by e-mail; the address must confirm once.
   * @default nobody
   */
  readonly alarmEmail?: string;
  /**
   * A topic of your own for the alarms. Its policy must let CloudWatch publish.
   * @default a topic is made
   */
  readonly alarmTopic?: sns.ITopic;
  /**
   * How long the log is kept.
   * @default 90 days
   */
  readonly logRetention?: logs.RetentionDays;
  /**
   * What the function runs on.
   * @default x86_64
   */
  readonly architecture?: lambda.Architecture;
  /**
   * How many of the account's concurrent executions are reserved for the function.
   * @default none
   */
  readonly reservedConcurrency?: number;
  /**
   * A key of your own for queues, topic and log. Its policy must let `logs`, `events`,
   * `cloudwatch` and `sns` use it.
   * @default the services' own encryption
   */
  readonly key?: kms.IKey;
  /**
   * Whether AWS X-Ray traces the function.
   * @default false
   */
  readonly xray?: boolean;
  /**
   * A VPC of your own to run the function in. It must have a way to EC2's endpoint.
   * @default the function runs in no VPC
   */
  readonly vpc?: ec2.IVpc;
  /**
   * Which subnets of the VPC.
   * @default its private subnets
   */
  readonly vpcSubnets?: ec2.SubnetSelection;
  /**
   * The boundary of the role's permissions.
   * @default none
   */
  readonly permissionsBoundary?: iam.IManagedPolicy;
  /**
   * The `bootstrap`, as `make package` makes it.
   * @default it is built by `cargo lambda build`, which must be on the PATH
   */
  readonly code?: lambda.Code;
}

/** The function, what it hears, what it keeps, and whom it tells. */
export class ImdsEnforcer extends Construct {
  /** The function. */
  readonly function: lambda.Function;
  /** Its role, to be named in an organization's policies. */
  readonly role: iam.IRole;
  /** Where state changes are gathered, and dead letters are sent again. */
  readonly stateChangeQueue: sqs.IQueue;
  /** Events that could not be looked after. */
  readonly deadLetterQueue: sqs.IQueue;
  /** What alarms are sent to. */
  readonly alarmTopic: sns.ITopic;
  /** The log. */
  readonly logGroup: logs.ILogGroup;
  /** The rules, each for one source of events. */
  readonly rules: { apiCalls: events.CfnRule; stateChanges: events.CfnRule; sweep: events.CfnRule };
  /** What messages on results are sent to, if their bus is made here. */
  readonly resultTopic?: sns.ITopic;

  private readonly resultBus?: events.IEventBus;

  constructor(scope: Construct, id: string, private readonly props: ImdsEnforcerProps = {}) {
    super(scope, id);
    this.logGroup = new logs.LogGroup(this, 'LogGroup', {
      retention: props.logRetention ?? logs.RetentionDays.THREE_MONTHS,
      encryptionKey: props.key,
      removalPolicy: RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
    });
    this.deadLetterQueue = this.queue('DeadLetterQueue', {
      removalPolicy: RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
    });
    this.stateChangeQueue = this.queue('StateChangeQueue', {
      visibilityTimeout: Duration.minutes(6),
      deadLetterQueue: { queue: this.deadLetterQueue, maxReceiveCount: 5 },
      removalPolicy: RemovalPolicy.DESTROY,
    });
    this.resultBus = this.makeResultBus();
    const role = this.makeRole();
    this.role = role;
    this.function = this.makeFunction(role);
    this.rules = this.makeRules();
    const results = this.makeResults();
    this.resultTopic = results?.topic;
    const rules = [...Object.values(this.rules), ...(results ? [results.rule] : [])];
    this.admit('DeadLetterQueue', this.deadLetterQueue, 'EventsThatARuleCouldNotDeliver', rules);
    this.admit('StateChangeQueue', this.stateChangeQueue, 'StateChanges', [this.rules.stateChanges]);
    this.alarmTopic = props.alarmTopic ?? this.makeAlarmTopic();
    this.makeAlarms();
    if (props.dashboard ?? true) this.makeDashboard();
  }

  private queue(id: string, props: sqs.QueueProps): sqs.Queue {
    const { key } = this.props;
    const encryption = key
      ? { encryption: sqs.QueueEncryption.KMS, encryptionMasterKey: key }
      : { encryption: sqs.QueueEncryption.SQS_MANAGED };
    return new sqs.Queue(this, id, { retentionPeriod: Duration.days(14), ...encryption, ...props });
  }

  private makeRole(): iam.Role {
    const { mode = 'enforce', key, sweepGraceDays, xray, vpc, permissionsBoundary } = this.props;
    const { partition, region, account } = Stack.of(this);
    const inlinePolicies: Record<string, iam.PolicyDocument> = {
      Describe: allow({
        actions: ['ec2:DescribeInstances'],
        resources: ['*'],
        conditions: { StringEquals: { 'ec2:Region': region } },
      }),
      Log: allow({
        actions: ['logs:CreateLogStream', 'logs:PutLogEvents'],
        resources: [this.logGroup.logGroupArn],
      }),
      Queues: allow(
        {
          actions: ['sqs:ReceiveMessage', 'sqs:DeleteMessage', 'sqs:GetQueueAttributes'],
          resources: [this.stateChangeQueue.queueArn],
        },
        { actions: ['sqs:SendMessage'], resources: [this.deadLetterQueue.queueArn] },
      ),
    };
    if (mode === 'enforce') {
      inlinePolicies.RequireTokens = allow({
        actions: ['ec2:ModifyInstanceMetadataOptions'],
        resources: [`arn:${partition}:ec2:${region}:${account}:instance/*`],
        conditions: { StringEquals: { 'ec2:Attribute/HttpTokens': 'required' } },
      });
    }
    if (sweepGraceDays) {
      inlinePolicies.CountUse = allow({ actions: ['cloudwatch:GetMetricData'], resources: ['*'] });
    }
    if (this.resultBus) {
      inlinePolicies.PublishResults = allow({
        actions: ['events:PutEvents'],
        resources: [this.resultBus.eventBusArn],
        conditions: {
          'ForAllValues:StringEquals': { 'events:source': 'imds-enforcer' },
          Null: { 'events:source': 'false' },
        },
      });
    }
    if (key) {
      inlinePolicies.Key = allow({ actions: ['kms:Decrypt', 'kms:GenerateDataKey'], resources: [key.keyArn] });
    }
    if (xray) {
      inlinePolicies.Trace = allow({ actions: ['xray:PutTraceSegments', 'xray:PutTelemetryRecords'], resources: ['*'] });
    }
    if (vpc) {
      // None of these knows a resource that exists before the function runs.
      const actions = ['CreateNetworkInterface', 'DescribeNetworkInterfaces', 'DescribeSubnets', 'DeleteNetworkInterface'];
      inlinePolicies.Network = allow({ actions: actions.map((action) => `ec2:${action}`), resources: ['*'] });
    }
    return new iam.Role(this, 'FunctionRole', {
      description: 'What imds-enforcer may do. Even stolen, it cannot loosen an instance.',
      assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com'),
      inlinePolicies,
      permissionsBoundary,
    });
  }

  private makeFunction(role: iam.Role): lambda.Function {
    const { mode = 'enforce', architecture = lambda.Architecture.X86_64, code, reservedConcurrency, xray } = this.props;
    const made = new lambda.Function(this, 'Function', {
      description: 'Requires IMDSv2 session tokens on EC2 instances',
      code: code ?? build(architecture),
      handler: 'bootstrap',
      runtime: lambda.Runtime.PROVIDED_AL2023,
      architecture,
      memorySize: 128,
      timeout: Duration.minutes(1),
      role: role.withoutPolicyUpdates(),
      reservedConcurrentExecutions: reservedConcurrency,
      tracing: xray ? lambda.Tracing.ACTIVE : lambda.Tracing.PASS_THROUGH,
      environment: {
        IMDS_MODE: mode,
        IMDS_EXEMPTION_TAG: this.props.exemptionTag ?? '',
        IMDS_EXEMPTION_MAX_DAYS: `${this.props.exemptionMaxDays ?? 90}`,
        IMDS_SWEEP_GRACE_DAYS: `${this.props.sweepGraceDays ?? 0}`,
        IMDS_RESULT_BUS: (this.makesBus ? this.resultBus?.eventBusName : this.resultBus?.eventBusArn) ?? '',
      },
      logGroup: this.logGroup,
      loggingFormat: lambda.LoggingFormat.JSON,
      deadLetterQueue: this.deadLetterQueue,
      retryAttempts: 2,
      maxEventAge: Duration.hours(6),
      vpc: this.props.vpc,
      vpcSubnets: this.props.vpcSubnets,
    });
    new lambda.CfnEventSourceMapping(this, 'StateChangeSource', {
      functionName: made.functionName,
      eventSourceArn: this.stateChangeQueue.queueArn,
      enabled: this.props.stateChangeEvents ?? true,
      batchSize: 200,
      maximumBatchingWindowInSeconds: 5,
      functionResponseTypes: ['ReportBatchItemFailures'],
      scalingConfig: { maximumConcurrency: 2 },
    });
    return made;
  }

  private makeRules() {
    const { apiCallEvents, stateChangeEvents, sweep, sweepSchedule } = this.props;
    const notRequired = [{ exists: false }, { 'anything-but': 'required' }];
    const tokens = { HttpTokens: notRequired, httpTokens: notRequired };
    const apiCalls = this.rule('ApiCall', apiCallEvents, {
      description: 'Launches, and changes of metadata options that may leave tokens not required',
      eventPattern: {
        source: ['aws.ec2'],
        'detail-type': ['AWS API Call via CloudTrail'],
        detail: {
          eventSource: ['ec2.amazonaws.com'],
          errorCode: [{ exists: false }, null, ''],
          $or: [
            { eventName: ['RunInstances'] },
            {
              eventName: ['ModifyInstanceMetadataOptions'],
              requestParameters: { ...tokens, ModifyInstanceMetadataOptionsRequest: tokens },
            },
          ],
        },
      },
      targets: [this.target('Function', this.function.functionArn, Duration.days(1))],
    });
    const stateChanges = this.rule('StateChange', stateChangeEvents, {
      description: 'Instances that start',
      eventPattern: {
        source: ['aws.ec2'],
        'detail-type': ['EC2 Instance State-change Notification'],
        detail: { state: ['pending', 'running'] },
      },
      targets: [this.target('StateChangeQueue', this.stateChangeQueue.queueArn, Duration.days(1))],
    });
    const sweepRule = this.rule('Sweep', sweep, {
      description: 'The sweep of the whole Region',
      scheduleExpression: (sweepSchedule ?? events.Schedule.rate(Duration.hours(1))).expressionString,
      targets: [this.target('Function', this.function.functionArn, Duration.hours(1))],
    });
    this.letInvoke('ApiCall', apiCalls);
    this.letInvoke('Sweep', sweepRule);
    return { apiCalls, stateChanges, sweep: sweepRule };
  }

  private rule(name: string, enabled: boolean | undefined, props: events.CfnRuleProps): events.CfnRule {
    return new events.CfnRule(this, `${name}Rule`, { state: (enabled ?? true) ? 'ENABLED' : 'DISABLED', ...props });
  }

  private target(id: string, arn: string, maximumAge: Duration): events.CfnRule.TargetProperty {
    return {
      id,
      arn,
      deadLetterConfig: { arn: this.deadLetterQueue.queueArn },
      retryPolicy: { maximumEventAgeInSeconds: maximumAge.toSeconds(), maximumRetryAttempts: 185 },
    };
  }

  private letInvoke(name: string, rule: events.CfnRule) {
    new lambda.CfnPermission(this, `${name}Permission`, {
      action: 'lambda:InvokeFunction',
      functionName: this.function.functionName,
      principal: 'events.amazonaws.com',
      sourceArn: rule.attrArn,
    });
  }

  /** Lets these rules, and nobody else, send to a queue. */
  private admit(name: string, queue: sqs.IQueue, sid: string, rules: events.CfnRule[]) {
    const sources = rules.map((rule) => rule.attrArn);
    new sqs.CfnQueuePolicy(this, `${name}Policy`, {
      queues: [queue.queueUrl],
      policyDocument: {
        Version: '2012-10-17',
        Statement: [
          {
            Sid: sid,
            Effect: 'Allow',
            Principal: { Service: 'events.amazonaws.com' },
            Action: 'sqs:SendMessage',
            Resource: queue.queueArn,
            Condition: { ArnEquals: { 'aws:SourceArn': sources.length === 1 ? sources[0] : sources } },
          },
          encryptedTransportOnly('sqs:*', queue.queueArn),
        ],
      },
    });
  }

  /** A topic to which one service may publish, under a condition. */
  private topic(name: string, sid: string, service: string, condition: object): sns.Topic {
    const topic = new sns.Topic(this, `${name}Topic`, { displayName: 'imds-enforcer', masterKey: this.props.key });
    const publish = { Effect: 'Allow', Principal: { Service: service }, Action: 'sns:Publish', Resource: topic.topicArn };
    new sns.CfnTopicPolicy(this, `${name}TopicPolicy`, {
      topics: [topic.topicArn],
      policyDocument: {
        Version: '2012-10-17',
        Statement: [
          { Sid: sid, ...publish, Condition: condition },
          encryptedTransportOnly('sns:Publish', topic.topicArn),
        ],
      },
    });
    return topic;
  }

  private subscribe(name: string, topic: sns.ITopic, email: string | undefined) {
    if (email) {
      new sns.CfnSubscription(this, `${name}Subscription`, { topicArn: topic.topicArn, protocol: 'email', endpoint: email });
    }
  }

  private makeAlarmTopic(): sns.Topic {
    const ofThisAccount = { StringEquals: { 'aws:SourceAccount': Stack.of(this).account } };
    return this.topic('Alarm', 'AlarmsOfThisAccount', 'cloudwatch.amazonaws.com', ofThisAccount);
  }

  /** Whether the bus is one that is made here. */
  private get makesBus() {
    return typeof this.props.resultBus === 'string';
  }

  private makeResultBus(): events.IEventBus | undefined {
    const { resultBus } = this.props;
    if (typeof resultBus !== 'string') return resultBus;
    return new events.EventBus(this, 'ResultEventBus', {
      eventBusName: resultBus,
      description: 'An event for each violator that imds-enforcer found',
    });
  }

  /** Of a bus that is made here: a message for each event. */
  private makeResults() {
    if (!this.makesBus || !this.resultBus) return undefined;
    const lines = ['<what>', 'Where: <where>, account <account>, at <time>', 'Who: <who>', 'Cause: <cause>', 'Command: <command>'];
    const ofSummary = ['cause', 'command', 'what', 'where', 'who'].map((it) => [it, `$.detail.summary.${it}`]);
    const rule = new events.CfnRule(this, 'ResultRule', {
      description: 'A message for each violator',
      eventBusName: this.resultBus.eventBusName,
      state: 'ENABLED',
      eventPattern: { source: ['imds-enforcer'] },
    });
    const topic = this.topic('Result', 'Results', 'events.amazonaws.com', { ArnEquals: { 'aws:SourceArn': rule.attrArn } });
    rule.targets = [
      {
        ...this.target('ResultTopic', topic.topicArn, Duration.days(1)),
        inputTransformer: {
          inputPathsMap: { account: '$.account', time: '$.time', ...Object.fromEntries(ofSummary) },
          inputTemplate: lines.map((line) => `"${line}"`).join('\n'),
        },
      },
    ];
    this.subscribe('Result', topic, this.props.resultEmail);
    return { rule, topic };
  }

  private makeAlarms() {
    const { alarmEmail, sweep, sweepAlarmHours, timeToEnforceAlarm = Duration.minutes(5) } = this.props;
    this.subscribe('Alarm', this.alarmTopic, alarmEmail);
    const ofQueue = (queue: sqs.IQueue) => [{ name: 'QueueName', value: queue.queueName }];
    const ofFunction = [{ name: 'FunctionName', value: this.function.functionName }];
    const above = { comparisonOperator: 'GreaterThanThreshold', treatMissingData: 'notBreaching' };
    this.alarm('DeadLetter', 'events wait in the dead-letter queue, so instances may be left unprotected', {
      namespace: 'AWS/SQS',
      metricName: 'ApproximateNumberOfMessagesVisible',
      dimensions: ofQueue(this.deadLetterQueue),
      statistic: 'Maximum',
      period: 60,
      evaluationPeriods: 1,
      threshold: 0,
      ...above,
    });
    this.alarm('Error', 'invocations fail, and are tried again', {
      namespace: 'AWS/Lambda',
      metricName: 'Errors',
      dimensions: ofFunction,
      statistic: 'Sum',
      period: 300,
      evaluationPeriods: 1,
      threshold: 0,
      ...above,
    });
    this.alarm('Throttle', 'Lambda has no concurrency left for it, so enforcement is late', {
      namespace: 'AWS/Lambda',
      metricName: 'Throttles',
      dimensions: ofFunction,
      statistic: 'Sum',
      period: 300,
      evaluationPeriods: 3,
      threshold: 0,
      ...above,
    });
    this.alarm('OldestMessage', 'state changes wait for more than 15 minutes', {
      namespace: 'AWS/SQS',
      metricName: 'ApproximateAgeOfOldestMessage',
      dimensions: ofQueue(this.stateChangeQueue),
      statistic: 'Maximum',
      period: 60,
      evaluationPeriods: 1,
      threshold: 900,
      ...above,
    });
    const ofMode = [...ofFunction, { name: 'Mode', value: this.props.mode ?? 'enforce' }];
    this.alarm('Refused', 'EC2 refuses to require tokens on an instance, and will until somebody changes something', {
      namespace: 'ImdsEnforcer',
      metricName: 'InstancesRefused',
      dimensions: ofMode,
      statistic: 'Sum',
      period: 300,
      evaluationPeriods: 1,
      threshold: 0,
      ...above,
    });
    this.alarm('TimeToEnforce', 'an instance was open for longer than it should be', {
      namespace: 'ImdsEnforcer',
      metricName: 'TimeToEnforce',
      dimensions: ofMode,
      statistic: 'Maximum',
      period: 300,
      evaluationPeriods: 1,
      threshold: timeToEnforceAlarm.toMilliseconds(),
      ...above,
    });
    if (sweep ?? true) {
      this.alarm('NoSweep', 'no sweep in its period', {
        namespace: 'AWS/Events',
        metricName: 'Invocations',
        dimensions: [{ name: 'RuleName', value: this.rules.sweep.ref }],
        statistic: 'Sum',
        period: 3600,
        evaluationPeriods: sweepAlarmHours ?? 3,
        threshold: 1,
        comparisonOperator: 'LessThanThreshold',
        treatMissingData: 'breaching',
      });
    }
  }

  private makeDashboard() {
    const region = Stack.of(this).region;
    const ofFunction = ['FunctionName', this.function.functionName];
    const own = (name: string, ...more: object[]) =>
      ['ImdsEnforcer', name, ...ofFunction, 'Mode', this.props.mode ?? 'enforce', ...more];
    const ofLambda = (name: string) => ['AWS/Lambda', name, ...ofFunction];
    const ofQueue = (name: string, queue: sqs.IQueue) => ['AWS/SQS', name, 'QueueName', queue.queueName, { stat: 'Maximum' }];
    const widget = (title: string, x: number, y: number, metrics: unknown[][], stat: object = { stat: 'Sum' }) => {
      const look = { title, region, view: 'timeSeries', stacked: false, ...stat, period: 3600 };
      return { type: 'metric', x, y, width: 12, height: 6, properties: { ...look, metrics } };
    };
    const outcomes = ['Enforced', 'WouldEnforce', 'Exempt', 'InUse', 'Failed', 'Refused'];
    const query = [
      `SOURCE '${this.logGroup.logGroupName}'`,
      "filter outcome in ['enforced', 'would_enforce', 'exempt', 'in_use', 'failed'] and ispresent(cause)",
      'stats count_distinct(instance_id) as instances by cause, belongs_to, actor',
      'sort instances desc',
    ].join(' | ');
    const causes = { title: 'Causes', region, view: 'table', query };
    const widgets = [
      widget('Instances by outcome', 0, 0, outcomes.map((it) => own(`Instances${it}`))),
      widget(
        "Time to enforce, from the event to EC2's answer", 12, 0,
        ['p50', 'p90', 'Maximum'].map((stat) => own('TimeToEnforce', { stat })), {},
      ),
      widget('Calls of EC2', 0, 6, [own('Ec2Calls'), own('Ec2Throttles')]),
      widget('Invocations, and what waits', 12, 6, [
        ...['Invocations', 'Errors', 'Throttles'].map(ofLambda),
        ofQueue('ApproximateNumberOfMessagesVisible', this.deadLetterQueue),
        ofQueue('ApproximateAgeOfOldestMessage', this.stateChangeQueue),
      ]),
      { type: 'log', x: 0, y: 12, width: 24, height: 6, properties: causes },
    ];
    new cloudwatch.CfnDashboard(this, 'Board', {
      dashboardBody: Stack.of(this).toJsonString({ start: '-P7D', widgets }),
    });
  }

  private alarm(name: string, what: string, props: cloudwatch.CfnAlarmProps) {
    new cloudwatch.CfnAlarm(this, `${name}Alarm`, {
      alarmDescription: `imds-enforcer - ${what}`,
      alarmActions: [this.alarmTopic.topicArn],
      ...props,
    });
  }
}

function allow(...statements: iam.PolicyStatementProps[]): iam.PolicyDocument {
  return new iam.PolicyDocument({ statements: statements.map((it) => new iam.PolicyStatement(it)) });
}

function encryptedTransportOnly(action: string, resource: string) {
  return {
    Sid: 'EncryptedTransportOnly',
    Effect: 'Deny',
    Principal: '*',
    Action: action,
    Resource: resource,
    Condition: { Bool: { 'aws:SecureTransport': 'false' } },
  };
}

/** Builds the `bootstrap` from this repository, as `sam build` does. */
function build(architecture: lambda.Architecture): lambda.Code {
  const repository = fileURLToPath(new URL('../..', import.meta.url));
  const output = `${repository}/target/cdk/${architecture.name}`;
  const command = ['cargo', 'lambda', 'build', '--release', '--locked', '--bin', 'imds-enforcer'];
  const arm64 = architecture === lambda.Architecture.ARM_64 ? ['--arm64'] : [];
  const flags = [...arm64, '--lambda-dir', output, '--flatten', 'imds-enforcer'];
  return lambda.Code.fromCustomCommand(output, [...command, ...flags], { commandOptions: { cwd: repository } });
}
