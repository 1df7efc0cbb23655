"""Validates rendered manifests. Arguments: the version of Kubernetes, two folders of CRDs, then files.

Unknown fields are faults, because the API server would drop them without a message.
"""

import pathlib
import re
import sys
import tomllib

import jsonschema
import kubernetes_validate
import yaml

UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def size(text):
    number, unit = re.fullmatch(r"(\d+)(\w*)", text).groups()
    return int(number) * UNITS[unit]


def strict(schema):
    """Returns the schema, changed so that it refuses unknown fields, except where a CRD preserves them."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" \
            and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    if isinstance(schema.get("pattern"), str):
        # Go allows a flag after an anchor, and Python doesn't.
        result["pattern"] = schema["pattern"].replace("^(?i)", "(?i)^")
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
    return result


def crd_schemas(folders):
    found = {}
    names = "scaledobjects", "triggerauthentications", "servicemonitors", "prometheusrules"
    paths = [path for folder in folders for name in names for path in pathlib.Path(folder).glob(f"*_{name}.yaml")]
    assert len(paths) == len(names), f"found the CRDs {paths}"
    for path in paths:
        for crd in yaml.safe_load_all(path.read_text()):
            if crd and crd.get("kind") == "CustomResourceDefinition":
                for version in crd["spec"]["versions"]:
                    schema = strict(version["schema"]["openAPIV3Schema"])
                    schema["properties"]["metadata"] = {"type": "object"}
                    found[f'{crd["spec"]["group"]}/{version["name"]}', crd["spec"]["names"]["kind"]] = schema
    return found


def relations(name, documents):
    """Checks that the manifests agree with each other and with the configuration in them."""
    by_kind = {}
    for document in documents:
        by_kind.setdefault(document["kind"], []).append(document)
    (stateful,), (config,) = by_kind["StatefulSet"], by_kind["ConfigMap"]
    pod = stateful["spec"]["template"]["spec"]
    container = pod["containers"][0]
    daemon = tomllib.loads(config["data"]["daemon.toml"])
    pipelines = tomllib.loads(config["data"]["pipelines.toml"])["pipelines"]

    drain = int(daemon["limits"]["drain_timeout"].removesuffix("s"))
    grace = pod["terminationGracePeriodSeconds"]
    assert grace >= drain + 10, f"{name}: {grace} s of grace for a drain of {drain} s and 10 s"
    budget, limit = size(daemon["limits"]["memory"]), size(container["resources"]["limits"]["memory"])
    assert budget <= limit * 0.9, f"{name}: limits.memory is {budget}, the container's limit {limit}"
    port = int(daemon["http"]["listen"].rsplit(":", 1)[1])
    assert container["ports"][0]["containerPort"] == port, f"{name}: the daemon listens on {port}"
    for probe in "startupProbe", "livenessProbe", "readinessProbe":
        expected = "/readyz" if probe == "readinessProbe" else "/healthz"
        assert container[probe]["httpGet"] == {"path": expected, "port": "http"}, f"{name}: {probe}"
    labels = stateful["spec"]["template"]["metadata"]["labels"].items()
    selectors = {
        "StatefulSet": stateful["spec"]["selector"]["matchLabels"],
        "Service": by_kind["Service"][0]["spec"]["selector"],
        "PodDisruptionBudget": by_kind["PodDisruptionBudget"][0]["spec"]["selector"].get("matchLabels"),
    }
    for monitor in by_kind.get("ServiceMonitor", []):
        selectors["ServiceMonitor"] = monitor["spec"]["selector"]["matchLabels"]
    for kind, selector in selectors.items():
        assert selector and selector.items() <= labels, f"{name}: {kind} selects {selector}"
    mounts = tuple(mount["mountPath"] for mount in container["volumeMounts"])
    files = re.findall(r'"(/[^"]+)"', config["data"]["daemon.toml"]) + [a for a in container["args"] if a[0] == "/"]
    outside = [file for file in files if not file.startswith(mounts)]
    assert len(files) >= 3 and not outside, f"{name}: not mounted: {outside}"

    for policy in by_kind.get("NetworkPolicy", []):
        network(name, policy["spec"], daemon, labels)

    for scaler in by_kind.get("ScaledObject", []):
        trigger, stated = scaler["spec"]["triggers"][0]["metadata"], scaler["metadata"]["annotations"]
        pipeline = pipelines[trigger["consumerGroup"]]
        assert trigger["topic"] in pipeline["topics"], f"{name}: the scaler watches {trigger['topic']}"
        assert trigger["bootstrapServers"] == daemon["kafka"]["bootstrap_servers"], f"{name}: the scaler's Kafka"
        consumers = pipeline.get("consumers", 1)
        assert int(stated["tidegate/consumers"]) == consumers, f"{name}: the scaler assumes other consumers"
        most = -(-int(stated["tidegate/partitions"]) // consumers)
        assert scaler["spec"]["maxReplicaCount"] == most, f"{name}: at most {most} instances have a partition"
        assert "replicas" not in stateful["spec"], f"{name}: the scaler and the StatefulSet both set replicas"


def network(name, spec, daemon, labels):
    """Checks that a NetworkPolicy lets through what the configuration needs, and that no rule is unlimited."""
    selector = spec["podSelector"].get("matchLabels", {})
    assert selector and selector.items() <= labels, f"{name}: the NetworkPolicy selects {selector}"
    assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"], f"{name}: the NetworkPolicy restricts {spec['policyTypes']}"
    (ingress,) = spec["ingress"]
    assert [port["port"] for port in ingress["ports"]] == ["http"], f"{name}: {ingress['ports']} are reachable"
    for place, rules, peers in ("ingress", spec["ingress"], "from"), ("egress", spec["egress"], "to"):
        for rule in rules:
            # To Kubernetes, a missing or empty list means everything, and so does an empty selector.
            chosen = [peer.get(kind) for peer in rule.get(peers, []) for kind in peer]
            assert chosen and all(chosen), f"{name}: {place} from or to everywhere: {rule}"
            assert rule.get("ports"), f"{name}: {place} to all ports: {rule}"
    open_ports = {(port["protocol"], port["port"]) for rule in spec["egress"] for port in rule["ports"]}
    wanted = {("UDP", 53), ("TCP", 53)}
    servers = daemon["kafka"]["bootstrap_servers"].split(",")
    servers += [re.sub(r"^\w+://", "", daemon[part]["url"]).split("/")[0] for part in ("schema_registry",) if part in daemon]
    wanted |= {("TCP", int(server.rsplit(":", 1)[1])) for server in servers}
    # The URL of Postgres is in a secret. Its port is the default one unless the overlay says otherwise.
    assert wanted | {("TCP", 5432)} <= open_ports, f"{name}: the NetworkPolicy opens {open_ports}, not {wanted}"
    if "schema_registry" not in daemon:
        assert len(spec["egress"]) == 3, f"{name}: there is no schema registry, but {len(spec['egress'])} rules for egress"


def main(version, keda, operator, *files):
    crds = crd_schemas([keda, operator])
    for file in files:
        documents = [document for document in yaml.safe_load_all(pathlib.Path(file).read_text()) if document]
        for document in documents:
            kind = document["apiVersion"], document["kind"]
            if kind in crds:
                jsonschema.validate(document, crds[kind])
            else:
                kubernetes_validate.validate(document, version, strict=True)
        relations(pathlib.Path(file).stem, documents)
        print(f"{pathlib.Path(file).stem}: {len(documents)} objects are valid: "
              + ", ".join(document["kind"] for document in documents))


main(*sys.argv[1:])
