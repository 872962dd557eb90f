"""Renders the chart for every file of ci/ and checks what comes out; `make chart` runs it.

Core objects are validated strictly against the schemas of Kubernetes, those of KEDA and the Prometheus operator against their models, rules and their unit
tests by promtool, and every expression of the dashboard by promtool too. Renders are compared with ci/golden; --update writes them anew.
"""

import contextlib
import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import helm_python as helm
import kubernetes_validate
import yaml

import expected

CHART = pathlib.Path(__file__).parent
VERSION = "1.34"
PROBLEMS = []
COUNTS = {}


def problem(text):
    PROBLEMS.append(text)
    print(f"chart: {text}", file=sys.stderr)


def counted(what, by=1):
    COUNTS[what] = COUNTS.get(what, 0) + by


@contextlib.contextmanager
def quiet():
    """Helm's own library tells every refusal to the process's standard error: that is left out where a refusal is what is expected."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def render(values):
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        return chart.render(values, name="demo", namespace="prod")


def objects(manifests):
    for path, text in sorted(manifests.items()):
        if path.endswith(".yaml"):
            yield from (document for document in yaml.safe_load_all(text) if document)


def custom_models():
    """Models by apiVersion and kind, of the kinds that Kubernetes itself does not have."""
    from cloudcoil.models.keda import v1alpha1 as keda
    from cloudcoil.models.prometheus_operator import v1 as prometheus

    return {
        ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
        ("keda.sh/v1alpha1", "ScaledJob"): keda.ScaledJob,
        ("monitoring.coreos.com/v1", "PodMonitor"): prometheus.PodMonitor,
        ("monitoring.coreos.com/v1", "PrometheusRule"): prometheus.PrometheusRule,
    }


# No package on PyPI has these; their required fields are checked by hand.
BY_HAND = {
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): ("parentRefs", "rules"),
    ("gateway.networking.k8s.io/v1", "BackendTLSPolicy"): ("targetRefs", "validation"),
}


def validate(name, document, models):
    kind = (document["apiVersion"], document["kind"])
    where = f"{name}: {document['kind']} {document['metadata']['name']}"
    if document["kind"] == "ScaledJob":
        # The operator's model knows less of a Job than Kubernetes does, and stumbles over quantities.
        job = document["spec"]["jobTargetRef"]
        validate(name, {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": job}, models)
        document = copy.deepcopy(document)
        for container in document["spec"]["jobTargetRef"]["template"]["spec"]["containers"]:
            container.pop("resources", None)
    if kind in models:
        try:
            models[kind].model_validate(document)
            counted("objects of operators")
        except Exception as error:  # pydantic's errors have no common base across versions
            problem(f"{where}: {error}")
    elif kind in BY_HAND:
        for field in BY_HAND[kind]:
            if not document["spec"].get(field):
                problem(f"{where}: spec.{field} is empty")
        counted("objects by hand")
    else:
        try:
            kubernetes_validate.validate(document, VERSION, strict=True)
            counted("objects of Kubernetes")
        except Exception as error:
            problem(f"{where}: {error}")


def restricted(name, document):
    """Every pod meets the restricted profile of the pod security standards."""
    spec = document.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    template = spec.get("jobTargetRef", spec).get("template", document if document["kind"] == "Pod" else None)
    if not template or "containers" not in template.get("spec", {}):
        return
    pod = template["spec"]
    own = pod.get("securityContext", {})
    if not own.get("runAsNonRoot") or own.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        problem(f"{name}: {document['kind']}: the pod is not restricted")
    for container in pod.get("initContainers", []) + pod["containers"]:
        context = container.get("securityContext", {})
        safe = context.get("capabilities", {}).get("drop") == ["ALL"] and context.get("readOnlyRootFilesystem") is True
        if not safe or context.get("allowPrivilegeEscalation") is not False:
            problem(f"{name}: {document['kind']}: container {container['name']} is not restricted")
    counted("restricted pods")


def compare(name, manifests, update):
    text = "".join(f"# {path}\n{manifests[path].strip()}\n" for path in sorted(manifests) if manifests[path].strip())
    golden = CHART / "ci" / "golden" / f"{name}.yaml"
    if update:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    elif not golden.exists() or golden.read_text() != text:
        problem(f"{golden} differs from what the chart renders: look at it, then run `make chart UPDATE=1`")


def settings_of(document):
    if document["kind"] == "ConfigMap" and "frameshift.toml" in document.get("data", {}):
        return document["data"]["frameshift.toml"]
    return None


def accepted(name, toml, documents):
    """The program itself reads the configuration and the variables of each pod, where it has been built."""
    program = os.environ.get("FRAMESHIFT_PROGRAM")
    if not program:
        return
    for pod in expected.pods(documents):
        container = pod["containers"][0]
        environment = {key: value for key, value in expected.environment(pod).items() if key != "FRAMESHIFT_CONFIG"}
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(toml)
            file.flush()
            arguments = [program, *container["args"], "--config", file.name, "--dump-config"]
            run = subprocess.run(arguments, capture_output=True, text=True, env=environment)
        # The secrets that the file names are not here: --dump-config reads settings only.
        if run.returncode != 0 or "no such" in run.stderr:
            problem(f"{name}: the program refuses the configuration: {run.stderr.strip()}")
        counted("configurations that the program read")


def rules(documents, promtool):
    for document in documents:
        if document["kind"] != "PrometheusRule":
            continue
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "rendered.yaml").write_text(yaml.safe_dump(document["spec"]))
            shutil.copy(CHART / "files" / "alerts_test.yaml", folder)
            for arguments in (["check", "rules", "rendered.yaml"], ["test", "rules", "alerts_test.yaml"]):
                run = subprocess.run([promtool, *arguments], cwd=folder, capture_output=True, text=True)
                if run.returncode != 0:
                    problem(f"promtool {' '.join(arguments)}: {run.stdout}{run.stderr}")
                counted("promtool runs")


def explained(documents):
    """Every alert has unit tests and a section of the page for operators."""
    tests = yaml.safe_load((CHART / "files" / "alerts_test.yaml").read_text())["tests"]
    page = (CHART.parent.parent / "docs" / "operate.md").read_text()
    for document in expected.each(documents, "PrometheusRule"):
        for wrong in expected.alerts(document["spec"]["groups"], tests, page):
            problem(wrong)
        counted("files of alerts that are tested and explained")


def queries(documents, promtool):
    """The queries of KEDA's triggers answer as files/queries_test.yaml says, where the render has all of them."""
    found = expected.queries(documents)
    if len(found) < 3:
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        recorded = [{"record": name, "expr": query} for name, query in found.items()]
        (folder / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
        shutil.copy(CHART / "files" / "queries_test.yaml", folder)
        run = subprocess.run([promtool, "test", "rules", "queries_test.yaml"], cwd=folder, capture_output=True, text=True)
        if run.returncode != 0:
            problem(f"queries of KEDA: {run.stdout}{run.stderr}")
    counted("promtool runs")
    counted("queries of KEDA", len(found))


def dashboard(promtool):
    board = json.loads((CHART / "files" / "dashboard.json").read_text())
    for wrong in expected.dashboard(board):
        problem(f"dashboard: {wrong}")
    for panel in board["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$namespace", "prod")
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump({"groups": [{"name": "x", "rules": [{"record": "x:y", "expr": expression}]}]}, file)
                file.flush()
                run = subprocess.run([promtool, "check", "rules", file.name], capture_output=True, text=True)
            if run.returncode != 0:
                problem(f"dashboard, {panel['title']}: {run.stdout}{run.stderr}")
            counted("expressions of the dashboard")


def leaves(schema, path=()):
    for key, child in schema.get("properties", {}).items():
        if key == "global":
            continue
        yield (*path, key), child
        if child.get("type") == "object":
            yield from leaves(child, (*path, key))


def wrong(child):
    """A value of a type that the schema of a value does not allow."""
    return {"impossible": True} if child.get("type") != "object" else ["impossible"]


def refused(values, why):
    try:
        with quiet():
            render(values)
    except Exception:
        counted("wrong values refused")
        return
    problem(f"accepted although {why}")


def refuses_wrong_values(minimal):
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for path, child in leaves(schema):
        for bad, what in ((wrong(child), "has the wrong type"), ("unknown", "has an unknown key")):
            values = copy.deepcopy(minimal)
            place = values
            for key in path[:-1]:
                place = place.setdefault(key, {})
            if what == "has the wrong type":
                place[path[-1]] = bad
            elif child.get("additionalProperties") is False:
                place.setdefault(path[-1], {})["noSuchKey"] = bad
            else:
                continue
            refused(values, f"{'.'.join(path)} {what}")
        default = defaults
        for key in path:
            if key not in default:
                problem(f"values.yaml lacks {'.'.join(path)}, which the schema has")
                break
            default = default[key]
    nothing = {key: value for key, value in minimal.items() if key != "database"}
    refused(nothing, "there is no database")
    for change, why in (
        ({"objects": {"url": ""}}, "there is no bucket"),
        ({"precision": "auto"}, "replicas on different CPUs would answer differently"),
        ({"server": {"role": "all"}}, "trainers and servers both train"),
        ({"server": {"replicas": 8}}, "the pods would take more than 80 % of the connections"),
        # Two servers, a trainer and one pod more of each in a rollout, with 10 connections; with listenUrl, 11.
        ({"database": {"maxConnections": 62}}, "five pods take 50 of 62 connections"),
        ({"database": {"maxConnections": 68, "listenUrl": "postgres://frameshift@db/frameshift"}}, "five pods take 55 of 68 connections"),
        ({"database": {"connections": 2}}, "a server needs three connections"),
        ({"server": {"maxSurge": 0, "maxUnavailable": 0}}, "no rollout of servers could make progress"),
        ({"trainer": {"maxSurge": 0, "maxUnavailable": 0}}, "no rollout of trainers could make progress"),
        ({"backbone": {"source": "image", "image": {"reference": "ghcr.io/example/clip:latest"}}}, "the image has no digest"),
        ({"backbone": {"source": "pvc"}}, "no claim is named"),
        ({"backbone": {"digest": "sha256:" + "0" * 64}}, "a digest has no prefix"),
        ({"config": {"backbone_digest": "0" * 64}}, "the chart sets backbone_digest"),
        ({"backbone": {"source": "url"}}, "no file is named"),
        ({"backbone": {"source": "url", "url": {"files": [{"url": "https://models.example/x"}]}}}, "the file has no sha256"),
        ({"backbone": {"source": "url", "url": {"files": [{"url": "file:///x", "sha256": "0" * 64}]}}}, "it is no URL that is fetched"),
        ({"gateway": {"enabled": True}, "tls": {"secretName": "t"}}, "the gateway would not know whose certificates to trust"),
        (
            {"gateway": {"enabled": True, "backendTls": {"caConfigMap": "ca", "systemCa": True}}, "tls": {"secretName": "t"}},
            "the gateway would trust two kinds of authorities",
        ),
        ({"tls": {"clientCaSecretName": "ca"}}, "certificates of clients need TLS"),
        ({"tls": {"secretName": "t", "clientCrlSecretName": "crl"}}, "lists of revoked certificates need authorities"),
        ({"authentication": "keys,passwords"}, "passwords are no method"),
        ({"authentication": "keys,oidc"}, "nothing says who may do what"),
        ({"identities": "[[issuers]]"}, "nobody would be asked for a token"),
        ({"authentication": "mtls", "identities": "[[certificates]]"}, "mtls needs authorities"),
        ({"config": {"listen": "0.0.0.0:1"}}, "the chart sets listen"),
        ({"server": {"settings": {"role": "all"}}}, "the chart sets role"),
        ({"config": {"queue_memory": "1GiB"}}, "the settings of a kind of pod would win over it"),
        ({"server": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}, "batches on a GPU would be of a size for CPUs"),
        ({"trainer": {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one"}]}}, "batches on a GPU would be of a size for CPUs"),
        ({"config": {"queue_clips": {"a": 1}}}, "a setting is no object"),
        ({"maintenance": {"enabled": True}}, "no command is named"),
        ({"maintenance": {"enabled": True, "command": ["backup", "/backup"]}}, "nothing would back up PostgreSQL"),
        ({"database": {"url": "postgres://user:secret@db/x"}}, "a password does not belong into values"),
    ):
        values = copy.deepcopy(minimal)
        for key, value in change.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
        refused(values, why)


def allows_right_values(minimal):
    """Values just within what refuses_wrong_values goes beyond."""
    for change in (
        {"database": {"maxConnections": 63}},
        {"database": {"maxConnections": 69, "listenUrl": "postgres://frameshift@db/frameshift"}},
        {"database": {"maxConnections": 38}, "trainer": {"kind": "none"}},
    ):
        values = copy.deepcopy(minimal)
        for key, value in change.items():
            values[key] = {**values.get(key, {}), **value}
        try:
            render(values)
            counted("right values allowed")
        except Exception as error:
            problem(f"refused: {change}: {error}")


def reaches_its_urls(minimal):
    """Each URL alone opens its port."""
    for path, url in expected.URLS.items():
        values = copy.deepcopy(minimal)
        place = values
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = url
        if path[0] == "identities":
            values["authentication"] = "oidc"
        if path[0] == "backbone":
            values["backbone"]["source"] = "url"
        for wrong in expected.network(values, list(objects(render(values)))):
            problem(f"{'.'.join(path)} = {url}: {wrong}")
        counted("URLs whose port is open")


def examples():
    """The examples are YAML, and what they hash is what our clients send."""
    header = re.search(r'"(x-frameshift-route)"', (CHART.parent.parent / "src" / "client" / "identity.rs").read_text()).group(1)
    for file in sorted((CHART / "examples").glob("*.yaml")):
        documents = list(yaml.safe_load_all(file.read_text()))
        counted("examples")
        for wrong in expected.example(documents, header):
            problem(f"{file.name}: {wrong}")


def main():
    update = "--update" in sys.argv[1:]
    promtool = shutil.which("promtool")
    if not promtool:
        print("chart: skipped: promtool is not installed (Debian's package prometheus)")
        if os.environ.get("CI") == "true":
            problem("promtool is missing")
    with quiet():
        findings = helm.lint(str(CHART))["messages"]
    for finding in findings:
        # 1 is advice, such as a missing icon.
        if finding["severity"] > 1:
            problem(f"lint: {finding['path']}: {finding['error']}")
    models = custom_models()
    for file in sorted((CHART / "ci").glob("*.yaml")):
        name = file.stem
        values = yaml.safe_load(file.read_text())
        manifests = render(values)
        documents = list(objects(manifests))
        for wrong in expected.expect(values, documents):
            problem(f"{name}: {wrong}")
        explained(documents)
        for document in documents:
            validate(name, document, models)
            restricted(name, document)
            toml = settings_of(document)
            if toml:
                accepted(name, toml, documents)
        if promtool:
            rules(documents, promtool)
            queries(documents, promtool)
        compare(name, manifests, update)
        counted("files of ci/")
    if promtool:
        dashboard(promtool)
        for what in ("promtool runs", "queries of KEDA"):
            if what not in COUNTS:
                problem(f"no file of ci/ has {what}")
    examples()
    minimal = yaml.safe_load((CHART / "ci" / "minimal.yaml").read_text())
    allows_right_values(minimal)
    reaches_its_urls(minimal)
    refuses_wrong_values(minimal)
    for what, number in COUNTS.items():
        print(f"chart: {number} {what}")
    sys.exit(1 if PROBLEMS else 0)


if __name__ == "__main__":
    main()
