//! Counts on real records, which are away now and then.

use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::metadata::{
    Config, Database, Fault, Metering as _, Outages, PageRequest, UsageQuery, UsageRecord,
    UsageSpan,
};

/// Midnight of a day, in microseconds since the Unix epoch.
const MIDNIGHT: i64 = 20_000 * 24 * HOUR;

/// A meter, its records, and its clock.
struct Bed {
    meter: Meter,
    store: Database,
    records: Arc<dyn MetadataStore>,
    outages: Outages,
    clock: Arc<AtomicI64>,
    _folder: TempDir,
}

impl Bed {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metadata.sqlite");
        let store = Database::open(Config::at(path)).await.unwrap();
        let outages = Outages::default();
        let clock = Arc::new(AtomicI64::new(MIDNIGHT - 1));
        Self {
            meter: meter(&clock),
            records: outages.wrap(Arc::new(store.clone())),
            store,
            outages,
            clock,
            _folder: folder,
        }
    }

    async fn flush(&self) -> metadata::Result<bool> {
        self.meter.flush(&*self.records).await
    }

    async fn used(&self, span: UsageSpan) -> Vec<UsageRecord> {
        let ask = UsageQuery {
            tenant: None,
            begin: 0,
            end: i64::MAX,
            span,
        };
        let page = self.store.list_usage(&ask, &PageRequest::first()).await;
        page.unwrap().items
    }

    async fn clip_frames(&self) -> u64 {
        let used = self.used(UsageSpan::Hour).await;
        used.iter().map(|used| used.amounts.clip_frames).sum()
    }
}

fn meter(clock: &Arc<AtomicI64>) -> Meter {
    let clock = Arc::clone(clock);
    Meter::with_clock(move || clock.load(Ordering::SeqCst))
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

#[tokio::test]
async fn counts_belong_to_the_hour_in_which_they_came() {
    let bed = Bed::new().await;
    let (a, task) = (tenant("a"), "t".parse().unwrap());
    // A microsecond before midnight, at midnight, and an hour later: brought together.
    bed.meter.answered(&a, Some(&task), 1);
    bed.clock.store(MIDNIGHT, Ordering::SeqCst);
    bed.meter.answered(&a, Some(&task), 10);
    bed.meter.answered(&a, Some(&task), 20);
    bed.clock.store(MIDNIGHT + HOUR, Ordering::SeqCst);
    bed.meter.answered(&a, None, 100);
    bed.meter.request(&a);
    assert!(bed.flush().await.unwrap());
    assert!(!bed.flush().await.unwrap(), "there is nothing left");
    let hours = bed.used(UsageSpan::Hour).await;
    let hours: Vec<_> = hours
        .iter()
        .map(|used| ((used.begin - MIDNIGHT) / HOUR, used.amounts.clip_frames))
        .collect();
    assert_eq!(hours, [(-1, 1), (0, 30), (1, 100)]);
    let days = bed.used(UsageSpan::Day).await;
    let days: Vec<_> = days
        .iter()
        .map(|used| {
            (
                (used.begin - MIDNIGHT) / HOUR,
                used.task.is_some(),
                used.amounts,
            )
        })
        .collect();
    let amounts = |requests, clip_frames| Amounts {
        requests,
        clip_frames,
        ..Amounts::default()
    };
    let expected = [
        (-24, true, amounts(0, 1)),
        (0, false, amounts(1, 100)),
        (0, true, amounts(0, 30)),
    ];
    assert_eq!(days, expected);
}

#[tokio::test]
async fn counts_wait_while_the_records_are_away_and_count_once_when_only_the_answer_was_lost() {
    let bed = Bed::new().await;
    let a = tenant("a");
    let mut counted = 0;
    for fault in [
        Fault::Away,
        Fault::Lost,
        Fault::Lost,
        Fault::Away,
        Fault::Full,
    ] {
        bed.meter.answered(&a, None, 7);
        counted += 7;
        bed.outages.set_fault("record_usage", Some(fault));
        bed.flush().await.unwrap_err();
        bed.flush().await.unwrap_err();
        bed.meter.answered(&a, None, 3);
        counted += 3;
        bed.outages.set_fault("record_usage", None);
        bed.flush().await.unwrap();
        assert_eq!(bed.clip_frames().await, counted, "{fault:?}");
    }
}

#[tokio::test]
async fn what_is_beyond_the_bound_of_memory_is_counted_for_nobody_in_particular() {
    let bed = Bed::new().await;
    for number in 0..KEYS + 10 {
        bed.meter.request(&tenant(&format!("t{number}")));
    }
    // Whoever is known is counted on.
    bed.meter.request(&tenant("t0"));
    let open = bed.meter.open();
    assert_eq!(open.len(), KEYS + 1);
    let of = |name: Option<&str>| {
        let key = UsageKey {
            tenant: name.map(tenant),
            hour: (MIDNIGHT - 1).div_euclid(HOUR),
            task: None,
        };
        open.get(&key).map(|own| own.requests)
    };
    assert_eq!((of(None), of(Some("t0"))), (Some(10), Some(2)));
}

/// What happens to a process that counts.
#[derive(Debug, Clone)]
enum Event {
    Answer(u64),
    Flush(Option<Fault>),
    /// It drains, and another one starts.
    Restart,
    /// It is killed, and another one starts.
    Kill,
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Fault::Away)),
        1 => Just(Some(Fault::Lost)),
    ];
    prop_oneof![
        6 => (1u64..100).prop_map(Event::Answer),
        3 => fault.prop_map(Event::Flush),
        1 => Just(Event::Restart),
        1 => Just(Event::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_on_record_is_what_was_answered_but_for_what_a_kill_cut(
        events in prop::collection::vec(event(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut bed = Bed::new().await;
            let a = tenant("a");
            // Answered since the last flush that may have arrived, and the most and least that may be on record.
            let (mut open, mut certain, mut possible) = (0, 0, 0);
            for event in events {
                match event {
                    Event::Answer(frames) => {
                        bed.meter.answered(&a, None, frames);
                        bed.meter.computed(&a, None, Duration::from_micros(2 * frames));
                        bed.meter.decoded(&a, Duration::from_nanos(3000 * frames + 400));
                        bed.meter.transferred(&a, 4 * frames, 5 * frames);
                        open += frames;
                    }
                    Event::Flush(fault) => {
                        bed.outages.set_fault("record_usage", fault);
                        let flushed = bed.flush().await;
                        if flushed.is_ok() {
                            certain += open + possible;
                            (open, possible) = (0, 0);
                        } else {
                            // Something was brought and may be there.
                            possible += open;
                            open = 0;
                        }
                    }
                    Event::Restart => {
                        bed.outages.set_fault("record_usage", None);
                        bed.flush().await.unwrap();
                        certain += open + possible;
                        (open, possible) = (0, 0);
                        bed.meter = meter(&bed.clock);
                    }
                    Event::Kill => {
                        bed.meter = meter(&bed.clock);
                        let recorded = bed.clip_frames().await;
                        assert!((certain..=certain + possible).contains(&recorded));
                        certain = recorded;
                        (open, possible) = (0, 0);
                    }
                }
            }
            bed.outages.set_fault("record_usage", None);
            bed.flush().await.unwrap();
            assert_eq!(bed.clip_frames().await, certain + possible + open);
            // What was counted together is on record together, or lost together.
            for used in bed.used(UsageSpan::Day).await {
                let own = used.amounts;
                let frames = own.clip_frames;
                assert_eq!((own.device_micros, own.decode_micros), (2 * frames, 3 * frames));
                assert_eq!((own.received_bytes, own.sent_bytes), (4 * frames, 5 * frames));
            }
        });
    }
}
