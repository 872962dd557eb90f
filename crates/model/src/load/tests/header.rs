//! Safetensors headers from hostile hands.

use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::super::{Header, HeaderError, serialize};
use super::{floats, tiny};

/// A file of this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

fn refused(header: &str, data: usize) -> HeaderError {
    Header::parse(&file(header, data)).expect_err("refused")
}

fn entry(shape: &str, begin: u64, end: u64) -> String {
    format!(r#"{{"dtype": "F32", "shape": {shape}, "data_offsets": [{begin}, {end}]}}"#)
}

#[test]
fn what_is_written_is_read_back() {
    let tensors = [
        floats("b", &[2, 3], 1),
        floats("a", &[], 2),
        floats("empty", &[0, 4], 3),
    ];
    let metadata = [("key".to_owned(), "\"quoted\"\n".to_owned())].into();
    let file = serialize(&tensors, &metadata);
    let header = Header::parse(&file).expect("reads");
    assert_eq!(header.metadata, metadata);
    assert_eq!(header.entries.len(), 3);
    for tensor in &tensors {
        let entry = header.find(&tensor.name).expect("is there");
        assert_eq!((entry.dtype, &entry.shape), (Dtype::F32, &tensor.shape));
        assert_eq!(file[entry.range.clone()], tensor.bytes);
    }
    let other = SafeTensors::deserialize(&file).expect("the safetensors crate reads it too");
    assert_eq!(
        other.tensor("b").expect("is there").data(),
        tensors[0].bytes
    );
    assert!(header.find("c").is_none());
}

#[test]
fn lengths_beyond_the_file_are_refused_before_anything_is_read() {
    for claimed in [1 << 60, u64::MAX, 100, 1 << 32] {
        let mut file = u64::to_le_bytes(claimed).to_vec();
        file.extend([b' '; 20]);
        assert!(matches!(
            Header::parse(&file),
            Err(HeaderError::Truncated { .. })
        ));
    }
    let mut long = u64::to_le_bytes(17 << 20).to_vec();
    long.resize(18 << 20, b' ');
    assert!(matches!(
        Header::parse(&long),
        Err(HeaderError::TooLong { .. })
    ));
    for bytes in 0..8 {
        assert!(matches!(
            Header::parse(&vec![0; bytes]),
            Err(HeaderError::TooShort { .. })
        ));
    }
}

#[test]
fn each_lie_about_a_tensor_has_its_own_error() {
    let big = u64::MAX / 2;
    let overflow = [
        format!("[{big}, {big}]"),
        format!("[0, {big}, {big}]"),
        format!("[{big}]"),
        "[4294967296, 4294967296]".to_owned(),
    ];
    for shape in overflow {
        let error = refused(&format!(r#"{{"a": {}}}"#, entry(&shape, 0, 8)), 8);
        assert!(
            matches!(error, HeaderError::Overflow { .. }),
            "{shape}: {error}"
        );
    }
    for (begin, end) in [(0, 16), (8, 0), (u64::MAX - 7, u64::MAX), (u64::MAX, 0)] {
        let error = refused(&format!(r#"{{"a": {}}}"#, entry("[2]", begin, end)), 8);
        assert!(matches!(error, HeaderError::Range { .. }), "{error}");
    }
    let error = refused(&format!(r#"{{"a": {}}}"#, entry("[3]", 0, 8)), 8);
    assert!(
        matches!(
            error,
            HeaderError::Length {
                expected: 12,
                got: 8,
                ..
            }
        ),
        "{error}"
    );
    let rank = format!("[{}1]", "1, ".repeat(20));
    let error = refused(&format!(r#"{{"a": {}}}"#, entry(&rank, 0, 4)), 4);
    assert!(
        matches!(error, HeaderError::Rank { rank: 21, .. }),
        "{error}"
    );
    let error = refused(
        &format!(r#"{{"{}": {}}}"#, "a".repeat(600), entry("[]", 0, 4)),
        4,
    );
    assert!(
        matches!(error, HeaderError::LongName { bytes: 600 }),
        "{error}"
    );
    let error = refused(
        &entry("[1]", 0, 4)
            .replace("F32", "F33")
            .replace('{', "{\"a\": {")
            .replace('}', "}}"),
        4,
    );
    assert!(matches!(error, HeaderError::Dtype { .. }), "{error}");
}

#[test]
fn bytes_belong_to_one_tensor_each() {
    let two = |first: (u64, u64), second: (u64, u64), names: [&str; 2], data| {
        let [a, b] = names;
        let (first, second) = (
            entry("[2]", first.0, first.1),
            entry("[2]", second.0, second.1),
        );
        refused(&format!(r#"{{"{a}": {first}, "{b}": {second}}}"#), data)
    };
    for second in [(4, 12), (0, 8)] {
        let error = two((0, 8), second, ["a", "b"], 16);
        assert!(matches!(error, HeaderError::Overlap { .. }), "{error}");
    }
    let error = two((0, 8), (12, 20), ["a", "b"], 20);
    assert!(
        matches!(error, HeaderError::Gap { at: 8, bytes: 4 }),
        "{error}"
    );
    let error = two((0, 8), (8, 16), ["a", "b"], 20);
    assert!(
        matches!(error, HeaderError::Gap { at: 16, bytes: 4 }),
        "{error}"
    );
    let error = two((0, 8), (8, 16), ["a", "a"], 16);
    assert!(matches!(error, HeaderError::Duplicate { .. }), "{error}");
}

#[test]
fn a_header_is_an_object_of_tensors() {
    let deep = format!(r#"{{"a": {}"#, "[".repeat(200_000));
    for header in [
        "",
        "null",
        "[]",
        "{",
        "{}x",
        r#"{"a": null}"#,
        r#"{"a": {}}"#,
        r#"{"a": {"dtype": "F32", "shape": [1]}}"#,
        r#"{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}"#,
        r#"{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}"#,
        r#"{"a": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}}"#,
        r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}}"#,
        r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": 1}}"#,
        r#"{"__metadata__": {"a": 1}}"#,
        &deep,
    ] {
        let error = refused(header, 0);
        assert!(
            matches!(error, HeaderError::Json { .. }),
            "{header:.60}: {error}"
        );
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0_u64..200) {
        let _ = Header::parse(&bytes);
        let mut framed = length.to_le_bytes().to_vec();
        framed.extend(&bytes);
        let _ = Header::parse(&framed);
    }

    #[test]
    fn a_header_that_passes_describes_its_file_exactly(
        changes in prop::collection::vec((0_usize..4096, any::<u8>()), 0..4),
        cut in prop::option::of(0_usize..6000),
        grow in 0_usize..3,
    ) {
        let mut bytes = tiny().file();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        bytes.resize(bytes.len() + grow, 7);
        if let Ok(header) = Header::parse(&bytes) {
            let mut covered = 0;
            for entry in &header.entries {
                prop_assert!(entry.range.end <= bytes.len());
                prop_assert_eq!(8 * entry.range.len(), entry.elements() * entry.dtype.bitsize());
                covered += entry.range.len();
            }
            let json = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            prop_assert_eq!(8 + json as usize + covered, bytes.len());
        }
    }

    #[test]
    fn random_numbers_in_a_header_never_panic(
        shape in prop::collection::vec(prop_oneof![0_u64..5, any::<u64>()], 0..5),
        begin in prop_oneof![0_u64..64, any::<u64>()],
        end in prop_oneof![0_u64..64, any::<u64>()],
        dtype in prop::sample::select(vec!["F32", "F16", "BOOL", "I64", "F4", "F6_E2M3", "X"]),
    ) {
        let header = format!(r#"{{"a": {{"dtype": "{dtype}", "shape": {shape:?}, "data_offsets": [{begin}, {end}]}}}}"#);
        let bytes = file(&header, 64);
        if let Ok(header) = Header::parse(&bytes) {
            prop_assert!(header.entries[0].range.end == bytes.len());
        }
    }
}
