import { App, Stack } from 'aws-cdk-lib';
import { describe, expect, test } from 'vitest';
import { propsFromContext } from './context.js';

const props = (context: Record<string, unknown>) => propsFromContext(new Stack(new App({ context: { enforceSince: 'all', ...context } }), 'Stack'));

test('the context of the command line gives properties of their types', () => {
  expect(props({ mode: 'observe', enforceSince: '2026-11-02', graceDays: '14', watchRefusals: '6', dashboard: 'off', xRay: 'on', exemptionTag: 'imds-exemption' })).toEqual({
    mode: 'observe',
    enforceSince: '2026-11-02',
    graceDays: 14,
    watchRefusals: '6',
    dashboard: false,
    xRay: true,
    exemptionTag: 'imds-exemption',
  });
});

test('the context of cdk.json may have the types themselves', () => {
  expect(props({ graceDays: 14, dashboard: false })).toEqual({ enforceSince: 'all', graceDays: 14, dashboard: false });
});

test("the CDK's own context is left to it", () => {
  const context = {
    '@aws-cdk/aws-iam:minimizePolicies': false,
    'aws:cdk:bundling-stacks': ['**'],
    'aws-cdk:enableDiffNoFail': true,
    'availability-zones:account=111122223333:region=us-east-1': ['us-east-1a'],
    'acknowledged-issue-numbers': [1],
  };
  expect(props(context)).toEqual({ enforceSince: 'all' });
});

test('a deployment must say since when it enforces, and a command that deploys nothing need not', () => {
  const missing = 'context enforceSince is missing; it must be all, or a day that there is, such as 2026-11-02';
  expect(() => props({ enforceSince: undefined })).toThrow(missing);
  expect(() => propsFromContext(new Stack(new App(), 'Stack'))).toThrow(missing);
  const withoutBundling = { 'aws:cdk:bundling-stacks': [] };
  expect(propsFromContext(new Stack(new App({ context: withoutBundling }), 'Stack'))).toEqual({ enforceSince: 'all' });
});

describe('a name that is not a property is refused with the one that is', () => {
  test.each([
    ['Mode', 'mode'],
    ['MODE', 'mode'],
    ['grace-days', 'graceDays'],
    ['GraceDays', 'graceDays'],
    ['sweepGraceDays', 'graceDays'],
    ['enforce-since', 'enforceSince'],
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
    ['enforceSince', 'now', 'context enforceSince is "now"; it must be all, or a day that there is, such as 2026-11-02'],
    ['mode', '', 'context mode is ""; it must be one of enforce, observe'],
    ['graceDays', 'abc', 'context graceDays is "abc"; it must be a whole number from 0 to 90'],
    ['graceDays', '-1', 'context graceDays is "-1"; it must be a whole number from 0 to 90'],
    ['graceDays', '91', 'context graceDays is 91; it must be a whole number from 0 to 90'],
    ['exemptionMaxDays', '0', 'context exemptionMaxDays is 0; it must be a whole number from 1 to 365'],
    ['logRetentionDays', '6', 'context logRetentionDays is 6; it must be one of 1, 3, 5, 7, '],
    ['dashboard', 'no', 'context dashboard is "no"; it must be one of on, off'],
    ['exemptionTag', 'aws:name', 'context exemptionTag is "aws:name"; it must be the key of a tag'],
    ['resultBusArn', 'security', 'context resultBusArn is "security"; it must be the ARN of a bus or empty'],
  ])('%s=%s', (name, text, message) => {
    expect(() => props({ [name]: text })).toThrow(message);
  });
});
