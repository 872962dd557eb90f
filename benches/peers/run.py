"""Compares our confined worker with the peers, in interleaved rounds, and writes the table. Usage: run.py PROGRAM SHARED CLIPS RESULTS [ROUNDS [ROWS]]"""

import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Rows of ours alone: name, two requests whose ratio is reported (with the flags of the process that answers), goal, whether the goal is an upper bound.
OURS = [
    ("not confined / confined worker", ("clip", "--unconfined"), ("clip",), 0.96, False),
    ("one core / two cores busy", ("single",), ("pair",), 1.9, False),
    ("3 spatial × 3 temporal views / one view", ("views",), ("dense",), 3.2, True),
]
# Markers around the section that is written.
BEGIN, END = "<!-- video: begin -->", "<!-- video: end -->"
# Seconds after which a row has enough rounds.
PATIENCE = 90
# Rounds after which all processes are replaced: the physical memory that a process happens to get changes its times by a fifth.
LIFETIME = 2
PEERS = ["pyav-full", "pyav-seek", "decord", "torchcodec-exact", "torchcodec-approximate"]
MODULES = {"pyav": "av", "decord": "decord", "torchcodec": "torchcodec.decoders"}
# Name of the row, its files, and the goals: frames only, and to model input.
ROWS = [
    ("8 of a 10 s, 340×256 H.264 clip", "kinetics", 1.35, 1.75),
    ("8 of a 4 s, 240p VP9 WebM", ["vp9_240p_4s.webm"], 1.0, 1.85),
    ("8 of a 10 s, 1080p H.264 clip", ["h264_1080p_10s.mp4"], 1.5, 2.2),
    ("8 of a 10 s, 720p HEVC clip", ["hevc_720p_10s.mp4"], 1.6, 2.1),
    ("8 of a 10 s, 720p AV1 clip", ["av1_720p_10s.mp4"], 1.15, 1.95),
    ("8 of a 60 s, 1080p H.264 clip", ["h264_1080p_60s.mp4"], 1.5, 1.75),
]


class Process:
    """A process that answers each line with a line."""

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
    """Returns the peers that can be imported, and why the others cannot."""
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
    """Returns the frames that our program samples; the peers decode the same ones."""
    sheet = os.path.join(tempfile.gettempdir(), f"bench-video-{os.getpid()}.png")
    command = [program, "video", "frames", path, "--stored", "--out", sheet]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    os.unlink(sheet)
    return [frame["index"] for frame in answer["frames"]]


def in_turns(commands, lines, rounds, left_out=()):
    """Yields the answers of each round, by name. Processes are replaced every few rounds, and warmed up by a request that does not count."""
    processes = {}
    try:
        for number in range(rounds):
            if number % LIFETIME == 0:
                for process in processes.values():
                    process.end()
                processes = {name: Process(*command) for name, command in commands.items() if name not in left_out}
                for name, process in processes.items():
                    process.ask(lines[name])
            yield {name: process.ask(lines[name]) for name, process in processes.items() if name not in left_out}
    finally:
        for process in processes.values():
            process.end()


def measure(program, path, mode, peers, rounds):
    """Returns the medians of interleaved rounds: milliseconds by name, and errors.

    A peer that needs three times as long as the best one in the first round is not asked again; a row that takes long has fewer rounds, at least two.
    """
    indices = indices_of(program, path)
    listed = ",".join(map(str, indices))
    commands = {"ours": [program, "video", "time"]}
    commands |= {name: [sys.executable, os.path.join(HERE, "peer.py"), name] for name in peers}
    lines = {name: f"{mode} {path}" if name == "ours" else f"{mode} {listed} {path}" for name in commands}
    times, errors, means = {name: [] for name in commands}, {}, {}
    begun = time.monotonic()
    for number, answers in enumerate(in_turns(commands, lines, rounds, errors)):
        for name, answer in answers.items():
            if answer.startswith("error"):
                errors[name] = answer[6:]
                continue
            times[name].append(float(answer.split()[0]))
            if name != "ours":
                means[name] = float(answer.split()[2])
        if number == 0:
            first = {name: spent[0] for name, spent in times.items() if spent and name != "ours"}
            slow = [name for name, spent in first.items() if spent > 3 * min(first.values())]
            for name in slow:
                errors[name] = f"not asked again: {first[name]:.0f} ms at first, the best peer {min(first.values()):.0f}"
        elif time.monotonic() - begun > PATIENCE:
            break
    # A peer that returns other frames does different work; PyAV's full decode decides which frames are right.
    if "pyav-full" in means:
        for name, mean in means.items():
            if abs(mean - means["pyav-full"]) > 3:
                errors[name] = f"other frames (mean {mean:.1f} instead of {means['pyav-full']:.1f})"
    return {name: statistics.median(t) for name, t in times.items() if t and name not in errors}, errors


def ours_only(program, path, first, second, rounds):
    """Returns the medians of two requests of ours, interleaved."""
    sides = dict(enumerate((first, second)))
    commands = {side: [program, "video", "time", *flags] for side, (_, *flags) in sides.items()}
    lines = {side: f"{what} {path}" for side, (what, *_) in sides.items()}
    times = {side: [] for side in sides}
    for answers in in_turns(commands, lines, rounds):
        for side, answer in answers.items():
            if answer.startswith("error"):
                return None
            times[side].append(float(answer))
    return [statistics.median(spent) for spent in times.values()]


def machine():
    with open("/proc/cpuinfo") as info:
        models = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    return f"{models[0] if models else 'unknown processor'}, {os.cpu_count()} cores"


def replace(path, section):
    """Replaces the section in the file and leaves the rest unchanged."""
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


class Report:
    """Measures all rows; the table is written after every row, so that an interrupted run leaves its results."""

    def __init__(self, results, rounds, usable, missing):
        self.results, self.rounds, self.usable, self.missing = results, rounds, usable, missing
        self.lines = ["| work | mode | ours, ms | best peer, ms | ratio | goal | |", "|---|---|---|---|---|---|---|"]
        self.notes = []

    def row(self, title, mode, ours, best, ratio, goal, at_most=False):
        sign, met = ("≤", ratio is not None and ratio <= goal) if at_most else ("≥", ratio is not None and ratio >= goal)
        verdict = "not measured" if ratio is None else "met" if met else "missed"
        number = "" if ratio is None else f"{ratio:.2f}"
        self.lines.append(f"| {title} | {mode} | {ours} | {best} | {number} | {sign} {goal} | {verdict} |")
        self.write()

    def write(self):
        text = [
            BEGIN,
            "## Video decoding against PyAV, decord and torchcodec",
            "",
            "`make bench-video` writes this section: medians of interleaved rounds, one thread unless said; ours is the confined worker through the server's own",
            "code path, bytes in memory to checked values. `frames`: RGB pictures; `clip`: normalised 224 × 224 planes. Several numbers in a cell are several",
            "clips; the ratio is their median.",
            "",
            f"{datetime.date.today().isoformat()} · {machine()} · {self.rounds} rounds at most · load {os.getloadavg()[0]:.1f} at the end"
            f" · peers: {', '.join(self.usable) or 'none'}",
            "",
            *self.lines,
            "",
            *[f"Not installed: {name} ({why})." for name, why in self.missing.items()],
            *[f"- {note}" for note in self.notes],
            END,
            "",
        ]
        replace(self.results, "\n".join(text))


def against_peers(report, program, title, paths, goals):
    """Measures both modes of one row."""
    for mode, goal in zip(("frames", "clip"), goals):
        ratios, ours, best = [], [], []
        for path in filter(os.path.exists, paths):
            medians, errors = measure(program, path, mode, report.usable, report.rounds)
            print(os.path.basename(path), mode, medians, errors, flush=True)
            report.notes += [f"{os.path.basename(path)}, {mode}: {n}: {e}" for n, e in errors.items()]
            rivals = {name: spent for name, spent in medians.items() if name != "ours"}
            if "ours" in medians and rivals:
                name = min(rivals, key=rivals.get)
                ratios.append(rivals[name] / medians["ours"])
                ours.append(f"{medians['ours']:.1f}")
                best.append(f"{name} {rivals[name]:.1f}")
        ratio = statistics.median(ratios) if ratios else None
        report.row(title, mode, " · ".join(ours), " · ".join(best), ratio, goal)


def main(program, shared, clips, results, rounds="8", rows=""):
    report = Report(results, int(rounds), *available())
    folder = os.path.join(shared, "clips")
    kinetics = sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("k400_"))
    for title, names, *goals in ROWS:
        if re.search(rows, title):
            paths = kinetics if names == "kinetics" else [os.path.join(clips, name) for name in names]
            against_peers(report, program, title, paths, goals)
    for title, first, second, goal, at_most in OURS:
        found = re.search(rows, title) and kinetics and ours_only(program, kinetics[0], first, second, report.rounds)
        if found:
            ratio = found[0] / found[1]
            report.row(title, "clip", f"{found[0]:.1f} · {found[1]:.1f}", "", ratio, goal, at_most)
    report.write()
    with open(results) as file:
        print(file.read())


if __name__ == "__main__":
    main(*sys.argv[1:])
