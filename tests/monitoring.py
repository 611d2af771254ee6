"""Checks a Prometheus that scrapes running gateways. `monitoring.py URL data`: every query of the dashboard
and the alerts has a value. `monitoring.py URL firing ALERT...`: these alerts fire. `monitoring.py URL quiet
ALERT...`: they do not. `monitoring.py URL until QUERY...`: these queries have a value. It waits for this, and
prints what is missing when the time is over."""

import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

DASHBOARD = Path(__file__).parent.parent / "deploy/grafana/dashboard.json"
# Rates need two scrapes, percentiles need answers, alerts need their range and their `for`.
PATIENCE_S = 240
# Splits an alert into value and bound; all alerts in deploy/prometheus/alerts.yml have this form.
BOUND = re.compile(r"^(.*)(<=|>=|<|>)\s*[-0-9.]+$", re.DOTALL)


def ask(url, path, **arguments):
    query = urllib.parse.urlencode(arguments)
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=10) as answer:
        return json.load(answer)["data"]


def has_value(url, query):
    result = ask(url, "query", query=query)["result"]
    return any(math.isfinite(float(series["value"][1])) for series in result)


def queries(url):
    """Yields all queries with their places. Replaces the variables, as Grafana does."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            filled = target["expr"].replace("$__rate_interval", "20s").replace("$instance", ".*")
            yield f"panel {panel['title']!r}", filled
    for group in ask(url, "rules")["groups"]:
        for rule in group["rules"]:
            if rule.get("health") == "err":
                raise SystemExit(f"{rule['name']}: {rule.get('lastError')}")
            if rule["type"] == "alerting":
                value = BOUND.match(rule["query"].strip())
                if not value:
                    raise SystemExit(f"{rule['name']} is not a value and a bound: {rule['query']}")
                yield f"alert {rule['name']}", value.group(1)
            else:
                yield f"rule {rule['name']}", rule["name"]


def firing(url):
    alerts = ask(url, "alerts")["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def wait_for(missing):
    """Waits until `missing()` is empty."""
    until = time.monotonic() + PATIENCE_S
    left = missing()
    while left and time.monotonic() < until:
        time.sleep(1)
        left = missing()
    if left:
        raise SystemExit("missing:\n  " + "\n  ".join(sorted(left)))


def main(url, what, *names):
    if what == "data":
        asked = list(queries(url))
        wait_for(lambda: [f"{place}: {query}" for place, query in asked if not has_value(url, query)])
        print(f"{len(asked)} queries of panels, rules and alerts give data")
    elif what == "firing":
        began = time.monotonic()
        wait_for(lambda: set(names) - firing(url))
        print(f"firing after {time.monotonic() - began:.0f} s: {', '.join(names)}")
    elif what == "until":
        wait_for(lambda: [query for query in names if not has_value(url, query)])
    elif what == "quiet":
        began = time.monotonic()
        wait_for(lambda: {f"{name} still fires" for name in set(names) & firing(url)})
        print(f"quiet after {time.monotonic() - began:.0f} s: {', '.join(names)}")
    else:
        raise SystemExit(f"{what} is not known: data, firing, quiet or until")


if __name__ == "__main__":
    main(*sys.argv[1:])
