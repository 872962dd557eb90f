//! Checkpoints with random mutations: they load or are refused, and never use more memory than their size explains.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use frameshift::model::load::open;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::{allocation, shared};

/// Limit of one allocation: this many times the bytes of the file, and some for buffers.
const TIMES: usize = 8;
const BUFFERS: usize = 1 << 20;

/// Mutation of a file.
#[derive(Debug, Clone)]
enum Change {
    /// One byte is replaced.
    Byte(usize, u8),
    /// A run of bytes is replaced, so that numbers in a header change as a whole.
    Text(usize, String),
    /// The length in front of the header is replaced.
    Length(u64),
    /// The file is truncated.
    Cut(usize),
    /// Bytes are removed from the middle.
    Remove(usize, usize),
    /// Bytes are duplicated.
    Repeat(usize, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let text = prop_oneof![
        "[0-9]{1,20}",
        Just("F16".to_owned()),
        Just("9223372036854775807".to_owned()),
        Just("[[[[".to_owned()),
        Just("\"".to_owned()),
        Just("},".to_owned()),
    ];
    let change = prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, to)| Change::Byte(at, to)),
        (any::<usize>(), text).prop_map(|(at, to)| Change::Text(at, to)),
        prop_oneof![any::<u64>(), 0_u64..8192].prop_map(Change::Length),
        any::<usize>().prop_map(Change::Cut),
        (any::<usize>(), 1_usize..200).prop_map(|(at, n)| Change::Remove(at, n)),
        (any::<usize>(), 1_usize..200).prop_map(|(at, n)| Change::Repeat(at, n)),
    ];
    prop::collection::vec(change, 1..4)
}

/// Applies a mutation. Most positions are mapped into the first kibibytes, where the header is; `head` is its size.
fn apply(bytes: &mut Vec<u8>, head: usize, change: &Change) {
    let place = |at: usize, length: usize| {
        let within = if at.is_multiple_of(4) {
            length
        } else {
            head.min(length)
        };
        (at / 4) % within.max(1)
    };
    let length = bytes.len();
    match change {
        Change::Byte(at, to) => {
            if let Some(byte) = bytes.get_mut(place(*at, length)) {
                *byte = *to;
            }
        }
        Change::Text(at, to) => {
            let at = place(*at, length);
            let end = (at + to.len()).min(length);
            bytes.splice(at.min(end)..end, to.bytes());
        }
        Change::Length(to) if length >= 8 => bytes[..8].copy_from_slice(&to.to_le_bytes()),
        Change::Length(_) => {}
        Change::Cut(at) => bytes.truncate(place(*at, length)),
        Change::Remove(at, n) => {
            let at = place(*at, length);
            bytes.drain(at..(at + n).min(length));
        }
        Change::Repeat(at, n) => {
            let at = place(*at, length);
            let part = bytes[at..(at + n).min(length)].to_vec();
            bytes.splice(at..at, part);
        }
    }
}

fn copy(from: &Path, to: &Path) -> Vec<PathBuf> {
    let mut copied = Vec::new();
    for entry in fs::read_dir(from).expect("the case is readable") {
        let path = entry.expect("the case is readable").path();
        let name = path.file_name().expect("a name");
        let skip = ["case.json", "expected.safetensors"].map(std::ffi::OsStr::new);
        if !skip.contains(&name) && !name.to_string_lossy().starts_with("adapter_") {
            fs::copy(&path, to.join(name)).expect("a copy");
            copied.push(to.join(name));
        }
    }
    copied.sort();
    copied
}

/// Returns the smallest checkpoint that loads, and one with an index when there is one.
fn seeds() -> Vec<PathBuf> {
    let root = shared::root().join("golden/backbones");
    let mut loadable: Vec<(u64, PathBuf)> = fs::read_dir(&root)
        .expect("the golden backbones are readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| open(path).is_ok())
        .map(|path| (size(&path), path))
        .collect();
    loadable.sort();
    let sharded = loadable
        .iter()
        .find(|(_, path)| path.join("model.safetensors.index.json").exists())
        .cloned();
    let smallest = loadable.first().cloned();
    smallest
        .into_iter()
        .chain(sharded)
        .map(|(_, path)| path)
        .collect()
}

fn size(folder: &Path) -> u64 {
    fs::read_dir(folder)
        .expect("readable")
        .map(|entry| {
            entry
                .and_then(|entry| entry.metadata())
                .map_or(0, |file| file.len())
        })
        .sum()
}

#[test]
fn changed_checkpoints_neither_panic_nor_allocate_what_they_claim() {
    let seeds = seeds();
    assert!(!seeds.is_empty(), "no checkpoint to change");
    for seed in seeds {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = copy(&seed, folder.path());
        let originals: Vec<Vec<u8>> = files
            .iter()
            .map(|file| fs::read(file).expect("a copy"))
            .collect();
        let total: usize = originals.iter().map(Vec::len).sum();
        let mut runner = TestRunner::new(Config {
            cases: 300,
            failure_persistence: None,
            ..Config::default()
        });
        let strategy = (0..files.len(), changes());
        let (loaded, refused) = (Cell::new(0), Cell::new(0));
        let result = runner.run(&strategy, |(file, changes)| {
            let mut bytes = originals[file].clone();
            for change in &changes {
                let head = originals[file].len().min(8192);
                apply(&mut bytes, head, change);
            }
            fs::write(&files[file], &bytes).expect("a change is written");
            let (outcome, largest) = allocation::largest(|| open(folder.path()));
            fs::write(&files[file], &originals[file]).expect("the original is restored");
            match outcome {
                Ok(_) => loaded.set(loaded.get() + 1),
                Err(error) => {
                    refused.set(refused.get() + 1);
                    prop_assert!(!error.to_string().is_empty());
                }
            }
            let most = TIMES * (total + bytes.len()) + BUFFERS;
            prop_assert!(
                largest <= most,
                "{largest} bytes at once, {most} are explained"
            );
            Ok(())
        });
        println!(
            "{}: {} loaded, {} refused",
            seed.display(),
            loaded.get(),
            refused.get()
        );
        result.unwrap_or_else(|error| panic!("{}: {error}", seed.display()));
        assert!(refused.get() > 0, "no change was noticed");
    }
}
