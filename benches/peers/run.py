"""Compares our confined worker with the peers, interleaved, and writes the table. Usage: run.py PROGRAM SHARED CLIPS RESULTS [ROUNDS]"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# What encloses the section that is written.
BEGIN, END = "<!-- video: begin -->", "<!-- video: end -->"
# Seconds after which a row has enough rounds.
PATIENCE = 60
PEERS = ["pyav-full", "pyav-seek", "decord", "torchcodec-exact", "torchcodec-approximate"]
MODULES = {"pyav": "av", "decord": "decord", "torchcodec": "torchcodec.decoders"}
# What the row is, its files, and the goals: frames only, to model input.
ROWS = [
    ("8 of a 10 s, 340×256 H.264 clip", "kinetics", 1.35, 1.75),
    ("8 of a 4 s, 240p VP9 WebM", ["vp9_240p_4s.webm"], 1.0, 1.85),
    ("8 of a 10 s, 1080p H.264 clip", ["h264_1080p_10s.mp4"], 1.5, 2.2),
    ("8 of a 60 s, 1080p H.264 clip", ["h264_1080p_60s.mp4"], 1.5, 1.75),
    ("8 of a 10 s, 720p HEVC clip", ["hevc_720p_10s.mp4"], 1.6, 2.1),
    ("8 of a 10 s, 720p AV1 clip", ["av1_720p_10s.mp4"], 1.15, 1.95),
]


class Process:
    """A process that answers lines."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline().strip()
        except BrokenPipeError:
            answer = ""
        return answer or "error it ended"

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def available():
    """The peers that can be imported, and why the others cannot."""
    usable, missing = [], {}
    for name in PEERS:
        module = MODULES[name.split("-")[0]]
        check = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True
        )
        if check.returncode == 0:
            usable.append(name)
        else:
            lines = check.stderr.strip().splitlines()
            missing[name] = lines[-1][:160] if lines else "it cannot be imported"
    return usable, missing


def indices_of(program, path):
    """The frames that our program samples; they are what the peers are asked for."""
    sheet = os.path.join(tempfile.gettempdir(), f"bench-video-{os.getpid()}.png")
    command = [program, "video", "frames", path, "--stored", "--out", sheet]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    os.unlink(sheet)
    return [frame["index"] for frame in answer["frames"]]


def measure(program, path, mode, peers, rounds):
    """Medians of interleaved rounds, after one that warms up: milliseconds by name, and errors.

    A peer that needs three times as long as the best one in the first round is not asked again; a row that takes long has fewer rounds, at least three.
    """
    indices = indices_of(program, path)
    listed = ",".join(map(str, indices))
    ours = Process(program, "video", "time")
    processes = {name: Process(sys.executable, os.path.join(HERE, "peer.py"), name) for name in peers}
    times, errors, means = {"ours": []}, {}, {}
    begun = time.monotonic()
    for number in range(rounds + 1):
        if number > 3 and time.monotonic() - begun > PATIENCE:
            break
        answers = {"ours": ours.ask(f"{mode} {path}")}
        for name, process in processes.items():
            if name not in errors:
                answers[name] = process.ask(f"{mode} {listed} {path}")
        for name, answer in answers.items():
            if answer.startswith("error"):
                errors[name] = answer[6:]
            elif number > 0:
                times.setdefault(name, []).append(float(answer.split()[0]))
            if name != "ours" and not answer.startswith("error"):
                means[name] = float(answer.split()[2])
        if number == 1:
            first = {n: float(a.split()[0]) for n, a in answers.items() if n != "ours" and not a.startswith("error")}
            slow = [name for name, spent in first.items() if spent > 3 * min(first.values())]
            for name in slow:
                errors[name] = f"not asked again: {first[name]:.0f} ms at first, the best peer {min(first.values()):.0f}"
    for process in [ours, *processes.values()]:
        process.end()
    # A peer that gives other frames does other work: PyAV's full decode says which they are.
    if "pyav-full" in means:
        for name, mean in means.items():
            if abs(mean - means["pyav-full"]) > 3:
                errors[name] = f"other frames (mean {mean:.1f} instead of {means['pyav-full']:.1f})"
    return {name: statistics.median(t) for name, t in times.items() if t and name not in errors}, errors


def ours_only(program, path, first, second, rounds):
    """Medians of two requests of ours, interleaved."""
    process = Process(program, "video", "time")
    times = {first: [], second: []}
    for number in range(rounds + 1):
        for what in (first, second):
            answer = process.ask(f"{what} {path}")
            if answer.startswith("error"):
                return None
            if number > 0:
                times[what].append(float(answer))
    process.end()
    return statistics.median(times[first]), statistics.median(times[second])


def machine():
    with open("/proc/cpuinfo") as info:
        models = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    return f"{models[0] if models else 'unknown processor'}, {os.cpu_count()} cores"


def replace(path, section):
    """Puts the section in the place of the one before, and leaves the rest of the file as it is."""
    before, after = "# Results\n\n", ""
    if os.path.exists(path):
        with open(path) as file:
            before = file.read()
        if BEGIN in before and END in before:
            before, rest = before.split(BEGIN, 1)
            after = rest.split(END, 1)[1].lstrip("\n")
        else:
            before = before.rstrip("\n") + "\n\n"
    with open(path, "w") as file:
        file.write(before + section + after)


def main(program, shared, clips, results, rounds="7"):
    rounds = int(rounds)
    usable, missing = available()
    folder = os.path.join(shared, "clips")
    kinetics = sorted(
        os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("k400_")
    )
    lines = [
        "| work, one thread | mode | ours, ms | best peer, ms | ratio | goal | |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for title, names, *goals in ROWS:
        paths = kinetics if names == "kinetics" else [os.path.join(clips, name) for name in names]
        paths = [path for path in paths if os.path.exists(path)]
        for mode, goal in zip(("frames", "clip"), goals):
            if not paths:
                lines.append(f"| {title} | {mode} | no clip could be made | | | {goal} | not measured |")
                continue
            ratios, ours, best = [], [], []
            for path in paths:
                medians, errors = measure(program, path, mode, usable, rounds)
                print(os.path.basename(path), mode, medians, errors, flush=True)
                notes += [f"{os.path.basename(path)}, {mode}: {n}: {e}" for n, e in errors.items()]
                rivals = {name: t for name, t in medians.items() if name != "ours"}
                if "ours" in medians and rivals:
                    name = min(rivals, key=rivals.get)
                    ratios.append(rivals[name] / medians["ours"])
                    ours.append(f"{medians['ours']:.1f}")
                    best.append(f"{name} {rivals[name]:.1f}")
            if not ratios:
                lines.append(f"| {title} | {mode} | | no peer | | {goal} | not measured |")
                continue
            ratio = statistics.median(ratios)
            verdict = "met" if ratio >= goal else "missed"
            lines.append(
                f"| {title} | {mode} | {' · '.join(ours)} | {' · '.join(best)} | {ratio:.2f} | ≥ {goal} | {verdict} |"
            )
    if kinetics:
        many = ours_only(program, kinetics[0], "single", "pair", max(3, rounds // 2))
        views = ours_only(program, kinetics[0], "dense", "views", rounds)
        if many:
            ratio = many[0] / many[1]
            lines.append(
                f"| two cores busy / one core | clip | {many[0]:.0f} · {many[1]:.0f} | | {ratio:.2f} | ≥ 1.9 | {'met' if ratio >= 1.9 else 'missed'} |"
            )
        if views:
            ratio = views[1] / views[0]
            lines.append(
                f"| 3 spatial × 3 temporal views / one view | clip | {views[1]:.1f} · {views[0]:.1f} | | {ratio:.2f} | ≤ 3.2 | {'met' if ratio <= 3.2 else 'missed'} |"
            )
    load = os.getloadavg()
    text = [
        BEGIN,
        "## Video decoding against PyAV, decord and torchcodec",
        "",
        "`make bench-video` writes this section: medians of interleaved rounds, one thread; ours is the confined worker through the server's own code path, bytes",
        "in memory to checked planes. `frames`: RGB pictures; `clip`: normalised 224 × 224 planes. Several numbers in a cell are several clips; the ratio is",
        "their median.",
        "",
        f"{datetime.date.today().isoformat()} · {machine()} · {rounds} rounds · load {load[0]:.1f} at the end · peers: {', '.join(usable) or 'none'}",
        "",
        *lines,
        "",
        *[f"Not installed: {name} ({why})." for name, why in missing.items()],
        *[f"- {note}" for note in notes],
        END,
        "",
    ]
    replace(results, "\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main(*sys.argv[1:])
