//! A worker's life: take a request, decode, answer; until the socket closes.
//!
//! Invariant: runs confined, with one thread. It trusts its requests, which come from the server, and nothing else.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::OwnedFd;

use memmap2::{MmapMut, MmapOptions};

use super::Before;
use super::memory::{receive, receive_with, send};
use super::wire::{LONGEST, Reply, Request, Work, decode_more, encode_ready};
use crate::Layers;
use crate::decode::{self, Method, Target};
use crate::ffmpeg::owned;
use crate::frames::FramesSpec;
use crate::reject::Reject;
use crate::still::StillSpec;

/// The server closed the socket.
const EXIT_DONE: i32 = 0;
/// A request that makes no sense, or a socket that fails: never a stranger's doing.
const EXIT_PROTOCOL: i32 = 76;

/// Serves requests; returns the exit code.
pub(super) fn run(id: u64, socket: OwnedFd, layers: Layers, before: Before) -> i32 {
    owned::silence();
    if send(&socket, &encode_ready(id, layers), &[]).is_err() {
        return EXIT_PROTOCOL;
    }
    let mut output = None;
    let mut buffer = vec![0; LONGEST];
    loop {
        let request = match receive_with(&socket, &mut buffer) {
            Ok(Some((message, descriptors))) => {
                Request::decode(message).map(|request| (request, descriptors))
            }
            Ok(None) => return EXIT_DONE,
            Err(_) => None,
        };
        let Some(reply) = request.and_then(|(request, descriptors)| {
            answer(request, descriptors, (&mut output, &socket), before)
        }) else {
            return EXIT_PROTOCOL;
        };
        if send(&socket, &reply.encode(), &[]).is_err() {
            return EXIT_DONE;
        }
    }
}

/// Decodes; `None` when the request makes no sense.
fn answer(
    request: Request,
    descriptors: Vec<OwnedFd>,
    (output, socket): (&mut Option<MmapMut>, &OwnedFd),
    before: Before,
) -> Option<Reply> {
    let mut descriptors = descriptors.into_iter();
    let input = File::from(descriptors.next()?);
    if request.is_new_output {
        // The old one is given back first: the address space is limited.
        *output = None;
        let memory = File::from(descriptors.next()?);
        // The length is given, since asking for it is a forbidden call.
        let mut options = MmapOptions::new();
        options.len(usize::try_from(request.output_bytes).ok()?);
        // A clip fills its room; pictures have room for much larger ones, whose pages nobody should clear.
        if matches!(
            request.work,
            Work::Clip(_) | Work::Still(_) | Work::Frames(_)
        ) {
            options.populate();
        }
        // SAFETY: the memory is sealed against shrinking, so that it stays valid. The server reads it only after the reply.
        match unsafe { options.map_mut(&memory) } {
            Ok(map) => *output = Some(map),
            // The server lets go of a worker that ran out of memory, so that it need not know what was mapped.
            Err(_) => return Some(Reply::refusal(request.id, Reject::Memory)),
        }
    }
    if let Some(reject) = before(&input, request.input_bytes) {
        return Some(Reply::refusal(request.id, reject));
    }
    let room: &mut [u8] = output.as_mut().map_or(&mut [], |output| &mut output[..]);
    let target = match &request.work {
        Work::Still(spec) => return still((&input, &request), spec, room),
        Work::Probe => Some(Target::Probe),
        Work::Clip(spec) => {
            // SAFETY: any four bytes are an `f32`.
            let (_, planes, _) = unsafe { room.align_to_mut::<f32>() };
            planes
                .get_mut(..spec.values())
                .map(|planes| Target::Clip(spec, planes))
        }
        Work::Pictures(spec) => room
            .get_mut(..spec.bytes as usize)
            .map(|room| Target::Pictures(spec, room)),
        Work::Frames(spec) => {
            // SAFETY: any four bytes are an `f32`.
            let (_, planes, _) = unsafe { room.align_to_mut::<f32>() };
            let planes = planes.get_mut(..spec.values())?;
            return Some(frames(&request, &input, (spec, planes), socket));
        }
    }?;
    let result = decode::decode(
        (&input, request.input_bytes),
        &request.limits,
        target,
        Method::default(),
    );
    Some(Reply::last(request.id, result))
}

/// Decodes frames; every part but the last is sent, and decoding goes on when the next one is asked for.
fn frames(
    request: &Request,
    input: &File,
    target: (&FramesSpec, &mut [f32]),
    socket: &OwnedFd,
) -> Reply {
    let id = request.id;
    let mut give = |part| {
        let reply = Reply {
            id,
            result: Ok(part),
            goes_on: true,
        };
        let mut buffer = [0; LONGEST];
        let asked = send(socket, &reply.encode(), &[])
            .and_then(|()| receive(socket, &mut buffer).map(|message| message.map(decode_more)));
        if !matches!(asked, Ok(Some(Some(own))) if own == id) {
            // SAFETY: ends the process at once. Nobody wants the rest: the server closed the socket, or broke the rules.
            unsafe { libc::_exit(EXIT_DONE) }
        }
    };
    let file = (input, request.input_bytes);
    let method = Method::default();
    let result = decode::frames(file, &request.limits, target, &mut give, method);
    Reply::last(id, result)
}

/// Decodes one picture; `None` when the request makes no sense.
fn still((input, request): (&File, &Request), spec: &StillSpec, room: &mut [u8]) -> Option<Reply> {
    // SAFETY: any four bytes are an `f32`.
    let (_, planes, _) = unsafe { room.align_to_mut::<f32>() };
    let planes = planes.get_mut(..spec.clip().values())?;
    let file = (input, request.input_bytes);
    let result = decode::still::decode(file, &request.limits, spec, planes);
    Some(Reply::last(request.id, result))
}
