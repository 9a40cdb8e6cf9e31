"""A stand-in for what launches instances in an account and Region: launch templates, Auto Scaling
groups, images, and the Region's defaults. It is not AWS. It serves HTTP on 127.0.0.1, reads requests
and writes answers by AWS's own models of its APIs, and does by the few actions that it has what AWS
documents, the harm included. It refuses every other action.
"""

import copy
import http.server
import threading
import urllib.parse
import xml.etree.ElementTree as xml

import botocore.session

SESSION = botocore.session.get_session()
MODELS = {"2016-11-15": SESSION.get_service_model("ec2"), "2011-01-01": SESSION.get_service_model("autoscaling")}


class Refused(Exception):
    """An error of the API."""


def read(shape, form, name, is_ec2):
    """A value of a request's form, or nothing."""
    if shape.type_name == "structure":
        names = {key: called(key, member, is_ec2) for key, member in shape.members.items()}
        found = {key: read(shape.members[key], form, f"{name}.{below}" if name else below, is_ec2) for key, below in names.items()}
        return {key: value for key, value in found.items() if value is not None} or None
    if shape.type_name == "list":
        prefix, values = f"{name}." if is_ec2 else f"{name}.member.", []
        while any(key == (item := f"{prefix}{len(values) + 1}") or key.startswith(f"{item}.") for key in form):
            values.append(read(shape.member, form, f"{prefix}{len(values) + 1}", is_ec2))
        return values or None
    convert = {"integer": int, "long": int, "boolean": "true".__eq__}.get(shape.type_name, str)
    return convert(form[name]) if name in form else None


def called(key, shape, is_ec2):
    """What a form calls a member of a structure."""
    location = shape.serialization.get("name", key)
    return shape.serialization.get("queryName", location[0].upper() + location[1:]) if is_ec2 else key


def written(shape, value, name):
    """A value as an element of an answer."""
    element = xml.Element(name)
    if shape.type_name == "structure":
        for key, inner in value.items():
            member = shape.members[key]
            element.append(written(member, inner, member.serialization.get("name", key)))
    elif shape.type_name == "list":
        name = shape.member.serialization.get("name", "member")
        element.extend(written(shape.member, inner, name) for inner in value)
    else:
        element.text = str(value).lower() if isinstance(value, bool) else str(value)
    return element


class Account:
    """What is there, and which actions are denied."""

    def __init__(self):
        self.templates, self.groups, self.images, self.defaults = {}, {}, {}, {}
        self.denied, self.lock = set(), threading.Lock()

    def state(self):
        return copy.deepcopy({"templates": self.templates, "groups": self.groups, "images": self.images, "defaults": self.defaults})

    def put_template(self, id, versions, default):
        """A launch template with these data by version number."""
        self.templates[id] = {"default": default, "versions": versions}

    def template(self, request):
        if (id := request.get("LaunchTemplateId")) not in self.templates:
            raise Refused(f"InvalidLaunchTemplateId.NotFound: {id}")
        return id, self.templates[id]

    @staticmethod
    def number(template, version):
        """The number that a version means today."""
        named = {"$Latest": max(template["versions"]), "$Default": template["default"]}.get(version)
        number = named or (int(version) if version.isdigit() else 0)
        if number not in template["versions"]:
            raise Refused(f"InvalidLaunchTemplateId.VersionNotFound: {version}")
        return number

    def describe_launch_template_versions(self, request):
        id, template = self.template(request)
        numbers = [self.number(template, version) for version in request["Versions"]]
        return {"LaunchTemplateVersions": [self.described(id, template, number) for number in numbers]}

    @staticmethod
    def described(id, template, number):
        data = copy.deepcopy(template["versions"][number])
        if "MetadataOptions" in data:
            data["MetadataOptions"]["State"] = "pending"
        return {"LaunchTemplateId": id, "VersionNumber": number, "DefaultVersion": number == template["default"], "LaunchTemplateData": data}

    def create_launch_template_version(self, request):
        """A version has the data of its source, but for snapshots, and what is sent in their place."""
        id, template = self.template(request)
        data = {}
        if "SourceVersion" in request:
            data = copy.deepcopy(template["versions"][self.number(template, request["SourceVersion"])])
            for mapping in data.get("BlockDeviceMappings", []):
                mapping.get("Ebs", {}).pop("SnapshotId", None)
        data.update(request["LaunchTemplateData"])
        number = max(template["versions"]) + 1
        template["versions"][number] = data
        return {"LaunchTemplateVersion": self.described(id, template, number)}

    def modify_launch_template(self, request):
        id, template = self.template(request)
        template["default"] = self.number(template, request["DefaultVersion"])
        return {"LaunchTemplate": {"LaunchTemplateId": id, "DefaultVersionNumber": template["default"]}}

    def modify_instance_metadata_defaults(self, request):
        self.defaults.update(request)
        return {"Return": True}

    def modify_image_attribute(self, request):
        if request["ImageId"] not in self.images:
            raise Refused(f"InvalidAMIID.NotFound: {request['ImageId']}")
        self.images[request["ImageId"]]["ImdsSupport"] = request["ImdsSupport"]["Value"]

    def describe_auto_scaling_groups(self, request):
        names = request["AutoScalingGroupNames"]
        found = [{"AutoScalingGroupName": name, **group} for name, group in self.groups.items() if name in names]
        return {"AutoScalingGroups": copy.deepcopy(found)}

    def update_auto_scaling_group(self, request):
        """A group launches by one of three: what is given takes the place of the other two."""
        group = self.groups[request["AutoScalingGroupName"]]
        if given := {"LaunchTemplate", "MixedInstancesPolicy", "LaunchConfigurationName"} & request.keys():
            for other in {"LaunchTemplate", "MixedInstancesPolicy", "LaunchConfigurationName"} - given:
                group.pop(other, None)
        group.update({key: value for key, value in request.items() if key != "AutoScalingGroupName"})

    def answer(self, form):
        """The answer to a request, as XML."""
        model, action = MODELS[form["Version"]], form["Action"]
        handler = getattr(self, botocore.xform_name(action), None)
        if handler is None or action in self.denied:
            raise Refused(f"{'UnauthorizedOperation' if handler else 'InvalidAction'}: {action}")
        operation, is_ec2 = model.operation_model(action), model.metadata["protocol"] == "ec2"
        answer = handler(read(operation.input_shape, form, "", is_ec2) or {})
        root = xml.Element(f"{action}Response")
        parent = root if is_ec2 else xml.SubElement(root, f"{action}Result")
        for element in written(operation.output_shape, answer, "answer") if answer else []:
            parent.append(element)
        return xml.tostring(root)

    def serve(self):
        """Serves on a free port; answers the server, whose `server_address` has it."""
        account = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = dict(urllib.parse.parse_qsl(body, keep_blank_values=True))
                try:
                    with account.lock:
                        status, answer = 200, account.answer(form)
                except Refused as error:
                    code, _, message = str(error).partition(": ")
                    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                    status, answer = 400, f"<Response><Errors>{error}</Errors></Response>".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server
