"""The emulator, with events that go from account to account and from Region to Region.

MiniStack delivers an event within one account and Region alone. Started by this file, it delivers to a
bus that is named by its ARN, wherever that is, and keeps the account and Region that EventBridge gave the
event where it was sent. It also takes events of source `aws.`, so that a test can stand for CloudWatch.
It looks at no policy of a bus: `infra/hub.test.ts` evaluates that.
"""

from emulator import main
from ministack.core.arn import parse_arn
from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import eventbridge


class BusElsewhere(str):
    """The name of a bus, with its place."""

    account: str
    region: str


def bus_of(reference):
    """A bus by its name or ARN, and no error: what is not there has no rules."""
    if not (reference or "").startswith("arn:"):
        return reference, None
    spec = parse_arn(reference)
    bus = BusElsewhere(spec.resource.split("/", 1)[1])
    bus.account, bus.region = spec.account_id, spec.region
    return bus, None


def dispatch(event, view=None):
    bus = event.get("EventBusName")
    if not isinstance(bus, BusElsewhere):
        return within(event, view)
    with request_scope(bus.account, bus.region):
        return within(event | {"EventBusName": str(bus)}, view)


def forward(spec, event, rule, path, payload=None):
    if (spec.account_id, spec.region) == (get_account_id(), get_region()):
        return to_own_bus(spec, event, rule, path, payload)
    with request_scope(spec.account_id, spec.region):
        return within(event | {"EventBusName": spec.resource.split("/", 1)[1]})


def put(data, allow_aws_source=True):
    return put_of_customers(data, True)


within, to_own_bus, put_of_customers = eventbridge._dispatch_event, eventbridge._dispatch_to_event_bus, eventbridge._put_events
eventbridge._dispatch_event, eventbridge._dispatch_to_event_bus, eventbridge._put_events = dispatch, forward, put
eventbridge._event_bus_name_from_ref = bus_of

if __name__ == "__main__":
    main()
