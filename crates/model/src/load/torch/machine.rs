//! The stack machine of pickles, without everything that runs or imports.
//!
//! Invariant: each opcode is one of a list, takes time by its own bytes and makes at most one value; opcodes, values, remembered values, the stack and
//! nesting are bounded. A name that the reader does not know becomes a stranger: a value without content, whatever is done with it.

mod calls;

use std::collections::HashMap;

use safetensors::Dtype;

use super::TorchError;
use super::globals::{self, Global};
use super::nodes::{Id, Node, Nodes};

/// Longest pickle; that of a full trainer's checkpoint of a ViT-bigG has about 1 MiB.
pub(super) const MAX_PICKLE: usize = 16 << 20;
/// Most opcodes of a pickle.
pub(super) const MAX_OPCODES: usize = 1 << 21;
/// Most values; with their lists they take less than 100 MiB.
pub(super) const MAX_NODES: usize = 1 << 20;
/// Most values on the stack; torch puts at most some thousand at a time.
pub(super) const MAX_STACK: usize = 1 << 16;
/// Most remembered values.
pub(super) const MAX_MEMO: usize = 1 << 20;
/// Deepest nesting; a TorchScript archive of CLIP has 16.
pub(super) const MAX_DEPTH: usize = 40;
/// Most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 8;
/// Longest line of a global's name.
const MAX_LINE: usize = 512;
/// Most characters of a global's name in messages.
const MAX_SHOWN: usize = 120;

/// What a pickle says of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StorageClaim {
    pub(super) key: String,
    /// `None` for bytes.
    pub(super) dtype: Option<Dtype>,
    pub(super) elements: u64,
}

impl StorageClaim {
    /// Its size; `None` beyond 64 bits.
    pub(super) fn bytes(&self) -> Option<u64> {
        let bits = self.dtype.map_or(8, |dtype| dtype.bitsize() as u64);
        Some(self.elements.checked_mul(bits)? / 8)
    }
}

/// A tensor, as a view of a storage.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) storage: u32,
    pub(super) dtype: Dtype,
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
    pub(super) at: usize,
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    pub(super) nodes: Nodes<'a>,
    pub(super) root: Id,
    /// One past its last byte.
    pub(super) end: usize,
    pub(super) storages: Vec<StorageClaim>,
    pub(super) views: Vec<View>,
    /// Names that the reader does not know, in the order of the pickle.
    pub(super) strangers: Vec<Stranger<'a>>,
}

/// A class or function that the reader does not know, by its name in the pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stranger<'a> {
    pub(super) module: &'a str,
    pub(super) name: &'a str,
    pub(super) at: usize,
}

impl Stranger<'_> {
    /// Module and name, shortened for messages.
    pub(super) fn path(&self) -> String {
        let Self { module, name, .. } = self;
        format!("{module}.{name}").chars().take(MAX_SHOWN).collect()
    }
}

/// Reads the pickle that begins at `start`; `script` allows the classes of TorchScript archives.
pub(super) fn run(bytes: &[u8], start: usize, script: bool) -> Result<Parsed<'_>, TorchError> {
    let limit = start.saturating_add(MAX_PICKLE).min(bytes.len());
    let mut machine = Machine {
        bytes: &bytes[..limit],
        cut: limit < bytes.len(),
        at: start,
        script,
        nodes: Nodes::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        storages: Vec::new(),
        views: Vec::new(),
        strangers: Vec::new(),
    };
    for _ in 0..MAX_OPCODES {
        if let Some(root) = machine.step()? {
            return Ok(Parsed {
                nodes: machine.nodes,
                root,
                end: machine.at,
                storages: machine.storages,
                views: machine.views,
                strangers: machine.strangers,
            });
        }
    }
    Err(TorchError::Opcodes { at: machine.at })
}

struct Machine<'a> {
    bytes: &'a [u8],
    /// Whether more follows than may be read.
    cut: bool,
    at: usize,
    script: bool,
    nodes: Nodes<'a>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    storages: Vec<StorageClaim>,
    views: Vec<View>,
    strangers: Vec<Stranger<'a>>,
}

impl<'a> Machine<'a> {
    /// One opcode; the root at the end.
    fn step(&mut self) -> Result<Option<Id>, TorchError> {
        let at = self.at;
        let code = self.byte()?;
        match code {
            0x80 => self.protocol(at)?,
            // A frame only says how much to read ahead.
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop(at).map(Some),
            b'(' if self.marks.len() < MAX_STACK => self.marks.push(self.stack.len()),
            b'(' => return Err(TorchError::Stack { at }),
            b'N' => self.push(Node::Other("nothing"), at)?,
            0x88 | 0x89 => self.push(Node::Flag, at)?,
            b'K' | b'M' | b'J' | 0x8a | 0x8b => self.number(code, at)?,
            b'G' => {
                self.take(8)?;
                self.push(Node::Other("a float"), at)?;
            }
            b'X' | 0x8c | 0x8d | b'U' | b'T' => self.text(code, at)?,
            b'C' | b'B' | 0x8e | 0x96 => {
                let length = self.length(code)?;
                self.take(length)?;
                self.push(Node::Other("bytes"), at)?;
            }
            b']' => self.push(Node::List(Vec::new()), at)?,
            b'}' => self.push(Node::Dict(Vec::new()), at)?,
            b')' => self.push(Node::Tuple(Vec::new()), at)?,
            0x85..=0x87 => {
                let items = self.pops(usize::from(code - 0x84), at)?;
                self.tuple(items, at)?;
            }
            b't' => {
                let items = self.marked(at)?;
                self.tuple(items, at)?;
            }
            b'a' | b'e' | b's' | b'u' => self.fill(code, at)?,
            0x8f => self.push(Node::Other("a set"), at)?,
            0x90 => self.add_to_set(at)?,
            0x91 => {
                let items = self.marked(at)?;
                let id = self.nodes.push(Node::Other("a set"), at)?;
                self.nodes.pass_over(id, &items);
                self.push_id(id, at)?;
            }
            b'0' | b'1' => self.discard(code, at)?,
            b'q' | b'r' | 0x94 => self.remember(code, at)?,
            b'h' | b'j' => self.recall(code, at)?,
            b'c' | 0x93 => self.global(code, at)?,
            b'Q' => self.storage(at)?,
            b'R' => self.reduce(at)?,
            0x81 | 0x92 => self.instance(code == 0x92, at)?,
            b'b' => self.build(at)?,
            code => return Err(TorchError::Opcode { code, at }),
        }
        Ok(None)
    }

    fn protocol(&mut self, at: usize) -> Result<(), TorchError> {
        match self.byte()? {
            2..=5 => Ok(()),
            _ => Err(malformed("protocol 2 to 5 is expected", at)),
        }
    }

    fn number(&mut self, code: u8, at: usize) -> Result<(), TorchError> {
        let length = match code {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            0x8b => self.word()? as usize,
            _ => usize::from(self.byte()?),
        };
        let bytes = self.take(length)?;
        // Longer numbers are only ever compared by torch itself.
        if length > 8 {
            return self.push(Node::Other("a long number"), at);
        }
        let signed = matches!(code, b'J' | 0x8a | 0x8b);
        let negative = signed && bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = if negative { [0xff; 8] } else { [0; 8] };
        wide[..length].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)), at)
    }

    fn text(&mut self, code: u8, at: usize) -> Result<(), TorchError> {
        let length = self.length(code)?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("a text is not UTF-8", at))?;
        self.push(Node::Text(text), at)
    }

    /// APPEND, APPENDS, SETITEM, SETITEMS.
    fn fill(&mut self, code: u8, at: usize) -> Result<(), TorchError> {
        let items = match code {
            b'a' => self.pops(1, at)?,
            b's' => self.pops(2, at)?,
            _ => self.marked(at)?,
        };
        let list = code == b'a' || code == b'e';
        let into = self.top(at)?;
        let target = self.nodes.get(into);
        if matches!(target, Node::Stranger(_)) {
            self.nodes.pass_over(into, &items);
            return Ok(());
        }
        let fits = (list && matches!(target, Node::List(_)))
            || (!list && matches!(target, Node::Dict(_)) && items.len().is_multiple_of(2));
        if fits && self.nodes.extend(into, &items, at)? {
            return Ok(());
        }
        Err(malformed("items for what is no such container", at))
    }

    /// ADDITEMS: a set has no say, so that only what it holds counts.
    fn add_to_set(&mut self, at: usize) -> Result<(), TorchError> {
        let items = self.marked(at)?;
        let into = self.top(at)?;
        let target = self.nodes.get(into);
        if !matches!(target, Node::Other("a set") | Node::Stranger(_)) {
            return Err(malformed("items for what is no such container", at));
        }
        self.nodes.pass_over(into, &items);
        Ok(())
    }

    /// POP and POP_MARK, which follow a value that holds itself. A POP with nothing above the mark takes the mark.
    fn discard(&mut self, code: u8, at: usize) -> Result<(), TorchError> {
        if code == b'0' && self.stack.len() > self.floor() {
            self.stack.pop();
            return Ok(());
        }
        self.marked(at).map(drop)
    }

    fn remember(&mut self, code: u8, at: usize) -> Result<(), TorchError> {
        let key = match code {
            b'q' => u32::from(self.byte()?),
            b'r' => self.word()?,
            _ => self.memo.len() as u32,
        };
        let top = self.top(at)?;
        self.memo.insert(key, top);
        if self.memo.len() > MAX_MEMO {
            return Err(TorchError::Memo { at });
        }
        Ok(())
    }

    fn recall(&mut self, code: u8, at: usize) -> Result<(), TorchError> {
        let key = match code {
            b'h' => u32::from(self.byte()?),
            _ => self.word()?,
        };
        match self.memo.get(&key) {
            Some(&id) => self.push_id(id, at),
            None => Err(malformed("a remembered value that is not there", at)),
        }
    }

    fn global(&mut self, code: u8, at: usize) -> Result<(), TorchError> {
        let (module, name) = if code == b'c' {
            (self.line()?, self.line()?)
        } else {
            let name = self.pop(at)?;
            let module = self.pop(at)?;
            match (self.nodes.get(module), self.nodes.get(name)) {
                (&Node::Text(module), &Node::Text(name)) => (module, name),
                _ => return Err(malformed("a global's name is no text", at)),
            }
        };
        match globals::find(module, name, self.script) {
            Some(Global::Script) => self.push(Node::Class(name), at),
            Some(global) => self.push(Node::Global(global), at),
            None => {
                let stranger = Stranger { module, name, at };
                if globals::is_hostile(module, name) {
                    let name = stranger.path();
                    return Err(TorchError::Global { name, at });
                }
                self.strangers.push(stranger);
                let number = self.strangers.len() as u32 - 1;
                self.push(Node::Stranger(number), at)
            }
        }
    }

    fn tuple(&mut self, items: Vec<Id>, at: usize) -> Result<(), TorchError> {
        let id = self.nodes.tuple(items, at)?;
        self.push_id(id, at)
    }

    fn push(&mut self, node: Node<'a>, at: usize) -> Result<(), TorchError> {
        let id = self.nodes.push(node, at)?;
        self.push_id(id, at)
    }

    fn push_id(&mut self, id: Id, at: usize) -> Result<(), TorchError> {
        if self.stack.len() >= MAX_STACK {
            return Err(TorchError::Stack { at });
        }
        self.stack.push(id);
        Ok(())
    }

    /// The number of values above the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self, at: usize) -> Result<Id, TorchError> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.floor() => Ok(top),
            _ => Err(malformed("a value is missing", at)),
        }
    }

    fn pop(&mut self, at: usize) -> Result<Id, TorchError> {
        let top = self.top(at)?;
        self.stack.pop();
        Ok(top)
    }

    fn pops(&mut self, count: usize, at: usize) -> Result<Vec<Id>, TorchError> {
        match self.stack.len().checked_sub(count) {
            Some(rest) if rest >= self.floor() => Ok(self.stack.split_off(rest)),
            _ => Err(malformed("a value is missing", at)),
        }
    }

    fn marked(&mut self, at: usize) -> Result<Vec<Id>, TorchError> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| malformed("a mark is missing", at))?;
        Ok(self.stack.split_off(mark))
    }

    fn byte(&mut self) -> Result<u8, TorchError> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u32, TorchError> {
        let bytes = self.take(4)?;
        let word = bytes.first_chunk().copied().unwrap_or_default();
        Ok(u32::from_le_bytes(word))
    }

    /// The length before a text or bytes, as wide as their opcode has it.
    fn length(&mut self, code: u8) -> Result<usize, TorchError> {
        match code {
            b'C' | b'U' | 0x8c => Ok(usize::from(self.byte()?)),
            0x8d | 0x8e | 0x96 => {
                let bytes = self.take(8)?.first_chunk().copied().unwrap_or_default();
                Ok(usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX))
            }
            _ => Ok(self.word()? as usize),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], TorchError> {
        let bytes = self.bytes;
        let taken = bytes.get(self.at..).and_then(|rest| rest.get(..count));
        match taken {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None if self.cut => Err(TorchError::TooLong),
            None => Err(TorchError::Truncated { at: self.at }),
        }
    }

    fn line(&mut self) -> Result<&'a str, TorchError> {
        let at = self.at;
        let bytes = self.bytes;
        let rest = bytes.get(at..).unwrap_or_default();
        let rest = &rest[..rest.len().min(MAX_LINE)];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(malformed("a global's name has no end", at));
        };
        self.at += length + 1;
        std::str::from_utf8(&rest[..length])
            .map_err(|_| malformed("a global's name is not UTF-8", at))
    }
}

fn malformed(problem: &'static str, at: usize) -> TorchError {
    TorchError::Malformed { problem, at }
}
