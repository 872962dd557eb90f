//! Objects of unknown classes in pickles: passed over where no tensor depends on them, refused where one does, and within the reader's bounds.

use super::super::error::TorchError;
use super::super::read;
use super::{SIX, archive, refused, state, tensor, text};

/// `{key: {"w": tensor}, …}`, with a pickled value under another key.
fn beside(wrapper: &str, key: &str, value: &[u8]) -> Vec<u8> {
    let weights = state("w", &tensor("0", 6, 0, &[6], &[1]));
    let mut pickle = b"\x80\x02}(".to_vec();
    pickle.extend(text(key));
    pickle.extend(value);
    pickle.extend(text(wrapper));
    pickle.extend(&weights[2..weights.len() - 1]);
    pickle.extend(b"u.");
    pickle
}

/// Values as Python pickles them, and the class that each is reported as.
const STRANGERS: &[(&[u8], &str)] = &[
    (
        b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tbc_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86RtR",
        "numpy._core.multiarray.scalar",
    ),
    (b"cargparse\nNamespace\n)\x81}X\x02\0\0\0lrG?PbM\xd2\xf1\xa9\xfcsb", "argparse.Namespace"),
    (b"cdatetime\ndatetime\nC\x02ab\x85R", "datetime.datetime"),
    (b"cfunctools\npartial\ncmy.code\nloss\n\x85R(h\0)}Ntb", "functools.partial"),
    (b"ccollections\ndefaultdict\nc__builtin__\nint\n\x85RX\x01\0\0\0aK\x01s", "collections.defaultdict"),
    (b"cmy.code\nItems\n)\x81(K\x01K\x02e", "my.code.Items"),
    (b"cmy.code\nNamed\n)}X\x01\0\0\0aK\x01s\x92", "my.code.Named"),
    (b"](K\x01cpathlib\nPosixPath\nX\x01\0\0\0/\x85Re", "pathlib.PosixPath"),
    (b"c__main__\nConfig\n", "__main__.Config"),
];

#[test]
fn objects_beside_the_tensors_are_passed_over_and_reported() {
    for &(value, class) in STRANGERS {
        // `h\0` above recalls the first remembered value.
        let remembered = [&b"Nq\x000"[..], value].concat();
        for wrapper in ["model", "state_dict", "module", "model_ema", "net", "ema"] {
            let file = archive(&beside(wrapper, "extra", &remembered), &SIX);
            let contents = read(&file).unwrap_or_else(|error| panic!("{class}: {error}"));
            assert_eq!(contents.wrapped.as_deref(), Some(wrapper));
            assert_eq!(contents.besides, ["extra"]);
            assert_eq!(contents.entries.len(), 1, "{class}");
            let [passed] = contents.passed.as_slice() else {
                panic!("{class}: {:?}", contents.passed)
            };
            assert_eq!(
                (passed.key.as_str(), passed.class.as_str()),
                ("extra", class)
            );
        }
        // The same among the tensors themselves.
        let weights = tensor("0", 6, 0, &[6], &[1]);
        let parts = [
            b"\x80\x02}(".to_vec(),
            text("best"),
            remembered,
            text("w"),
            weights,
            b"u.".to_vec(),
        ];
        let contents = read(&archive(&parts.concat(), &SIX)).expect("is read");
        assert_eq!(contents.entries.len(), 1, "{class}");
        assert!(contents.passed.iter().all(|passed| passed.key == "best"));
    }
}

#[test]
fn a_tensor_of_an_unknown_class_is_refused_with_what_to_do() {
    let weights = tensor("0", 6, 0, &[6], &[1]);
    let subclass = [
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\ncmy\nTensor\n"
            .to_vec(),
        weights.clone(),
        b"}tR".to_vec(),
    ]
    .concat();
    let complex = weights_of("ComplexFloatStorage");
    let module = [
        b"cmy\nModel\n)\x81}".to_vec(),
        text("w"),
        weights.clone(),
        b"sb".to_vec(),
    ]
    .concat();
    for (value, class) in [
        (subclass, "torch._tensor._rebuild_from_type_v2"),
        (complex, "torch.ComplexFloatStorage"),
        (module.clone(), "my.Model"),
    ] {
        let error = refused(&archive(&state("w", &value), &SIX));
        let TorchError::Class {
            key, class: own, ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!((key.as_str(), own.as_str()), ("w", class));
        let message = error.to_string();
        assert!(message.contains("torch.save({'model': "), "{message}");
        // Beside a state dictionary it is nothing to refuse.
        let contents = read(&archive(&beside("model", "ema", &value), &SIX)).expect("is read");
        assert_eq!(contents.passed[0].class, class);
    }
    let whole = [b"\x80\x02".to_vec(), module, b".".to_vec()].concat();
    let error = refused(&archive(&whole, &SIX));
    assert!(error.to_string().contains("model.state_dict()"), "{error}");
}

fn weights_of(storage: &str) -> Vec<u8> {
    let float = tensor("0", 6, 0, &[6], &[1]);
    let name = b"FloatStorage";
    let at = float.windows(name.len()).position(|part| part == name);
    let at = at.expect("the storage's class");
    [&float[..at], storage.as_bytes(), &float[at + name.len()..]].concat()
}

#[test]
fn wrappers_follow_their_order_and_lie_in_each_other() {
    let of = |fill: u8| tensor("0", 6, fill, &[1], &[1]);
    let wrapped = |key: &str, value: &[u8]| [text(key), value.to_vec()].concat();
    let dict = |items: &[Vec<u8>]| [b"}(".to_vec(), items.concat(), b"u".to_vec()].concat();
    let both = dict(&[
        wrapped("model_ema", &dict(&[wrapped("w", &of(1))])),
        wrapped("model", &dict(&[wrapped("w", &of(2))])),
    ]);
    let deep = dict(&[wrapped("state_dict", &both), wrapped("epoch", b"K\x01")]);
    for (root, key) in [(both, "model"), (deep, "state_dict.model")] {
        let pickle = [b"\x80\x02".to_vec(), root, b".".to_vec()].concat();
        let contents = read(&archive(&pickle, &SIX)).expect("is read");
        assert_eq!(contents.wrapped.as_deref(), Some(key));
        assert!(contents.besides.contains(&"model_ema".to_owned()));
        let [entry] = contents.entries.as_slice() else {
            panic!("one tensor")
        };
        assert_eq!((entry.name.as_str(), entry.range.len()), ("w", 4));
        // A dictionary of a model that has tensors and a part called `model` is the model.
        let part = dict(&[wrapped("w", &of(0)), wrapped("model", &dict(&[]))]);
        let outer = dict(&[wrapped("state_dict", &part)]);
        let pickle = [b"\x80\x02".to_vec(), outer, b".".to_vec()].concat();
        let contents = read(&archive(&pickle, &SIX)).expect("is read");
        assert_eq!(contents.wrapped.as_deref(), Some("state_dict"));
        assert_eq!(contents.entries.len(), 1);
    }
}

#[test]
fn settings_beside_the_weights_are_no_weights_whatever_their_key() {
    let weights = [
        b"}".to_vec(),
        text("w"),
        tensor("0", 6, 0, &[6], &[1]),
        b"s".to_vec(),
    ]
    .concat();
    for settings in ["model", "state_dict", "params"] {
        let pickle = [
            b"\x80\x02}(".to_vec(),
            text(settings),
            b"}X\x05\0\0\0depthK\x0cs".to_vec(),
            text("weights"),
            weights.clone(),
            b"u.".to_vec(),
        ]
        .concat();
        let contents = read(&archive(&pickle, &SIX)).expect("is read");
        assert_eq!(contents.wrapped.as_deref(), Some("weights"));
        assert_eq!(contents.besides, [settings]);
        let names: Vec<_> = contents
            .entries
            .iter()
            .map(|own| own.name.as_str())
            .collect();
        assert_eq!(names, ["w"]);
    }
}

#[test]
fn strangers_stay_within_the_bounds() {
    let many = [
        b"\x80\x02]".to_vec(),
        b"ca\nb\na".repeat(1 << 19),
        b".".to_vec(),
    ]
    .concat();
    assert!(read(&archive(&many, &SIX)).is_err());
    let chain = [
        b"\x80\x02ca\nb\n".to_vec(),
        b")\x81}b)R".repeat(1 << 18),
        b".".to_vec(),
    ]
    .concat();
    assert!(read(&archive(&chain, &SIX)).is_err());
    let many = [
        b"\x80\x02}(".to_vec(),
        (0..100)
            .flat_map(|i| [text(&format!("k{i}")), b"ca\nb\n".to_vec()].concat())
            .collect(),
        text("w"),
        tensor("0", 6, 0, &[6], &[1]),
        b"u.".to_vec(),
    ]
    .concat();
    let contents = read(&archive(&many, &SIX)).expect("is read");
    assert_eq!((contents.entries.len(), contents.passed.len()), (1, 32));
}
