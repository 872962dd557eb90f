//! From a pickle's values to named tensors.
//!
//! Invariant: only dictionaries and TorchScript objects are descended into, to a bounded depth and number of values; a tensor's bytes lie inside its
//! storage, and it has no more elements than its storage. A stranger among the tensors is passed over, unless it holds tensors.

use super::machine::{MAX_DEPTH, Parsed, View};
use super::nodes::{Id, Node};
use super::{Entry, Passed, Places, TorchError};

/// Most values that are reached from the root.
pub(super) const MAX_VISITS: usize = 1 << 20;
/// Most tensors of a file.
pub(super) const MAX_TENSORS: usize = 1 << 16;
/// Longest name of a tensor.
pub(super) const MAX_NAME: usize = 512;
/// Most keys beside the tensors that are remembered for a report.
const MAX_BESIDES: usize = 32;
/// Most values that are passed over by name in a report, and most values that are looked at to find them.
const MAX_PASSED: usize = 32;
const MAX_LOOKS: usize = 4096;
/// Keys that training loops put a state dictionary under: the first of these that is there is taken. Averages of the weights (`…ema`) come last, since
/// the file's metrics are usually those of the weights.
const WRAPPERS: [&str; 15] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "params_ema",
    "ema",
];
/// Most wrappers inside of each other.
const MAX_WRAPPERS: usize = 3;

/// What the root holds.
#[derive(Default)]
pub(super) struct StateDict {
    /// Names and views.
    pub(super) tensors: Vec<(String, u32)>,
    pub(super) wrapped: Option<String>,
    pub(super) besides: Vec<String>,
    pub(super) texts: Vec<(String, String)>,
    pub(super) class: Option<String>,
    /// Strangers that were passed over.
    pub(super) passed: Vec<Passed>,
}

/// Finds the state dictionary and names its tensors.
pub(super) fn flatten(parsed: &Parsed<'_>) -> Result<StateDict, TorchError> {
    let mut root = parsed.root;
    let mut found = StateDict::default();
    let node = parsed.nodes.get(root);
    if let &Node::Stranger(stranger) = node {
        return Err(stranger_at(parsed, stranger, ""));
    } else if let Node::Object(name, _) = node {
        found.class = Some((*name).to_owned());
    } else if !matches!(node, Node::Dict(_)) {
        return Err(TorchError::Root { what: node.what() });
    }
    for _ in 0..MAX_WRAPPERS {
        let Some(inner) = unwrap(parsed, root, &mut found) else {
            break;
        };
        root = inner;
    }
    let mut walk = Walk {
        parsed,
        found: &mut found,
        visits: 0,
    };
    walk.visit(root, &mut String::new(), 0)?;
    Ok(found)
}

/// The state dictionary inside of a training loop's, and what lies beside it. Below the root, only a dictionary without tensors of its own is a wrapper.
fn unwrap(parsed: &Parsed<'_>, root: Id, found: &mut StateDict) -> Option<Id> {
    let Node::Dict(items) = parsed.nodes.get(root) else {
        return None;
    };
    let is_tensor = |&[_, value]: &[Id; 2]| matches!(parsed.nodes.get(value), Node::Tensor(_));
    if found.wrapped.is_some() && items.as_chunks::<2>().0.iter().any(is_tensor) {
        return None;
    }
    let (key, state) = wrapper(parsed, items)?;
    others(parsed, items, key, found);
    let path = match found.wrapped.take() {
        Some(before) => format!("{before}.{key}"),
        None => key.to_owned(),
    };
    found.wrapped = Some(path);
    Some(state)
}

/// The key and the state dictionary that a training loop put under it. A dictionary without tensors is none: a model's settings, for example.
fn wrapper<'a>(parsed: &Parsed<'a>, items: &[Id]) -> Option<(&'a str, Id)> {
    let pairs = || items.as_chunks::<2>().0.iter();
    WRAPPERS.into_iter().find_map(|wanted| {
        pairs().find_map(
            |&[key, value]| match (parsed.nodes.get(key), parsed.nodes.get(value)) {
                (&Node::Text(key), Node::Dict(_))
                    if key == wanted && parsed.nodes.has_tensors(value) =>
                {
                    Some((key, value))
                }
                _ => None,
            },
        )
    })
}

/// The other keys of a dictionary, the texts among their values, and the strangers.
fn others(parsed: &Parsed<'_>, items: &[Id], own: &str, found: &mut StateDict) {
    for &[key, value] in items.as_chunks::<2>().0 {
        let Node::Text(key) = parsed.nodes.get(key) else {
            continue;
        };
        if *key == own || found.besides.len() >= MAX_BESIDES {
            continue;
        }
        let key: String = key.chars().take(64).collect();
        if let Node::Text(text) = parsed.nodes.get(value) {
            found.texts.push((key.clone(), (*text).to_owned()));
        }
        if let Some(stranger) = stranger_in(parsed, value) {
            note(parsed, stranger, &key, found);
        }
        found.besides.push(key);
    }
}

/// The first stranger in a value, as far as a bounded search finds one.
fn stranger_in(parsed: &Parsed<'_>, value: Id) -> Option<u32> {
    let mut waiting = vec![value];
    for _ in 0..MAX_LOOKS {
        let node = parsed.nodes.get(waiting.pop()?);
        if let &Node::Stranger(stranger) = node {
            return Some(stranger);
        }
        if let Node::Dict(items) | Node::List(items) | Node::Tuple(items) = node {
            waiting.extend(items.iter().rev().take(MAX_LOOKS));
        }
    }
    None
}

/// Notes a stranger that is passed over.
fn note(parsed: &Parsed<'_>, stranger: u32, key: &str, found: &mut StateDict) {
    if found.passed.len() < MAX_PASSED {
        let class = parsed.strangers[stranger as usize].path();
        let key = key.to_owned();
        found.passed.push(Passed { key, class });
    }
}

/// The refusal of a stranger that should be tensors.
fn stranger_at(parsed: &Parsed<'_>, stranger: u32, key: &str) -> TorchError {
    let stranger = parsed.strangers[stranger as usize];
    TorchError::Class {
        key: key.to_owned(),
        class: stranger.path(),
        at: stranger.at,
    }
}

struct Walk<'p, 'a> {
    parsed: &'p Parsed<'a>,
    found: &'p mut StateDict,
    visits: usize,
}

impl Walk<'_, '_> {
    fn visit(&mut self, id: Id, name: &mut String, depth: usize) -> Result<(), TorchError> {
        self.visits += 1;
        if self.visits > MAX_VISITS || depth > MAX_DEPTH {
            return Err(TorchError::Visits);
        }
        let parsed = self.parsed;
        let node = parsed.nodes.get(id);
        if let Node::Dict(items) = node {
            for &[key, value] in items.as_chunks::<2>().0 {
                self.child(key, value, name, depth)?;
            }
        } else if let Node::Object(_, Some(state)) = node {
            self.visit(*state, name, depth + 1)?;
        } else if let &Node::Tensor(view) = node {
            if self.found.tensors.len() >= MAX_TENSORS {
                return Err(TorchError::Tensors);
            }
            self.found.tensors.push((name.clone(), view));
        } else if let &Node::Stranger(stranger) = node {
            if parsed.nodes.has_tensors(id) {
                return Err(stranger_at(parsed, stranger, name));
            }
            note(parsed, stranger, name, self.found);
        }
        Ok(())
    }

    fn child(
        &mut self,
        key: Id,
        value: Id,
        name: &mut String,
        depth: usize,
    ) -> Result<(), TorchError> {
        let before = name.len();
        if before > 0 {
            name.push('.');
        }
        let key = self.parsed.nodes.get(key);
        if let Node::Text(key) = key {
            name.push_str(key.get(..MAX_NAME + 1).unwrap_or(key));
        } else if let Node::Int(key) = key {
            name.push_str(&key.to_string());
        } else {
            name.truncate(before);
            return Ok(());
        }
        if name.len() > MAX_NAME {
            return Err(TorchError::LongName);
        }
        self.visit(value, name, depth + 1)?;
        name.truncate(before);
        Ok(())
    }
}

/// Where a tensor's bytes lie.
pub(super) fn place(
    name: String,
    view: &View,
    parsed: &Parsed<'_>,
    places: &Places,
) -> Result<Entry, TorchError> {
    let claim = &parsed.storages[view.storage as usize];
    let Some(storage) = places.get(&claim.key) else {
        return Err(TorchError::NoStorage {
            key: claim.key.clone(),
        });
    };
    let size = (view.dtype.bitsize() / 8).max(1);
    let held = (storage.len() / size) as u64;
    let (count, needed) = extent(view)?;
    if needed.max(u128::from(count)) > u128::from(held) {
        return Err(TorchError::View {
            name,
            shape: view.shape.clone(),
            strides: view.strides.clone(),
            offset: view.offset,
            needed: needed.max(u128::from(count)),
            elements: held,
        });
    }
    // All of these are at most the length of a storage, which is a part of a slice.
    let begin = storage.start + view.offset as usize * size;
    let end = if count == 0 {
        begin
    } else {
        storage.start + needed as usize * size
    };
    let narrow = |sizes: &[u64]| sizes.iter().map(|&size| size as usize).collect::<Vec<_>>();
    let strides = (!is_row_major(view)).then(|| narrow(&view.strides));
    Ok(Entry {
        name,
        dtype: view.dtype,
        shape: narrow(&view.shape),
        range: begin..end,
        strides,
    })
}

/// Elements of a view, and of the storage up to its last one.
fn extent(view: &View) -> Result<(u64, u128), TorchError> {
    let overflow = || TorchError::Overflow {
        shape: view.shape.clone(),
        at: view.at,
    };
    let mut count = 1_u64;
    let mut product = 1_u64;
    for &side in &view.shape {
        // A zero must not hide an overflow of the other dimensions.
        product = product.checked_mul(side.max(1)).ok_or_else(overflow)?;
        count *= side.min(1);
    }
    count *= product;
    if count == 0 {
        return Ok((0, u128::from(view.offset)));
    }
    let mut last = u128::from(view.offset);
    for (&side, &stride) in view.shape.iter().zip(&view.strides) {
        last += u128::from(side - 1) * u128::from(stride);
    }
    Ok((count, last + 1))
}

fn is_row_major(view: &View) -> bool {
    let mut expected = 1_u64;
    view.shape
        .iter()
        .zip(&view.strides)
        .rev()
        .all(|(&side, &stride)| {
            let fits = side <= 1 || stride == expected;
            expected = expected.saturating_mul(side.max(1));
            fits
        })
}
