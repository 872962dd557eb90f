//! Attacks from inside a worker: each works where nothing confines it, and ends its own worker only where the layers hold.

mod attacker;

use std::ffi::OsString;
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use frameshift::video::encode::{Encoder, Format};
use frameshift::video::{Config, Decoder, Error, Input, Lane, Layer, Layers, Limits, Reject};

use self::attacker::{
    AS_NOBODY, FAIL_AT_FLV, HIDE_LANDLOCK, HIDE_SECCOMP, PROGRAM, REFUSED, SUCCEEDED,
};
use crate::decoding::tenant;
use crate::server::{TestServer, found, reason, until, upload};

/// Workers of this test binary, with these options and layers.
fn config(options: &[&str], layers: Layers) -> Config {
    let mut arguments = vec![OsString::from(PROGRAM)];
    arguments.extend(options.iter().map(OsString::from));
    Config {
        arguments,
        workers: 2,
        layers,
        ..Config::new(std::env::current_exe().expect("this program"))
    }
}

async fn start(config: Config) -> Decoder {
    Decoder::start(config).await.expect("workers start")
}

fn small() -> Input {
    let mut encoder = Encoder::new(Format::Lossless, 64, 48, 25).expect("an encoder");
    for i in 0..6 {
        let picture = vec![i * 40; 64 * 48 * 3];
        encoder.push(&picture).expect("a picture");
    }
    Input::Bytes(encoder.finish().expect("a file").into())
}

async fn reject(decoder: &Decoder, name: &str, number: u64) -> Reject {
    let input = Input::Bytes(Bytes::from(attacker::input(name, number)));
    let result = decoder
        .probe(&tenant("attacker"), Lane::Interactive, input)
        .await;
    match result {
        Err(Error::Rejected(rejection)) => rejection.reject,
        other => panic!("{name}: {other:?}"),
    }
}

/// The zygote and the process of a tenant's worker.
fn pids(decoder: &Decoder, name: &str) -> (u32, Option<u32>) {
    let (zygote, workers) = decoder.processes();
    let own = workers.iter().find(|worker| worker.tenant == tenant(name));
    (zygote.expect("a zygote"), own.map(|worker| worker.pid))
}

fn runs(pid: u32) -> bool {
    // A process that ended but whose parent has not looked yet is a Z.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z'))
    })
}

/// Name, what it gives where nothing confines the worker, and what where every layer holds.
const ATTACKS: &[(&str, Reject, Reject)] = &[
    ("open", SUCCEEDED, Reject::SandboxViolation),
    ("create", SUCCEEDED, Reject::SandboxViolation),
    ("socket", SUCCEEDED, Reject::SandboxViolation),
    ("connect", SUCCEEDED, Reject::SandboxViolation),
    // The worker has become a program that ends with an error.
    ("exec", Reject::DecoderCrashed, Reject::SandboxViolation),
    ("fork", SUCCEEDED, Reject::SandboxViolation),
    ("thread", SUCCEEDED, Reject::SandboxViolation),
    ("ptrace", SUCCEEDED, Reject::SandboxViolation),
    ("kill", SUCCEEDED, Reject::SandboxViolation),
    ("map code", SUCCEEDED, Reject::SandboxViolation),
    ("make code", SUCCEEDED, Reject::SandboxViolation),
    ("parent's memory", SUCCEEDED, Reject::SandboxViolation),
    ("parent's pages", SUCCEEDED, Reject::SandboxViolation),
    ("dumpable", SUCCEEDED, Reject::SandboxViolation),
    // The call is allowed, but there is no other descriptor.
    ("descriptor", SUCCEEDED, REFUSED),
    ("memory", SUCCEEDED, REFUSED),
    // An allocation that cannot fail ends the process.
    ("allocate", SUCCEEDED, Reject::DecoderCrashed),
    ("processor", SUCCEEDED, Reject::CpuTime),
];

/// What an attack aims at: another tenant's worker, a port of this machine, or an amount.
fn aim(name: &str, neighbour: u32, port: u16) -> u64 {
    match name {
        "kill" => neighbour.into(),
        "connect" => port.into(),
        "processor" => 600,
        _ => 0,
    }
}

/// Attacks while another tenant's worker is busy, which has to live on, unless killing it is the attack and that succeeds.
async fn attacked(decoder: &Decoder, name: &str, port: u16) -> Reject {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (zygote, _) = pids(decoder, "nobody");
    // A name that no worker had before.
    let neighbour = format!("neighbour-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let busy = tokio::spawn({
        let (decoder, who) = (decoder.clone(), tenant(&neighbour));
        let input = Input::Bytes(attacker::input("hang", 0).into());
        async move { decoder.probe(&who, Lane::Interactive, input).await }
    });
    let victim = found(|| pids(decoder, &neighbour).1).await;
    let found = reject(decoder, name, aim(name, victim, port)).await;
    if name == "kill" && found == SUCCEEDED {
        until(|| async { !runs(victim) }).await;
        // Its video is tried again at another worker.
        busy.abort();
        return found;
    }
    assert!(runs(victim), "{name}: the neighbour");
    assert!(!busy.is_finished(), "{name}: the neighbour's video");
    let now = (pids(decoder, &neighbour).1, pids(decoder, "nobody").0);
    assert_eq!(now, (Some(victim), zygote), "{name}: other processes");
    decoder
        .probe(&tenant("attacker"), Lane::Interactive, small())
        .await
        .expect("the attacker's next video");
    // The call's future is dropped, and with it the work.
    busy.abort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_succeed_without_confinement_and_end_one_worker_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let bare = start(config(&[], Layers::NONE)).await;
    let confined = start(Config {
        limits: Limits {
            cpu: Duration::from_millis(250),
            ..Limits::default()
        },
        ..config(&[], Layers::ALL)
    })
    .await;
    assert_eq!(confined.isolation(), Layers::ALL, "this kernel's layers");
    assert_eq!(bare.isolation(), Layers::NONE);
    for &(name, without, with) in ATTACKS {
        let found = attacked(&bare, name, port).await;
        assert_eq!(found, without, "{name} without confinement");
        let found = attacked(&confined, name, port).await;
        assert_eq!(found, with, "{name} with confinement");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_layer_alone_stops_what_it_is_there_for() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let base = Layers::NONE
        .with(Layer::Process)
        .with(Layer::NoNewPrivileges);
    let cases: [(Layers, &[&str], &[&str]); 4] = [
        (base, &["descriptor"], &["open", "memory", "socket"]),
        (
            base.with(Layer::ResourceLimits),
            &["memory"],
            &["open", "socket", "ptrace"],
        ),
        (
            base.with(Layer::Landlock),
            // The last two need the kernel's fourth and sixth version of it (Linux 6.7 and 6.12).
            &["open", "create", "parent's memory", "connect", "kill"],
            &["socket", "fork", "ptrace", "memory"],
        ),
        (
            base.with(Layer::Seccomp),
            &[
                "open",
                "create",
                "socket",
                "connect",
                "exec",
                "fork",
                "thread",
                "ptrace",
                "kill",
                "map code",
                "make code",
                "parent's memory",
                "parent's pages",
                "dumpable",
            ],
            &["memory"],
        ),
    ];
    for (layers, stopped, not_stopped) in cases {
        let decoder = start(config(&[], layers)).await;
        assert_eq!(decoder.isolation(), layers);
        let expected = if layers.contains(Layer::Seccomp) {
            Reject::SandboxViolation
        } else {
            REFUSED
        };
        for name in stopped {
            if is_too_new(name) && !layers.contains(Layer::Seccomp) {
                println!("{name}: not in this kernel's version of landlock");
                continue;
            }
            let found = attacked(&decoder, name, port).await;
            assert_eq!(found, expected, "{name} with {layers}");
        }
        for name in not_stopped {
            let found = attacked(&decoder, name, port).await;
            assert_eq!(found, SUCCEEDED, "{name} with {layers}");
        }
    }
}

/// Whether Landlock stops this in newer kernels only.
fn is_too_new(name: &str) -> bool {
    let needed = match name {
        "connect" => (6, 7),
        "kill" => (6, 12),
        _ => return false,
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) < (Some(needed.0), Some(needed.1))
}

#[tokio::test(flavor = "multi_thread")]
async fn confinement_needs_no_privilege() {
    let decoder = start(config(&[AS_NOBODY], Layers::ALL)).await;
    assert_eq!(decoder.isolation(), Layers::ALL);
    for name in ["open", "fork", "kill"] {
        let found = attacked(&decoder, name, 0).await;
        assert_eq!(found, Reject::SandboxViolation, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_counts_workers_that_broke_the_sandbox() {
    let server = TestServer::start_with(|own| own.video = config(&[], Layers::ALL)).await;
    let counted = |reason: &str, workers: u32| {
        let line =
            format!("frameshift_video_workers_lost_total{{reason=\"{reason}\"}} {workers}\n");
        server.wiring.metrics.text().contains(&line)
    };
    // The series are there before anything happens, so that an alert sees the first rise.
    until(|| async { counted("sandbox_violation", 0) && counted("cpu_time", 0) }).await;
    let client = server.client("acme").await;
    let attack = Bytes::from(attacker::input("open", 0));
    let refused = upload(&client, &attack).await.expect_err("an attack");
    assert_eq!(reason(&refused), "VIDEO_SANDBOX_VIOLATION");
    until(|| async { counted("sandbox_violation", 1) }).await;
    assert!(counted("decoder_crashed", 0));
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_without_a_layer_is_told_of_and_one_without_any_is_refused() {
    let one = start(config(&[HIDE_LANDLOCK], Layers::ALL)).await;
    let lost = Layers::ALL.without(one.isolation());
    assert_eq!(lost, Layers::NONE.with(Layer::Landlock));
    assert_eq!(reject(&one, "open", 0).await, Reject::SandboxViolation);

    let other = start(config(&[HIDE_SECCOMP], Layers::ALL)).await;
    let lost = Layers::ALL.without(other.isolation());
    assert_eq!(lost, Layers::NONE.with(Layer::Seccomp));
    assert_eq!(reject(&other, "open", 0).await, REFUSED);

    let neither = [HIDE_LANDLOCK, HIDE_SECCOMP];
    match Decoder::start(config(&neither, Layers::ALL)).await {
        Err(error @ Error::Unconfined { layers }) => {
            assert_eq!(layers, Layers::PLAIN);
            assert!(error.to_string().contains("--video-sandbox=off"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let accepted = start(config(&neither, Layers::PLAIN)).await;
    assert_eq!(accepted.isolation(), Layers::PLAIN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_read_confined_leaves_the_white_list() {
    use frameshift::video::Container;
    let decoder = start(config(&[FAIL_AT_FLV], Layers::ALL)).await;
    for &container in Container::ALL {
        let listed = decoder.containers().contains(container);
        assert_eq!(listed, container != Container::Flv, "{container}");
    }
    decoder
        .probe(&tenant("a"), Lane::Batch, small())
        .await
        .expect("another container");
    // A worker that reads it all the same would be ended by its attack.
    let flv = Bytes::from_static(include_bytes!("../../assets/containers/flv.flv"));
    let refused = async |decoder: &Decoder| {
        let input = Input::Bytes(flv.clone());
        decoder.probe(&tenant("a"), Lane::Batch, input).await
    };
    let whole = start(config(&[], Layers::ALL)).await;
    let probe = refused(&whole).await.expect("Flash video");
    assert_eq!((probe.container, probe.frames), (Container::Flv, 4));
    let honest = Config {
        limits: Limits {
            containers: decoder.containers(),
            ..Limits::default()
        },
        ..config(&[], Layers::ALL)
    };
    let result = refused(&start(honest).await).await;
    assert!(
        matches!(&result, Err(Error::Rejected(own)) if *own == Reject::ContainerNotAllowed),
        "{result:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_crash_or_lie_fail_their_own_request() {
    let decoder = start(config(&[], Layers::ALL)).await;
    let descriptors = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let mut before = None;
    for _ in 0..3 {
        for (name, expected) in [
            ("crash", Reject::DecoderCrashed),
            ("abort", Reject::DecoderCrashed),
            ("panic", Reject::DecoderCrashed),
            ("lie", Reject::DecoderCrashed),
            ("smuggle", Reject::DecoderCrashed),
        ] {
            let found = attacked(&decoder, name, 0).await;
            assert_eq!(found, expected, "{name}");
        }
        let now = descriptors();
        // One worker may be on its way in or out.
        let most = *before.get_or_insert(now) + 4;
        assert!(now <= most, "{now} descriptors, {most} expected at most");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_sleeps_is_ended_when_its_time_is_over() {
    let decoder = start(Config {
        limits: Limits {
            wall: Duration::from_millis(300),
            ..Limits::default()
        },
        ..config(&[], Layers::ALL)
    })
    .await;
    assert_eq!(reject(&decoder, "hang", 0).await, Reject::WallTime);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_replaced_after_so_many_videos_or_so_much_processor_time() {
    let a = tenant("a");
    let decoder = start(Config {
        worker_requests: NonZeroU32::new(2).expect("2"),
        workers: 1,
        ..config(&[], Layers::ALL)
    })
    .await;
    let mut used = Vec::new();
    for _ in 0..3 {
        decoder
            .probe(&a, Lane::Batch, small())
            .await
            .expect("a probe");
        used.push(pids(&decoder, "a").1);
    }
    assert!(used[0].is_some() && used[1].is_none(), "{used:?}");
    assert!(used[2].is_some() && used[2] != used[0], "{used:?}");

    let decoder = start(Config {
        worker_cpu: Duration::from_millis(200),
        workers: 1,
        ..config(&[], Layers::ALL)
    })
    .await;
    for (milliseconds, is_kept) in [(10, true), (300, false)] {
        assert_eq!(reject(&decoder, "processor", milliseconds).await, SUCCEEDED);
        let worker = pids(&decoder, "attacker").1;
        assert_eq!(worker.is_some(), is_kept, "after {milliseconds} ms");
    }
}
