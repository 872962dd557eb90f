//! The videos of a folder by the names that a list may call them.
//!
//! Invariant: a name with folders in it finds a video of other folders only as a doubtful one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::client::annotations::folder::{Files, parts, without_ending};
use crate::spec::composed;

/// How far a name speaks for the videos that it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// The folders of the name are those of the video.
    Path,
    /// The name has no folders and is the file's.
    Name,
    /// The folders or the ending are others.
    Doubtful,
}

/// Videos by the names that a list may call them.
#[derive(Debug, Default)]
pub(in crate::client::annotations) struct Index {
    /// Each video's path below the folder.
    wholes: Vec<String>,
    /// Videos by the path below the folder, with and without its ending.
    paths: BTreeMap<String, Vec<usize>>,
    /// Videos by the file's name.
    names: BTreeMap<String, Vec<usize>>,
    /// Videos by the file's name without its ending.
    stems: BTreeMap<String, Vec<usize>>,
    /// The folders that videos lie in, by their own names.
    folders: BTreeSet<String>,
}

impl Index {
    pub(in crate::client::annotations) fn new(files: &Files) -> Self {
        let mut index = Self::default();
        for (at, path) in files.videos.iter().enumerate() {
            let whole = whole(path);
            let name = file(&whole).to_owned();
            if let Some(begin) = without_ending(&whole) {
                add(&mut index.paths, begin, at);
            }
            if let Some(stem) = without_ending(&name) {
                add(&mut index.stems, stem, at);
            }
            for key in [whole.clone(), lower_ending(&whole)] {
                add(&mut index.paths, &key, at);
            }
            for key in [name.clone(), lower_ending(&name)] {
                add(&mut index.names, &key, at);
            }
            index.folders.extend(folder(&whole).map(str::to_owned));
            index.wholes.push(whole);
        }
        index
    }

    /// Whether a name means some video beyond doubt.
    pub(in crate::client::annotations) fn knows(&self, name: &str) -> bool {
        !matches!(self.find(name), None | Some((_, Rank::Doubtful)))
    }

    /// The videos that a name may mean, never none of them.
    pub(super) fn find(&self, name: &str) -> Option<(Vec<usize>, Rank)> {
        let name = normal(name);
        let found = self.own_ending(&name).or_else(|| {
            // Many download scripts convert what they fetch.
            let begin = without_ending(&name)?;
            let (found, _) = self.own_ending(begin)?;
            Some((found, Rank::Doubtful))
        });
        found.filter(|(found, _)| !found.is_empty())
    }

    fn own_ending(&self, name: &str) -> Option<(Vec<usize>, Rank)> {
        let lower = lower_ending(name);
        let either = |map: &BTreeMap<String, Vec<usize>>, raw: &str, lower: &str| {
            map.get(raw).or_else(|| map.get(lower)).cloned()
        };
        if let Some(found) = either(&self.paths, name, &lower) {
            return Some((found, Rank::Path));
        }
        let (raw, low) = (file(name), file(&lower));
        let found = either(&self.names, raw, low).or_else(|| either(&self.stems, raw, low))?;
        if !name.contains('/') {
            return Some((found, Rank::Name));
        }
        let shared = |at: &usize| self.wholes.get(*at).map_or(0, |own| common(own, name));
        let longest = found.iter().map(shared).max().unwrap_or(0);
        match longest {
            // The video would be in the folder that the name says, which is there.
            0 if folder(name).is_some_and(|own| self.folders.contains(own)) => None,
            0 => Some((found, Rank::Doubtful)),
            longest => {
                let best = found.into_iter().filter(|at| shared(at) == longest);
                Some((best.collect(), Rank::Path))
            }
        }
    }
}

fn add(map: &mut BTreeMap<String, Vec<usize>>, key: &str, at: usize) {
    let own = map.entry(key.to_owned()).or_default();
    if own.last() != Some(&at) {
        own.push(at);
    }
}

/// The folders that a video and a name share when the whole of one is the end of the other, and the file's name; 0 when they contradict each other.
fn common(video: &str, name: &str) -> usize {
    let folders = |path: &str| {
        let mut folders: Vec<String> = path.split('/').rev().skip(1).map(str::to_owned).collect();
        folders.retain(|folder| !folder.is_empty());
        folders
    };
    let (video, name) = (folders(video), folders(name));
    let shorter = video.len().min(name.len());
    match video[..shorter] == name[..shorter] {
        // A video at the top of the folder speaks neither for nor against the folders of a name.
        true => shorter,
        false => 0,
    }
}

/// A video's path below the folder as lists write paths.
fn whole(path: &Path) -> String {
    composed(&parts(path).join("/"))
}

/// A name in one form: slashes, composed characters, no beginning that says only "here".
pub(super) fn normal(name: &str) -> String {
    let name = composed(&name.trim().replace('\\', "/"));
    name.trim_start_matches("./").to_owned()
}

/// The name of the folder that a path's file lies in.
fn folder(path: &str) -> Option<&str> {
    path.rsplit('/').nth(1)
}

fn file(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The name with the ending in small letters when it is that of a video.
fn lower_ending(name: &str) -> String {
    match without_ending(name) {
        Some(begin) => format!("{begin}{}", name[begin.len()..].to_lowercase()),
        None => name.to_owned(),
    }
}
