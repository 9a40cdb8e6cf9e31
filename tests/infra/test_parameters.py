"""What the templates' parameters refuse, before anything is built or called."""

import os
import re
import shlex
import subprocess

import parameters
import pytest
import sam
from template import ROOT

TEMPLATE = sam.raw()
DAY = {"EnforceSince": "2026-11-02"}


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("Mode", "observ", "must be one of enforce, observe"),
        ("Mode", "", "must be one of enforce, observe"),
        ("Dashboard", "true", "must be one of on, off"),
        ("EnforceSince", "tomorrow", "must be all, or a day that there is, such as 2026-11-02"),
        ("EnforceSince", "2026-02-30", "must be a day that there is, such as 2026-11-02"),
        ("EnforceSince", "2026-02-29", "must be a day that there is, such as 2026-11-02"),
        ("GraceDays", "abc", "must be a number from 0 to 90"),
        ("GraceDays", "91", "must be a number from 0 to 90"),
        ("GraceDays", "-1", "must be a number from 0 to 90"),
        ("GraceDays", "nan", "must be a number from 0 to 90"),
        ("GraceDays", "1_0", "must be a number from 0 to 90"),
        ("GraceDays", "", "must be a number from 0 to 90"),
        ("LogRetentionDays", "91", "must be one of 1, 3, 5, 7, 14, 30, 60, 90, 120"),
        ("AlarmEmail", "security", "must be an e-mail address or empty"),
        ("AlarmEmail", "a@example.com\n", "must be an e-mail address or empty"),
        ("AlarmTopicArn", "arn:aws:sns:us-east-1:1234:topic", "must be the ARN of a topic or empty"),
        ("AlarmTopicArn", "arn:aws:sns:us-east-1:11112222333\u0663:topic", "must be the ARN of a topic or empty"),
        ("ExemptionTag", "aws:tag", "must be the key of a tag, of at most 128 characters"),
        ("ExemptionTag", 129 * "a", "must be the key of a tag, of at most 128 characters"),
        ("ResultBus", "default", "must be a name of letters, digits and . - _"),
        ("SweepSchedule", "hourly", "must be rate(...) or cron(...), for example rate(1 hour)"),
        ("Architecture", "arm", "must be one of x86_64, arm64"),
        ("ReservedConcurrency", "2", "ReservedConcurrency must be 0 or at least 3"),
    ],
)
def test_a_value_that_the_template_would_refuse_is_refused_with_what_is_allowed(name, value, wanted):
    [refusal] = parameters.refusals(TEMPLATE, {**DAY, name: value})
    assert refusal.startswith(f'{name} is "{value}"; ') and wanted in refusal


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Mode", "observe"),
        ("EnforceSince", "all"),
        ("EnforceSince", "2028-02-29"),
        ("GraceDays", "90"),
        ("AlarmEmail", ""),
        ("AlarmEmail", "o'neil+imds@example.com"),
        ("SweepSchedule", "cron(0 8 ? * MON-FRI *)"),
        ("ExemptionTag", "cost centre, $ and #"),
        ("ReservedConcurrency", "3"),
        ("KmsKeyArn", "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1"),
    ],
)
def test_a_value_that_the_template_takes_is_taken(name, value):
    assert parameters.refusals(TEMPLATE, {**DAY, name: value}) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mode", "did you mean Mode?"),
        ("AlarmMail", "did you mean AlarmEmail?"),
        ("ENFORCESINCE", "did you mean EnforceSince?"),
        ("ARCHITECTURE", "did you mean Architecture?"),
        ("SweepGraceDays", "did you mean GraceDays?"),
        ("regions", "did you mean Regions?"),
        ("Zzzzzz", "there are AlarmEmail, AlarmTopicArn, "),
    ],
)
def test_a_name_that_no_parameter_has_is_refused_with_the_nearest(name, hint):
    [refusal] = parameters.refusals(TEMPLATE, {**DAY, name: "observe"}, reserved=["Region", "Regions"])
    assert refusal.startswith(f"{name} is unknown; {hint}")


def test_everything_that_is_wrong_is_said_at_once():
    found = parameters.refusals(TEMPLATE, {"mode": "observe", "GraceDays": "abc", "Dashboard": "yes"})
    assert [re.split(r" is ", it)[0] for it in found] == ["mode", "GraceDays", "Dashboard", "EnforceSince"]


def test_a_parameter_without_a_default_is_missing_unless_it_is_kept_elsewhere():
    assert parameters.refusals(TEMPLATE, {}) == ["EnforceSince is missing; it must be all, or a day that there is, such as 2026-11-02"]
    assert parameters.refusals(TEMPLATE, {}, kept=["EnforceSince"]) == []


def rule(condition=True):
    assertion = {"Assert": {"Fn::Not": [{"Fn::Equals": [{"Ref": "ResultBus"}, ""]}]}, "AssertDescription": "ResultEmail needs ResultBus"}
    return {**TEMPLATE, "Rules": {"Bus": {"RuleCondition": condition, "Assertions": [assertion]}}}


def test_a_rule_is_asserted_where_its_condition_holds():
    has_email = {"Fn::Not": [{"Fn::Equals": [{"Ref": "ResultEmail"}, ""]}]}
    assert parameters.refusals(rule(has_email), DAY) == []
    [refusal] = parameters.refusals(rule(has_email), {**DAY, "ResultEmail": "a@example.com"})
    assert refusal == 'ResultBus is "" and ResultEmail is "a@example.com"; ResultEmail needs ResultBus'


def test_a_rule_about_a_value_that_is_not_known_yet_is_left():
    assert parameters.refusals(rule(), DAY, kept=["ResultBus"]) == []
    assert parameters.refusals(rule(), DAY) == ['ResultBus is ""; ResultEmail needs ResultBus']


@pytest.mark.parametrize(
    ("stated", "value", "wanted"),
    [
        ({"Type": "String", "MinLength": 1}, "", "must be a text of at least 1 characters"),
        ({"Type": "String", "MinLength": 1, "MaxLength": 3}, "abcd", "must be a text of 1 to 3 characters"),
        ({"Type": "Number", "MinValue": 1}, "0", "must be a number of at least 1"),
        ({"Type": "CommaDelimitedList", "AllowedPattern": "ou-.*", "ConstraintDescription": "must be units"}, "ou-1, r-2", "must be units"),
        ({"Type": "List<Number>"}, "1,b", "must be a number"),
    ],
)
def test_the_constraints_of_other_templates_are_known_too(stated, value, wanted):
    assert parameters.refusals({"Parameters": {"One": stated}}, {"One": value}) == [f'One is "{value}"; it {wanted}']


def test_what_is_given_to_make_arrives_as_it_was_typed(tmp_path):
    (tmp_path / "Makefile").write_text('deploy:\n\t@printf %s "$$MAKEFLAGS" > flags\n')
    typed = [
        "SweepSchedule=cron(0 8 ? * MON-FRI *)",
        'ExemptionTag=it\'s "quoted", $HOME $$ \\ # -- Mode=observe ',
        "Regions=us-east-1,eu-central-1",
        "ResultBus=",
        "ResultBusArn=a=b",
        "Mode=enforce",
        "Mode:=observe",
    ]
    environment = {**os.environ, "AlarmEmail": "from@the.environment", "MAKEFLAGS": "", "MAKELEVEL": ""}
    subprocess.run(["make", "-k", "deploy", *typed], cwd=tmp_path, env=environment, check=True)
    found = parameters.given(parameters.of_make((tmp_path / "flags").read_text()))
    assert found == {
        "SweepSchedule": "cron(0 8 ? * MON-FRI *)",
        "ExemptionTag": 'it\'s "quoted", $HOME $$ \\ # -- Mode=observe ',
        "Regions": "us-east-1,eu-central-1",
        "ResultBus": "",
        "ResultBusArn": "a=b",
        "Mode": "observe",
    }


def test_a_word_that_is_no_assignment_is_refused():
    with pytest.raises(parameters.Unreadable, match="observe: write NAME=VALUE, as in Mode=observe"):
        parameters.given(["observe"])


def test_what_the_manuals_say_to_deploy_with_is_taken():
    manuals = (ROOT / "README.md").read_text() + (ROOT / "infra/README.md").read_text()
    commands = re.findall(r"make deploy ([A-Z][^`\n]*=[^`\n]*)", manuals)
    assert len(commands) >= 7
    for command in commands:
        given = parameters.given(shlex.split(command)).items()
        # The shell puts in what begins with $, and the reader what is ….
        values = {name: value for name, value in given if name not in ("Region", "Regions", "StackName") and not value.startswith(("$", "…"))}
        assert parameters.refusals(TEMPLATE, values, kept=TEMPLATE["Parameters"]) == [], command
