/**
 * An app with one stack of one {@link ImdsEnforcer}, checked by cdk-nag.
 *
 * `npx cdk deploy -c mode=observe -c enforceSince=all -c alarmEmail=security@example.com`, with `-c code=` and the path
 * of a zip or folder for a package that was built elsewhere.
 */
import { App, Stack, Validations } from 'aws-cdk-lib';
import { AwsSolutionsChecks } from 'cdk-nag';
import { propsFromContext } from './context.js';
import { ImdsEnforcer, ImdsEnforcerProps } from './imds-enforcer.js';

/** Findings of cdk-nag that are right as they are, each with the reason. */
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

/** The app. A finding of cdk-nag that is not acknowledged fails its synthesis. */
export function createApp(props: (stack: Stack) => ImdsEnforcerProps, acknowledged = ACKNOWLEDGED): App {
  const app = new App();
  const stack = new Stack(app, 'imds-enforcer-cdk', {
    description: 'imds-enforcer: requires IMDSv2 session tokens on the EC2 instances of this account and Region',
  });
  const { outputs } = new ImdsEnforcer(stack, 'ImdsEnforcer', props(stack));
  for (const [name, output] of Object.entries(outputs)) output.overrideLogicalId(name);
  Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
  for (const finding of acknowledged) Validations.of(stack).acknowledge(finding);
  return app;
}

if (process.argv[1] === import.meta.filename) {
  createApp(propsFromContext).synth();
}
