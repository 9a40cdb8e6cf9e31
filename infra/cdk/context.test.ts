import { App, Stack } from 'aws-cdk-lib';
import { describe, expect, test } from 'vitest';
import { propsFromContext } from './context.js';

const props = (context: Record<string, unknown>) => propsFromContext(new Stack(new App({ context }), 'Stack'));

test('the context of the command line gives properties of their types', () => {
  expect(props({ mode: 'observe', sweepGraceDays: '14', dashboard: 'off', xRay: 'on', exemptionTag: 'imds-exemption' })).toEqual({
    mode: 'observe',
    sweepGraceDays: 14,
    dashboard: false,
    xRay: true,
    exemptionTag: 'imds-exemption',
  });
});

test('the context of cdk.json may have the types themselves', () => {
  expect(props({ sweepGraceDays: 14, dashboard: false })).toEqual({ sweepGraceDays: 14, dashboard: false });
});

test("the CDK's own context is left to it", () => {
  const context = {
    '@aws-cdk/aws-iam:minimizePolicies': false,
    'aws:cdk:bundling-stacks': ['**'],
    'aws-cdk:enableDiffNoFail': true,
    'availability-zones:account=111122223333:region=us-east-1': ['us-east-1a'],
    'acknowledged-issue-numbers': [1],
  };
  expect(props(context)).toEqual({});
});

describe('a name that is not a property is refused with the one that is', () => {
  test.each([
    ['Mode', 'mode'],
    ['MODE', 'mode'],
    ['sweep-grace-days', 'sweepGraceDays'],
    ['SweepGraceDays', 'sweepGraceDays'],
    ['sweepGraceDay', 'sweepGraceDays'],
    ['xray', 'xRay'],
    ['keyArn', 'kmsKeyArn'],
    ['logRetention', 'logRetentionDays'],
  ])('%s: %s', (given, right) => {
    expect(() => props({ [given]: 'observe' })).toThrow(`context ${given} is unknown; did you mean ${right}? There are mode, `);
  });
});

describe('a value that the template does not allow is refused with what it allows', () => {
  test.each([
    ['mode', 'observ', 'context mode is "observ"; it must be one of enforce, observe'],
    ['mode', '', 'context mode is ""; it must be one of enforce, observe'],
    ['sweepGraceDays', 'abc', 'context sweepGraceDays is "abc"; it must be a whole number from 0 to 90'],
    ['sweepGraceDays', '-1', 'context sweepGraceDays is "-1"; it must be a whole number from 0 to 90'],
    ['sweepGraceDays', '91', 'context sweepGraceDays is 91; it must be a whole number from 0 to 90'],
    ['exemptionMaxDays', '0', 'context exemptionMaxDays is 0; it must be a whole number from 1 to 365'],
    ['logRetentionDays', '6', 'context logRetentionDays is 6; it must be one of 1, 3, 5, 7, '],
    ['dashboard', 'no', 'context dashboard is "no"; it must be one of on, off'],
    ['exemptionTag', 'aws:name', 'context exemptionTag is "aws:name"; it must be the key of a tag'],
    ['resultBusArn', 'security', 'context resultBusArn is "security"; it must be the ARN of a bus or empty'],
  ])('%s=%s', (name, text, message) => {
    expect(() => props({ [name]: text })).toThrow(message);
  });
});
