//! Mutations of pickles: opcodes are replaced, inserted and removed, numbers are replaced, and parts are duplicated.

use super::Dice;

/// Opcodes that the reader supports, opcodes that run code, and unknown ones.
const OPCODES: &[u8] = b"\x80\x95.(N\x88\x89KMJ\x8aGX\x8cUTCB]})t\x85\x86\x87aesuqr\x94hjc\x93QR\x81biooPIV012gp\x8b\x8d\x8e\x8f\x90\x91\x92\x96\x97\x98\xff";
/// Names that a pickle may refer to, and some that it may not.
const NAMES: [&[u8]; 8] = [
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch\nDoubleStorage\n",
    b"ctorch.storage\nUntypedStorage\n",
    b"cbuiltins\neval\n",
    b"cos\nsystem\n",
    b"c__torch__.a\nB\n",
];

pub(super) fn change(pickle: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut out = pickle.to_vec();
    let at = dice.below(out.len());
    match dice.below(8) {
        0 => {
            if let Some(byte) = out.get_mut(at) {
                *byte = *dice.pick(OPCODES);
            }
        }
        1 => out.insert(at.min(out.len()), *dice.pick(OPCODES)),
        2 => number(&mut out, dice),
        3 => drop(out.splice(at..at, dice.pick(&NAMES).iter().copied())),
        4 => {
            let end = (at + 1 + dice.below(64)).min(out.len());
            let part = out[at..end].to_vec();
            let times = 1 + dice.below(2) * dice.below(500);
            out.splice(at..at, part.repeat(times));
        }
        5 => {
            let end = (at + 1 + dice.below(16)).min(out.len());
            out.drain(at..end);
        }
        6 => {
            let nest = *dice.pick(b"](}");
            out.splice(at..at, std::iter::repeat_n(nest, dice.below(3000)));
        }
        _ => {
            let other = dice.below(out.len());
            if !out.is_empty() {
                out.swap(at, other);
            }
        }
    }
    out
}

/// Replaces a number.
fn number(out: &mut [u8], dice: &mut Dice) {
    let places: Vec<usize> = (0..out.len().saturating_sub(9))
        .filter(|&at| b"KMJX".contains(&out[at]))
        .collect();
    if places.is_empty() {
        return;
    }
    let at = *dice.pick(&places);
    let width = match out[at] {
        b'K' => 1,
        b'M' => 2,
        _ => 4,
    };
    let bytes = dice.number().to_le_bytes();
    out[at + 1..=at + width].copy_from_slice(&bytes[..width]);
}
