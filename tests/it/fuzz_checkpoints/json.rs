//! Mutations of JSON: a value is replaced, a key is removed, duplicated or renamed, or the text itself is damaged.

use serde_json::{Value, json};

use super::Dice;

pub(super) fn change(text: &[u8], dice: &mut Dice) -> Vec<u8> {
    if dice.below(10) == 0 {
        return broken(text, dice);
    }
    match serde_json::from_slice::<Value>(text) {
        Ok(mut value) => {
            alter(&mut value, dice, 0);
            value.to_string().into_bytes()
        }
        Err(_) => broken(text, dice),
    }
}

fn alter(value: &mut Value, dice: &mut Dice, depth: usize) {
    let stop = depth > 6 || dice.below(4) == 0;
    match value {
        Value::Object(map) if !map.is_empty() && !stop => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let key = dice.pick(&keys).clone();
            match dice.below(6) {
                0 => drop(map.remove(&key)),
                1 => {
                    let taken = map.remove(&key).unwrap_or(Value::Null);
                    map.insert(format!("{key}{}", dice.below(10)), taken);
                }
                2 => {
                    let other = dice.pick(&keys).clone();
                    let copy = map.get(&key).cloned().unwrap_or(Value::Null);
                    map.insert(other, copy);
                }
                _ => {
                    if let Some(inner) = map.get_mut(&key) {
                        alter(inner, dice, depth + 1);
                    }
                }
            }
        }
        Value::Array(list) if !list.is_empty() && !stop => {
            let at = dice.below(list.len());
            match dice.below(4) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                _ => alter(&mut list[at], dice, depth + 1),
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => *value = any(dice),
    }
}

fn any(dice: &mut Dice) -> Value {
    match dice.below(10) {
        0 => Value::Null,
        1 => json!(dice.below(2) == 0),
        2 => json!(-(dice.below(1000) as i64)),
        3 => json!(dice.below(1000) as f64 / 7.0),
        4 => json!(1e300),
        5 => json!("x".repeat(dice.below(2000))),
        6 => json!([dice.number(), dice.number()]),
        7 => json!({ "a": dice.number() }),
        8 => (0..dice.below(200)).fold(Value::Null, |inner, _| json!([inner])),
        _ => json!(dice.number()),
    }
}

fn broken(text: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut text = text.to_vec();
    let at = dice.below(text.len());
    let piece: &[u8] = dice.pick::<&[u8]>(&[
        &b"["[..],
        b"{",
        b"\"",
        b"}",
        b",",
        b"\0",
        b"1e999",
        b"\xff",
        b"__metadata__",
    ]);
    let count = 1 + dice.below(3) * dice.below(3000);
    text.splice(at..at, piece.repeat(count));
    text
}
