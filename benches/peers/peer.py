"""Runs one peer as a process: reads lines `MODE INDICES PATH`, does the work and prints the milliseconds. Usage: peer.py NAME

MODE is `frames` (RGB pictures in memory) or `clip` (normalised, resized, cropped planes, float32 [3, T, 224, 224]). One thread.
"""

import sys
import time

import numpy as np

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
SIDE = 224


def to_planes(frames):
    """Converts bytes [T, H, W, 3] or [T, 3, H, W] to planes, with the reference's order of operations."""
    import torch
    import torch.nn.functional as F

    clip = frames if isinstance(frames, torch.Tensor) else torch.from_numpy(frames)
    if clip.shape[-1] == 3:
        clip = clip.permute(0, 3, 1, 2)
    clip = clip.float().div_(255.0)
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    clip = (clip - mean).div_(std)
    height, width = clip.shape[-2:]
    size = (SIDE, width * SIDE // height) if height < width else (height * SIDE // width, SIDE)
    clip = F.interpolate(clip, size=size, mode="bicubic", align_corners=False)
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return clip[:, :, top : top + SIDE, left : left + SIDE].permute(1, 0, 2, 3).contiguous()


def pyav_full(path, indices):
    import av

    wanted, frames = set(indices), {}
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        last = max(wanted)
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                frames[number] = frame.to_ndarray(format="rgb24")
            if number == last:
                break
    return np.stack([frames[index] for index in indices])


def pyav_seek(path, indices):
    """Reads the packets' times, then seeks to the key frame before each wanted frame and decodes from there."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        pts = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
    frames = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        decoder, at = None, None
        for index in indices:
            target = pts[index]
            # Decoding further is faster than seeking when there is no key frame in between; PyAV does not report that, so this seeks once per gap.
            if at is None or target > at:
                container.seek(target, stream=stream, backward=True)
                decoder = container.decode(stream)
            for frame in decoder:
                at = frame.pts
                if at == target:
                    frames.append(frame.to_ndarray(format="rgb24"))
                    break
    return np.stack(frames)


def decord_batch(path, indices):
    import decord

    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    return reader.get_batch(indices).asnumpy()


def torchcodec_with(seek_mode):
    def read(path, indices):
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode=seek_mode)
        return decoder.get_frames_at(indices).data

    return read


PEERS = {
    "pyav-full": pyav_full,
    "pyav-seek": pyav_seek,
    "decord": decord_batch,
    "torchcodec-exact": torchcodec_with("exact"),
    "torchcodec-approximate": torchcodec_with("approximate"),
}


def main(name):
    read = PEERS[name]
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        pass
    for line in sys.stdin:
        mode, indices, path = line.rstrip("\n").split(" ", 2)
        indices = [int(index) for index in indices.split(",")]
        begun = time.perf_counter()
        try:
            frames = read(path, indices)
            out = to_planes(frames) if mode == "clip" else frames
            elapsed = (time.perf_counter() - begun) * 1e3
            mean = float(frames.float().mean() if hasattr(frames, "float") else frames.mean())
            del out
            print(f"{elapsed:.3f} {len(frames)} {mean:.3f}", flush=True)
        except Exception as error:
            print(f"error {type(error).__name__}: {error}".replace("\n", " ")[:200], flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
