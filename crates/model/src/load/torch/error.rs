//! Why a PyTorch file is refused.

use safetensors::Dtype;

use super::machine::{
    MAX_DEPTH, MAX_MEMO, MAX_NODES, MAX_OPCODES, MAX_PICKLE, MAX_RANK, MAX_STACK,
};
use super::tensors::{MAX_NAME, MAX_TENSORS, MAX_VISITS};
use super::zip::{MAX_DIRECTORY, MAX_ENTRIES, MAX_PATH};

/// What is wrong with a PyTorch file. Offsets are bytes from the beginning of the pickle.
#[derive(Debug, thiserror::Error)]
pub enum TorchError {
    /// The container.
    #[error("zip archive: {0}")]
    Zip(#[from] ZipError),
    /// An opcode that no tensor needs.
    #[error(
        "the pickle has opcode {} at offset {at}, which is not allowed: tensors are read, nothing is ever run",
        opcode(*code)
    )]
    Opcode {
        /// Value of the opcode.
        code: u8,
        /// Offset in the pickle.
        at: usize,
    },
    /// A name that only an attack asks for.
    #[error(
        "the pickle asks for the global {name:?} at offset {at}, which is not allowed: tensors are read, nothing is ever run"
    )]
    Global {
        /// Module and name.
        name: String,
        /// Offset in the pickle.
        at: usize,
    },
    /// A tensor, or the whole file, that is an object of a class which is not known here.
    #[error(
        "{what} is an object of the class {class:?} (offset {at} of the pickle), which is not known here, and nothing is ever run: save only the tensors, \
         torch.save({{'model': {what_to_save}}}, 'weights.pth')",
        what = or_root(key, "the file"),
        what_to_save = saved(key)
    )]
    Class {
        /// The key under which it lies; empty for the file itself.
        key: String,
        /// Module and name.
        class: String,
        /// Where the class is named.
        at: usize,
    },
    /// A call, or its arguments, that no tensor needs.
    #[error("the pickle at offset {at}: {problem}")]
    Malformed {
        /// Fault of the opcode.
        problem: &'static str,
        /// Offset of the opcode in the pickle.
        at: usize,
    },
    /// The pickle ends in the middle of an opcode.
    #[error("the pickle ends inside of it, at offset {at}")]
    Truncated {
        /// Offset of the end.
        at: usize,
    },
    /// The pickle is longer than any sensible one.
    #[error("the pickle has more than {MAX_PICKLE} bytes")]
    TooLong,
    /// More work than any sensible one.
    #[error("the pickle has more than {MAX_OPCODES} opcodes, at offset {at}")]
    Opcodes {
        /// Offset in the pickle.
        at: usize,
    },
    /// More values than any sensible one.
    #[error("the pickle makes more than {MAX_NODES} values, at offset {at}")]
    Nodes {
        /// Offset in the pickle.
        at: usize,
    },
    /// More values under way than any sensible one.
    #[error("the pickle is nested too deep: more than {MAX_STACK} values wait at offset {at}")]
    Stack {
        /// Offset in the pickle.
        at: usize,
    },
    /// More remembered values than any sensible one.
    #[error("the pickle remembers more than {MAX_MEMO} values, at offset {at}")]
    Memo {
        /// Offset in the pickle.
        at: usize,
    },
    /// Values in values.
    #[error("the pickle is nested more than {MAX_DEPTH} deep, at offset {at}")]
    Depth {
        /// Offset in the pickle.
        at: usize,
    },
    /// A tensor of too many dimensions.
    #[error("a tensor of {rank} dimensions at offset {at}, at most {MAX_RANK} are allowed")]
    Rank {
        /// Number of dimensions.
        rank: usize,
        /// Offset of the tensor in the pickle.
        at: usize,
    },
    /// A product of dimensions beyond 64 bits.
    #[error("the size of a tensor of shape {shape:?} at offset {at} overflows")]
    Overflow {
        /// Shape of the tensor.
        shape: Vec<u64>,
        /// Offset of the tensor in the pickle.
        at: usize,
    },
    /// A tensor outside of its storage.
    #[error(
        "tensor {name:?}: shape {shape:?}, strides {strides:?} and offset {offset} need {needed} elements, its storage has {elements}"
    )]
    View {
        /// Name of the tensor.
        name: String,
        /// Shape of the tensor.
        shape: Vec<u64>,
        /// Strides of the tensor, in elements.
        strides: Vec<u64>,
        /// Place of the tensor's first element in its storage.
        offset: u64,
        /// Elements of the storage up to the tensor's last one, or the tensor's own number when it repeats some.
        needed: u128,
        /// Elements of the storage.
        elements: u64,
    },
    /// A storage that is not there.
    #[error("storage {key:?} is not in the file")]
    NoStorage {
        /// Key of the storage.
        key: String,
    },
    /// A storage that claims another size than it has.
    #[error(
        "storage {key:?} claims {elements} elements of {dtype:?}, but the file holds {held} bytes for it"
    )]
    StorageSize {
        /// Key of the storage.
        key: String,
        /// Number of elements that the pickle claims.
        elements: u64,
        /// Type of the elements that the pickle claims.
        dtype: Dtype,
        /// Bytes of the storage in the file.
        held: usize,
    },
    /// Two storages on the same bytes.
    #[error("storages {first:?} and {second:?} overlap")]
    Overlap {
        /// Key of the storage that begins first.
        first: String,
        /// Key of the other storage.
        second: String,
    },
    /// More tensors' bytes than the file has.
    #[error("its tensors have {total} bytes together, the file only {length}")]
    Total {
        /// Bytes of all tensors.
        total: u128,
        /// Bytes of the file.
        length: usize,
    },
    /// Not a dictionary.
    #[error("it holds {what}, not named tensors")]
    Root {
        /// Kind of the value.
        what: &'static str,
    },
    /// A name twice.
    #[error("tensor {name:?} is there twice")]
    Duplicate {
        /// Name of the entry or tensor.
        name: String,
    },
    /// A name that nobody could print.
    #[error("a tensor name of more than {MAX_NAME} bytes")]
    LongName,
    /// Values that are reached again and again.
    #[error("more than {MAX_VISITS} values are reached from the root")]
    Visits,
    /// More tensors than any sensible one.
    #[error("more than {MAX_TENSORS} tensors")]
    Tensors,
    /// Bytes of another order.
    #[error("it was written on a big-endian machine")]
    BigEndian,
    /// Not one of PyTorch's pickles.
    #[error("a pickle that torch.save did not write: {problem}")]
    NotTorch {
        /// What is missing.
        problem: &'static str,
    },
}

/// What is wrong with a zip archive.
#[derive(Debug, thiserror::Error)]
pub enum ZipError {
    /// No directory at the end.
    #[error("its end is missing: it is cut off, or no zip archive")]
    NoEnd,
    /// A directory outside of the file.
    #[error("its directory lies outside of the file")]
    Directory,
    /// Longer than any sensible one.
    #[error(
        "{entries} entries and a directory of {bytes} bytes, at most {MAX_ENTRIES} and {MAX_DIRECTORY} are allowed"
    )]
    TooLarge {
        /// Number of entries.
        entries: u64,
        /// Bytes of the directory.
        bytes: u64,
    },
    /// A malformed record of the directory.
    #[error("record {index} of its directory is malformed")]
    Record {
        /// Number of the record, from 0.
        index: usize,
    },
    /// A name that nobody could print.
    #[error("the name of record {index} is not text of at most {MAX_PATH} bytes")]
    Path {
        /// Number of the record, from 0.
        index: usize,
    },
    /// A name twice.
    #[error("entry {name:?} is there twice")]
    Duplicate {
        /// Name of the entry or tensor.
        name: String,
    },
    /// Compressed or encrypted.
    #[error("entry {name:?} is {how}; torch only stores, so it is not unpacked")]
    NotStored {
        /// Name of the entry or tensor.
        name: String,
        /// Way in which the entry is stored.
        how: &'static str,
    },
    /// An entry outside of the file.
    #[error("entry {name:?} lies outside of the file")]
    Range {
        /// Name of the entry or tensor.
        name: String,
    },
    /// Several archives in one.
    #[error("{count} entries are called data.pkl")]
    Pickles {
        /// Number of entries with that name.
        count: usize,
    },
    /// The archive has no pickle.
    #[error("no data.pkl in a folder: not an archive of torch.save")]
    NoPickle,
}

/// A key in quotes, or what stands for the root.
fn or_root(key: &str, root: &str) -> String {
    match key {
        "" => root.to_owned(),
        key => format!("{key:?}"),
    }
}

/// What to save in place of an object: the state dictionary of a module, or a state dictionary of plain tensors.
fn saved(key: &str) -> String {
    match key {
        "" => "model.state_dict()".to_owned(),
        _ => "{name: tensor.detach().clone() for name, tensor in model.state_dict().items()}"
            .to_owned(),
    }
}

/// An opcode by name and number.
fn opcode(code: u8) -> String {
    let name = match code {
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        b'R' => "REDUCE",
        b'b' => "BUILD",
        b'P' => "PERSID",
        0x82..=0x84 => "EXT",
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'I' => "INT",
        b'L' => "LONG",
        b'F' => "FLOAT",
        b'S' => "STRING",
        b'V' => "UNICODE",
        b'g' => "GET",
        b'p' => "PUT",
        0x8b => "LONG4",
        0x8e => "BINBYTES8",
        0x8d => "BINUNICODE8",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => return format!("0x{code:02x}"),
    };
    format!("{name} (0x{code:02x})")
}
