"""Starts MiniStack, an emulator of AWS, with what the templates need and its CloudFormation refuses.

An alarm on metric math is kept as an alarm on the first of its metrics: the emulator evaluates no
alarm of a stack, and the simulated month does. Nothing else of the emulator is changed.
"""

import sys

from ministack.app import main
from ministack.services.cloudformation import provisioners

record_of = provisioners._cw_metric_alarm_record


def record(name, properties):
    """The alarm of a template, where it is on several metrics as if it were on the first."""
    stats = [it["MetricStat"] for it in properties.get("Metrics") or [] if "MetricStat" in it]
    if not stats:
        return record_of(name, properties)
    first = {**stats[0]["Metric"], "Statistic": stats[0]["Stat"], "Period": stats[0]["Period"]}
    return record_of(name, {key: it for key, it in properties.items() if key != "Metrics"} | first)


provisioners._cw_metric_alarm_record = record

if __name__ == "__main__":
    sys.exit(main())
