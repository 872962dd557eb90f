"""What renders of the chart have to say, beyond what a schema can see: `expect` looks at a render of a file of ci/, `refuse` names values that the chart refuses."""

import collections


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


EXPECTED = [trainers_of_keda]


def expect(values, documents):
    """Yields what is wrong with the render of these values."""
    names = collections.Counter((document["kind"], document["metadata"]["name"]) for document in documents)
    yield from (f"{kind} {name} is there {count} times" for (kind, name), count in names.items() if count > 1)
    for expected in EXPECTED:
        yield from expected(values, documents)
