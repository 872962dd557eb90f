//! Budgets, tenants, restarts and faults of decoded frames on the disk.

use super::*;

const SIDE: u16 = 4;
/// Bytes of a file of four frames.
const FILE: u64 = 4 * 3 * 16 * 4 + 48 + 4 * 16 + 32;

fn tenant(name: &str) -> TenantId {
    name.parse().expect("a tenant")
}

fn open(folder: &Path, total: u64) -> Arc<Decoded> {
    let opened = Decoded::open(folder, total, Metrics::new());
    Arc::new(opened.expect("opened").expect("a budget"))
}

fn wanted(number: u8) -> Wanted {
    Wanted {
        video: VideoId::generate(),
        sha256: Digest([number; 32]),
        what: "whole".into(),
        frames: 4,
        side: SIDE,
    }
}

fn put(user: &Arc<User>, wanted: &Wanted) -> bool {
    let planes = vec![f32::from(wanted.sha256.0[0]); 4 * 3 * 16];
    let writer = user.begin(wanted).and_then(|writer| writer.add(&planes));
    writer.is_some_and(Writer::finish)
}

fn has(user: &Arc<User>, wanted: &Wanted) -> bool {
    let read = user.read(wanted, &[3, 0]);
    if let Some(planes) = &read {
        assert_eq!(planes[..], vec![f32::from(wanted.sha256.0[0]); 2 * 3 * 16]);
    }
    read.is_some()
}

/// Bytes and number of the files below a folder.
fn on_disk(folder: &Path) -> (u64, usize) {
    let folders = fs::read_dir(folder).expect("a folder");
    let files = folders.flat_map(|own| fs::read_dir(own.expect("one").path()).expect("a folder"));
    files.fold((0, 0), |(bytes, count), file| {
        let metadata = file.expect("a file").metadata().expect("metadata");
        (bytes + metadata.len(), count + 1)
    })
}

#[test]
fn the_files_of_jobs_that_ended_give_way_the_oldest_first_and_those_of_jobs_under_way_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let decoded = open(folder.path(), 8 * FILE);
    let owner = tenant("owner");
    let first = decoded.user(&owner, "display");
    let of_first: Vec<Wanted> = (0..9).map(wanted).collect();
    let kept = of_first.iter().filter(|own| put(&first, own)).count();
    assert_eq!(kept, 8, "a job does not push its own files out");
    assert_eq!(on_disk(folder.path()), (8 * FILE, 8));
    let second = decoded.user(&owner, "display");
    assert!(!put(&second, &wanted(20)), "the first job is under way");
    // The oldest is used once more.
    assert!(has(&first, &of_first[0]));
    drop(first);
    for number in 20..23 {
        assert!(put(&second, &wanted(number)));
    }
    let left = of_first.iter().filter(|own| has(&second, own)).count();
    assert_eq!(left, 5);
    assert!(has(&second, &of_first[0]) && !has(&second, &of_first[1]));
    assert_eq!(on_disk(folder.path()), (8 * FILE, 8));
}

#[test]
fn a_tenant_has_its_own_files_and_takes_room_from_those_alone_that_have_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let decoded = open(folder.path(), 8 * FILE);
    let (large, small) = (tenant("large"), tenant("small"));
    let of = |tenant: &TenantId| decoded.user(tenant, "display");
    let same = wanted(1);
    assert!(put(&of(&large), &same));
    assert!(!has(&of(&small), &same), "equal bytes are another tenant's");
    assert!(put(&of(&small), &same), "nobody tells that they are known");
    assert!((2..8).all(|number| put(&of(&large), &wanted(number))));
    // Seven files of one and one of the other: the smaller one grows up to its half.
    assert!((10..13).all(|number| put(&of(&small), &wanted(number))));
    assert_eq!(decoded.lock().of(&small), 4 * FILE);
    // From there on, each takes room from itself.
    for number in 20..30 {
        assert!(put(&of(&small), &wanted(number)) && put(&of(&large), &wanted(number)));
        let state = decoded.lock();
        assert_eq!((state.of(&small), state.of(&large)), (4 * FILE, 4 * FILE));
    }
    assert_eq!(on_disk(folder.path()), (8 * FILE, 8));
}

#[test]
fn files_survive_a_restart_within_the_budget_and_what_is_not_whole_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let owner = tenant("owner");
    let all: Vec<Wanted> = (0..9).map(wanted).collect();
    {
        let decoded = open(folder.path(), 9 * FILE);
        let user = decoded.user(&owner, "display");
        assert!(all.iter().all(|own| put(&user, own)));
        // As a process leaves it that is killed while it writes.
        let part = folder.path().join("owner").join(".part-99");
        fs::write(part, b"something").expect("written");
    }
    let decoded = open(folder.path(), 9 * FILE);
    let user = decoded.user(&owner, "display");
    assert!(all.iter().all(|own| has(&user, own)));
    assert_eq!(on_disk(folder.path()), (9 * FILE, 9));
    let other = decoded.user(&owner, "stored");
    assert!(!has(&other, &all[0]), "it is decoded in another way");
    drop((user, other, decoded));
    // A smaller budget, and a cut file.
    let decoded = open(folder.path(), 9 * FILE - 1);
    assert_eq!(on_disk(folder.path()), (8 * FILE, 8));
    let user = decoded.user(&owner, "display");
    let kept = all.iter().find(|own| has(&user, own)).expect("one is left");
    let path = decoded.path(&user.name(kept), kept.video);
    fs::File::options()
        .write(true)
        .open(&path)
        .expect("the file")
        .set_len(FILE / 2)
        .expect("cut");
    assert!(!has(&user, kept) && !path.exists());
    assert!(decoded.metrics.text().contains("outcome=\"damaged\"} 1"));
    assert!(put(&user, kept) && has(&user, kept));
    drop((user, decoded));
    let none = Decoded::open(folder.path(), 0, Metrics::new());
    assert!(none.expect("opened").is_none() && !folder.path().exists());
}

#[test]
fn nothing_gives_way_to_what_has_no_room_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let decoded = open(folder.path(), 8 * FILE);
    let user = || decoded.user(&tenant("owner"), "display");
    let small = |user: &Arc<User>, number| {
        let wanted = Wanted {
            frames: 1,
            ..wanted(number)
        };
        let planes = [f32::from(number); 3 * 16];
        let writer = user.begin(&wanted).and_then(|writer| writer.add(&planes));
        writer.is_some_and(Writer::finish)
    };
    assert!(small(&user(), 1), "a job that has ended");
    let running = user();
    assert!((2..9).all(|number| put(&running, &wanted(number))));
    assert!(small(&running, 9));
    assert!(!put(&running, &wanted(10)), "the small one is not enough");
    assert_eq!(on_disk(folder.path()).1, 9);
    // It is not looked for again at once, unless a job ends.
    assert!(small(&running, 11), "there is room without that");
    assert_eq!(decoded.lock().full.len(), 1);
    drop(running);
    assert!(put(&user(), &wanted(10)));
}

#[test]
fn one_job_writes_a_file_and_what_it_leaves_unfinished_takes_no_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let decoded = open(folder.path(), 8 * FILE);
    let owner = tenant("owner");
    let (one, other) = (
        decoded.user(&owner, "display"),
        decoded.user(&owner, "display"),
    );
    let own = wanted(1);
    let writer = one.begin(&own).expect("room");
    assert!(other.begin(&own).is_none() && !has(&other, &own));
    assert_eq!(decoded.lock().bytes, FILE);
    drop(writer);
    assert_eq!((decoded.lock().bytes, on_disk(folder.path())), (0, (0, 0)));
    assert!(put(&other, &own));
    for large in [
        Wanted {
            frames: FRAMES + 1,
            ..wanted(2)
        },
        Wanted {
            side: 40,
            ..wanted(2)
        },
        Wanted {
            frames: 0,
            ..wanted(2)
        },
    ] {
        assert!(one.begin(&large).is_none());
    }
    // A video that is deleted takes its frames along.
    let videos = decoded.videos();
    assert_eq!(videos[&owner], HashSet::from([own.video]));
    decoded.forget(&tenant("another"), &videos[&owner]);
    assert!(has(&one, &own));
    decoded.forget(&owner, &videos[&owner]);
    assert!(!has(&one, &own));
    assert_eq!(on_disk(folder.path()), (0, 0));
}

#[test]
fn a_disk_that_fails_is_left_alone_for_a_while() {
    let folder = tempfile::tempdir().expect("a folder");
    let decoded = open(folder.path(), 8 * FILE);
    let user = decoded.user(&tenant("owner"), "display");
    // A file stands where the tenant's folder would be.
    fs::write(folder.path().join("owner"), b"").expect("written");
    assert!(user.begin(&wanted(1)).is_none());
    fs::remove_file(folder.path().join("owner")).expect("removed");
    assert!(user.begin(&wanted(1)).is_none(), "it is tried again later");
    assert_eq!(decoded.lock().bytes, 0);
    decoded.lock().paused = None;
    assert!(put(&user, &wanted(1)));
}
