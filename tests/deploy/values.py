"""Values of the chart as operators write them."""

from typing import Any

HASH = "2451cb796493e3efc60e707f99e4f9f6029bc233b19e5799265aa51d458d7811"

DEFAULT: dict[str, Any] = {}
MINIMAL: dict[str, Any] = {
    "existingConfigMap": "limits",
    "networkPolicy": {"enabled": False},
    "resources": {},
    "spreadOver": [],
}
CLOSED: dict[str, Any] = {"networkPolicy": {"clients": [], "scrapers": [], "egress": []}}
FULL: dict[str, Any] = {
    "replicas": 3,
    "workers": 2,
    "image": {"repository": "registry.example:5000/llm/openlimit", "tag": "1.2.3"},
    "imagePullSecrets": [{"name": "registry"}],
    "fullnameOverride": "limiter",
    "store": {"existingSecret": "redis", "secretKey": "address"},
    "config": {
        "policies": [
            {
                "name": "shared",
                "models": ["gpt-4o*"],
                "limits": {"requests": "10000/minute", "tokens": "2000000/minute burst 5s"},
                "concurrent": 50,
                "levels": [{"label": "team", "weights": {"search": 4}}],
            }
        ],
        "domains": [{"domain": "edge", "descriptors": [{"key": "path", "limit": "10/second"}]}],
    },
    "keys": {
        "entries": [
            {"name": "search", "hash": HASH, "labels": {"team": "search"}},
            {"name": "batch", "token": "${BATCH_KEY}", "may": ["acquire", "penalize"]},
        ]
    },
    "tls": {"existingSecret": "certificate", "clientCa": True},
    "drainDelay": 2.5,
    "grace": 30,
    "podDisruptionBudget": {"maxUnavailable": "25%"},
    "serviceMonitor": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "nativeHistograms": True,
    },
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "serviceAccountName": "limiter",
    "priorityClassName": "system-cluster-critical",
    "podAnnotations": {"example.com/owner": "platform"},
    "podLabels": {"tier": "platform"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "env": [{"name": "BATCH_KEY", "valueFrom": {"secretKeyRef": {"name": "batch", "key": "key"}}}],
    "envFrom": [{"secretRef": {"name": "more"}}],
    "volumes": [{"name": "redis-ca", "secret": {"secretName": "redis-ca"}}],
    "volumeMounts": [{"name": "redis-ca", "mountPath": "/etc/openlimit/redis"}],
}
