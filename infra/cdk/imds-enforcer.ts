/**
 * imds-enforcer as one construct: requires IMDSv2 session tokens on the EC2 instances of the
 * stack's account and Region, within seconds of a launch or a downgrade.
 *
 * It includes `infra/template.yaml`, which alone states the resources. What the construct adds is
 * typed properties, which are checked at synthesis, and resources of the app in place of ARNs.
 */
import { CfnOutput, Token } from 'aws-cdk-lib';
import { CfnInclude } from 'aws-cdk-lib/cloudformation-include';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as kms from 'aws-cdk-lib/aws-kms';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import * as logs from 'aws-cdk-lib/aws-logs';
import { CfnFunction } from 'aws-cdk-lib/aws-sam';
import * as sns from 'aws-cdk-lib/aws-sns';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';
import { packaged } from './code.js';
import { include, isDay, propertyOf, readTemplate, SamTemplate, Values, valueOf } from './template.js';

/** The parameters of the template, which describes each; all but `enforceSince` have a default. */
export interface ImdsEnforcerParameters {
  /** @default enforce */
  readonly mode?: 'enforce' | 'observe';
  /** A day, `YYYY-MM-DD` in UTC, before which nothing that runs is changed; or `all`. */
  readonly enforceSince: string;
  /** @default 0, none is spared for its use */
  readonly graceDays?: number;
  /** @default imds-exemption */
  readonly exemptionTag?: string;
  /** @default 90 */
  readonly exemptionMaxDays?: number;
  /** @default none, no bus is created */
  readonly resultBus?: string;
  /** @default none, no results are published to an existing bus */
  readonly resultBusArn?: string;
  /** @default none, nothing is sent to a hub */
  readonly hubBusArn?: string;
  /** @default none */
  readonly resultEmail?: string;
  /** @default 300000 */
  readonly timeToEnforceAlarmMilliseconds?: number;
  /** @default false */
  readonly dashboard?: boolean;
  /** @default true */
  readonly apiCallEvents?: boolean;
  /** @default true */
  readonly stateChangeEvents?: boolean;
  /** @default true */
  readonly sweep?: boolean;
  /** @default rate(1 hour) */
  readonly sweepSchedule?: string;
  /** @default 0, a sweep has no limit */
  readonly sweepLimit?: number;
  /** @default off */
  readonly watchRefusals?:
    | 'off' | '1' | '2' | '3' | '4' | '5' | '6' | '7' | '8' | '9' | '10' | '11' | '12'
    | '13' | '14' | '15' | '16' | '17' | '18' | '19' | '20' | '21' | '22' | '23' | '24';
  /** @default 3 */
  readonly sweepAlarmHours?: number;
  /** @default none */
  readonly alarmEmail?: string;
  /** @default none, a topic is created */
  readonly alarmTopicArn?: string;
  /** @default 90 */
  readonly logRetentionDays?:
    | 1 | 3 | 5 | 7 | 14 | 30 | 60 | 90 | 120 | 150 | 180 | 365 | 400 | 545 | 731
    | 1096 | 1827 | 2192 | 2557 | 2922 | 3288 | 3653;
  /** @default x86_64 */
  readonly architecture?: 'x86_64' | 'arm64';
  /** At least 3, since the queue's event source uses two. @default 0, no concurrency is reserved */
  readonly reservedConcurrency?: number;
  /** @default none, the services' own encryption is used */
  readonly kmsKeyArn?: string;
  /** @default none */
  readonly permissionsBoundaryArn?: string;
  /** @default false */
  readonly xRay?: boolean;
}

/** Resources of the app, in place of ARNs, and what the template has no parameters for. */
export interface ImdsEnforcerProps extends ImdsEnforcerParameters {
  /** A key in place of `kmsKeyArn`. Its policy must let `logs`, `events` and `cloudwatch` use it. */
  readonly key?: kms.IKey;
  /** A topic in place of `alarmTopicArn`. Its policy must let CloudWatch publish. */
  readonly alarmTopic?: sns.ITopic;
  /** A bus in place of `resultBusArn`. */
  readonly resultEventBus?: events.IEventBus;
  /** A boundary in place of `permissionsBoundaryArn`. */
  readonly permissionsBoundary?: iam.IManagedPolicy;
  /**
   * A VPC to run the function in. It must have a way to EC2's endpoint.
   * @default the function runs in no VPC
   */
  readonly vpc?: ec2.IVpc;
  /**
   * Which subnets of the VPC; public ones are refused, since a function reaches nothing from there.
   * @default its private subnets
   */
  readonly vpcSubnets?: ec2.SubnetSelection;
  /**
   * The function's code, in place of what `make package` builds.
   * @default `make package` is run by the commands of the CDK that need the code
   */
  readonly code?: lambda.Code;
}

/** The function, its sources of events, its queues, alarms and results. */
export class ImdsEnforcer extends Construct {
  /** The included template, whose `getResource` gives each resource by its name in the template. */
  readonly template: CfnInclude;
  /** The function. */
  readonly function: lambda.IFunction;
  /** Its role, to be named in an organization's policies; what it is granted becomes a policy of its own. */
  readonly role: iam.IRole;
  /** The queue of launches and state changes, to which dead letters can be moved. */
  readonly launchQueue: sqs.IQueue;
  /** The queue of events that could not be handled. */
  readonly deadLetterQueue: sqs.IQueue;
  /** The topic that alarms are sent to. */
  readonly alarmTopic: sns.ITopic;
  /** The topic that gets a message for each result that needs somebody, if `resultBus` is given. */
  readonly resultTopic?: sns.ITopic;
  /** The log. */
  readonly logGroup: logs.ILogGroup;
  /** The security group of the function in a VPC. */
  readonly securityGroup?: ec2.ISecurityGroup;

  constructor(scope: Construct, id: string, props: ImdsEnforcerProps) {
    super(scope, id);
    const template = readTemplate(this);
    const values = valuesOf(template, props);
    this.template = include(this, template, values);
    this.setCode(props.code ?? packaged(`${values.Architecture}`));
    if (props.vpcSubnets && !props.vpc) throw new Error('vpcSubnets is given without vpc, whose subnets it selects');
    if (props.vpc) this.securityGroup = this.joinVpc(props.vpc, props.vpcSubnets);

    const value = (output: string) => Token.asString(this.outputs[output]!.value);
    const functionArn = value('FunctionArn');
    this.role = iam.Role.fromRoleArn(this, 'Role', value('RoleArn'));
    const { role, securityGroup } = this;
    this.function = lambda.Function.fromFunctionAttributes(this, 'Function', { functionArn, role, securityGroup, sameEnvironment: true });
    const keyArn = `${values.KmsKeyArn}` || undefined;
    const queue = (name: string) => sqs.Queue.fromQueueAttributes(this, name, { queueArn: value(`${name}Arn`), keyArn });
    const topic = (name: string) => sns.Topic.fromTopicAttributes(this, name, { topicArn: value(`${name}Arn`), keyArn: values[`${name}Arn`] ? undefined : keyArn });
    this.launchQueue = queue('LaunchQueue');
    this.deadLetterQueue = queue('DeadLetterQueue');
    this.alarmTopic = props.alarmTopic ?? topic('AlarmTopic');
    this.logGroup = logs.LogGroup.fromLogGroupName(this, 'LogGroup', value('LogGroupName'));
    if (this.outputs.ResultTopicArn) this.resultTopic = topic('ResultTopic');
  }

  /** The outputs of the template, by the template's names for them. */
  get outputs(): Record<string, CfnOutput> {
    const outputs = this.template.node.findAll().filter((it) => it instanceof CfnOutput);
    return Object.fromEntries(outputs.map((it) => [it.node.id, it]));
  }

  private setCode(code: lambda.Code) {
    const { s3Location } = code.bind(this);
    if (!s3Location) throw new Error('code must be a zip in S3 or an asset: the function has no image and no code inline');
    const target = this.template.getResource('Function') as CfnFunction;
    target.codeUri = { bucket: s3Location.bucketName, key: s3Location.objectKey };
    if (s3Location.objectVersion) target.addPropertyOverride('CodeUri.Version', s3Location.objectVersion);
    code.bindToResource(target, { resourceProperty: 'CodeUri' });
  }

  private joinVpc(vpc: ec2.IVpc, vpcSubnets?: ec2.SubnetSelection): ec2.ISecurityGroup {
    const { subnetIds, internetConnectivityEstablished } = vpc.selectSubnets(vpcSubnets);
    const open = vpc.publicSubnets.filter((it) => subnetIds.includes(it.subnetId));
    if (open.length) {
      throw new Error(`${open.map((it) => it.node.path).join(', ')} of the VPC are public, where a function reaches nothing outside the VPC; select private subnets by vpcSubnets`);
    }
    const securityGroup = new ec2.SecurityGroup(this, 'SecurityGroup', { vpc, description: 'imds-enforcer' });
    const target = this.template.getResource('Function') as CfnFunction;
    target.vpcConfig = { subnetIds, securityGroupIds: [securityGroup.securityGroupId] };
    target.node.addDependency(internetConnectivityEstablished);
    const role = this.template.getResource('FunctionRole') as iam.CfnRole;
    role.policies = [...(role.policies as iam.CfnRole.PolicyProperty[]), NETWORK];
    return securityGroup;
  }
}

// None of these actions knows a resource that exists before the function runs.
const NETWORK = {
  policyName: 'Network',
  policyDocument: {
    Version: '2012-10-17',
    Statement: [
      {
        Effect: 'Allow',
        Action: ['ec2:CreateNetworkInterface', 'ec2:DescribeNetworkInterfaces', 'ec2:DescribeSubnets', 'ec2:DeleteNetworkInterface'],
        Resource: '*',
      },
    ],
  },
};

/**
 * The values of the template's parameters: a resource of the app stands for its ARN.
 *
 * @throws if a value is missing or not allowed, or two exclude each other
 */
export function valuesOf(template: SamTemplate, props: ImdsEnforcerProps): Values {
  const arns: Record<string, string | undefined> = {
    KmsKeyArn: props.key?.keyArn,
    AlarmTopicArn: props.alarmTopic?.topicArn,
    ResultBusArn: props.resultEventBus?.eventBusArn,
    PermissionsBoundaryArn: props.permissionsBoundary?.managedPolicyArn,
  };
  const values = Object.entries(template.Parameters).map(([name, parameter]) => {
    const property = propertyOf(name) as keyof ImdsEnforcerParameters;
    const value = valueOf(property, parameter, props[property]);
    if (arns[name] && props[property] !== undefined) throw new Error(`${property} and the resource itself are given; give one of them`);
    return [name, arns[name] ?? value];
  });
  if (props.resultBus && (props.resultBusArn || props.resultEventBus)) {
    throw new Error('resultBus creates a bus, and resultBusArn or resultEventBus is an existing one; give one of them');
  }
  if (props.hubBusArn && (props.resultBus || props.resultBusArn || props.resultEventBus)) {
    throw new Error('hubBusArn takes the place of resultBus, resultBusArn and resultEventBus; give one of them');
  }
  const { enforceSince, reservedConcurrency = 0 } = props;
  if (enforceSince !== 'all' && !isDay(enforceSince)) throw new Error(`enforceSince is ${JSON.stringify(enforceSince)}; there is no such day`);
  if (reservedConcurrency === 1 || reservedConcurrency === 2) {
    throw new Error(`reservedConcurrency is ${reservedConcurrency}; it must be 0 or at least 3, since the queue's event source uses two`);
  }
  return Object.fromEntries(values);
}
