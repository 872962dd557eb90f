//! What a sampler asks for is what windows need, whatever comes: compared with a search through all frames.

use proptest::prelude::*;

use super::*;

fn grid(lines: &[(u16, i64)], stride: i64) -> Grid {
    let line = |&(frames, step): &(u16, i64)| Line { frames, step };
    Grid {
        lines: lines.iter().map(line).collect(),
        stride,
        longest_gap: None,
    }
}

/// Ticks of the frames that were wanted, and the windows that ended, for frames at these ticks.
fn run(sampler: &mut Sampler<i64>, ticks: &[i64]) -> (Vec<i64>, Vec<Ended>) {
    let (mut all, mut windows) = (Vec::new(), Vec::new());
    for &tick in ticks {
        if let Offered::Taken { wanted, ended, .. } = sampler.offer(tick, tick) {
            all.extend(wanted.into_iter().map(|(at, frame)| {
                assert_eq!(at, frame);
                at
            }));
            windows.extend(ended);
        }
    }
    (all, windows)
}

/// The frame that is nearest to a due time, the earlier of two.
fn nearest(ticks: &[i64], due: i64) -> i64 {
    let key = |tick: &&i64| ((**tick - due).abs(), **tick);
    *ticks.iter().min_by_key(key).unwrap()
}

#[test]
fn every_second_frame_and_a_window_each_third() {
    let mut sampler = Sampler::new(grid(&[(3, 2)], 3));
    let ticks: Vec<i64> = (0..12).collect();
    let (wanted, windows) = run(&mut sampler, &ticks);
    // Windows at 0 2 4, 3 5 7, 6 8 10.
    assert_eq!(wanted, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    let ends: Vec<i64> = windows.iter().map(|window| window.end).collect();
    assert_eq!(ends, [4, 7, 10]);
    assert_eq!(windows[2].number, 2);
}

#[test]
fn frames_between_due_times_are_not_wanted() {
    // 30 frames a second in milliseconds; four frames half a second apart, a window each half second.
    let mut sampler = Sampler::new(grid(&[(4, 500)], 500));
    let ticks: Vec<i64> = (0..100).map(|frame| frame * 1000 / 30).collect();
    let (wanted, windows) = run(&mut sampler, &ticks);
    assert_eq!(wanted, [0, 500, 1000, 1500, 2000, 2500, 3000]);
    assert_eq!(windows.len(), 4);
}

#[test]
fn of_two_frames_the_nearer_one_is_shown_and_the_earlier_of_equals() {
    let mut sampler = Sampler::new(grid(&[(2, 10)], 10));
    // Due: 0, 10, 20, 30. 8 is nearer to 10 than 13; 18 and 22 are as near to 20.
    let (wanted, _) = run(&mut sampler, &[0, 8, 13, 18, 22, 30]);
    assert_eq!(wanted, [0, 8, 18, 30]);
}

#[test]
fn a_gap_begins_anew_and_windows_keep_counting() {
    let mut sampler = Sampler::new(Grid {
        longest_gap: Some(5),
        ..grid(&[(2, 1)], 1)
    });
    let (_, windows) = run(&mut sampler, &[0, 1, 2]);
    assert_eq!(windows.last().map(|window| window.number), Some(1));
    let Offered::Taken { restart, ended, .. } = sampler.offer(8, 8) else {
        panic!("taken");
    };
    assert_eq!((restart, ended), (Some(Restart::Gap), None));
    let (_, windows) = run(&mut sampler, &[9, 14]);
    let numbers: Vec<_> = windows
        .iter()
        .map(|own| (own.number, own.left_out))
        .collect();
    // Five windows end with the frame at 14; the last one is answered.
    assert_eq!(numbers, [(2, 0), (7, 4)]);
}

#[test]
fn times_that_repeat_or_go_back_are_not_taken_until_the_clock_was_set_back() {
    let mut sampler = Sampler::new(grid(&[(1, 1)], 1));
    run(&mut sampler, &[100]);
    assert_eq!(sampler.offer(100, 0), Offered::Duplicate);
    assert_eq!(sampler.offer(99, 0), Offered::Late);
    // One frame that goes on ends the row.
    run(&mut sampler, &[101]);
    for _ in 1..BACK {
        assert_eq!(sampler.offer(3, 0), Offered::Late);
    }
    let Offered::Taken { restart, .. } = sampler.offer(4, 0) else {
        panic!("taken");
    };
    assert_eq!(restart, Some(Restart::Clock));
    assert_eq!(sampler.offer(4, 0), Offered::Duplicate);
}

proptest! {
    #[test]
    fn wanted_frames_are_those_that_windows_show(
        lines in prop::collection::vec((1_u16..6, 1_i64..8), 1..4),
        stride in 1_i64..10,
        gaps in prop::collection::vec(1_i64..9, 1..80),
        start in 0_i64..1000,
    ) {
        let grid = grid(&lines, stride);
        let mut at = start;
        let mut ticks = vec![start];
        ticks.extend(gaps.iter().map(|gap| { at += gap; at }));
        let mut sampler = Sampler::new(grid.clone());
        let mut held: Vec<i64> = Vec::new();
        let mut windows = 0;
        for (count, &tick) in ticks.iter().enumerate() {
            let Offered::Taken { restart, wanted, ended } = sampler.offer(tick, tick) else {
                panic!("ticks go on");
            };
            prop_assert_eq!(restart, None);
            held.extend(wanted.iter().map(|own| own.0));
            prop_assert!(held.is_sorted_by(|a, b| a < b), "{:?}", held);
            if let Some(ended) = ended {
                windows += ended.left_out + 1;
                prop_assert_eq!(ended.number + 1, windows);
                prop_assert!(ended.end <= tick && tick - ended.end < stride);
                for line in &grid.lines {
                    for due in line.dues(ended.end) {
                        let expected = nearest(&ticks[..=count], due);
                        prop_assert_eq!(nearest(&held, due), expected, "due {}", due);
                    }
                }
            }
            // What no later window shows is not needed any more, but for the newest frame.
            let last = held.len() - 1;
            let cell = |place: usize| {
                let middle = |one: i64, next: i64| one + (next - one) / 2;
                let from = match place {
                    0 => sampler.earliest(),
                    place => middle(held[place - 1], held[place]) + 1,
                };
                (from, middle(held[place], held[(place + 1).min(last)]))
            };
            let is_needed = |place: &usize| {
                let (from, to) = cell(*place);
                *place == last || sampler.is_due(from, to)
            };
            held = (0..=last).filter(is_needed).map(|place| held[place]).collect();
            prop_assert!(held.len() as u64 <= grid.most_frames(), "{:?} of {}", held, grid.most_frames());
        }
        let expected = (at - start - grid.span()).div_euclid(stride) + 1;
        prop_assert_eq!(windows as i64, expected.max(0));
    }
}
