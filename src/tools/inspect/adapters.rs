//! Recognises an adapter set by its tensors' names and tells its shape.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::model::load::{self, Header};

const BLOCKS: &str = "transformer.resblocks.";

/// An adapter set, as its tensors tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Adapters {
    /// What the head reads: `mean`, `frames`, `conv` or `attention`, as of a task.
    pub head: &'static str,
    /// Rows of the head; row i is label i.
    pub classes: Option<usize>,
    /// Width of the backbone that it is for.
    pub width: Option<usize>,
    /// Adapters, sorted by block; none for a linear probe.
    pub sites: Vec<Site>,
    /// Elements of all tensors.
    pub parameters: usize,
}

/// An adapter of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Site {
    /// Index of the block, from 0.
    pub block: usize,
    /// `adapter_pre_attn` or `adapter_pre_mlp`.
    pub place: String,
    /// Width of the bottleneck, where the convolution tells it.
    pub adapter_width: Option<usize>,
    /// Kernel over (T, H, W), where the convolution tells it.
    pub adapter_kernel_size: Option<[usize; 3]>,
}

/// The adapter set of a file that has adapters, or a head and nothing else; `None` for other files.
pub(super) fn find(header: &Header) -> Option<Adapters> {
    let all = header.entries.iter();
    let named: Vec<_> = all
        .map(|entry| (load::without_wrappers(&entry.name), entry))
        .collect();
    let entries = || named.iter().map(|(name, entry)| (name.as_str(), *entry));
    let shape = |wanted: &str| {
        let found = entries().find(|(name, _)| *name == wanted);
        found.map(|(_, entry)| entry.shape.as_slice())
    };
    let own = |name: &str| load::is_head(name) || site(name).is_some();
    let places: BTreeSet<(usize, &str)> = entries().filter_map(|(name, _)| site(name)).collect();
    let head_alone = !header.entries.is_empty() && entries().all(|(name, _)| own(name));
    if places.is_empty() && !head_alone {
        return None;
    }
    let sites = places
        .into_iter()
        .map(|(block, place)| {
            let convolution = shape(&format!("{BLOCKS}{block}.{place}.conv.weight"));
            let (adapter_width, adapter_kernel_size) = match convolution {
                Some(&[width, _, t, h, w]) => (Some(width), Some([t, h, w])),
                _ => (None, None),
            };
            Site {
                block,
                place: place.to_owned(),
                adapter_width,
                adapter_kernel_size,
            }
        })
        .collect();
    // The tensors that tell the number of classes, and the width of the backbone in their second dimension.
    let heads = [
        ("frames", "head.frames.fc.weight", None),
        ("conv", "head.conv.fc.weight", Some("head.conv.mix.weight")),
        (
            "attention",
            "head.attention.fc.weight",
            Some("head.attention.fc.weight"),
        ),
        ("mean", "fc.weight", Some("fc.weight")),
    ];
    let found = heads.iter().find(|(_, last, _)| shape(last).is_some());
    let (head, last, tells_width) = *found.unwrap_or(&heads[3]);
    let fc1 = entries().find(|(name, _)| site(name).is_some() && name.ends_with(".fc1.weight"));
    let wide = match tells_width {
        Some(name) => shape(name),
        None => fc1.map(|(_, entry)| entry.shape.as_slice()),
    };
    Some(Adapters {
        head,
        classes: shape(last).and_then(|shape| shape.first().copied()),
        width: wide.and_then(|shape| shape.get(1).copied()),
        sites,
        parameters: entries()
            .filter(|(name, _)| own(name))
            .map(|(_, entry)| entry.elements())
            .sum(),
    })
}

/// Block and place of an adapter's tensor.
fn site(name: &str) -> Option<(usize, &str)> {
    let (block, rest) = name.strip_prefix(BLOCKS)?.split_once('.')?;
    let (place, _) = rest.split_once('.')?;
    let known = ["adapter_pre_attn", "adapter_pre_mlp"];
    known
        .contains(&place)
        .then_some(())
        .and_then(|()| Some((block.parse().ok()?, place)))
}
