//! Pickles and archives built by hand: what is read, and what is refused by which name.

mod strangers;

use safetensors::Dtype;

use super::error::{TorchError, ZipError};
use super::machine::{self, MAX_DEPTH};
use super::write::{Part, crc32, write};
use super::{Contents, Kind, read};

fn text(text: &str) -> Vec<u8> {
    let mut out = vec![b'X'];
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

/// A tensor of a float storage, with its shape and strides as pickled numbers below 256.
fn tensor(key: &str, elements: i32, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let tuple = |numbers: &[u8]| {
        let inner = numbers.iter().flat_map(|&number| [b'K', number]);
        [vec![b'('], inner.collect(), vec![b't']].concat()
    };
    let mut out = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    out.extend(text("storage"));
    out.extend(b"ctorch\nFloatStorage\n");
    out.extend(text(key));
    out.extend(text("cpu"));
    out.push(b'J');
    out.extend(elements.to_le_bytes());
    out.extend([b't', b'Q', b'K', offset]);
    out.extend(tuple(shape));
    out.extend(tuple(strides));
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    out
}

/// `{name: tensor}` as a pickle.
fn state(name: &str, tensor: &[u8]) -> Vec<u8> {
    [
        b"\x80\x02}".to_vec(),
        text(name),
        tensor.to_vec(),
        b"s.".to_vec(),
    ]
    .concat()
}

/// A zip archive of entries: name, method, content.
fn zip(entries: &[(&str, u16, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for &(name, method, content) in entries {
        let local = file.len() as u32;
        let mut common = vec![20, 0, 0, 0];
        common.extend(method.to_le_bytes());
        common.extend([0; 4]);
        common.extend(crc32(content).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(content);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(local.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let begin = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend((entries.len() as u16).to_le_bytes());
    file.extend((entries.len() as u16).to_le_bytes());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(begin.to_le_bytes());
    file.extend([0; 2]);
    file
}

fn archive(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zip(&[("a/data.pkl", 0, pickle), ("a/data/0", 0, storage)])
}

fn refused(file: &[u8]) -> TorchError {
    match read(file) {
        Ok(_) => panic!("read what must be refused"),
        Err(error) => error,
    }
}

const SIX: [u8; 24] = [7; 24];

fn of_view(offset: u8, shape: &[u8], strides: &[u8]) -> Result<Contents, TorchError> {
    read(&archive(
        &state("w", &tensor("0", 6, offset, shape, strides)),
        &SIX,
    ))
}

#[test]
fn what_is_written_is_read_back_in_place() {
    let values = [1.0, -2.0, 0.5, 4.0, 8.0, 16.0];
    let parts = [
        Part {
            name: "b",
            shape: &[2, 3],
            values: &values,
        },
        Part {
            name: "a",
            shape: &[],
            values: &values[..1],
        },
    ];
    let file = write(&parts, &[("frameshift", "{}")]);
    assert_eq!(file, write(&parts, &[("frameshift", "{}")]));
    let contents = read(&file).expect("is read");
    assert_eq!(contents.kind, Kind::Zip);
    assert_eq!(contents.wrapped.as_deref(), Some("model"));
    assert_eq!(contents.besides, ["frameshift"]);
    let [a, b] = contents.entries.as_slice() else {
        panic!("two tensors")
    };
    assert_eq!((a.name.as_str(), a.shape.len()), ("a", 0));
    assert_eq!(
        (b.name.as_str(), b.shape.as_slice(), b.dtype),
        ("b", &[2, 3][..], Dtype::F32)
    );
    assert_eq!(b.range.start % 64, 0, "storages are aligned");
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value: &f32| value.to_le_bytes())
        .collect();
    assert_eq!(&file[b.range.clone()], bytes);
}

#[test]
fn views_stay_inside_of_their_storage() {
    assert!(of_view(0, &[2, 3], &[3, 1]).is_ok());
    let turned = of_view(0, &[3, 2], &[1, 3]).expect("a transposed view");
    assert_eq!(turned.entries[0].strides, Some(vec![1, 3]));
    let part = of_view(2, &[2, 2], &[2, 1]).expect("a part");
    assert_eq!(part.entries[0].range.len(), 16);
    assert!(of_view(6, &[0], &[1]).is_ok(), "an empty tensor at the end");
    for (offset, shape, strides) in [
        (0, &[7][..], &[1][..]),
        (1, &[2, 3], &[3, 1]),
        (0, &[2, 2], &[5, 1]),
        (7, &[0], &[1]),
        // Repeats: more elements than the storage has.
        (0, &[200, 200], &[0, 0]),
    ] {
        let error = of_view(offset, shape, strides).expect_err("outside");
        assert!(matches!(error, TorchError::View { .. }), "{error}");
    }
    let many = of_view(0, &[1; 9], &[1; 9]).expect_err("too many axes");
    assert!(matches!(many, TorchError::Rank { rank: 9, .. }), "{many}");
}

#[test]
fn sizes_that_overflow_are_refused() {
    let long = b"\x8a\x08\0\0\0\0\0\0\0\x40";
    let mut pickle = b"\x80\x02}".to_vec();
    pickle.extend(text("w"));
    let good = tensor("0", 6, 0, &[], &[]);
    // The two empty tuples become ones of three numbers of 2^62.
    let tuple = [b"(".to_vec(), long.repeat(3), b"t".to_vec()].concat();
    let at = good
        .windows(4)
        .position(|four| four == b"(t(t")
        .expect("two empty tuples");
    pickle.extend(&good[..at]);
    pickle.extend(&tuple);
    pickle.extend(&tuple);
    pickle.extend(&good[at + 4..]);
    pickle.extend(b"s.");
    let error = refused(&archive(&pickle, &SIX));
    assert!(matches!(error, TorchError::Overflow { .. }), "{error}");
}

#[test]
fn storages_are_as_long_as_they_say() {
    for (elements, held) in [(7, 24), (5, 24), (i32::MAX, 24), (6, 23)] {
        let pickle = state("w", &tensor("0", elements, 0, &[1], &[1]));
        let error = refused(&archive(&pickle, &SIX[..held]));
        assert!(matches!(error, TorchError::StorageSize { .. }), "{error}");
    }
    let negative = refused(&archive(&state("w", &tensor("0", -1, 0, &[1], &[1])), &SIX));
    assert!(
        matches!(negative, TorchError::Malformed { .. }),
        "{negative}"
    );
    let absent = refused(&archive(&state("w", &tensor("1", 6, 0, &[1], &[1])), &SIX));
    assert!(matches!(absent, TorchError::NoStorage { .. }), "{absent}");
}

#[test]
fn one_storage_under_many_names_makes_no_large_model() {
    let mut pickle = b"\x80\x02}".to_vec();
    for i in 0..100 {
        pickle.extend(text(&format!("w{i}")));
        pickle.extend(tensor("0", 6000, 0, &[200, 30], &[30, 1]));
        pickle.push(b's');
    }
    pickle.push(b'.');
    let error = refused(&archive(&pickle, &[0; 24_000]));
    assert!(matches!(error, TorchError::Total { .. }), "{error}");
}

#[test]
fn code_is_named_with_its_offset_and_never_run() {
    for (pickle, name, at) in [
        (&b"\x80\x02cposix\nsystem\n."[..], "posix.system", 2),
        (b"\x80\x02c__builtin__\neval\n.", "__builtin__.eval", 2),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system", 14),
        (b"\x80\x02ctorch\nload\n.", "torch.load", 2),
        (
            b"\x80\x02}X\x01\0\0\0acos\nsystem\nX\x02\0\0\0ls\x85Rs.",
            "os.system",
            9,
        ),
    ] {
        for file in [pickle.to_vec(), archive(pickle, &SIX)] {
            let error = refused(&file);
            let TorchError::Global {
                name: own,
                at: place,
            } = &error
            else {
                panic!("{error}")
            };
            assert_eq!((own.as_str(), *place), (name, at));
        }
    }
    for code in [b'i', b'o', b'P', 0x82, b'I', b'2', b'g', 0xff] {
        let error = refused(&archive(&[0x80, 2, code, b'.'], &SIX));
        assert!(
            matches!(error, TorchError::Opcode { code: own, at: 2 } if own == code),
            "{error}"
        );
    }
    // Calls of what is allowed, with what is not.
    for pickle in [
        &b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R."[..],
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        b"\x80\x02]}b.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02h\x05.",
        b"\x80\x02s.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02]K\x01K\x02s.",
        b"\x80\x01.",
        b"\x80\x02X\x02\0\0\0\xff\xfe.",
        b"\x80\x020.",
        b"\x80\x021.",
        b"\x80\x02}N\x90.",
        b"\x80\x04)}\x92.",
    ] {
        let error = refused(&archive(pickle, &SIX));
        assert!(matches!(error, TorchError::Malformed { .. }), "{error}");
    }
}

#[test]
fn nesting_work_and_memory_are_bounded() {
    let list = [
        b"\x80\x02".to_vec(),
        vec![b']'; 400_000],
        vec![b'a'; 399_999],
        b".".to_vec(),
    ]
    .concat();
    assert!(matches!(
        refused(&archive(&list, &SIX)),
        TorchError::Stack { .. }
    ));
    let deep = [
        b"\x80\x02".to_vec(),
        vec![b']'; 100],
        vec![b'a'; 99],
        b".".to_vec(),
    ]
    .concat();
    assert!(matches!(
        refused(&archive(&deep, &SIX)),
        TorchError::Depth { .. }
    ));
    let marks = [b"\x80\x02".to_vec(), vec![b'('; 1 << 20]].concat();
    assert!(matches!(
        refused(&archive(&marks, &SIX)),
        TorchError::Stack { .. }
    ));
    // Each dictionary holds the one before twice: to walk them all takes 2^30 steps.
    let mut shared = b"\x80\x02}q\0".to_vec();
    for i in 0..30_u8 {
        shared.extend(*b"}(");
        shared.extend(text("a"));
        shared.extend([b'h', i]);
        shared.extend(text("b"));
        shared.extend([b'h', i, b'u', b'q', i + 1]);
    }
    shared.push(b'.');
    const { assert!(30 < MAX_DEPTH) };
    assert!(matches!(
        refused(&archive(&shared, &SIX)),
        TorchError::Visits
    ));
    let endless = [b"\x80\x02]".to_vec(), b"Na".repeat(1 << 20), b".".to_vec()].concat();
    let error = refused(&archive(&endless, &SIX));
    assert!(
        matches!(error, TorchError::Opcodes { .. } | TorchError::Nodes { .. }),
        "{error}"
    );
    let long = [b"\x80\x02B\xff\xff\xff\x7f".to_vec(), vec![0; 20 << 20]].concat();
    assert!(matches!(
        refused(&archive(&long, &SIX)),
        TorchError::TooLong
    ));
    let itself = b"\x80\x02}q\0(X\x01\0\0\0ah\0u.";
    let error = refused(&archive(itself, &SIX));
    assert!(matches!(error, TorchError::Visits), "{error}");
}

#[test]
fn a_pickle_that_is_cut_anywhere_is_refused() {
    let whole = state("w", &tensor("0", 6, 0, &[6], &[1]));
    assert!(machine::run(&whole, 0, false).is_ok());
    for end in 0..whole.len() {
        let error = machine::run(&whole[..end], 0, false).expect_err("cut");
        assert!(
            matches!(
                error,
                TorchError::Truncated { .. } | TorchError::Malformed { .. }
            ),
            "{error}"
        );
    }
    let file = archive(&whole, &SIX);
    for end in 0..file.len() {
        assert!(read(&file[..end]).is_err(), "{end} of {} bytes", file.len());
    }
}

#[test]
fn an_archive_is_stored_whole_and_has_one_pickle() {
    let pickle = state("w", &tensor("0", 6, 0, &[6], &[1]));
    let zip_error = |file: &[u8]| {
        let error = refused(file);
        let TorchError::Zip(error) = error else {
            panic!("{error}")
        };
        error
    };
    let deflated = zip(&[("a/data.pkl", 0, &pickle), ("a/data/0", 8, &SIX)]);
    assert!(matches!(zip_error(&deflated), ZipError::NotStored { .. }));
    let none = zip(&[("data.pkl", 0, &pickle)]);
    assert!(matches!(zip_error(&none), ZipError::NoPickle));
    let two = zip(&[("a/data.pkl", 0, &pickle), ("b/data.pkl", 0, &pickle)]);
    assert!(matches!(zip_error(&two), ZipError::Pickles { count: 2 }));
    let twice = zip(&[("a/data.pkl", 0, &pickle), ("a/data.pkl", 0, &pickle)]);
    assert!(matches!(zip_error(&twice), ZipError::Duplicate { .. }));
    let big = zip(&[("a/data.pkl", 0, &pickle), ("a/byteorder", 0, b"big")]);
    assert!(matches!(refused(&big), TorchError::BigEndian));
    let code = zip(&[
        ("a/data.pkl", 0, &pickle),
        ("a/data/0", 0, &SIX),
        ("a/code/x.py", 8, b"not looked at"),
    ]);
    assert!(read(&code).is_ok());
}

#[test]
fn training_loops_wrap_their_state() {
    let weights = state("w", &tensor("0", 6, 0, &[6], &[1]));
    let inner = &weights[2..weights.len() - 1];
    for key in ["state_dict", "model"] {
        let mut pickle = b"\x80\x02}(".to_vec();
        pickle.extend(text("epoch"));
        pickle.extend(b"K\x02");
        pickle.extend(text(key));
        pickle.extend(inner);
        pickle.extend(text("optimizer"));
        pickle.extend(inner);
        pickle.extend(b"u.");
        let contents = read(&archive(&pickle, &SIX)).expect("is read");
        assert_eq!(contents.wrapped.as_deref(), Some(key));
        assert_eq!(contents.besides, ["epoch", "optimizer"]);
        assert_eq!(contents.entries.len(), 1);
        assert_eq!(contents.entries[0].name, "w");
    }
}

#[test]
fn the_checksum_is_that_of_zip() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}
