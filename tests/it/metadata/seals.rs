//! The key of page tokens: all servers of the same records have one.

use frameshift::spec::Digest;

use super::contract;

contract! {
    async fn the_first_key_of_page_tokens_stays_whatever_is_proposed_later(store: Store) {
        let proposals = (1..=8).map(|byte| Digest([byte; 32]));
        let racing = proposals.map(|proposal| store.page_key(proposal));
        let keys: Vec<Digest> = futures::future::try_join_all(racing).await.expect("keys");
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        let later = store.page_key(Digest([9; 32])).await.expect("a key");
        assert_eq!(later, keys[0]);
    }
}
