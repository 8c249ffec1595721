//! The store by itself.

use std::net::TcpListener;
use std::time::Duration;

use mixlog_log::corfu::{self, Epoch, EtcdAccess, EtcdStore, Flaw, Listing, NetError, Node, ProjectionStore};
use mixlog_log::corfu::{StoreError, Timing, UnitNumber};
use mixlog_log::{Durability, LogId};
use rustix::process::Signal;

use crate::contract::{self, projection};
use crate::server::Etcd;
use crate::subject::PATIENCE;
use crate::{Shared, etcd, home};

/// Nothing is asked for.
const NOTHING: EtcdAccess = EtcdAccess { user: None, ca: None, identity: None };

fn open(etcd: &Etcd, prefix: &str) -> EtcdStore {
    EtcdStore::connect(&[etcd.endpoint()], prefix, &NOTHING, PATIENCE).unwrap()
}

pub(crate) fn epochs_are_installed_in_order_and_once(shared: &Shared) {
    contract::epochs_are_installed_in_order_and_once(&|| Box::new(open(etcd(shared), "in-order")));
}

pub(crate) fn raced_by_many_has_one_winner_for_each_epoch(shared: &Shared) {
    contract::each_epoch_has_one_winner_of_many(&|| Box::new(open(etcd(shared), "raced")));
}

pub(crate) fn first_name_of_a_log_stays(shared: &Shared) {
    contract::first_name_of_a_log_stays(&|| Box::new(open(etcd(shared), "named")));
}

pub(crate) fn log_with_projections_has_their_name(shared: &Shared) {
    contract::log_with_projections_has_their_name(&|| Box::new(open(etcd(shared), "has-name")));
}

pub(crate) fn etcd_killed_and_started_again_keeps_what_was_installed(_: &Shared) {
    let mut etcd = Etcd::start();
    let store = open(&etcd, "log");
    assert!(store.install(&projection(1, 1)).unwrap());
    etcd.kill();
    let error = store.install(&projection(2, 1)).unwrap_err();
    assert!(matches!(error, StoreError::Io(_)), "{error}");
    etcd.restart();
    // The same store finds it again.
    assert_eq!(*store.latest().unwrap().unwrap(), projection(1, 1));
    assert!(store.install(&projection(2, 2)).unwrap());
    assert!(!store.install(&projection(2, 1)).unwrap());
    assert_eq!(*open(&etcd, "log").latest().unwrap().unwrap(), projection(2, 2));
}

pub(crate) fn etcd_that_is_down_or_silent_is_an_error_that_names_it(_: &Shared) {
    let mut etcd = Etcd::start();
    let patience = Duration::from_millis(500);
    let store = EtcdStore::connect(&[etcd.endpoint()], "log", &NOTHING, patience).unwrap();
    let listing = Listing { address: ([127, 0, 0, 1], 1).into(), durability: None };
    let node = Node::Unit(UnitNumber(1));
    let assert_all_fail = || {
        let errors = [
            store.latest().unwrap_err(),
            store.install(&projection(1, 1)).unwrap_err(),
            store.listings().unwrap_err(),
            store.announce(node, listing).unwrap_err(),
            EtcdStore::connect(&[etcd.endpoint()], "log", &NOTHING, patience).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains(&etcd.endpoint()), "{error}");
        }
    };
    etcd.signal(Signal::STOP);
    assert_all_fail();
    etcd.signal(Signal::CONT);
    // A write that was given up may have been made later.
    let waited = EtcdStore::connect(&[etcd.endpoint()], "log", &NOTHING, PATIENCE).unwrap();
    assert!(waited.latest().unwrap().is_none_or(|latest| *latest == projection(1, 1)));
    etcd.kill();
    let error = store.latest().unwrap_err();
    assert!(error.to_string().contains(&etcd.endpoint()), "{error}");
    let error = EtcdStore::connect(&[etcd.endpoint()], "log", &NOTHING, patience).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

pub(crate) fn endpoints_that_are_dead_or_silent_are_passed_over(shared: &Shared) {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    // Connections wait for somebody to take them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (silent.local_addr().unwrap().to_string(), silent);
    let endpoints = [dead, silent.0, etcd(shared).endpoint()];
    let store = EtcdStore::connect(&endpoints, "passed-over", &NOTHING, Duration::from_secs(6)).unwrap();
    assert!(store.install(&projection(1, 1)).unwrap());
    assert_eq!(*store.latest().unwrap().unwrap(), projection(1, 1));
}

/// Writes a key as somebody else would.
fn put(etcd: &Etcd, key: &str, value: Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
        client.put(key, value, None).await.unwrap();
    });
}

pub(crate) fn keys_that_others_wrote_are_refused(shared: &Shared) {
    let etcd = etcd(shared);
    let is_foreign = |prefix: &str, at: &str| {
        let error = EtcdStore::connect(&[etcd.endpoint()], prefix, &NOTHING, PATIENCE).unwrap_err();
        assert!(matches!(&error, StoreError::Foreign { key } if key == at), "{error}");
    };
    put(etcd, "no-number/latest", b"the first".to_vec());
    is_foreign("no-number", "no-number/latest");
    put(etcd, "nowhere/latest", b"3".to_vec());
    is_foreign("nowhere", "nowhere/projection/0000000000000003");

    let store = open(etcd, "damaged");
    assert!(store.install(&projection(1, 1)).unwrap());
    let mut bytes = projection(1, 1).encode();
    bytes[40] ^= 1;
    put(etcd, "damaged/projection/0000000000000001", bytes);
    let error = store.latest().unwrap_err();
    assert!(matches!(error, StoreError::Damaged { epoch: Epoch(1), flaw: Flaw::Checksum }), "{error}");

    // Of listings, those that are none are passed over.
    let listing = Listing { address: ([127, 0, 0, 1], 4711).into(), durability: Some(Durability::Flushed) };
    store.announce(Node::Unit(UnitNumber(3)), listing).unwrap();
    put(etcd, "damaged/address/unit-4", vec![0xff; 9]);
    put(etcd, "damaged/address/somebody", b"127.0.0.1:1".to_vec());
    let listings = store.listings().unwrap();
    assert_eq!(listings.into_iter().collect::<Vec<_>>(), [(Node::Unit(UnitNumber(3)), listing)]);
}

pub(crate) fn prefixes_are_clusters_of_their_own(shared: &Shared) {
    // One begins like the other.
    let [one, other] = ["bank", "bank-2"].map(|prefix| open(etcd(shared), prefix));
    let listing = Listing { address: ([127, 0, 0, 1], 4711).into(), durability: None };
    assert!(one.install(&projection(1, 1)).unwrap());
    assert!(other.latest().unwrap().is_none());
    assert!(other.install(&projection(1, 2)).unwrap());
    other.announce(Node::Unit(UnitNumber(3)), listing).unwrap();
    assert!(one.listings().unwrap().is_empty());
    assert_eq!(*one.latest().unwrap().unwrap(), projection(1, 1));
}

pub(crate) fn role_of_another_log_is_refused(shared: &Shared) {
    let home = home(etcd(shared), "other-log");
    assert!(open(etcd(shared), "other-log").install(&projection(1, 1)).unwrap());
    let listing = Listing { address: ([127, 0, 0, 1], 4711).into(), durability: None };
    let node = Node::Unit(UnitNumber(3));
    let announce = |log| corfu::announce(&home, log, node, listing, &Timing::default());
    let error = announce(Some(LogId(2))).unwrap_err();
    assert!(matches!(error, NetError::Refused { .. }), "{error}");
    assert_eq!(announce(Some(LogId(1))).unwrap(), Some(LogId(1)));
}
