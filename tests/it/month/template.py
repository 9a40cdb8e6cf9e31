"""Prints a CloudFormation template as JSON, its short tags in their long form."""

import json
import sys

from samtranslator.yaml_helper import yaml_parse

with open(sys.argv[1], encoding="utf-8") as template:
    json.dump(yaml_parse(template.read()), sys.stdout)
