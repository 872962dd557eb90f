//! Whether a label names a side or a sense of rotation, which a mirrored clip would turn into the other one.
//!
//! Invariant: pure; a label is read in parts, as people write them in names and in file names (`swipe_left`, `SwipeLeft`, `turn-cw2`).

/// Words for a side or a sense of rotation, in lower case, by language.
const WORDS: &[&str] = &[
    // English
    "left",
    "right",
    "leftward",
    "rightward",
    "leftwards",
    "rightwards",
    "lefthand",
    "righthand",
    "clockwise",
    "counterclockwise",
    "anticlockwise",
    "cw",
    "ccw",
    "acw",
    // German
    "links",
    "rechts",
    "linke",
    "rechte",
    "linker",
    "rechter",
    "linkes",
    "rechtes",
    "linken",
    "rechten",
    "uhrzeigersinn",
    "gegenuhrzeigersinn",
    // Dutch, Danish, Norwegian, Swedish
    "linksaf",
    "rechtsaf",
    "linkerhand",
    "rechterhand",
    "venstre",
    "højre",
    "høyre",
    "vänster",
    "höger",
    "medurs",
    "moturs",
    // French
    "gauche",
    "droite",
    "droit",
    "horaire",
    "antihoraire",
    // Spanish, Portuguese, Italian, Catalan, Romanian
    "izquierda",
    "derecha",
    "izquierdo",
    "derecho",
    "horario",
    "antihorario",
    "esquerda",
    "direita",
    "esquerdo",
    "direito",
    "horário",
    "sinistra",
    "destra",
    "sinistro",
    "destro",
    "orario",
    "antiorario",
    "esquerra",
    "dreta",
    "stânga",
    "dreapta",
    "stanga",
    // Polish, Czech, Slovak, Croatian, Slovene
    "lewo",
    "prawo",
    "lewa",
    "prawa",
    "lewy",
    "prawy",
    "lewej",
    "prawej",
    "vlevo",
    "vpravo",
    "doleva",
    "doprava",
    "levá",
    "pravá",
    "levý",
    "pravý",
    "vľavo",
    "lijevo",
    "desno",
    "levo",
    // Russian, Ukrainian, Bulgarian
    "лево",
    "право",
    "влево",
    "вправо",
    "налево",
    "направо",
    "слева",
    "справа",
    "левый",
    "правый",
    "левая",
    "правая",
    "ліворуч",
    "праворуч",
    "вліво",
    "наляво",
    "надясно",
    // Greek, Turkish, Finnish, Hungarian
    "αριστερά",
    "δεξιά",
    "sol",
    "sağ",
    "sola",
    "sağa",
    "vasen",
    "oikea",
    "vasemmalle",
    "oikealle",
    "myötäpäivään",
    "vastapäivään",
    "balra",
    "jobbra",
    "bal",
    "jobb",
    // Indonesian, Vietnamese
    "kiri",
    "kanan",
    "trái",
    "phải",
    // Arabic, Hebrew, Hindi
    "يسار",
    "يمين",
    "שמאל",
    "ימין",
    "बाएं",
    "दाएं",
    "बाएँ",
    "दाएँ",
];

/// Words of scripts that write without spaces: part of a label is enough.
const PARTS: &[&str] = &[
    "左",
    "右",
    "顺时针",
    "逆时针",
    "順時針",
    "逆時針",
    "時計回り",
    "反時計",
    "왼쪽",
    "오른쪽",
    "좌회전",
    "우회전",
    "시계 방향",
    "시계방향",
    "ซ้าย",
    "ขวา",
];

/// Single letters that name a side when the same label with the other letter is there, too.
const LETTERS: [&str; 2] = ["l", "r"];

/// The labels that name a side, in their order.
pub fn sided<'a>(labels: &'a [String]) -> impl Iterator<Item = &'a str> + 'a {
    let paired = paired(labels);
    let is_sided =
        move |(place, label): &(usize, &'a String)| paired.contains(place) || names_a_side(label);
    let own = labels.iter().enumerate().filter(is_sided);
    own.map(|(_, label)| label.as_str())
}

/// Whether a label names a side without looking at other labels.
fn names_a_side(label: &str) -> bool {
    if PARTS.iter().any(|part| label.contains(part)) {
        return true;
    }
    let words = words(label);
    let is_known = |word: &String| WORDS.contains(&word.as_str());
    // `counter clockwise`, `left hand`: each part is a word of its own.
    words.iter().any(is_known)
}

/// Places of labels that differ from another one in a letter for a side alone, such as `turn_l` and `turn_r`.
fn paired(labels: &[String]) -> std::collections::BTreeSet<usize> {
    let mut by_rest: std::collections::BTreeMap<Vec<String>, Vec<(usize, bool)>> =
        std::collections::BTreeMap::new();
    for (place, label) in labels.iter().enumerate() {
        let words = words(label);
        for (at, word) in words.iter().enumerate() {
            if let Some(side) = LETTERS.iter().position(|letter| letter == word) {
                let mut rest = words.clone();
                rest[at] = "?".into();
                by_rest.entry(rest).or_default().push((place, side == 0));
            }
        }
    }
    let are_both = |places: &Vec<(usize, bool)>| {
        places.iter().any(|(_, is_left)| *is_left) && places.iter().any(|(_, is_left)| !is_left)
    };
    let both = by_rest.into_values().filter(are_both).flatten();
    both.map(|(place, _)| place).collect()
}

/// The words of a label in lower case: parts between other characters than letters, and at a capital after a small letter.
fn words(label: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for letter in label.chars() {
        // Marks belong to the letter before: scripts of India write vowels with them.
        let is_mark = ('\u{0900}'..='\u{0dff}').contains(&letter);
        if !letter.is_alphabetic() && !is_mark {
            words.push(String::new());
            was_small = false;
            continue;
        }
        if letter.is_uppercase() && was_small {
            words.push(String::new());
        }
        was_small = letter.is_lowercase();
        if let Some(word) = words.last_mut() {
            word.extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(labels: &[&str]) -> Vec<String> {
        let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
        sided(&labels).map(str::to_owned).collect()
    }

    #[test]
    fn labels_that_name_a_side_are_known_in_many_forms_and_languages() {
        for label in [
            "left",
            "Left",
            "LEFT",
            "swipe_left",
            "swipe-right",
            "SwipeLeft",
            "swipeRight",
            "turn right 2",
            "left2",
            "01_left",
            "Turning left (slow)",
            "hand.left",
            "rotate clockwise",
            "counter-clockwise",
            "CounterClockwise",
            "counterclockwise",
            "spin_ccw",
            "spinCW",
            "nach links",
            "rechter Arm",
            "im Uhrzeigersinn",
            "à gauche",
            "vers la droite",
            "sens antihoraire",
            "giro a la izquierda",
            "derecha",
            "à esquerda",
            "sinistra",
            "destra",
            "w lewo",
            "повернуть налево",
            "ВПРАВО",
            "vlevo",
            "向左转",
            "右",
            "逆时针",
            "反時計回り",
            "왼쪽으로",
            "시계 방향",
            "sola dön",
            "sağa",
            "vänster",
            "høyre",
            "vasemmalle",
            "δεξιά",
            "kiri",
            "يمين",
            "बाएं",
        ] {
            assert_eq!(named(&[label]), [label], "{label}");
        }
    }

    #[test]
    fn other_labels_are_not_taken_for_sides() {
        for label in [
            "up",
            "down",
            "forward",
            "brighter",
            "leftover",
            "copyright",
            "upright",
            "cleft",
            "fight",
            "brightness",
            "handshake",
            "rotate",
            "clock",
            "cwm",
            "l",
            "r",
            "turn",
            "jump",
            "",
        ] {
            assert_eq!(named(&[label]), Vec::<String>::new(), "{label}");
        }
    }

    #[test]
    fn a_letter_names_a_side_when_the_other_one_is_there_too() {
        assert_eq!(named(&["turn_l", "turn_r", "stop"]), ["turn_l", "turn_r"]);
        assert_eq!(named(&["L", "R"]), ["L", "R"]);
        assert_eq!(named(&["turn_l", "swipe_r"]), Vec::<String>::new());
        assert_eq!(named(&["vitamin r", "vitamin c"]), Vec::<String>::new());
    }
}
