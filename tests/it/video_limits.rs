//! Bombs: what is small to send and large to decode costs its limit and no more, and says which limit it was.

use std::fs::File;
use std::time::{Duration, Instant};

use bytes::Bytes;
use frameshift::video::encode::{Encoder, Format};
use frameshift::video::{Config, Decoder, Error, Input, Lane, Limits, Reject};
use rustix::process::Signal;

use crate::decoding::{config, decoder, tenant};
use crate::processes::Usage;
use crate::server::soon;
use crate::video_worker::send;

/// Plain pictures of this size, one a second.
fn plain(count: usize, (width, height): (u32, u32)) -> Bytes {
    let mut encoder = Encoder::new(Format::Lossless, width, height, 1).expect("an encoder");
    let picture = vec![90; width as usize * height as usize * 3];
    for _ in 0..count {
        encoder.push(&picture).expect("a picture");
    }
    encoder.finish().expect("a file").into()
}

async fn probe(decoder: &Decoder, input: Input) -> Result<(), Error> {
    let result = decoder.probe(&tenant("a"), Lane::Batch, input).await;
    result.map(drop)
}

/// The worker that refused a video is kept, so that its peak can be read: in MiB, with the time that the refusal took.
async fn refused(decoder: &Decoder, input: Input, expected: Reject) -> (u64, Duration) {
    let begun = Instant::now();
    match probe(decoder, input).await {
        Err(Error::Rejected(rejection)) => {
            assert_eq!(rejection, expected);
            let limit = rejection.limit.expect("a limit");
            assert!(rejection.to_string().contains(limit.setting), "{rejection}");
        }
        other => panic!("{other:?} instead of {expected:?}"),
    }
    let time = begun.elapsed();
    let (_, workers) = decoder.processes();
    let peak = workers
        .first()
        .map_or(0, |worker| Usage::of(worker.pid).peak);
    (peak >> 10, time)
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_cost_their_limit_and_no_more() {
    let single = async |limits: Limits| {
        decoder(Config {
            workers: 1,
            idle: Duration::from_secs(3600),
            limits,
            ..config()
        })
        .await
    };
    let usual = single(Limits::default()).await;
    // What the libraries and a small video need.
    probe(&usual, Input::Bytes(plain(2, (64, 64))))
        .await
        .expect("a small video");
    let (_, workers) = usual.processes();
    let base = Usage::of(workers[0].pid).peak >> 10;

    let large = plain(1, (4096, 2306));
    println!("a picture of {} bytes", large.len());
    let (peak, time) = refused(&usual, Input::Bytes(large), Reject::TooManyPixels).await;
    println!("pixels: {peak} MiB of {base}, {time:.1?}");
    assert!(peak < base + 32, "{peak} MiB of {base}");

    // As many as an hour has at 60 a second, and one more: nothing of them is decoded.
    let many = plain(Limits::default().frames as usize + 1, (16, 16));
    println!("216,001 pictures in {} bytes", many.len());
    let (peak, time) = refused(&usual, Input::Bytes(many.clone()), Reject::TooManyFrames).await;
    println!("frames: {peak} MiB of {base}, {time:.1?}");
    assert!(peak < base + 192, "{peak} MiB of {base}");

    let few_packets = single(Limits {
        packets: 1000,
        ..Limits::default()
    })
    .await;
    let (peak, _) = refused(&few_packets, Input::Bytes(many), Reject::TooManyPackets).await;
    assert!(peak < base + 16, "{peak} MiB of {base}");

    // Three hours and a second, one picture a second.
    let long = Input::Bytes(plain(3 * 3600 + 2, (16, 16)));
    let (peak, _) = refused(&usual, long, Reject::TooLong).await;
    assert!(peak < base + 96, "{peak} MiB of {base}");

    let (peak, _) = refused(&usual, Input::Bytes(streams(17)), Reject::TooManyStreams).await;
    assert!(peak < base + 96, "{peak} MiB of {base}");
    let allowed = probe(&usual, Input::Bytes(streams(16))).await;
    let is_streams =
        matches!(&allowed, Err(Error::Rejected(own)) if *own == Reject::TooManyStreams);
    assert!(!is_streams, "16 streams are allowed");

    // A file of nothing but a length.
    let file = tempfile::tempfile().expect("a file");
    file.set_len(Limits::default().bytes + 1).expect("a length");
    // No worker is asked: the only one does not answer.
    let (_, workers) = usual.processes();
    send(workers[0].pid, Signal::STOP);
    soon(refused(
        &usual,
        Input::File(File::into(file)),
        Reject::TooLarge,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_picture_is_decoded_within_the_usual_limits() {
    let decoder = decoder(config()).await;
    probe(&decoder, Input::Bytes(plain(2, (4096, 2304))))
        .await
        .expect("as large as is allowed");
}

/// A Matroska file of this many video streams without a picture.
fn streams(count: u8) -> Bytes {
    fn element(name: &[u8], body: &[u8]) -> Vec<u8> {
        let mut bytes = name.to_vec();
        // A size of eight bytes.
        bytes.extend((body.len() as u64 | 1 << 56).to_be_bytes());
        bytes.extend(body);
        bytes
    }
    let kind = [
        element(&[0x42, 0x86], &[1]),
        element(&[0x42, 0xf7], &[1]),
        element(&[0x42, 0xf2], &[4]),
        element(&[0x42, 0xf3], &[8]),
        element(&[0x42, 0x82], b"matroska"),
        element(&[0x42, 0x87], &[4]),
        element(&[0x42, 0x85], &[2]),
    ];
    let size = [element(&[0xb0], &[0, 64]), element(&[0xba], &[0, 64])].concat();
    let tracks: Vec<u8> = (1..=count)
        .flat_map(|number| {
            let track = [
                element(&[0xd7], &[number]),
                element(&[0x73, 0xc5], &[number]),
                element(&[0x83], &[1]),
                element(&[0x86], b"V_VP9"),
                element(&[0xe0], &size),
            ];
            element(&[0xae], &track.concat())
        })
        .collect();
    let cluster = element(&[0x1f, 0x43, 0xb6, 0x75], &element(&[0xe7], &[0]));
    let segment = [element(&[0x16, 0x54, 0xae, 0x6b], &tracks), cluster].concat();
    [
        element(&[0x1a, 0x45, 0xdf, 0xa3], &kind.concat()),
        element(&[0x18, 0x53, 0x80, 0x67], &segment),
    ]
    .concat()
    .into()
}
