#!/usr/bin/env python3
"""Compares our model with PyTorch, ONNX Runtime and OpenVINO: same machine, weights, clips, threads and precision, interleaved. Prints a Markdown table.

  bench.py --peer FOLDER --program FRAMESHIFT [--quick] [--rounds 5] [--rows REGEX] [--peers NAME,…]

A row's ratio is the median time of the fastest peer over ours; it is printed only where the logits agree. In int8 the ratio is
to OpenVINO with NNCF; the others' times are printed as well. Run it with the Python environment of the peers.
"""
import argparse, datetime, json, os, platform, re, statistics, subprocess, sys, tempfile
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
# Least cosine of the logits: ours against the peer's at the same precision.
AGREE = dict(f32=0.9999, bf16=0.999, int8=0.99)
# Budget in MiB for the activations of our training step in f32, with which the step takes half of a peer's memory.
KEEP_MIB = 660
# A peer whose last warm-up took this many times as long as the fastest one's is not run again; the warm-up's time counts.
HOPELESS = 3


def row(name, goal, what="infer", preset="bare", size="vit_b16", batch=1, precision="f32", quick=False, keep_mib=None, against=None):
    work = dict(what=what, preset=preset, size=size, frames=8, batch=batch, precision=precision)
    return dict(name=name, goal=goal, quick=quick, keep_mib=keep_mib, against=against, work=work)


def rows():
    all_rows = []
    for preset in ("bare", "12x384", "24x384"):
        for batch in (1, 4):
            for precision in ("f32", "bf16"):
                goal = {("bare", "f32"): 1.20, ("bare", "bf16"): 1.12}.get((preset, precision), 1.18 if precision == "f32" else 1.15)
                all_rows.append(row(f"{preset}, batch {batch}, {precision}", goal, preset=preset, batch=batch, precision=precision, quick=batch == 1 and preset != "24x384"))
    for preset in ("bare", "12x384"):
        all_rows.append(row(f"{preset}, batch 1, int8", 1.15, preset=preset, precision="int8", quick=preset == "12x384", against="openvino"))
    all_rows.append(row("ViT-L/14, 12x384, batch 1, bf16", 1.12, preset="12x384", size="vit_l14", precision="bf16"))
    # With files in the page cache, in a fresh process.
    all_rows.append(row("load and first logits, 12x384, batch 1, bf16", 1.0, what="first", preset="12x384", precision="bf16"))
    for precision, goal, keep_mib in (("f32", 1.15, KEEP_MIB), ("bf16", 1.25, None)):   # the goals of time and of memory are for the same step
        all_rows.append(row(f"training step, 12x384, batch 2, {precision}", goal, what="train", preset="12x384", batch=2, precision=precision, quick=precision == "f32",
                            keep_mib=keep_mib))
    return all_rows


def backends(work):
    if work["precision"] == "int8": return ["openvino", "onnxruntime"]
    if work["what"] == "first": return ["torch"]
    found = ["torch", "torch-compile"] + (["torch-autocast"] if work["precision"] == "bf16" else [])
    if work["what"] == "infer": found.append("openvino")
    if work["what"] == "infer" and work["precision"] == "f32": found.append("onnxruntime")
    return found


class Peer:
    """A worker process that is ready to run."""
    def __init__(self, backend, folder, work, peer, timeout):
        self.name = backend
        huge = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592"
        env = dict(os.environ, PEER=peer, GLIBC_TUNABLES=huge)
        self.log = open(f"{folder}/{backend}.log", "w+")
        self.process = subprocess.Popen([sys.executable, f"{HERE}/worker.py", backend, folder, json.dumps(work)], env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.times = []
        for line in self.process.stdout:
            if line.startswith("ready "):
                ready = json.loads(line.split(" ", 1)[1])
                self.logits, self.warm_up, self.peak = np.fromfile(ready["logits"], "<f4"), ready["warm_up"], ready["peak_mib"]
                return
        self.log.seek(0)
        raise RuntimeError(f"{backend}: {self.log.read()[-300:].strip()}")

    def run(self):
        print(1, file=self.process.stdin, flush=True)
        found = json.loads(self.process.stdout.readline())
        self.times += found["times"]
        self.peak = found["peak_mib"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Newcomer:
    """A peer that is started as a new process for each run."""
    def __init__(self, backend, folder, work, peer, timeout):
        self.name, self.folder, self.timeout = backend, folder, timeout
        self.command = [sys.executable, f"{HERE}/worker.py", "first", folder, json.dumps(work)]
        self.env = dict(os.environ, PEER=peer)
        self.times, self.warm_up = [], 0

    def run(self):
        out = subprocess.run(self.command, env=self.env, check=True, stdout=subprocess.PIPE, text=True, timeout=self.timeout).stdout
        self.times.append(float(out))
        self.logits = np.fromfile(f"{self.folder}/first.logits", "<f4")

    def close(self): pass


def ours(program, folder, work, threads, keep_mib):
    what = "train" if work["what"] == "train" else "infer"
    command = [*program.split(), "bench", "compute", what, "--preset", work["preset"], "--backbone", f"{folder}/backbone.safetensors", "--set", f"{folder}/set.safetensors",
               "--input", f"{folder}/input.f32", "--logits", f"{folder}/ours.logits", "--frames", str(work["frames"]), "--batch", str(work["batch"]),
               "--precision", work["precision"], "--threads", str(threads), "--runs", "1"]
    if keep_mib: command += ["--keep-mib", str(keep_mib)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def cosine(a, b):
    a, b = a.astype("f8").ravel(), b.astype("f8").ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def measure(entry, options):
    work = dict(entry["work"], threads=options.threads)
    with tempfile.TemporaryDirectory() as folder:
        env = dict(os.environ, PEER=options.peer)
        subprocess.run([sys.executable, f"{HERE}/worker.py", "prepare", folder, json.dumps(work)], check=True, env=env)
        peers, missing = [], []
        for backend in backends(work):
            if options.peers and backend not in options.peers.split(","): continue
            kind = Newcomer if work["what"] == "first" else Peer
            try: peers.append(kind(backend, folder, work, options.peer, 600))
            except (RuntimeError, ValueError) as error: missing.append(str(error).splitlines()[-1][:120])
        rivals = [peer for peer in peers if entry["against"] in (None, peer.name)]
        longest = HOPELESS * min((peer.warm_up for peer in rivals), default=0)
        asked = [peer for peer in peers if peer.warm_up <= longest]
        for peer in peers:
            if peer not in asked:
                peer.times.append(peer.warm_up)
                peer.close()
        own = []
        for _ in range(options.rounds):                                 # interleaved, so that what else the machine does falls on all
            own.append(ours(options.program, folder, work, options.threads, entry["keep_mib"]))
            for peer in asked: peer.run()
        logits = np.fromfile(f"{folder}/ours.logits", "<f4")
        for peer in asked: peer.close()
    for text in missing: print(f"  did not run: {text}", file=sys.stderr)
    took = (lambda line: line["load_ms"] + line["first_run_ms"]) if work["what"] == "first" else (lambda line: line["median_ms"])
    mine = statistics.median(map(took, own)) / 1e3
    shown = ", ".join(f"{p.name} {statistics.median(p.times):.3f} s (cosine {cosine(logits, p.logits):.6f})" for p in peers)
    agreeing = [p for p in rivals if cosine(logits, p.logits) >= AGREE[work["precision"]]]
    if not agreeing: return f"| {entry['name']} | {mine:.3f} s | {shown} | logits differ | ≥ {entry['goal']:.2f} | no ratio |"
    best = min(agreeing, key=lambda p: statistics.median(p.times))
    ratio = statistics.median(best.times) / mine
    memory = ""
    if work["what"] == "first":
        loaded = statistics.median(line["load_ms"] for line in own) / 1e3
        met = lambda is_met: "met" if is_met else "missed"
        memory = f"; loaded in {loaded:.2f} s (≤ 0.8: {met(loaded <= 0.8)}), logits in {mine:.2f} s (≤ 2: {met(mine <= 2)})"
    if work["what"] == "train":
        share = own[-1]["peak_mib"] / best.peak
        memory = f"; memory {share:.2f} of {best.peak} MiB (≤ 0.50: {'met' if share <= 0.5 else 'missed'})"
    of = f" of {best.name}" if entry["against"] else ""
    return f"| {entry['name']} | {mine:.3f} s | {shown} | {ratio:.2f}{of}{memory} | ≥ {entry['goal']:.2f} | {'met' if ratio >= entry['goal'] else 'missed'} |"


def cpu():
    with open("/proc/cpuinfo") as text:
        for line in text:
            if line.startswith("model name"): return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer", required=True); p.add_argument("--program", required=True); p.add_argument("--quick", action="store_true")
    p.add_argument("--rounds", type=int, default=5); p.add_argument("--rows", default=""); p.add_argument("--peers", default=""); p.add_argument("--threads", type=int, default=0)
    options = p.parse_args()
    options.threads = options.threads or len(os.sched_getaffinity(0))
    import torch
    versions = [f"torch {torch.__version__}"]
    for name in ("onnxruntime", "openvino"):
        try: versions.append(f"{name} {__import__(name).__version__}")
        except ImportError: versions.append(f"{name} is missing")
    print(f"{datetime.date.today()} · {cpu()} · {options.threads} threads · {', '.join(versions)} · {options.rounds} interleaved rounds, medians of a whole batch or step\n")
    print("| work | ours | peers | ratio | goal | |\n|---|---|---|---|---|---|", flush=True)
    for entry in rows():
        if re.search(options.rows, entry["name"]) and (entry["quick"] or not options.quick): print(measure(entry, options), flush=True)


if __name__ == "__main__": main()
