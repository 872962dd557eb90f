//! Tasks that come and go under one name.

use super::*;

fn record(etag: &str, serving: u32) -> TaskRecord {
    TaskRecord {
        etag: etag.to_owned(),
        ..crate::registry::tests::task(AdapterVersion::new(serving))
    }
}

#[test]
fn a_task_is_not_the_one_that_had_its_name_before() {
    let view = View::new(&Config::default());
    let first = record("one-1", 3);
    let key = (first.tenant.clone(), first.id.clone());
    assert!(!view.is_another(&first), "nothing is known of it");
    assert!(view.learn(view.ticket(), &first));
    let changed = record("one-2", 4);
    assert!(!view.is_another(&changed));
    assert!(view.learn(view.ticket(), &changed));
    assert_eq!(view.before(&key), AdapterVersion::new(3));
    let other = record("other-1", 5);
    assert!(view.is_another(&other));
    view.forget(&other.tenant, &other.id);
    assert!(view.learn(view.ticket(), &other));
    assert_eq!(view.before(&key), None, "it never had another version");
}

#[test]
fn a_view_that_is_cleared_tells_which_tasks_it_knew() {
    let view = View::new(&Config::default());
    assert!(view.clear().is_empty());
    let record = record("one-1", 3);
    assert!(view.learn(view.ticket(), &record));
    assert_eq!(view.clear(), [(record.tenant, record.id)]);
    assert!(view.clear().is_empty());
}
