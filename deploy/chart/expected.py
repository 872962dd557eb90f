"""What renders of the chart have to say, beyond what a schema can see: `expect` looks at a render of a file of ci/, `refuse` names values that the chart refuses."""

import collections
import re
import urllib.parse


def each(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def work_trigger(documents):
    """The triggers by which KEDA starts and ends trainers."""
    for document in documents:
        if document["kind"] in ("ScaledObject", "ScaledJob") and document["metadata"]["name"].endswith("-trainer"):
            yield from document["spec"]["triggers"]


def queries(documents):
    """The queries of KEDA's triggers by the names that files/queries_test.yaml has for them."""
    found = {}
    for trigger in work_trigger(documents):
        found["trainers:work"] = trigger["metadata"]["query"]
    for document in each(documents, "ScaledObject"):
        if not document["metadata"]["name"].endswith("-trainer"):
            used, queue = document["spec"]["triggers"]
            found |= {"servers:used": used["metadata"]["query"], "servers:queue": queue["metadata"]["query"]}
    return found


def trainers_of_keda(values, documents):
    for trigger in work_trigger(documents):
        if trigger["metadata"].get("ignoreNullValues") != "false":
            yield "a Prometheus server that has read no pod ends the trainers"
    for document in each(documents, "ScaledJob"):
        spec, queue = document["spec"], values.get("trainer", {}).get("scaledJob", {}).get("queueName")
        if document["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") != queue:
            yield "KEDA gives its Jobs the labels of the ScaledJob, and they lack Kueue's queue"
        if "kueue.x-k8s.io/queue-name" in spec["jobTargetRef"]["template"]["metadata"]["labels"]:
            yield "Kueue would queue the pods of a Job on their own"
        # Of KEDA's strategies, only this one takes all Jobs that have not ended from a number that counts the work of them.
        if spec["scalingStrategy"]["strategy"] != "default":
            yield "the strategy does not fit a query that counts jobs at work"


def fsck(values, documents):
    if not values.get("fsck", {}).get("enabled"):
        return
    for job in each(documents, "CronJob"):
        spec = job["spec"]["jobTemplate"]["spec"]
        if spec["template"]["spec"]["containers"][0]["args"][:1] != ["fsck"] or spec["backoffLimit"] != 0:
            yield "the check of records and objects does not run once, or is something else"
        return
    yield "no CronJob checks records and objects"


def maintenance(values, documents):
    command = values.get("maintenance", {}).get("command")
    jobs = [job for job in each(documents, "Job") if "-maintenance-" in job["metadata"]["name"]]
    if bool(command) != (len(jobs) == 1):
        yield "the Job for maintenance is missing, or there without being asked for"
    database = values["database"]
    for job in jobs:
        pod = job["spec"]["template"]["spec"]
        container = pod["containers"][0]
        if container["args"] != command or job["spec"]["backoffLimit"] != 0:
            yield "the Job does not run its command once"
        server = next(own for own in each(documents, "Deployment") if not own["metadata"]["name"].endswith("-trainer"))["spec"]["template"]["spec"]
        for key in ("serviceAccountName", "securityContext"):
            if pod[key] != server[key]:
                yield f"the Job has another {key} than the servers"
        state = {"config", "data", "cache", "tmp", "database", "objects"}
        mounts = {mount["name"] for mount in server["containers"][0]["volumeMounts"]} & state
        if {mount["name"] for mount in container["volumeMounts"]} != mounts:
            yield "the Job has not the secrets and folders of the state, or has others"
        if command[0] == "migrate":
            secret = next(volume for volume in pod["volumes"] if volume["name"] == "database")["secret"]["secretName"]
            if environment(pod).get("FRAMESHIFT_DATABASE_URL") != database.get("migrationUrl", database["url"]):
                yield "migrations do not use the URL for them"
            if "listenUrl" in database and environment(pod).get("FRAMESHIFT_DATABASE_LISTEN_URL") != database.get("migrationUrl", database["listenUrl"]):
                yield "migrations bypass the pooler by the servers' URL"
            if secret != database.get("migrationPasswordSecret", database["passwordSecret"])["name"]:
                yield "migrations do not use the owner's password"


# Values that name a URL, and a URL for each whose port nothing else has.
URLS = {
    ("database", "url"): "postgres://frameshift@pooler:6432/frameshift",
    ("database", "listenUrl"): "postgres://frameshift@[2001:db8::1]:5433/frameshift?sslmode=require",
    ("database", "migrationUrl"): "postgresql://owner@db:5434/frameshift",
    ("objects", "endpoint"): "http://minio.storage:9000",
    ("config", "otlp_endpoint"): "http://otel.monitoring:4317",
    ("backbone", "url", "files"): [{"url": "https://models.example:8444/vit", "sha256": "0" * 64}],
    ("identities",): '[[issuers]]\nurl = "https://issuer.example:8445/realm"\n',
}


def urls(values):
    """The URLs that the values name."""
    for path in URLS:
        place = values
        for key in path:
            place = place.get(key, {})
        if isinstance(place, list):
            yield from (file["url"] for file in place)
        elif place:
            yield from re.findall(r"\w+://[^\s\"']+", place)
    if not values["objects"].get("endpoint"):
        yield values["objects"]["url"]


def port(url):
    parts = urllib.parse.urlsplit(url)
    return parts.port or {"http": 80, "postgres": 5432, "postgresql": 5432}.get(parts.scheme, 443)


def network(values, documents):
    """A pod may call what its values name, and nothing else."""
    wanted = {port(url) for url in urls(values)} | set(values.get("networkPolicy", {}).get("egressPorts", []))
    if values.get("clusterIssuer"):
        wanted |= {443, 6443}
    for policy in each(documents, "NetworkPolicy"):
        dns, called, *platform = policy["spec"]["egress"]
        opened = [rule["port"] for rule in called["ports"]]
        if opened != sorted(wanted):
            yield f"the ports {opened} are open, and the values name {sorted(wanted)}"
        if {rule["port"] for rule in dns["ports"]} != {53}:
            yield "names cannot be looked up"
        if bool(platform) == bool(values["objects"].get("credentialsSecret")):
            yield "the metadata server is closed to pods that need it, or open to others"


def pods(documents):
    """The specs of the pods that serve or train."""
    for document in each(documents, "Deployment"):
        yield document["spec"]["template"]["spec"]
    for document in each(documents, "ScaledJob"):
        yield document["spec"]["jobTargetRef"]["template"]["spec"]


def environment(pod):
    return {own["name"]: own["value"] for own in pod["containers"][0]["env"] if "value" in own}


def sized(values, documents):
    """Nothing that a pod takes follows the node that it is on."""
    for pod in pods(documents):
        if "memory" not in pod["containers"][0]["resources"]["limits"]:
            yield "a pod has no limit of memory"
        for name in ("COMPUTE_THREADS", "VIDEO_WORKERS", "ADAPTER_MEMORY", "QUEUE_MEMORY"):
            if f"FRAMESHIFT_{name}" not in environment(pod):
                yield f"{name} is left to the node"
        sizes = {volume["name"]: volume["emptyDir"].get("sizeLimit") for volume in pod["volumes"] if "emptyDir" in volume}
        if None in sizes.values():
            yield f"a disk has no limit: {sizes}"
        wanted = {"data": values.get("dataGiB", 24), "tmp": values.get("tmpGiB", 8)}
        for name, gibibytes in wanted.items():
            if sizes[name] != f"{gibibytes}Gi":
                yield f"{name} has {sizes[name]}"


def gateway(values, documents):
    """A gateway speaks TLS to pods that speak nothing else."""
    policies = each(documents, "BackendTLSPolicy")
    is_wanted = bool(values.get("gateway", {}).get("enabled") and values.get("tls", {}).get("secretName"))
    if is_wanted != (len(policies) == 1):
        yield "the gateway's TLS to the pods is missing, or there without being asked for"
    services = {service["metadata"]["name"]: service for service in each(documents, "Service")}
    for policy in policies:
        target, validation = policy["spec"]["targetRefs"][0], policy["spec"]["validation"]
        ports = services.get(target["name"], {"spec": {"ports": []}})["spec"]["ports"]
        if target["sectionName"] not in [port["name"] for port in ports]:
            yield "the policy leads to no port of the Service"
        if not validation["hostname"] or bool(validation.get("caCertificateRefs")) == bool(validation.get("wellKnownCACertificates")):
            yield "the policy does not say which certificate is right"


def example(documents, header):
    """Yields what is wrong with an example for a proxy that hashes the header which our clients send."""
    for document in documents:
        if document.get("kind") == "BackendTrafficPolicy":
            spec = document["spec"]
            if spec["targetRefs"][0]["kind"] != "GRPCRoute" or spec["loadBalancer"]["consistentHash"]["header"]["name"] != header:
                yield f"requests of the GRPCRoute are not hashed by {header}"
            if set(spec["timeout"]["http"].values()) != {"0s"}:
                yield "streams are cut off"
        if "static_resources" in document and header not in str(document):
            yield f"requests are not hashed by {header}"


EXPECTED = [trainers_of_keda, fsck, maintenance, network, sized, gateway]


def expect(values, documents):
    """Yields what is wrong with the render of these values."""
    names = collections.Counter((document["kind"], document["metadata"]["name"]) for document in documents)
    yield from (f"{kind} {name} is there {count} times" for (kind, name), count in names.items() if count > 1)
    for expected in EXPECTED:
        yield from expected(values, documents)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = (line.lstrip("#").strip() for line in page.splitlines() if re.match("#+ ", line))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def alerts(groups, tests, page):
    """Yields the alerts that lack a unit test in which they fire or stay silent, or a section of the page for operators, and the sections without an alert."""
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for name, rule in rules.items():
        fired = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == name]
        if True not in fired or False not in fired:
            yield f"{name} has no unit test in which it fires, or none in which it does not"
        place, _, anchor = rule["annotations"].get("runbook_url", "").partition("#")
        if not place.endswith("docs/operate.md") or anchor not in anchors(page):
            yield f"{name} leads to no section of docs/operate.md"
    section = page.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    for heading in re.findall(r"^### (.+)$", section, re.MULTILINE):
        if heading not in rules:
            yield f"docs/operate.md explains {heading}, which is no alert"


# What an operator looks for first, each with a panel at least.
WATCHED = ["bucket_failing", "database_up", "object_cache_requests", "object_cache_bytes", "unfinished_uploads", "jobs_waiting", "jobs", "admission_used_clips"]


def dashboard(board):
    """Yields what a dashboard lacks, and panels that lie on one another."""
    panels = board["panels"]
    asked = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    yield from (f"no panel shows frameshift_{name}" for name in WATCHED if not re.search(rf"\bframeshift_{name}(_total)?\{{", asked))
    places = collections.Counter((panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels)
    yield from (f"{count} panels at {place}" for place, count in places.items() if count > 1)
    numbers = collections.Counter(panel["id"] for panel in panels)
    yield from (f"{count} panels have the id {number}" for number, count in numbers.items() if count > 1)
