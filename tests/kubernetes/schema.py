"""The JSON Schema of the chart's values. `config` has the schema of the gateway's settings, docs/config.schema.json."""

import json
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
NAME = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


def text(pattern=None, **more):
    return {"type": "string", **({"pattern": pattern} if pattern else {}), **more}


def number(least=0, most=2**31 - 1):
    return {"type": "integer", "minimum": least, "maximum": most}


def closed(**keys):
    return {"type": "object", "additionalProperties": False, "properties": keys}


def many(items=None):
    return {"type": "array", "items": items or {"type": "object"}}


def one_of(*values):
    return {"enum": list(values)}


FLAG = {"type": "boolean"}
FREE = {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
WORDS = many({"type": "string"})
NAMED = {"type": ["string"], "pattern": "^$|" + NAME}
URL = text("^$|^https?://")
MANY_OR_SHARE = {"type": ["integer", "string"], "pattern": "^[0-9]+%$", "minimum": 0}

PLACEMENT = {"nodeSelector": TEXTS, "tolerations": many(), "affinity": FREE}
SCALING = {"enabled": FLAG, "maxReplicas": number(1, 1000)}

COLOUR = closed(
    replicas=number(0, 1000), image=text(), command=WORDS, args=WORDS, env=many(), annotations=TEXTS
)
POOL = closed(
    discovery=one_of("kubernetes", "addresses", "agent", "self", "queue"),
    model=text("."),
    image=text(),
    command=WORDS,
    args=WORDS,
    port=number(1, 65535),
    health=text("^$|^/"),
    startupSeconds=number(1, 86400),
    slots=number(0, 1000000),
    kvTokens=number(0, 10**12),
    stopDelaySeconds=number(1, 86400),
    drainSeconds=number(0, 86400),
    maxUnavailable=MANY_OR_SHARE,
    colours={"type": "object", "propertyNames": {"pattern": NAME}, "additionalProperties": COLOUR},
    env=many(),
    resources=FREE,
    volumes=many(),
    volumeMounts=many(),
    volumeClaimTemplates=many(),
    runtimeClassName=text(),
    podSecurityContext=FREE,
    securityContext=FREE,
    agent=closed(metrics=text("^/"), maxLoad={"type": "number", "minimum": 0}, rename=WORDS),
    autoscaling=closed(minReplicas=number(0, 1000), threshold={"type": "number", "exclusiveMinimum": 0}, **SCALING),
    **PLACEMENT,
)

VALUES = closed(
    image=closed(
        repository=text("."),
        tag=text(),
        digest=text("^$|^sha256:[0-9a-f]{64}$"),
        pullPolicy=one_of("IfNotPresent", "Always", "Never"),
    ),
    imagePullSecrets=many(),
    nameOverride=NAMED,
    fullnameOverride=NAMED,
    replicaCount=number(1, 1000),
    config=FREE,
    configChange=one_of("rollout", "watch"),
    admin=closed(secret=text(), tokenKey=text("."), readTokenKey=text(), metricsTokenKey=text(), hosts=WORDS),
    redis=closed(secret=text(), urlKey=text("."), hmacKeyKey=text()),
    tls=closed(secret=text()),
    env=many(),
    envFrom=many(),
    volumes=many(),
    volumeMounts=many(),
    pools={"type": "object", "propertyNames": {"pattern": NAME}, "additionalProperties": POOL},
    podNetworks=WORDS,
    activeColour=NAMED,
    switch=closed(enabled=FLAG, image=text("."), deadlineSeconds=number(10, 86400)),
    keda=closed(prometheus=URL),
    service=closed(
        type=one_of("ClusterIP", "NodePort", "LoadBalancer"),
        port=number(1, 65535),
        annotations=TEXTS,
        labels=TEXTS,
        loadBalancerClass=text(),
        clusterIP=text(),
    ),
    adminService=closed(port=number(1, 65535), clusterIP=text()),
    ingress=closed(enabled=FLAG, className=text(), host=text(), tlsSecret=text(), annotations=TEXTS),
    httpRoute=closed(enabled=FLAG, parentRefs=many(), hostnames=WORDS),
    autoscaling=closed(minReplicas=number(1, 1000), cpu=number(1, 1000), **SCALING),
    podDisruptionBudget=closed(enabled=FLAG, maxUnavailable=MANY_OR_SHARE),
    networkPolicy=closed(enabled=FLAG, users=many(), admin=many(), workers=many(), egress=many(), apiServer=many()),
    monitoring=closed(
        podMonitor=closed(enabled=FLAG, interval=text("^[0-9]+(ms|s|m)$"), labels=TEXTS),
        rules=closed(enabled=FLAG, labels=TEXTS, runbooks=text()),
        dashboard=closed(enabled=FLAG, labels=TEXTS, annotations=TEXTS),
    ),
    serviceAccount=closed(create=FLAG, name=NAMED, annotations=TEXTS),
    rbac=closed(create=FLAG),
    resources=FREE,
    podAnnotations=TEXTS,
    podLabels=TEXTS,
    priorityClassName=text(),
    hostAliases=many(),
    topologySpreadConstraints=many(),
    clusterDomain=text("."),
    listenAddress=one_of("0.0.0.0", "[::]"),
    # Helm's own, for charts within charts.
    **{"global": FREE},
    **PLACEMENT,
)


def with_variables(node):
    """What is not plain text may be `${NAME}` too, which the gateway fills in when it reads the settings."""
    if isinstance(node, list):
        return [with_variables(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: with_variables(value) for key, value in node.items()}
    if node.get("type") in ("integer", "number", "boolean") or "x-syntax" in node:
        # Outside stays what a reader of the schema looks for.
        return {"description": node.pop("description", ""), "anyOf": [node, text(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")]}
    return node


def schema():
    settings = json.loads((ROOT / "docs/config.schema.json").read_text())
    # What the chart adds afterwards is not asked for here.
    config = {key: settings[key] for key in ("type", "additionalProperties", "properties", "description")}
    drain = config["properties"]["drain"]
    # The chart computes with these two, so they stand there as they are.
    config["properties"] = {**with_variables(config["properties"]), "drain": drain}
    values = {**VALUES, "properties": {**VALUES["properties"], "config": config}}
    return {"$schema": settings["$schema"], "title": "Values of the chart traffic-dam", **values}
