//! Tasks: etags, and which versions serve.

use frameshift::metadata::TaskRecord;

use super::*;

contract! {
    async fn a_stale_etag_changes_nothing(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let id = task_id("t");
        let old = store.get_task(&a, &id).await.expect("found");
        let update = TaskUpdate {
            display_name: Some("new".into()),
            auto_serve: None,
        };
        let new = store.update_task(&a, &id, update.clone(), Some(&old.etag)).await.expect("updated");
        assert_eq!((new.display_name.as_str(), new.auto_serve), ("new", true));
        assert_ne!(new.etag, old.etag);
        let stale = Some(old.etag.as_str());
        assert!(matches!(
            store.update_task(&a, &id, update, stale).await,
            Err(Error::EtagMismatch { .. })
        ));
        assert!(matches!(
            store.delete_task(&a, &id, stale).await,
            Err(Error::EtagMismatch { .. })
        ));
        assert_eq!(store.get_task(&a, &id).await.expect("found"), new);
        store.delete_task(&a, &id, Some(&new.etag)).await.expect("deleted");
        let reborn = store.create_task(&a, task("t"), None).await.expect("created");
        assert_ne!(reborn.etag, old.etag);
    }

    async fn a_split_is_proved_version_by_version_and_goes_back_to_what_served_before(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let id = task_id("t");
        let mut versions = Vec::new();
        for _ in 0..3 {
            submit(store, &a, "t").await;
            versions.push(publish(store, &claim(store).await).await.version.version);
        }
        let [one, two, three] = versions[..] else { panic!("three versions") };
        let task = store.get_task(&a, &id).await.expect("found");
        assert!(matches!(
            store.roll_back(&a, &id, &task.etag).await,
            Err(Error::NothingBefore { .. })
        ));
        let task = store.set_desired(&a, &id, &one.into(), &task.etag).await.expect("set");
        assert!(store.move_serving(&a, &id, one).await.expect("moved"));
        assert_eq!(task.previous, None, "nothing served before");

        let plan = Plan {
            main: one,
            members: vec![Share::new(one, 900), Share::new(two, 100)],
            shadows: vec![Share::new(three, 1000)],
        };
        assert!(matches!(
            store.set_desired(&a, &id, &plan, &task.etag.replace('-', "+")).await,
            Err(Error::EtagMismatch { .. })
        ));
        let missing = Plan {
            shadows: vec![Share::new(AdapterVersion::new(9).expect("not 0"), 1000)],
            ..plan.clone()
        };
        assert!(matches!(
            store.set_desired(&a, &id, &missing, &task.etag).await,
            Err(Error::NotFound { kind: Kind::Version, .. })
        ));
        let task = store.set_desired(&a, &id, &plan, &task.etag).await.expect("set");
        assert_eq!((task.split.as_ref(), task.previous.as_ref()), (Some(&plan), Some(&one.into())));
        assert_eq!(store.pending_tasks().await.expect("asked"), std::slice::from_ref(&task));
        assert!(store.note_member(&a, &id, two, None).await.expect("noted"));
        assert!(!store.note_member(&a, &id, two, None).await.expect("asked"), "no news");
        assert!(!store.note_member(&a, &id, one, None).await.expect("asked"), "the main version");
        assert!(store.note_member(&a, &id, three, Some("damaged")).await.expect("noted"));
        assert!(store.pending_tasks().await.expect("asked").is_empty());
        let proofs = |task: &TaskRecord| -> Vec<Proof> {
            let split = task.split.iter().flat_map(Plan::others);
            split.map(|own| own.proof.clone()).collect()
        };
        let noted = store.get_task(&a, &id).await.expect("found");
        let why = "damaged".to_owned();
        assert_eq!(proofs(&noted), [Proof::Ready, Proof::Failed { why }]);
        assert_eq!(noted.etag, task.etag, "what the engine notes is no change");

        // What was proved stays so; what failed is tried again.
        let more = Plan {
            members: vec![Share::new(one, 500), Share::new(two, 500)],
            ..plan.clone()
        };
        let task = store.set_desired(&a, &id, &more, &task.etag).await.expect("set");
        assert_eq!(proofs(&task), [Proof::Ready, Proof::Pending]);
        assert_eq!(task.previous.as_ref(), Some(&plan));

        // A version of a job does not end a split; the other way round, what was asked for and never served is nothing to go back to.
        submit(store, &a, "t").await;
        let published = publish(store, &claim(store).await).await;
        assert!(!published.is_desired);
        let task = store.set_desired(&a, &id, &three.into(), &task.etag).await.expect("set");
        let task = store.set_desired(&a, &id, &two.into(), &task.etag).await.expect("set");
        assert_eq!((task.split.clone(), task.serving), (None, Some(one)));
        assert_eq!(task.previous, Some(one.into()));
        assert!(store.move_serving(&a, &id, two).await.expect("moved"));
        let back = store.roll_back(&a, &id, &task.etag).await.expect("back");
        assert_eq!((back.desired, back.previous.clone()), (Some(one), Some(two.into())));
        let stale = store.roll_back(&a, &id, &task.etag).await;
        assert!(matches!(stale, Err(Error::EtagMismatch { .. })));
        assert!(store.move_serving(&a, &id, one).await.expect("moved"));
        let again = store.roll_back(&a, &id, &back.etag).await.expect("back");
        assert_eq!((again.desired, again.previous), (Some(two), Some(one.into())));
    }

    async fn a_task_knows_the_numbers_of_its_versions_and_a_name_that_is_used_again_has_later_ones(store: Store) {
        let (a, b) = (tenant("a"), tenant("b"));
        let id = task_id("t");
        assert_eq!(store.version_range(&a, &id).await.expect("asked"), None, "no task");
        trainable(store, &a, "t").await;
        trainable(store, &b, "t").await;
        assert_eq!(store.version_range(&a, &id).await.expect("asked"), None, "no version");
        let mut versions = Vec::new();
        for _ in 0..2 {
            submit(store, &a, "t").await;
            versions.push(publish(store, &claim(store).await).await.version.version);
            assert_eq!(store.version_range(&a, &id).await.expect("asked"), Some(versions[0]..=*versions.last().expect("one")));
        }
        assert_eq!(store.version_range(&b, &id).await.expect("asked"), None, "another's");
        store.delete_task(&a, &id, None).await.expect("deleted");
        assert_eq!(store.version_range(&a, &id).await.expect("asked"), None);
        store.create_task(&a, task("t"), None).await.expect("created");
        submit(store, &a, "t").await;
        let new = publish(store, &claim(store).await).await.version.version;
        assert!(new > versions[1], "{new:?} after {versions:?}");
        assert_eq!(store.version_range(&a, &id).await.expect("asked"), Some(new..=new));
    }

    async fn serving_moves_to_the_desired_version_only(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let id = task_id("t");
        submit(store, &a, "t").await;
        let one = publish(store, &claim(store).await).await.version.version;
        assert!(store.move_serving(&a, &id, one).await.expect("moved"));
        submit(store, &a, "t").await;
        let two = publish(store, &claim(store).await).await.version.version;
        let task = store.get_task(&a, &id).await.expect("found");
        assert_eq!((task.serving, task.desired), (Some(one), Some(two)));
        assert_eq!(store.pending_tasks().await.expect("asked").len(), 1);
        assert!(!store.move_serving(&a, &id, one).await.expect("asked"), "not desired any more");
        assert!(store.serving_failed(&a, &id, two, "not a number").await.expect("noted"));
        let task = store.get_task(&a, &id).await.expect("found");
        assert_eq!(task.serving_error.as_deref(), Some("not a number"));
        assert_eq!(task.serving, Some(one));
        let task = store.set_desired(&a, &id, &one.into(), &task.etag).await.expect("set");
        assert_eq!((task.serving, task.desired, task.serving_error), (Some(one), Some(one), None));
        assert!(store.pending_tasks().await.expect("asked").is_empty());
        assert!(!store.serving_failed(&a, &id, two, "late").await.expect("asked"));
        assert!(matches!(
            store.set_desired(&a, &id, &two.into(), "stale").await,
            Err(Error::EtagMismatch { .. })
        ));
        let task = store.get_task(&a, &id).await.expect("found");
        let none = frameshift::ids::AdapterVersion::new(9).expect("not 0");
        assert!(matches!(
            store.set_desired(&a, &id, &none.into(), &task.etag).await,
            Err(Error::NotFound { kind: Kind::Version, .. })
        ));
    }
}
