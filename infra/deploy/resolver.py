"""A template as a deployment sees it: with its parameters, conditions and functions resolved."""

import re


class Resolver:
    """Replaces parameters, conditions and functions by what they are for a deployment.

    What only AWS knows stays, as `${DeadLetterQueue.Arn}`, and so does a pseudo parameter that `pseudo`
    does not have.
    """

    PSEUDO = ["AWS::Partition", "AWS::Region", "AWS::AccountId", "AWS::StackName", "AWS::URLSuffix"]
    NOTHING = object()

    def __init__(self, template, parameters, pseudo=()):
        defaults = {name: it.get("Default") for name, it in template.get("Parameters", {}).items()}
        unknown = parameters.keys() - defaults.keys()
        assert not unknown, f"no such parameters: {unknown}"
        missing = [name for name, value in {**defaults, **parameters}.items() if value is None]
        assert not missing, f"without a value: {missing}"
        self.values = {name: str(value) for name, value in {**defaults, **parameters, **dict(pseudo)}.items()}
        self.template = template

    def resources(self):
        found = {}
        for name, resource in self.template["Resources"].items():
            if "Condition" in resource and not self.condition(resource["Condition"]):
                continue
            kept = {key: value for key, value in resource.items() if key not in ("Condition", "Metadata", "DependsOn")}
            found[name] = self.resolve(kept)
        return found

    def condition(self, name):
        return self.resolve(self.template["Conditions"][name])

    def resolve(self, node):
        if isinstance(node, list):
            items = [self.resolve(item) for item in node]
            return [item for item in items if item is not self.NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            [(function, argument)] = node.items()
            handler = getattr(self, "fn_" + function.replace("Fn::", "").lower(), None)
            if handler and (function.startswith("Fn::") or function in ("Ref", "Condition")):
                return handler(argument)
        values = {key: self.resolve(value) for key, value in node.items()}
        return {key: value for key, value in values.items() if value is not self.NOTHING}

    def fn_ref(self, name):
        if name == "AWS::NoValue":
            return self.NOTHING
        value = self.values.get(name, f"${{{name}}}")
        is_list = self.template.get("Parameters", {}).get(name, {}).get("Type") == "CommaDelimitedList"
        return [item.strip() for item in value.split(",")] if is_list else value

    def fn_getatt(self, argument):
        return "${" + (argument if isinstance(argument, str) else ".".join(argument)) + "}"

    def fn_sub(self, argument):
        text, variables = (argument, {}) if isinstance(argument, str) else argument
        values = {**self.values, **self.resolve(variables)}
        return re.sub(r"\$\{([^}]+)\}", lambda it: values.get(it[1], it[0]), text)

    def fn_join(self, argument):
        separator, parts = map(self.resolve, argument)
        return separator.join(str(part) for part in parts)

    def fn_split(self, argument):
        separator, text = map(self.resolve, argument)
        # The parts of what only AWS knows are not known here.
        return {"Fn::Split": [separator, text]} if text.startswith("${") else text.split(separator)

    def fn_select(self, argument):
        index, members = map(self.resolve, argument)
        return members[int(index)] if isinstance(members, list) else {"Fn::Select": [index, members]}

    def fn_equals(self, pair):
        left, right = (str(self.resolve(side)) for side in pair)
        return left == right

    def fn_and(self, conditions):
        return all(self.resolve(condition) for condition in conditions)

    def fn_or(self, conditions):
        return any(self.resolve(condition) for condition in conditions)

    def fn_not(self, argument):
        return not self.resolve(argument[0])

    def fn_condition(self, name):
        return self.condition(name) if isinstance(name, str) and name in self.template["Conditions"] else {"Condition": self.resolve(name)}

    def fn_if(self, argument):
        condition, yes, no = argument
        return self.resolve(yes if self.condition(condition) else no)
