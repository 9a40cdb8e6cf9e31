"""Says what is wrong with a key of one's own before anything is deployed that depends on it.

A key that a service may not use is found nowhere else before the first message is lost: only the log
group's creation fails. The policy is evaluated for what the stack's queues, topics and log do with it:
`refusals` answers what is sure to fail, and tells of what can't be judged from here. It changes nothing,
and judges neither grants nor the organization's own policies.
"""

import fnmatch
import json
import re
import sys
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError
from partition import dns_suffix, partition

DENIED = {"AccessDeniedException", "AccessDenied", "UnauthorizedOperation"}

# Keys that no request of a service principal has.
OF_CALLERS = {"aws:principalorgid", "aws:principalaccount", "aws:principalarn", "aws:principalorgpaths"}
# Where EventBridge sends to encrypted topics, it fills none of these.
OF_SOURCES = {"aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid"}


@dataclass
class Use:
    """Who uses the key, for what, and what is known of the request: values by condition key, and the keys it lacks."""

    principal: str
    actions: list[str]
    loss: str
    context: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)


def uses(region, account):
    """What the stack's queues, topics and log do with a key."""
    arn = f"arn:{partition(region)}"
    common = {"aws:securetransport": "true", "kms:calleraccount": account}
    service = {"aws:securetransport": "true", "aws:principalisawsservice": "true"}
    data = ["kms:GenerateDataKey", "kms:Decrypt"]
    log_group = f"{arn}:logs:{region}:{account}:log-group:imds-enforcer-LogGroup-EXAMPLE"
    alarm = f"{arn}:cloudwatch:{region}:{account}:alarm:imds-enforcer-ErrorAlarm-EXAMPLE"
    role = {"aws:principalaccount": account, "aws:principalisawsservice": "false", "kms:viaservice": f"sqs.{region}.{dns_suffix(region)}"}
    return [
        Use(
            f"logs.{region}.{dns_suffix(region)}",
            ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey"],
            "the log group can't be created",
            {**service, "kms:encryptioncontext:aws:logs:arn": log_group},
            OF_CALLERS,
        ),
        Use("events.amazonaws.com", data, "no event reaches the queues, and no result its topic", service, OF_CALLERS | OF_SOURCES),
        Use("cloudwatch.amazonaws.com", data, "no alarm reaches its topic", {**service, "aws:sourceaccount": account, "aws:sourcearn": alarm}, OF_CALLERS),
        Use(f"{arn}:iam::{account}:root", data, "the function's role can't read its queue", {**common, **role}, OF_SOURCES),
    ]


def uses_of_the_hub(region, account):
    """What the hub does with a key: its roles write to a table and topics, whoever deploys it grants the table the key, and nobody polls its queue."""
    *services, role = uses(region, account)

    def through(service):
        return {**role.context, "kms:viaservice": f"{service}.{region}.{dns_suffix(region)}"}

    table = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:DescribeKey", "kms:CreateGrant"]
    return [
        *services,
        Use(role.principal, table, "the hub's table can't be created or written", through("dynamodb"), role.absent),
        Use(role.principal, role.actions, "the hub tells of no silent member", through("sns"), role.absent),
    ]


def resolved(key_arn, region):
    """The key of a Region, where `*` stands for the stack's own Region."""
    return key_arn.replace(":kms:*:", f":kms:{region}:")


def listed(value):
    return value if isinstance(value, list) else [value]


def matches(value, patterns):
    """Whether a value is like one of these patterns, of `*` and `?`, whatever the case: as IAM compares actions."""
    return any(fnmatch.fnmatchcase(value.lower(), it.lower().replace("[", "[[]")) for it in patterns)


def compares(operator, actual, wanted):
    """Whether a value fulfils a condition; None where the operator is not understood."""
    negated = "Not" in operator
    kind = operator.replace("Not", "").removesuffix("IfExists")
    wanted = [str(it).lower() if kind == "Bool" else str(it) for it in wanted]
    if kind in ("StringEquals", "Bool"):
        found = actual in wanted
    elif kind in ("StringLike", "ArnEquals", "ArnLike"):
        found = any(fnmatch.fnmatchcase(actual, it.replace("[", "[[]")) for it in wanted)
    elif kind == "StringEqualsIgnoreCase":
        found = actual.lower() in [it.lower() for it in wanted]
    else:
        return None
    return found != negated


def holds(operator, name, wanted, use):
    """Whether one condition holds for a request; None where that is not known."""
    actual = use.context.get(name.lower())
    if actual is None and name.lower() not in use.absent:
        return None
    if operator == "Null":
        return (actual is None) == (str(wanted[0]).lower() == "true")
    if actual is None:
        # A condition on a key that the request lacks: a negated one holds, another does not.
        return "Not" in operator or operator.endswith("IfExists")
    return compares(operator, actual, wanted)


def conditions_hold(statement, use):
    """Whether all conditions hold, and the first condition key that decided otherwise."""
    doubtful = None
    for operator, keys in statement.get("Condition", {}).items():
        for name, wanted in keys.items():
            answer = holds(operator, name, listed(wanted), use)
            if answer is False:
                return False, name
            if answer is None:
                doubtful = name
    return (None, doubtful) if doubtful else (True, None)


def names(statement, use):
    """Whether a statement's principal is this one; None where that is not known. `*` is everybody, services too.

    What names a principal of the account may name the function's role, whose name is not known before the stack is.
    """
    if "NotPrincipal" in statement:
        return None
    principal = statement.get("Principal", {})
    given = ["*"] if principal == "*" else [it for kind in ("AWS", "Service") for it in listed(principal.get(kind, []))]
    account = use.principal.split(":")[4] if use.principal.startswith("arn:") else None
    if "*" in given or use.principal in given or account in given:
        return True
    return None if account and any(re.match(rf"arn:[^:]+:(iam|sts)::{account}:", it) for it in given) else False


def concerns(statement, action, key_arn):
    """Whether a statement is about an action on the key."""
    if "NotAction" in statement:
        acts = not matches(action, listed(statement["NotAction"]))
    else:
        acts = matches(action, listed(statement.get("Action", [])))
    return acts and matches(key_arn, listed(statement.get("Resource", "*")))


def applies(statement, use, action, key_arn):
    """Whether a statement decides on a request (None: not known), and the condition key on which that hangs."""
    if not concerns(statement, action, key_arn):
        return False, None
    named = names(statement, use)
    if named is False:
        return False, None
    held, name = conditions_hold(statement, use)
    if named is None and held:
        return None, "NotPrincipal" if "NotPrincipal" in statement else "whether it names the function's role"
    return held, name


def judged(statements, use, action, key_arn):
    """`allowed`, `refused` or `unknown`, and why."""
    verdicts = [(it["Effect"], *applies(it, use, action, key_arn)) for it in statements]
    if any(effect == "Deny" and held for effect, held, _ in verdicts):
        return "refused", "a Deny of the key's policy applies"
    if doubt := next((name for effect, held, name in verdicts if effect == "Deny" and held is None), None):
        return "unknown", f"a Deny depends on {doubt}"
    if any(effect == "Allow" and held for effect, held, _ in verdicts):
        return "allowed", ""
    if doubt := next((name for effect, held, name in verdicts if effect == "Allow" and held is None), None):
        return "unknown", f"an Allow depends on {doubt}"
    if missed := next((name for effect, _, name in verdicts if effect == "Allow" and name), None):
        return "refused", f"the Allow depends on {missed}, which {'is not filled there' if missed.lower() in use.absent else 'has another value there'}"
    return "refused", "no statement allows it"


def judge(policy, key_arn, region, account, organization=None, needs=uses):
    """What the policy of a key refuses, and what can't be said of it, as two lists of sentences."""
    refused, doubts = [], []
    for use in needs(region, account):
        if organization:
            use.context.update({"aws:sourceorgid": organization} if "cloudwatch" in use.principal else {})
            use.context.update({"aws:principalorgid": organization} if use.principal.startswith("arn:") else {})
        by_reason = {}
        for action in use.actions:
            verdict, why = judged(listed(policy["Statement"]), use, action, key_arn)
            by_reason.setdefault((verdict, why), []).append(action)
        for (verdict, why), actions in by_reason.items():
            about = f"{use.principal} and {', '.join(actions)}: {why}"
            if verdict == "refused":
                refused.append(f"{about}; {use.loss}")
            elif verdict == "unknown":
                doubts.append(f"{about}, which can't be judged from here")
    return refused, doubts


def flaws(metadata, region):
    """What a key is not, though it must be."""
    arn_region = metadata["Arn"].split(":")[3]
    if arn_region != region:
        yield f"it is in {arn_region}, and must be in {region}"
    if metadata["KeyState"] != "Enabled":
        yield f"its state is {metadata['KeyState']}, and must be Enabled"
    spec, usage = metadata.get("KeySpec", metadata.get("CustomerMasterKeySpec")), metadata["KeyUsage"]
    if (spec, usage) != ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"):
        yield f"it is {spec} for {usage}, and must be SYMMETRIC_DEFAULT for ENCRYPT_DECRYPT"
    if metadata.get("KeyManager", "CUSTOMER") != "CUSTOMER":
        yield "AWS manages it, so that its policy admits no service; it must be a key of your own"


def organization_of(session):
    """The organization's id; None where there is none, or the caller may not see it."""
    try:
        return session.client("organizations").describe_organization()["Organization"]["Id"]
    except (BotoCoreError, ClientError):
        return None


def to_stderr(doubt):
    print(doubt, file=sys.stderr)


def refusals(session, region, account, key_arn, tell=to_stderr, organization=None, needs=uses):
    """What is sure to fail with this key, each as a sentence. `tell` is called with what could not be judged."""
    arn = resolved(key_arn, region)
    kms = session.client("kms", region_name=region)
    try:
        metadata = kms.describe_key(KeyId=arn)["KeyMetadata"]
        if found := list(flaws(metadata, region)):
            return [f"KmsKeyArn {arn}: {it}" for it in found]
        policy = json.loads(kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"])
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in DENIED:
            tell(f"KmsKeyArn {arn}: not checked, since the caller may not call {error.operation_name}")
            return []
        return [f"KmsKeyArn {arn}: {error.response['Error']['Message']} ({code})"]
    refused, doubts = judge(policy, metadata["Arn"], region, account, organization or organization_of(session), needs)
    for doubt in doubts:
        tell(f"KmsKeyArn {arn}: {doubt}")
    return [f"KmsKeyArn {arn}: {it}" for it in refused]
