//! Faults of the device under a running engine, in the process of the test: they need the emulated device in the place of the tests, and are skipped elsewhere.
// Settings of the emulated driver are changed through a function that it exports.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::sync::Arc;

use frameshift::engine::Error;
use frameshift::ids::VersionRef;
use futures::future::join_all;
use proptest::test_runner::{Config, TestRunner};

use crate::engine::fixture::{ADAPTER, Running, bits, clip, patient, stored, version};
use crate::model::place;

/// `fs_emulated_set` of the emulated driver.
type Set = extern "C" fn(*const libc::c_char, *const libc::c_char) -> libc::c_int;

/// Changes a setting of the emulated driver; an empty value takes it back. False where the tests compute on something else.
fn emulated(name: &str, value: &str) -> bool {
    if place().is_host() {
        println!("skipped: the tests compute on the processor");
        return false;
    }
    let [library, function] =
        ["libcuda.so", "fs_emulated_set"].map(|name| CString::new(name).unwrap());
    let (name, value) = (CString::new(name).unwrap(), CString::new(value).unwrap());
    // SAFETY: the library is loaded already, and the emulated driver declares the function like this.
    unsafe {
        let loaded = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        let found = match loaded.is_null() {
            true => loaded,
            false => libc::dlsym(loaded, function.as_ptr()),
        };
        if found.is_null() {
            println!("skipped: not the emulated driver");
            return false;
        }
        let set = std::mem::transmute::<*mut libc::c_void, Set>(found);
        set(name.as_ptr(), value.as_ptr());
    }
    true
}

/// Bytes that buffers use on the device.
fn used() -> u64 {
    place().memory().expect("a device").used
}

/// An engine with two versions, clips, and what they give alone.
struct Bed {
    running: Running,
    versions: [VersionRef; 2],
    clips: Vec<Arc<[f32]>>,
    alone: Vec<Vec<u32>>,
}

impl Bed {
    async fn new() -> Self {
        let running = Running::start(patient()).await;
        let versions = ["one", "two"].map(|task| version("a", task, 1));
        for (seed, version) in (0..).zip(&versions) {
            running.shelf.put(version, stored(seed, ADAPTER, 0.3));
        }
        let clips: Vec<Arc<[f32]>> = (0..4).map(|seed| clip(seed, 4)).collect();
        let mut alone = Vec::new();
        for (i, clip) in clips.iter().enumerate() {
            let answer = running.one(&versions[i % 2], clip.clone()).await;
            alone.push(bits(&answer.unwrap()));
        }
        Self {
            running,
            versions,
            clips,
            alone,
        }
    }

    /// Classifies all clips in one batch, whose requests wait while `plan` runs.
    async fn batch(&self, plan: impl FnOnce()) -> Vec<Result<Vec<u32>, Error>> {
        let paused = self.running.device.pause();
        let requests = self.clips.iter().enumerate();
        let requests =
            requests.map(|(i, clip)| self.running.one(&self.versions[i % 2], clip.clone()));
        let mut requests = Box::pin(join_all(requests));
        assert!(futures::poll!(requests.as_mut()).is_pending());
        plan();
        drop(paused);
        let answers = requests.await.into_iter();
        answers
            .map(|answer| answer.map(|logits| bits(&logits)))
            .collect()
    }

    /// Fails unless both versions serve, without having been loaded again, and a batch gives what its clips give alone.
    async fn is_well(&self) {
        let answers = self.batch(|| ()).await;
        for (answer, alone) in answers.into_iter().zip(&self.alone) {
            assert_eq!(&answer.unwrap(), alone);
        }
        for version in &self.versions {
            assert_eq!(self.running.engine.refusal(version), None);
            assert_eq!(self.running.shelf.loads(version), 1);
        }
    }

    fn halved(&self) -> u64 {
        let text = self.running.metrics.text();
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix("frameshift_batches_halved_total "));
        line.expect("a counter").parse().expect("a number")
    }
}

#[test]
fn a_batch_without_room_is_halved_or_refused_and_the_next_one_is_right() {
    if !emulated("FS_EMULATED_FAIL", "") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bed = runtime.block_on(Bed::new());
    // One allocation fails, and fails again when it is tried once more, whichever it is of the batch and of its halves.
    let mut runner = TestRunner::new(Config::with_cases(60));
    let fails = |n: u32| {
        runtime.block_on(async {
            let before = bed.halved();
            let fail = format!("cuMemAllocAsync:{n}:2:2");
            let answers = bed
                .batch(|| {
                    emulated("FS_EMULATED_FAIL", &fail);
                })
                .await;
            emulated("FS_EMULATED_FAIL", "");
            for (answer, alone) in answers.into_iter().zip(&bed.alone) {
                assert_eq!(&answer.unwrap(), alone, "a half has room");
            }
            assert!(n > 20 || bed.halved() == before + 1, "{n}");
            bed.is_well().await;
        });
        Ok(())
    };
    runner.run(&(1_u32..200), fails).unwrap();
    // There is no more room than this, for longer than the batch lasts.
    let mut runner = TestRunner::new(Config::with_cases(30));
    let limited = |more: u64| {
        runtime.block_on(async {
            let room = (used() + more).to_string();
            let answers = bed
                .batch(|| {
                    emulated("FS_EMULATED_MEMORY", &room);
                })
                .await;
            emulated("FS_EMULATED_MEMORY", "");
            for (answer, alone) in answers.into_iter().zip(&bed.alone) {
                match answer {
                    Ok(logits) => assert_eq!(&logits, alone),
                    Err(Error::OutOfMemory { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            bed.is_well().await;
        });
        Ok(())
    };
    runner.run(&(0_u64..150_000), limited).unwrap();
    assert!(place().lost().is_none());
}

#[test]
fn nothing_fits_and_every_clip_is_refused_alone() {
    if !emulated("FS_EMULATED_FAIL", "") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let bed = Bed::new().await;
        let room = used().to_string();
        let answers = bed
            .batch(|| {
                emulated("FS_EMULATED_MEMORY", &room);
            })
            .await;
        emulated("FS_EMULATED_MEMORY", "");
        for answer in answers {
            assert!(
                matches!(answer, Err(Error::OutOfMemory { .. })),
                "{answer:?}"
            );
        }
        // The whole, its halves, and each clip.
        assert_eq!(bed.halved(), 7);
        bed.is_well().await;
    });
}
