//! The projection store in a real etcd. Where there is none, every test is named as ignored; on CI that is a
//! failure.
//!
//! Whether they can run is known when they are run, so this has a harness of its own, which behaves like the
//! usual one.

mod access;
mod cluster;
#[path = "../conformance/store.rs"]
mod contract;
mod server;
mod store;
#[path = "../conformance/subject.rs"]
mod subject;
#[path = "../conformance/suite.rs"]
mod suite;
#[path = "../conformance/tcp.rs"]
mod tcp;
#[path = "../support/trials.rs"]
mod trials;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::Trial;
use mixlog_log::corfu::{EtcdAccess, EtcdStore, Home};
use mixlog_log::{Durability, SharedLog};

use crate::server::Etcd;
use crate::subject::Subject;
use crate::tcp::TcpLog;

/// The etcd that most tests share, each with a prefix of its own; started by the first one.
type Shared = Arc<OnceLock<Etcd>>;

fn etcd(shared: &Shared) -> &Etcd {
    shared.get_or_init(Etcd::start)
}

/// A cluster's home in it.
fn home(etcd: &Etcd, prefix: &str) -> Home {
    let access = EtcdAccess::default();
    Home::Etcd { endpoints: vec![etcd.endpoint()], prefix: prefix.to_owned(), access }
}

/// A log whose cluster is found in etcd, opened again on what is there.
fn subject(shared: &Shared, prefix: String, durability: Durability) -> Subject {
    let shared = Arc::clone(shared);
    let directory = tempfile::tempdir().unwrap();
    let open = move || -> Arc<dyn SharedLog> {
        let home = home(etcd(&shared), &prefix);
        Arc::new(TcpLog::open(&home, directory.path(), durability, Box::new(())))
    };
    let log = Some(open());
    // What units in memory had is gone with them.
    let reopen = (durability != Durability::Memory).then(|| Box::new(open) as Box<_>);
    let (batch_bytes, batch_entries) = (Some(tcp::config(durability).max_batch_bytes), Some(tcp::WIDTH));
    Subject { dense: false, batch_bytes, batch_entries, log, reopen }
}

fn trials(shared: &Shared) -> Vec<Trial> {
    let mut trials = Vec::new();
    macro_rules! trial {
        ($name:expr, $run:expr) => {{
            let shared = Arc::clone(shared);
            trials.push(Trial::test($name, move || {
                $run(&shared);
                Ok(())
            }));
        }};
    }
    macro_rules! conformance {
        ($($test:ident)*) => {$(
            for durability in [Durability::Memory, Durability::Flushed] {
                let name = format!("conformance::{durability}::{}", stringify!($test));
                let prefix = name.clone();
                trial!(name, |shared: &Shared| suite::$test(subject(shared, prefix, durability)));
            }
        )*};
    }
    macro_rules! tests {
        ($($module:ident::$test:ident)*) => {$(
            trial!(concat!(stringify!($module), "::", stringify!($test)), $module::$test);
        )*};
    }
    suite::for_all_checks!(conformance);
    tests! {
        store::epochs_are_installed_in_order_and_once
        store::raced_by_many_has_one_winner_for_each_epoch
        store::first_name_of_a_log_stays
        store::log_with_projections_has_their_name
        store::etcd_killed_and_started_again_keeps_what_was_installed
        store::etcd_that_is_down_or_silent_is_an_error_that_names_it
        store::endpoints_that_are_dead_or_silent_are_passed_over
        store::keys_that_others_wrote_are_refused
        store::prefixes_are_clusters_of_their_own
        store::role_of_another_log_is_refused
        cluster::appends_go_on_while_etcd_is_down_and_changes_when_it_is_back
        cluster::unit_killed_is_replaced_and_nothing_is_lost
        cluster::two_drivers_at_once_make_one_projection_for_each_epoch
        cluster::members_killed_one_by_one_lose_no_projection_while_epochs_change
        access::store_behind_tls_is_reached_with_certificates_and_not_without
        access::store_with_users_is_reached_with_a_password_and_not_without
    }
    trials
}

fn main() -> ExitCode {
    let shared = Shared::default();
    let missing =
        (!Etcd::is_installed()).then_some("there is no etcd to test with: install Debian's etcd-server");
    let code = trials::run(trials(&shared), missing);
    // Trials are gone, and with this the last owner of the etcd: nothing runs on when this process has ended.
    drop(shared);
    code
}
