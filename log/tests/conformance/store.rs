//! What every projection store must do.

use std::sync::Arc;
use std::thread;

use mixlog_log::corfu::{
    Chain, Epoch, Instance, Member, Projection, ProjectionStore, Segment, SequencerNumber, StoreReply,
    StoreRequest, UnitNumber,
};
use mixlog_log::{LogId, Position};

/// Opens the store under test; each time the same one.
pub(crate) type Open<'a> = &'a (dyn Fn() -> Box<dyn ProjectionStore> + Sync);

/// The projection of an epoch; those of two makers differ.
pub(crate) fn projection(epoch: u64, maker: u64) -> Projection {
    let member = |unit| Member { unit: UnitNumber(unit), joined: Epoch(1) };
    Projection {
        log: LogId(1),
        epoch: Epoch(epoch),
        width: 8,
        tail: Position(1000 * epoch + maker),
        sequencer: Some((SequencerNumber(1), Instance(7))),
        segments: vec![Segment { first: Position(0), chains: vec![Chain::of(vec![member(1), member(2)])] }],
    }
}

pub(crate) fn epochs_are_installed_in_order_and_once(open: Open<'_>) {
    let store = open();
    assert!(store.latest().unwrap().is_none());
    assert!(!store.install(&projection(2, 1)).unwrap(), "epoch 1 comes first");
    assert!(store.latest().unwrap().is_none());
    assert!(store.install(&projection(1, 1)).unwrap());
    assert!(!store.install(&projection(1, 1)).unwrap());
    assert!(!store.install(&projection(3, 1)).unwrap());
    assert!(store.install(&projection(2, 2)).unwrap());
    assert!(!store.install(&projection(2, 1)).unwrap());
    assert!(!store.install(&projection(1, 1)).unwrap());
    assert_eq!(*store.latest().unwrap().unwrap(), projection(2, 2));
    let request = StoreRequest::Install(Arc::new(projection(2, 1)));
    let latest = StoreReply::Latest(Some(Arc::new(projection(2, 2))));
    assert_eq!(store.handle(&request).unwrap(), latest);
    let request = StoreRequest::Install(Arc::new(projection(3, 1)));
    assert_eq!(store.handle(&request).unwrap(), StoreReply::Installed);
    drop(store);
    assert_eq!(*open().latest().unwrap().unwrap(), projection(3, 1), "it is kept");
}

pub(crate) fn each_epoch_has_one_winner_of_many(open: Open<'_>) {
    let wins: Vec<u64> = thread::scope(|scope| {
        let racers = [1, 2, 3, 4].map(|racer| {
            scope.spawn(move || {
                let store = open();
                let mut wins = 0;
                for epoch in 1..=16 {
                    if store.install(&projection(epoch, racer)).unwrap() {
                        wins += 1;
                    }
                    // Whoever won: it is installed by now, and stays.
                    let latest = store.latest().unwrap().expect("somebody has won");
                    assert!(latest.epoch >= Epoch(epoch));
                }
                wins
            })
        });
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(open().latest().unwrap().unwrap().epoch, Epoch(16));
    assert_eq!(wins.iter().sum::<u64>(), 16, "each epoch was won once: {wins:?}");
}

pub(crate) fn first_name_of_a_log_stays(open: Open<'_>) {
    let named: Vec<LogId> = thread::scope(|scope| {
        let racers = [1, 2, 3, 4].map(|racer| scope.spawn(move || open().name(LogId(racer)).unwrap()));
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert!(named.iter().all(|log| *log == named[0] && (1..=4).contains(&log.0)), "{named:?}");
    assert_eq!(open().name(LogId(9)).unwrap(), named[0], "it is kept");
    let reply = open().handle(&StoreRequest::Name(LogId(9))).unwrap();
    assert_eq!(reply, StoreReply::Named(named[0]));
    assert!(open().latest().unwrap().is_none(), "a name is no projection");
}

pub(crate) fn log_with_projections_has_their_name(open: Open<'_>) {
    assert!(open().install(&projection(1, 1)).unwrap());
    assert_eq!(open().name(LogId(9)).unwrap(), LogId(1));
    assert_eq!(open().name(LogId(8)).unwrap(), LogId(1));
}
