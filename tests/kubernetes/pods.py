"""Reads a list of objects as JSON and prints the Pods that its workloads would make, as a list: Pod Security is enforced
on Pods, and for the workloads themselves only warns."""

import json
import sys

PLACES = {"Deployment": ("template",), "StatefulSet": ("template",), "Job": ("template",), "Pod": ()}

pods = []
for item in json.load(sys.stdin)["items"]:
    if item["kind"] not in PLACES:
        continue
    name, spec = item["metadata"]["name"], item
    claims = item["spec"].get("volumeClaimTemplates", [])
    for key in PLACES[item["kind"]]:
        spec = spec["spec"][key]
    spec = spec["spec"]
    for claim in claims:
        claim_name = claim["metadata"]["name"]
        spec.setdefault("volumes", []).append({"name": claim_name, "persistentVolumeClaim": {"claimName": claim_name}})
    pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"of-{name}"}, "spec": spec})
json.dump({"apiVersion": "v1", "kind": "List", "items": pods}, sys.stdout)
print(len(pods), file=sys.stderr)
