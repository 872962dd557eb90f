//! Packets of real encoders' forms, and bytes that are none.

use proptest::prelude::*;

use super::*;

/// avcC boxes that x264 wrote: progressive, and with macroblock-adaptive fields.
const PROGRESSIVE: &[u8] = b"\x01\x64\x00\x0d\xff\xe1\x00\x1b\x67\x64\x00\x0d\xac\xd9\x41\x41\xfb\xff\x00\xff\x01\x00\x10\x00\x00\x3e\x90\x00\x0e\xa6\x00\xf1\x42\x99\x60\x01\x00\x06\x68\xeb\xe2\x4b\x22\xc0\xfd\xf8\xf8\x00";
const INTERLACED: &[u8] = b"\x01\x7a\x00\x15\xff\xe1\x00\x1c\x67\x7a\x00\x15\xbc\xd9\x41\x41\x0f\xc4\xff\xe0\x1f\xe0\x20\x02\x00\x00\x07\xd2\x00\x00\xea\x60\x3e\x28\x53\x2c\x01\x00\x05\x68\xfb\xac\xb2\x2c\xfe\xf8\xf8\x00";
/// av1C that SVT-AV1 wrote.
const AV1: &[u8] = b"\x81\x00\x0d\x00\x0a\x0b\x00\x00\x00\x04\x3c\xff\xbc\x02\xf8\x02\x40";

/// A packet of NAL units with lengths of four bytes.
fn packet(units: &[&[u8]]) -> Vec<u8> {
    let mut packet = Vec::new();
    for unit in units {
        packet.extend((unit.len() as u32).to_be_bytes());
        packet.extend(*unit);
    }
    packet
}

fn h264(extradata: &[u8]) -> Walk {
    Walk::new(Codec::H264, extradata).expect("it reads")
}

const IDR: &[u8] = &[0x65, 0x88, 0x84, 0x00];
const SLICE: &[u8] = &[0x41, 0x9a, 0x24, 0x6c];

#[test]
fn a_packet_of_one_h264_frame() {
    let mut walk = h264(PROGRESSIVE);
    let facts = walk.packet(&packet(&[IDR]), true).expect("a frame");
    assert!(facts.is_shown && facts.is_entry && !facts.is_spare);
    // A second slice of the same frame begins further down.
    let facts = walk.packet(&packet(&[SLICE, &[0x41, 0x2a, 0x24]]), false);
    assert!(!facts.expect("a frame").is_entry);
    assert_eq!(
        walk.packet(&packet(&[SLICE, SLICE]), false),
        Err(Doubt::Pictures)
    );
    assert_eq!(
        walk.packet(&packet(&[&[9, 0xf0]]), false),
        Err(Doubt::Pictures)
    );
    assert_eq!(
        walk.packet(&packet(&[SLICE])[..7], false),
        Err(Doubt::Malformed)
    );
    assert_eq!(walk.packet(&[], false), Err(Doubt::Empty));
    assert!(walk.skips_unreferenced());
}

#[test]
fn an_h264_video_begins_with_an_idr_picture() {
    assert_eq!(
        h264(PROGRESSIVE).packet(&packet(&[SLICE]), true),
        Err(Doubt::Start)
    );
}

#[test]
fn a_recovery_point_is_an_entry_when_it_is_exact_at_once() {
    let mut walk = h264(PROGRESSIVE);
    walk.packet(&packet(&[IDR]), true).expect("a frame");
    let mut is_entry = |message: &[u8]| {
        let units = packet(&[message, SLICE]);
        walk.packet(&units, true).expect("a frame").is_entry
    };
    // Type 6, one byte: recovery_frame_cnt 0, exact, not broken.
    assert!(is_entry(&[6, 6, 1, 0b1100_0000, 0x80]));
    // After another message.
    assert!(is_entry(&[6, 5, 2, 9, 9, 6, 1, 0b1100_0000, 0x80]));
    assert!(!is_entry(&[6, 6, 1, 0b1000_0000, 0x80]));
    assert!(!is_entry(&[6, 6, 1, 0b1110_0000, 0x80]));
    assert!(!is_entry(&[6, 6, 1, 0b0101_1000, 0x80]));
    assert!(!is_entry(&[6, 255, 255, 255]));
}

#[test]
fn h264_fields_are_a_doubt_and_frames_of_an_interlaced_video_are_not() {
    let mut walk = h264(INTERLACED);
    // first_mb 1, slice_type 00111 (7), pps 1, frame_num 0000 (4 bits), field_pic_flag.
    let frame: &[u8] = &[0x65, 0b1000_1000, 0b1000_0000, 0b0000_0000];
    let field: &[u8] = &[0x65, 0b1000_1000, 0b1000_0100, 0b0000_0000];
    assert!(walk.packet(&packet(&[frame]), true).is_ok());
    assert_eq!(walk.packet(&packet(&[field]), true), Err(Doubt::Pictures));
}

#[test]
fn other_parameter_sets_in_a_later_packet_are_a_doubt() {
    let mut walk = h264(PROGRESSIVE);
    let known = &PROGRESSIVE[8..8 + 27];
    assert!(walk.packet(&packet(&[known, IDR]), true).is_ok());
    let mut other = known.to_vec();
    other[3] ^= 1;
    assert_eq!(
        walk.packet(&packet(&[&other, IDR]), true),
        Err(Doubt::Parameters)
    );
}

#[test]
fn hevc_pictures_by_their_first_slice() {
    let mut walk = Walk::new(Codec::Hevc, &[&[1; 21][..], &[0xff, 0]].concat()).expect("it reads");
    let slice = |kind: u8, temporal: u8, flags: u8| [kind << 1, temporal, flags, 0, 0];
    let facts = walk
        .packet(&packet(&[&slice(19, 1, 0x80)]), true)
        .expect("a picture");
    assert!(facts.is_entry);
    assert!(
        walk.packet(&packet(&[&slice(21, 1, 0x80)]), true)
            .is_ok_and(|own| own.is_entry)
    );
    assert!(
        walk.packet(&packet(&[&slice(1, 1, 0x80)]), true)
            .is_ok_and(|own| !own.is_entry)
    );
    assert!(walk.skips_unreferenced());
    // A slice of a second view, in its own layer, is no picture.
    let second = [1 << 1, 1 << 3 | 1, 0x80, 0];
    assert!(
        walk.packet(&packet(&[&slice(1, 2, 0x80), &second]), false)
            .is_ok()
    );
    assert!(!walk.skips_unreferenced(), "a temporal layer");
    assert_eq!(
        walk.packet(&packet(&[&slice(19, 1, 0xc0)]), true),
        Err(Doubt::Pictures),
        "earlier pictures may be dropped"
    );
    assert_eq!(
        walk.packet(&packet(&[&slice(16, 1, 0x80)]), true),
        Err(Doubt::Start)
    );
    let ended = packet(&[&slice(1, 1, 0x80), &[36 << 1, 1]]);
    assert!(walk.packet(&ended, false).is_ok());
    assert_eq!(
        walk.packet(&packet(&[&slice(21, 1, 0x80)]), true),
        Err(Doubt::Start)
    );
}

#[test]
fn av1_frames_that_nothing_refers_to_are_spare() {
    let mut walk = Walk::new(Codec::Av1, &[]).expect("it reads");
    let sequence = &AV1[4..];
    let frame = |bytes: &[u8]| [&[0x32, bytes.len() as u8][..], bytes].concat();
    // show_existing 0, key, shown.
    let key = frame(&[0b0001_0000, 0, 0, 0]);
    let facts = walk
        .packet(&[sequence, &key].concat(), true)
        .expect("a frame");
    assert!(facts.is_entry && !facts.is_spare);
    // A key frame without its sequence header is no entry.
    assert!(walk.packet(&key, true).is_ok_and(|facts| !facts.is_entry));
    let existing = frame(&[0b1000_0000]);
    assert!(
        walk.packet(&existing, false)
            .is_ok_and(|facts| !facts.is_spare)
    );
    let hidden = frame(&[0b0010_0000, 0]);
    assert_eq!(walk.packet(&hidden, false), Err(Doubt::Pictures));
    assert!(
        walk.packet(&[&hidden[..], &existing].concat(), false)
            .is_ok()
    );
    assert_eq!(
        walk.packet(&[&existing[..], &existing].concat(), false),
        Err(Doubt::Pictures)
    );
}

proptest! {
    #[test]
    fn any_bytes_are_facts_or_a_doubt(
        codec in prop::sample::select(Codec::ALL),
        extradata in prop::collection::vec(any::<u8>(), 0..80),
        known in 0_usize..4,
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..6),
    ) {
        let extradata = match known {
            0 => PROGRESSIVE,
            1 => INTERLACED,
            2 => AV1,
            _ => &extradata,
        };
        if let Ok(mut walk) = Walk::new(codec, extradata) {
            for packet in &packets {
                let _ = walk.packet(packet, true);
            }
        }
    }

    #[test]
    fn changed_bytes_of_a_packet_are_facts_or_a_doubt(
        at in prop::collection::vec((0_usize..64, any::<u8>()), 1..8),
        end in 0_usize..64,
    ) {
        let whole = packet(&[&PROGRESSIVE[8..35], &[6, 6, 1, 0xc0, 0x80], IDR, SLICE]);
        let mut bytes = whole[..end.min(whole.len())].to_vec();
        for (place, value) in at {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = value;
            }
        }
        for extradata in [PROGRESSIVE, INTERLACED] {
            let _ = h264(extradata).packet(&bytes, true);
        }
    }
}
