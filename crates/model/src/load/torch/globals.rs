//! The names that a pickle may ask for.
//!
//! Invariant: an allow-list. Whatever is not here means nothing to the reader, and none of these does more than describe a tensor or a container. Names
//! that only an attack asks for are refused wherever they are, although nothing would happen here: such a file is not to be passed on.

use safetensors::Dtype;

/// A name that means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_v2`: storage, offset, size, stride, and what does not matter here.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`: the same, with a dtype at the seventh place.
    RebuildTyped,
    /// `torch._utils._rebuild_parameter` and `…_with_state`: a tensor, and what does not matter here.
    RebuildParameter,
    /// `torch.Size`, `torch.jit._pickle.build_…list` and `restore_type_tag`: their first argument.
    Itself,
    /// A storage; `None` for bytes.
    Storage(Option<Dtype>),
    /// A number format.
    Dtype(Dtype),
    /// A class of a TorchScript archive: only its attributes are read.
    Script,
}

/// What a name means, if it is allowed.
pub(super) fn find(module: &str, name: &str, script: bool) -> Option<Global> {
    match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_tensor_v3") => Some(Global::RebuildTyped),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Some(Global::RebuildParameter)
        }
        ("torch", "Size") => Some(Global::Itself),
        ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => {
            Some(Global::Storage(None))
        }
        ("torch", _) => storage(name).or_else(|| dtype(name)),
        ("torch.jit._pickle", _) if script => match name {
            "restore_type_tag" | "build_intlist" | "build_doublelist" | "build_boollist"
            | "build_tensorlist" => Some(Global::Itself),
            _ => None,
        },
        (module, _) if script && (module == "__torch__" || module.starts_with("__torch__.")) => {
            Some(Global::Script)
        }
        _ => None,
    }
}

/// Packages of Python whose functions run programs, open files or connections, or load code; no checkpoint needs one of them.
const HOSTILE: &[&str] = &[
    "_pickle",
    "_posixsubprocess",
    "_winapi",
    "asyncio",
    "bdb",
    "cProfile",
    "ctypes",
    "ftplib",
    "http",
    "importlib",
    "linecache",
    "marshal",
    "multiprocessing",
    "nt",
    "os",
    "pdb",
    "pickle",
    "pip",
    "popen2",
    "posix",
    "pty",
    "pydoc",
    "requests",
    "runpy",
    "shutil",
    "smtplib",
    "socket",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "timeit",
    "urllib",
    "urllib2",
    "webbrowser",
    "xmlrpc",
    "zipimport",
];

/// Functions of `builtins` that run code, open files or reach into the program.
const HOSTILE_BUILTINS: &[&str] = &[
    "__import__",
    "apply",
    "breakpoint",
    "compile",
    "delattr",
    "eval",
    "exec",
    "execfile",
    "file",
    "globals",
    "input",
    "locals",
    "open",
    "raw_input",
    "setattr",
    "vars",
];

/// Whether only an attack asks for a name.
pub(super) fn is_hostile(module: &str, name: &str) -> bool {
    let package = module.split('.').next().unwrap_or(module);
    let function = name.split('.').next().unwrap_or(name);
    match package {
        "builtins" | "__builtin__" => HOSTILE_BUILTINS.contains(&function),
        "types" => matches!(function, "CodeType" | "FunctionType"),
        "numpy" => module.contains(".testing") || module.contains(".f2py"),
        "torch" => {
            module.starts_with("torch.hub")
                || module.starts_with("torch.utils.cpp_extension")
                || matches!(
                    (module, function),
                    ("torch" | "torch.serialization", "load")
                )
        }
        _ => HOSTILE.contains(&package),
    }
}

fn storage(name: &str) -> Option<Global> {
    let dtype = match name {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    };
    Some(Global::Storage(Some(dtype)))
}

fn dtype(name: &str) -> Option<Global> {
    let dtype = match name {
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float64" => Dtype::F64,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "bool" => Dtype::BOOL,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        _ => return None,
    };
    Some(Global::Dtype(dtype))
}
