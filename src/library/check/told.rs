//! Labels that size, length, codec and frame rate tell, each alone or several together: a model may learn those instead of what the videos show.
//!
//! Invariant: pure; an example is never guessed from itself.

use std::collections::{BTreeMap, HashMap};

use super::{Finding, Kind, NAMED, Seen};

/// Fewest examples of which it is asked whether properties tell their labels apart.
const ENOUGH: u64 = 20;
/// How much more often properties are right than the most frequent label when they tell labels apart.
const GAIN: f64 = 0.25;
/// How much more often several properties are right than the best one alone when they are worth a finding of their own.
const MORE: f64 = 0.1;
/// Standard deviations of guessing by which several properties are right more often. Of 20 to 40 examples whose properties have nothing to do with two to four
/// labels, some combination is right so much more often in less than one of two hundred data sets; with 3, in one to three of a hundred.
const DEVIATIONS: f64 = 4.0;

/// The properties: their kind of finding, and their name.
const PROPERTIES: [(Kind, &str); 4] = [
    (Kind::ToldBySize, "size of the picture"),
    (Kind::ToldByLength, "length of the video"),
    (Kind::ToldByCodec, "codec"),
    (Kind::ToldByFrameRate, "frame rate"),
];

/// Values of the properties.
type Values = [u64; PROPERTIES.len()];

/// Examples that have the same properties and label, counted.
type Counts = BTreeMap<(Values, u32), u64>;

/// How well some properties tell the labels.
#[derive(Debug, Default)]
struct Told {
    /// Which of the properties.
    of: Vec<usize>,
    /// Examples whose label is told.
    right: u64,
    /// Labels most of whose examples are told, and that most of the examples that look like theirs have; those with the most examples first.
    labels: Vec<u32>,
}

/// What tells labels apart: each property that does, and several together when they are better than that.
pub(super) fn findings(seen: &[Seen], names: &[String], has_several: bool) -> Vec<Finding> {
    let all = seen.len() as u64;
    // Of several labels an example has no property could tell all.
    if all < ENOUGH || has_several {
        return Vec::new();
    }
    let mut counts = Counts::new();
    let mut labels: HashMap<u32, u64> = HashMap::new();
    for own in seen {
        *counts.entry((values(own), own.label)).or_default() += 1;
        *labels.entry(own.label).or_default() += 1;
    }
    let share = |right: u64| right as f64 / all as f64;
    let base = share(labels.values().max().copied().unwrap_or(0));
    let each = (0..PROPERTIES.len()).map(|property| told(&counts, vec![property]));
    let mut found: Vec<Told> = each.collect();
    let alone = found.iter().map(|own| own.right).max();
    found.retain(|own| share(own.right) >= base + GAIN);
    let deviation = (base * (1.0 - base) / all as f64).sqrt();
    let least = base + GAIN.max(DEVIATIONS * deviation);
    let least = alone.map_or(least, |alone| least.max(share(alone) + MORE));
    let together = combinations().map(|of| told(&counts, of));
    // Of equally good ones that with the fewest properties.
    let together = together.min_by_key(|own| (u64::MAX - own.right, own.of.len()));
    found.extend(together.filter(|own| share(own.right) >= least));
    let shown = |own: Told| {
        let text = format!(
            "{} of {:.2} of the examples, and guessing the most frequent label that of {base:.2}: a model may learn that instead of what the videos show",
            subject(&own.of),
            share(own.right)
        );
        let named = own.labels.iter().take(NAMED);
        let named = named.filter_map(|label| names.get(*label as usize));
        Finding {
            kind: match own.of[..] {
                [only] => PROPERTIES[only].0,
                _ => Kind::ToldTogether,
            },
            text,
            count: all,
            labels: named.cloned().collect(),
            videos: Vec::new(),
        }
    };
    found.into_iter().map(shown).collect()
}

fn values(seen: &Seen) -> Values {
    [
        u64::from(seen.size.0) << 16 | u64::from(seen.size.1),
        seen.length as u64,
        seen.codec.into(),
        seen.rate.into(),
    ]
}

/// Every choice of two properties or more.
fn combinations() -> impl Iterator<Item = Vec<usize>> {
    let of = |bits: u32| (0..PROPERTIES.len()).filter(move |place| bits >> place & 1 == 1);
    let all = (1..1_u32 << PROPERTIES.len()).map(move |bits| of(bits).collect::<Vec<usize>>());
    all.filter(|own| own.len() > 1)
}

/// What tells labels, as the beginning of a sentence.
fn subject(of: &[usize]) -> String {
    let names: Vec<&str> = of.iter().map(|property| PROPERTIES[*property].1).collect();
    match &names[..] {
        [only] => format!("the {only} alone tells the label"),
        [others @ .., last] => format!("{} and {last} together tell the label", others.join(", ")),
        [] => String::new(),
    }
}

/// Guesses the label of each example: the most frequent one among the other examples with the same values of these properties. A tie is not right.
fn told(counts: &Counts, of: Vec<usize>) -> Told {
    let mut groups: HashMap<Values, HashMap<u32, u64>> = HashMap::new();
    for ((values, label), count) in counts {
        let mut key = Values::default();
        for property in &of {
            key[*property] = values[*property];
        }
        *groups.entry(key).or_default().entry(*label).or_default() += count;
    }
    // Of each label: its examples, those that are told, and all that look like them.
    let mut labels: BTreeMap<u32, (u64, u64, u64)> = BTreeMap::new();
    for group in groups.values() {
        let mut sorted: Vec<u64> = group.values().copied().collect();
        sorted.sort_unstable_by(|one, other| other.cmp(one));
        let second = sorted.get(1).copied().unwrap_or(0);
        for (label, count) in group {
            let own = labels.entry(*label).or_default();
            own.0 += count;
            // Without the example itself, its label has one less.
            let is_first = *count == sorted[0];
            let ahead = if is_first { second } else { sorted[0] };
            if count - 1 > ahead {
                own.1 += count;
                own.2 += sorted.iter().sum::<u64>();
            }
        }
    }
    let right = labels.values().map(|own| own.1).sum();
    let is_named = |own: &(u64, u64, u64)| 2 * own.1 > own.0.max(own.2);
    let named = labels.iter().filter(|(_, own)| is_named(own));
    let mut named: Vec<(u64, u32)> = named.map(|(label, own)| (own.1, *label)).collect();
    named.sort_by_key(|(told, label)| (u64::MAX - told, *label));
    Told {
        of,
        right,
        labels: named.into_iter().map(|(_, label)| label).collect(),
    }
}
