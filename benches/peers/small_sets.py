"""Lays out the three small public sets of docs/real-data.md as <out>/<set>/<split>/<label>/<video>. It draws nothing at random but `surveillance-random`,
whose seed is fixed, so that every run gives the same splits.

Usage: small_sets.py UT_INTERACTION FALLS SURVEILLANCE OUT: the folder datasets/UT_Interaction of deliangWu/Video-Interaction-Recognition-and-Detection-, a
checkout of dimashiiii/action_recognition, and one of seymanurakti/fight-detection-surv-dataset. Needs PyAV, NumPy and the program ffmpeg.
"""

import collections
import os
import random
import shutil
import subprocess
import sys

import av
import numpy as np

UT_LABELS = ["hand_shaking", "hugging", "kicking", "pointing", "punching", "pushing"]
# Shares of the splits of the surveillance set.
WANT = {"train": 0.6, "val": 0.15, "test": 0.25}
# Correlation of the median pictures of two clips above which they are one scene.
SAME_SCENE = 0.80


def videos(folder):
    """Names of the videos in a folder, sorted."""
    return sorted(name for name in os.listdir(folder) if name.endswith((".avi", ".mp4")))


def put(source, target):
    """Copies a file, and makes the folders above it."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, target)


def encode(source, target, is_reversed):
    """Encodes a video anew, forwards or backwards, with the same settings, so that nothing but the order of the frames tells the two apart."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    command = ["ffmpeg", "-v", "error", "-y", "-threads", "1", "-i", source, "-an", "-vf", "reverse" if is_reversed else "null"]
    command += ["-c:v", "libx264", "-g", "1", "-crf", "12", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-threads", "1", target]
    subprocess.run(command, check=True)


def ut_interaction(source, out):
    """Clips `<id>_<sequence>_<label>.avi` of two sets: sequences 3, 6 and 9 of each set are for the test, the first for validation."""
    for one in (1, 2):
        folder = os.path.join(source, f"ut-interaction_segmented_set{one}", f"segmented_set{one}")
        for name in videos(folder):
            _, sequence, label = name[:-4].split("_")
            if int(label) >= len(UT_LABELS):
                continue
            place = (int(sequence) - 1) % 10
            split = "test" if place in (2, 5, 8) else "val" if place == 0 else "train"
            put(os.path.join(folder, name), f"{out}/ut/{split}/{UT_LABELS[int(label)]}/s{one}_{name}")


def falls(source, out):
    """Falls `fall-<number>-cam<n>…`, forwards and backwards; both cameras and both directions of a fall are in one split."""
    folder = os.path.join(source, "dataset", "fall")
    for name in videos(folder):
        number = int(name.split("-")[1])
        split = "test" if number % 3 == 0 else "val" if number % 10 == 1 else "train"
        for label, is_reversed in (("forward", False), ("backward", True)):
            encode(os.path.join(folder, name), f"{out}/falls/{split}/{label}/{name}", is_reversed)


def median_picture(path):
    """The median of every fifth frame, 24 × 18 pixels, normalised: what stays of a clip is its scene."""
    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        frames = [frame.reformat(24, 18, "rgb24").to_ndarray() for frame in container.decode(video=0)]
    median = np.median(np.stack(frames[::5]), 0).astype(np.float32).reshape(-1)
    return (median - median.mean()) / (median.std() + 1e-6)


def scenes(paths):
    """Groups of places of clips of one scene, the largest first."""
    pictures = np.stack([median_picture(path) for path in paths])
    alike = pictures @ pictures.T / pictures.shape[1]
    parents = list(range(len(paths)))

    def root(place):
        while parents[place] != place:
            place = parents[place]
        return place

    for one in range(len(paths)):
        for other in range(one):
            if alike[one, other] > SAME_SCENE:
                parents[root(one)] = root(other)
    groups = collections.defaultdict(list)
    for place in range(len(paths)):
        groups[root(place)].append(place)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


def surveillance(source, out):
    """Each scene is in one split; the largest goes first, to the split that lacks most. `surveillance-random` has splits of the same sizes, drawn at random."""
    folders = (("fight", "fight"), ("no_fight", "noFight"))
    clips = [(label, os.path.join(source, folder, name)) for label, folder in folders for name in videos(os.path.join(source, folder))]
    total = collections.Counter(label for label, _ in clips)
    have = {split: collections.Counter() for split in WANT}

    def lack(split, labels):
        return min((WANT[split] * total[of] - have[split][of] - labels[of] / 2) / (WANT[split] * total[of]) for of in labels)

    for group in scenes([path for _, path in clips]):
        labels = collections.Counter(clips[place][0] for place in group)
        split = max(WANT, key=lambda split: lack(split, labels))
        have[split] += labels
        for label, path in (clips[place] for place in group):
            put(path, f"{out}/surveillance/{split}/{label}/{os.path.basename(path)}")
    draws = random.Random(0)
    for label, _ in folders:
        own = [path for of, path in clips if of == label]
        draws.shuffle(own)
        for split in WANT:
            count = have[split][label]
            for path in own[:count]:
                put(path, f"{out}/surveillance-random/{split}/{label}/{os.path.basename(path)}")
            own = own[count:]


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    ut, dimashiiii, surv, out = sys.argv[1:]
    ut_interaction(ut, out)
    falls(dimashiiii, out)
    surveillance(surv, out)
    for name in sorted(os.listdir(out)):
        counts = {split: sum(len(files) for _, _, files in os.walk(f"{out}/{name}/{split}")) for split in WANT}
        print(name, counts)


if __name__ == "__main__":
    main()
