//! What is suspicious about a data set, found from its records and the sketches of its videos: duplicates, videos that look alike, labels with few clips,
//! labels that a property of the files tells apart. Examples of several labels have one set of them, and count for each.
//!
//! Invariant: [`Check`] is pure; memory grows by some 200 bytes with each example, and what is reported has a limit, whatever the size of the data set.

mod likeness;
mod told;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::sketch::Sketch;
use super::{Error, Library, Result};
use crate::blocking::blocking;
use crate::ids::{TenantId, VideoId};
use crate::metadata::{ExampleRecord, VideoRecord};
use crate::spec::{Digest, ExampleLabels, Split};

/// Data sets that are checked at a time; more wait. One of a million examples takes some 200 MB and a thread.
pub(super) const AT_A_TIME: usize = 2;
/// Examples that are read at a time.
const PAGE: u32 = 1000;
/// Groups, labels or videos that a finding names at most.
const NAMED: usize = 20;
/// What stands for the labels of an example that has none.
const NO_LABEL: &str = "(no label)";
/// Training clips below which a label has few.
const FEW: u64 = 5;
/// How many times as many training clips the most frequent label has when the labels are imbalanced.
const IMBALANCE: u64 = 10;

/// A kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Examples with equal bytes have several labels.
    DuplicateAcrossLabels,
    /// Examples with equal bytes are in several splits.
    DuplicateAcrossSplits,
    /// Videos of validation or test show almost the same pictures as one of another split.
    NearDuplicateAcrossSplits,
    /// Several examples of one label and split have equal bytes.
    Duplicate,
    /// Videos of validation or test probably show the scene of one of another split.
    SceneAcrossSplits,
    /// Labels have few training clips.
    FewClips,
    /// Some labels have many times as many training clips as others.
    Imbalance,
    /// Labels differ in case, punctuation or a plural alone.
    SimilarLabels,
    /// The size of the picture alone tells labels apart.
    ToldBySize,
    /// The length alone tells labels apart.
    ToldByLength,
    /// The codec alone tells labels apart.
    ToldByCodec,
    /// The frame rate alone tells labels apart.
    ToldByFrameRate,
    /// Several of these properties together tell labels apart, and none of them alone as well.
    ToldTogether,
}

/// Something suspicious.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind it is of.
    pub kind: Kind,
    /// The finding in words.
    pub text: String,
    /// How many groups of equal bytes, labels or examples it concerns.
    pub count: u64,
    /// Some of the labels that it concerns.
    pub labels: Vec<String>,
    /// Some of the videos that it concerns, those of equal bytes one after the other.
    pub videos: Vec<VideoId>,
}

/// What is kept of an example.
#[derive(Debug, Clone, Copy)]
struct Seen {
    content: u64,
    video: VideoId,
    /// Number of the set of its labels.
    label: u32,
    split: Split,
    codec: u16,
    size: (u16, u16),
    /// Length and frame rate in steps of a quarter of an octave and a twentieth.
    length: i16,
    rate: u16,
}

/// What came of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Examples that were looked at.
    pub examples: u64,
    /// Of those, examples without a sketch, of which it is not known what they look like.
    pub unseen: u64,
    /// What is suspicious, the worst first.
    pub findings: Vec<Finding>,
}

impl Library {
    /// Looks at every example of a snapshot, with the sketches of one kind that there are.
    ///
    /// # Errors
    /// When the tenant has no such snapshot, or the database fails; [`Error::Check`] when the work breaks off.
    pub async fn check(
        &self,
        tenant: &TenantId,
        digest: Digest,
        sketches: Digest,
    ) -> Result<Checked> {
        // Nobody closes the semaphore.
        let turn = Arc::clone(&self.inner.checks).acquire_owned().await.ok();
        let mut check = Check::default();
        let mut after = None;
        loop {
            let page = self.snapshot_examples(tenant, digest, after, PAGE).await?;
            let is_last = page.len() < PAGE as usize;
            after = page.last().map(|example| example.video);
            let ids: Vec<VideoId> = page.iter().map(|example| example.video).collect();
            let records = self.get_videos(tenant, &ids).await?;
            let by_id: HashMap<VideoId, &VideoRecord> =
                records.iter().map(|record| (record.id, record)).collect();
            let known = self.sketches(tenant, sketches, &ids).await?;
            for example in &page {
                if let Some(record) = by_id.get(&example.video) {
                    let sketch = known.get(&example.video).copied();
                    check.add(example, record, sketch);
                }
            }
            if is_last {
                break;
            }
        }
        let (examples, unseen) = (check.examples(), check.unseen());
        // Sorting hundreds of thousands of examples is no work for an async thread. It goes on when its caller leaves, and so does its turn.
        let finish = move || {
            let findings = check.finish();
            drop(turn);
            findings
        };
        let finished = blocking(finish).await;
        Ok(Checked {
            examples,
            unseen,
            findings: finished.map_err(Error::Check)?,
        })
    }
}

/// Looks at examples one by one.
#[derive(Debug, Default)]
pub struct Check {
    labels: HashMap<String, u32>,
    /// Training examples by the number of the label.
    trained: Vec<u64>,
    /// Sets of labels, by their text; a label alone is a set.
    sets: HashMap<String, u32>,
    /// Whether an example has several labels, or none.
    has_several: bool,
    codecs: HashMap<String, u32>,
    seen: Vec<Seen>,
    /// Of each example its sketch.
    sketches: Vec<Option<Sketch>>,
}

impl Check {
    /// Takes note of an example.
    pub fn add(&mut self, example: &ExampleRecord, video: &VideoRecord, sketch: Option<Sketch>) {
        self.sketches.push(sketch);
        let label = number(&mut self.sets, example.labels.text());
        self.has_several |= example.labels.only().is_none();
        for own in example.labels.iter() {
            let own = number(&mut self.labels, own) as usize;
            if own >= self.trained.len() {
                self.trained.resize(own + 1, 0);
            }
            if let Some(count) = self.trained.get_mut(own) {
                *count += u64::from(example.split == Split::Train);
            }
        }
        let probe = &video.probe;
        let codec = number(&mut self.codecs, &probe.codec);
        let narrow = |side: u32| u16::try_from(side).unwrap_or(u16::MAX);
        let seconds = (probe.duration_micros.max(1) as f64) / 1e6;
        self.seen.push(Seen {
            content: content(video),
            video: example.video,
            label,
            split: example.split,
            codec: u16::try_from(codec).unwrap_or(u16::MAX),
            size: (narrow(probe.width), narrow(probe.height)),
            length: (4.0 * seconds.log2()).round() as i16,
            rate: (20.0 * probe.frame_rate.max(0.0)).round().min(65_535.0) as u16,
        });
    }

    /// Examples that were looked at.
    pub fn examples(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Examples without a sketch.
    pub fn unseen(&self) -> u64 {
        self.sketches.iter().filter(|own| own.is_none()).count() as u64
    }

    /// Everything that was found, the worst first.
    pub fn finish(mut self) -> Vec<Finding> {
        let names = by_number(std::mem::take(&mut self.labels));
        let sets = by_number(std::mem::take(&mut self.sets)).into_iter();
        let shown = |text| {
            let labels = ExampleLabels::read(text);
            let labels: Vec<&str> = labels.iter().collect();
            match labels.is_empty() {
                true => NO_LABEL.to_owned(),
                false => labels.join(" + "),
            }
        };
        let sets: Vec<String> = sets.map(shown).collect();
        let mut findings = likeness::findings(&self.seen, &self.sketches);
        findings.extend(self.duplicates(&sets));
        findings.extend(self.counts(&names));
        findings.extend(similar(&names));
        findings.extend(told::findings(&self.seen, &sets, self.has_several));
        findings.sort_by_key(|finding| finding.kind);
        findings
    }

    fn duplicates(&mut self, names: &[String]) -> Vec<Finding> {
        self.seen.sort_by_key(|seen| (seen.content, seen.video));
        let mut found: BTreeMap<Kind, Finding> = BTreeMap::new();
        for group in self
            .seen
            .chunk_by(|one, other| one.content == other.content)
        {
            let [first, rest @ ..] = group else { continue };
            if rest.is_empty() {
                continue;
            }
            let kind = if rest.iter().any(|own| own.label != first.label) {
                Kind::DuplicateAcrossLabels
            } else if rest.iter().any(|own| own.split != first.split) {
                Kind::DuplicateAcrossSplits
            } else {
                Kind::Duplicate
            };
            let finding = found.entry(kind).or_insert_with(|| Finding {
                kind,
                text: String::new(),
                count: 0,
                labels: Vec::new(),
                videos: Vec::new(),
            });
            finding.count += 1;
            let room = NAMED.saturating_sub(finding.videos.len());
            finding
                .videos
                .extend(group.iter().take(room).map(|own| own.video));
            for own in group {
                let name = names.get(own.label as usize).cloned().unwrap_or_default();
                if finding.labels.len() < NAMED && !finding.labels.contains(&name) {
                    finding.labels.push(name);
                }
            }
        }
        let told = |mut finding: Finding| {
            let what = match finding.kind {
                Kind::DuplicateAcrossLabels => {
                    "groups of equal videos under several labels, of which one at most is right"
                }
                Kind::DuplicateAcrossSplits => {
                    "groups of equal videos in several splits, so that what is measured was trained on"
                }
                Kind::Duplicate
                | Kind::NearDuplicateAcrossSplits
                | Kind::SceneAcrossSplits
                | Kind::FewClips
                | Kind::Imbalance
                | Kind::SimilarLabels
                | Kind::ToldBySize
                | Kind::ToldByLength
                | Kind::ToldByCodec
                | Kind::ToldByFrameRate
                | Kind::ToldTogether => "groups of equal videos under one label and in one split",
            };
            finding.text = format!("{what}: {}", finding.count);
            finding
        };
        found.into_values().map(told).collect()
    }

    fn counts(&self, names: &[String]) -> Vec<Finding> {
        let trained = &self.trained;
        let mut findings = Vec::new();
        let name = |label: usize| names.get(label).cloned().unwrap_or_default();
        let few: Vec<usize> = (0..trained.len())
            .filter(|label| trained[*label] < FEW)
            .collect();
        if !few.is_empty() {
            let mut labels: Vec<String> = few.iter().map(|label| name(*label)).collect();
            labels.sort();
            labels.truncate(NAMED);
            findings.push(Finding {
                kind: Kind::FewClips,
                text: format!("labels with fewer than {FEW} training clips: {}", few.len()),
                count: few.len() as u64,
                labels,
                videos: Vec::new(),
            });
        }
        let counts = trained.iter().enumerate().filter(|(_, count)| **count > 0);
        let least = counts
            .clone()
            .min_by_key(|(label, count)| (**count, name(*label)));
        let most = counts.max_by_key(|(label, count)| (**count, name(*label)));
        if let (Some((rare, least)), Some((frequent, most))) = (least, most)
            && *most >= least.saturating_mul(IMBALANCE)
        {
            findings.push(Finding {
                kind: Kind::Imbalance,
                text: format!(
                    "label {:?} has {most} training clips, label {:?} has {least}: look at the mean of the classes' accuracies beside top-1",
                    name(frequent),
                    name(rare)
                ),
                count: 2,
                labels: vec![name(frequent), name(rare)],
                videos: Vec::new(),
            });
        }
        findings
    }
}

/// Names in the order of their numbers.
fn by_number(numbers: HashMap<String, u32>) -> Vec<String> {
    let mut names = vec![String::new(); numbers.len()];
    for (name, number) in numbers {
        if let Some(place) = names.get_mut(number as usize) {
            *place = name;
        }
    }
    names
}

/// The number of a name, given when it is met.
fn number(names: &mut HashMap<String, u32>, name: &str) -> u32 {
    if let Some(known) = names.get(name) {
        return *known;
    }
    let next = u32::try_from(names.len()).unwrap_or(u32::MAX);
    names.insert(name.to_owned(), next);
    next
}

/// A part of a video's digest that tells contents apart: two of a million are equal by chance once in 10⁷ data sets.
fn content(video: &VideoRecord) -> u64 {
    video
        .sha256
        .0
        .first_chunk()
        .map_or(0, |part| u64::from_le_bytes(*part))
}

/// Labels that are the same but for case, punctuation and a plural.
fn similar(names: &[String]) -> Option<Finding> {
    let mut groups: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    for name in names {
        let letters = name.chars().filter(|letter| letter.is_alphanumeric());
        let mut plain: String = letters.flat_map(char::to_lowercase).collect();
        if plain.len() > 3 && plain.ends_with('s') && !plain.ends_with("ss") {
            plain.pop();
        }
        groups.entry(plain).or_default().push(name);
    }
    let alike: Vec<Vec<&String>> = groups
        .into_iter()
        .filter(|(plain, group)| !plain.is_empty() && group.len() > 1)
        .map(|(_, group)| group)
        .collect();
    if alike.is_empty() {
        return None;
    }
    let mut labels: Vec<String> = alike
        .iter()
        .flatten()
        .map(|label| (*label).clone())
        .collect();
    labels.truncate(NAMED);
    Some(Finding {
        kind: Kind::SimilarLabels,
        text: format!(
            "groups of labels that differ in case, punctuation or a plural alone: {}",
            alike.len()
        ),
        count: alike.len() as u64,
        labels,
        videos: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
