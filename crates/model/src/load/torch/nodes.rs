//! The values that a pickle builds: an arena, so that a value that is used twice is there once.
//!
//! Invariant: values name each other by number; nothing is copied, and nothing is dropped by recursion.

use super::TorchError;
use super::globals::Global;
use super::machine::{MAX_DEPTH, MAX_NODES};

/// A value's number.
pub(super) type Id = u32;

/// A value.
#[derive(Debug)]
pub(super) enum Node<'a> {
    /// What has no say here: nothing, a float, bytes, a long number, a call's result that is not needed.
    Other(&'static str),
    Flag,
    Int(i64),
    Text(&'a str),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// Keys and values in turn.
    Dict(Vec<Id>),
    Global(Global),
    /// A class of a TorchScript archive.
    Class(&'a str),
    /// A claim to a storage.
    Storage(u32),
    /// A view of one.
    Tensor(u32),
    /// An instance of a class, and its attributes.
    Object(&'a str, Option<Id>),
    /// A class or function that the reader does not know, by its number, or whatever came of it; what it was given is thrown away.
    Stranger(u32),
}

impl Node<'_> {
    /// What it is, for messages.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Other(what) => what,
            Self::Flag => "a flag",
            Self::Int(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) | Self::Class(_) => "a global",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Object(..) => "an object",
            Self::Stranger(_) => "an object of a class that is not known here",
        }
    }
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Nodes<'a> {
    nodes: Vec<Node<'a>>,
    /// How deep each is nested, as far as it was filled when it was put into another.
    depths: Vec<u8>,
    /// Whether each is or holds a tensor or a storage, as far as it was filled when it was put into another.
    tensors: Vec<bool>,
}

impl<'a> Nodes<'a> {
    pub(super) fn get(&self, id: Id) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    /// Adds a value that holds no others.
    pub(super) fn push(&mut self, node: Node<'a>, at: usize) -> Result<Id, TorchError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(TorchError::Nodes { at });
        }
        let own = matches!(node, Node::Tensor(_) | Node::Storage(_));
        self.nodes.push(node);
        self.depths.push(0);
        self.tensors.push(own);
        Ok((self.nodes.len() - 1) as Id)
    }

    /// Adds a tuple.
    pub(super) fn tuple(&mut self, items: Vec<Id>, at: usize) -> Result<Id, TorchError> {
        let id = self.push(Node::Tuple(Vec::new()), at)?;
        self.fill(id, &items, at)?;
        self.nodes[id as usize] = Node::Tuple(items);
        Ok(id)
    }

    /// Appends to a list or dictionary; `false` when it is neither.
    pub(super) fn extend(&mut self, into: Id, items: &[Id], at: usize) -> Result<bool, TorchError> {
        self.fill(into, items, at)?;
        if let Node::List(own) | Node::Dict(own) = &mut self.nodes[into as usize] {
            own.extend_from_slice(items);
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether a value is or holds a tensor or a storage.
    pub(super) fn has_tensors(&self, id: Id) -> bool {
        self.tensors[id as usize]
    }

    /// Notes that a value is a tensor's, although it cannot be read.
    pub(super) fn mark_tensor(&mut self, id: Id) {
        self.tensors[id as usize] = true;
    }

    /// Notes what a stranger or a set was given, without keeping it: only whether there were tensors in it.
    pub(super) fn pass_over(&mut self, into: Id, items: &[Id]) {
        let has = items.iter().any(|&item| self.has_tensors(item));
        self.tensors[into as usize] |= has;
    }

    /// Gives an object its attributes; `false` when it is none.
    pub(super) fn attributes(&mut self, of: Id, state: Id, at: usize) -> Result<bool, TorchError> {
        self.fill(of, &[state], at)?;
        match &mut self.nodes[of as usize] {
            Node::Object(_, own) => {
                *own = Some(state);
                Ok(true)
            }
            // What an OrderedDict carries as attributes says nothing about tensors.
            Node::Dict(_) => Ok(true),
            Node::Other(_)
            | Node::Flag
            | Node::Int(_)
            | Node::Text(_)
            | Node::List(_)
            | Node::Tuple(_)
            | Node::Global(_)
            | Node::Class(_)
            | Node::Storage(_)
            | Node::Tensor(_)
            | Node::Stranger(_) => Ok(false),
        }
    }

    /// Notes how deep a value becomes.
    fn fill(&mut self, into: Id, items: &[Id], at: usize) -> Result<(), TorchError> {
        let deepest = items
            .iter()
            .map(|&item| self.depths[item as usize] + 1)
            .max()
            .unwrap_or(0);
        if usize::from(deepest) > MAX_DEPTH {
            return Err(TorchError::Depth { at });
        }
        let own = &mut self.depths[into as usize];
        *own = deepest.max(*own);
        self.pass_over(into, items);
        Ok(())
    }
}
