//! What calls, instances and persistent ids of a pickle come to: tensors, containers, objects of TorchScript, and strangers.
//!
//! Invariant: nothing is called. A call of what is known here describes a value; everything that is done with a stranger gives the same stranger, and of
//! its arguments only whether there were tensors among them is kept.

use super::super::TorchError;
use super::super::globals::Global;
use super::super::nodes::{Id, Node};
use super::{MAX_LINE, MAX_RANK, Machine, StorageClaim, View, malformed};

impl Machine<'_> {
    /// BINPERSID: ('storage', class, key, device, elements), and in the old format a view of it, which has to be absent.
    pub(super) fn storage(&mut self, at: usize) -> Result<(), TorchError> {
        let wrong = || malformed("a persistent id that is no storage", at);
        let id = self.pop(at)?;
        let Node::Tuple(items) = self.nodes.get(id) else {
            return Err(wrong());
        };
        let (&[tag, class, key, _, elements], view) =
            items.split_first_chunk::<5>().ok_or_else(wrong)?;
        if !view
            .iter()
            .all(|&view| matches!(self.nodes.get(view), Node::Other("nothing")))
        {
            return Err(malformed(
                "a view of a storage, which torch no longer writes",
                at,
            ));
        }
        let nodes = &self.nodes;
        let claim = match [tag, class, key, elements].map(|id| nodes.get(id)) {
            // A storage of a class that is not known here: what is made of it cannot be read, either.
            [
                Node::Text("storage"),
                &Node::Stranger(stranger),
                Node::Text(_),
                &Node::Int(_),
            ] => {
                let id = self.nodes.push(Node::Stranger(stranger), at)?;
                self.nodes.mark_tensor(id);
                return self.push_id(id, at);
            }
            [
                Node::Text("storage"),
                &Node::Global(Global::Storage(dtype)),
                Node::Text(key),
                &Node::Int(elements),
            ] if key.len() <= MAX_LINE => StorageClaim {
                key: (*key).to_owned(),
                dtype,
                elements: u64::try_from(elements).map_err(|_| wrong())?,
            },
            _ => return Err(wrong()),
        };
        self.storages.push(claim);
        let number = self.storages.len() as u32 - 1;
        self.push(Node::Storage(number), at)
    }

    /// REDUCE: a call.
    pub(super) fn reduce(&mut self, at: usize) -> Result<(), TorchError> {
        let (arguments, function) = (self.pop(at)?, self.pop(at)?);
        if let &Node::Stranger(stranger) = self.nodes.get(function) {
            return self.stranger(stranger, &[arguments], at);
        }
        let (&Node::Global(global), Node::Tuple(items)) =
            (self.nodes.get(function), self.nodes.get(arguments))
        else {
            return Err(malformed("a call of what is no allowed function", at));
        };
        let first = items.first().copied();
        match (global, first) {
            (Global::OrderedDict, None) => self.push(Node::Dict(Vec::new()), at),
            (Global::RebuildTensor | Global::RebuildTyped, _) => {
                let typed = global == Global::RebuildTyped;
                if let Some(stranger) = self.stranger_among(items, typed) {
                    return self.stranger(stranger, &[arguments], at);
                }
                let view = self.view(items, typed, at)?;
                self.views.push(view);
                let number = self.views.len() as u32 - 1;
                self.push(Node::Tensor(number), at)
            }
            (Global::RebuildParameter | Global::Itself, Some(first)) => self.push_id(first, at),
            _ => Err(malformed("a call with arguments that it does not take", at)),
        }
    }

    /// The stranger that a tensor is to be made of: its storage or its float format.
    fn stranger_among(&self, items: &[Id], typed: bool) -> Option<u32> {
        let dtype = items.get(6).filter(|_| typed);
        let parts = items.first().into_iter().chain(dtype);
        parts.into_iter().find_map(|&part| {
            let &Node::Stranger(stranger) = self.nodes.get(part) else {
                return None;
            };
            Some(stranger)
        })
    }

    /// A value that came of a stranger.
    fn stranger(&mut self, stranger: u32, given: &[Id], at: usize) -> Result<(), TorchError> {
        let id = self.nodes.push(Node::Stranger(stranger), at)?;
        self.nodes.pass_over(id, given);
        self.push_id(id, at)
    }

    /// (storage, offset, size, stride, …), and a dtype at the seventh place where `typed`.
    fn view(&self, items: &[Id], typed: bool, at: usize) -> Result<View, TorchError> {
        let wrong = || malformed("a tensor of arguments that are not a tensor's", at);
        let &[storage, offset, shape, strides, ..] = items else {
            return Err(wrong());
        };
        let (&Node::Storage(storage), &Node::Int(offset)) =
            (self.nodes.get(storage), self.nodes.get(offset))
        else {
            return Err(wrong());
        };
        let dtype = match items.get(6).map(|&dtype| self.nodes.get(dtype)) {
            Some(&Node::Global(Global::Dtype(dtype))) if typed => Some(dtype),
            _ if typed => return Err(wrong()),
            _ => self.storages[storage as usize].dtype,
        };
        let (shape, strides) = (self.sizes(shape, at)?, self.sizes(strides, at)?);
        if shape.len() != strides.len() {
            return Err(wrong());
        }
        Ok(View {
            storage,
            dtype: dtype.ok_or_else(wrong)?,
            offset: u64::try_from(offset).map_err(|_| wrong())?,
            shape,
            strides,
            at,
        })
    }

    /// A tuple of numbers from 0 on.
    fn sizes(&self, id: Id, at: usize) -> Result<Vec<u64>, TorchError> {
        let Node::Tuple(items) = self.nodes.get(id) else {
            return Err(malformed("a shape or stride that is no tuple", at));
        };
        if items.len() > MAX_RANK {
            let rank = items.len();
            return Err(TorchError::Rank { rank, at });
        }
        let number = |&id: &Id| {
            let &Node::Int(number) = self.nodes.get(id) else {
                return None;
            };
            u64::try_from(number).ok()
        };
        let sizes: Option<Vec<u64>> = items.iter().map(number).collect();
        sizes.ok_or_else(|| malformed("a shape or stride that is no number from 0", at))
    }

    /// NEWOBJ, and NEWOBJ_EX with named arguments: of a TorchScript class without arguments, or of a stranger.
    pub(super) fn instance(&mut self, named: bool, at: usize) -> Result<(), TorchError> {
        let mut given = Vec::new();
        if named {
            given.push(self.pop(at)?);
        }
        given.push(self.pop(at)?);
        let class = self.pop(at)?;
        let arguments = given.last().map(|&arguments| self.nodes.get(arguments));
        match (self.nodes.get(class), arguments) {
            (&Node::Stranger(stranger), _) => self.stranger(stranger, &given, at),
            (&Node::Class(class), Some(Node::Tuple(items))) if items.is_empty() && !named => {
                self.push(Node::Object(class, None), at)
            }
            _ => Err(malformed("an object of what is no TorchScript class", at)),
        }
    }

    /// BUILD: attributes for the value below.
    pub(super) fn build(&mut self, at: usize) -> Result<(), TorchError> {
        let state = self.pop(at)?;
        let of = self.top(at)?;
        if matches!(self.nodes.get(of), Node::Stranger(_)) {
            self.nodes.pass_over(of, &[state]);
            return Ok(());
        }
        if matches!(self.nodes.get(state), Node::Dict(_)) && self.nodes.attributes(of, state, at)? {
            return Ok(());
        }
        Err(malformed("attributes for what has none", at))
    }
}
