//! What fuzzers feed: the directory of an archive and a pickle, each alone, with what has to hold of whatever is read.
//!
//! Invariant: no input makes these panic; there is no other way to fail.

use super::zip::Zip;
use super::{Places, machine, tensors};

/// Any bytes as a zip archive: every entry that is handed out lies in the file.
///
/// # Panics
/// When an entry lies elsewhere.
pub fn zip(data: &[u8]) {
    let Ok(zip) = Zip::parse(data) else { return };
    for name in zip.names() {
        if let Some(Ok(range)) = zip.find(name).map(|entry| zip.range(entry)) {
            assert!(data.get(range).is_some(), "{name:?} is outside of the file");
        }
    }
    if let Ok(root) = zip.root() {
        assert!(zip.find(&format!("{root}/data.pkl")).is_some());
    }
}

/// A pickle without the archive around it, whose storages are all there and as long as it says. The first byte says whether TorchScript's classes are allowed.
///
/// # Panics
/// When a tensor lies outside of its storage, or has more elements than it.
pub fn pickle(data: &[u8]) {
    let Some((&script, pickle)) = data.split_first() else {
        return;
    };
    let Ok(parsed) = machine::run(pickle, 0, script & 1 == 1) else {
        return;
    };
    assert!(parsed.end <= pickle.len());
    // Where they would lie in a file that no memory holds.
    let places: Places = parsed
        .storages
        .iter()
        .filter_map(|claim| Some((claim.key.clone(), 0..claim.bytes()?.try_into().ok()?)))
        .collect();
    let Ok(found) = tensors::flatten(&parsed) else {
        return;
    };
    for (name, view) in found.tensors {
        let view = &parsed.views[view as usize];
        let storage = &parsed.storages[view.storage as usize].key;
        let Ok(entry) = tensors::place(name, view, &parsed, &places) else {
            continue;
        };
        let own = &places[storage];
        let within = own.start <= entry.range.start && entry.range.end <= own.end;
        assert!(within || entry.elements() == 0, "{entry:?} in {own:?}");
        assert!(entry.elements() as u64 <= own.len() as u64);
    }
}
