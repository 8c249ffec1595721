//! Who is connected to a server, and who must go when there are too many.
//!
//! A connection that is open costs one or two threads, so there are only so many. Nobody is asked who he is: what is
//! known of a peer is what he sent. When another one comes and all places are taken, one is closed: the oldest of
//! those that have not sent a single frame yet, or else the one that was used the longest time ago. One is spared as
//! long as it is at work: part of a frame has come from a peer that has sent a whole one, a request is not answered, or
//! the answer is not written. If all are at work, it is the new one that is closed.
//!
//! A client whose connection was closed opens another with its next request. If that was on its way just then, it is
//! lost, as with any connection that breaks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::writer::Writer;

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// The connections of a server.
pub(super) struct Connections {
    at_most: usize,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    /// How often any connection was used.
    uses: AtomicU64,
}

/// A connection that is served.
pub(super) struct Connection {
    pub(super) writer: Writer,
    /// The number of its last use; 0 until the first whole frame has come. Whoever looks for one to close may see an
    /// earlier one, and then closes another one: so all of this is relaxed.
    used: AtomicU64,
    /// How many reasons there are to spare it.
    at_work: AtomicUsize,
}

/// A reason to spare a connection, until it is dropped.
pub(super) struct AtWork(Arc<Connection>);

impl Connections {
    /// At most so many.
    pub(super) fn new(at_most: usize) -> Self {
        Self { at_most, open: Mutex::default(), uses: AtomicU64::new(0) }
    }

    /// Takes a connection in, if there is a place or one can be made. The older one has the lower number.
    pub(super) fn open(&self, number: u64, writer: Writer) -> Option<Arc<Connection>> {
        let mut open = self.open.lock().expect(UNPOISONED);
        if open.len() >= self.at_most {
            let idle = open.iter().filter(|(_, connection)| connection.is_idle());
            let (&longest, _) = idle.min_by_key(|(number, connection)| (connection.used(), **number))?;
            open.remove(&longest).expect("it was just there").writer.close();
        }
        let connection =
            Arc::new(Connection { writer, used: AtomicU64::new(0), at_work: AtomicUsize::new(0) });
        open.insert(number, Arc::clone(&connection));
        Some(connection)
    }

    /// A connection has ended.
    pub(super) fn ended(&self, number: u64) {
        self.open.lock().expect(UNPOISONED).remove(&number);
    }

    /// A whole frame has come on this one, now.
    pub(super) fn used(&self, connection: &Connection) {
        connection.used.store(self.uses.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Ends all of them.
    pub(super) fn close(&self) {
        for connection in self.open.lock().expect(UNPOISONED).values() {
            connection.writer.close();
        }
    }
}

impl Connection {
    /// Spares it from now on.
    pub(super) fn at_work(self: &Arc<Self>) -> AtWork {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(Arc::clone(self))
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Part of a first frame is no work: strangers send that, too.
    fn is_idle(&self) -> bool {
        self.used() == 0 || (self.at_work.load(Ordering::Relaxed) == 0 && self.writer.is_idle())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::ops::Deref for AtWork {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    /// Places for three, and a listener for who comes.
    struct Crowd {
        connections: Connections,
        listener: TcpListener,
        came: u64,
    }

    impl Crowd {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            Self { connections: Connections::new(3), listener, came: 0 }
        }

        /// The peer's end, and ours, if it is taken in.
        fn come(&mut self) -> (TcpStream, Option<Arc<Connection>>) {
            let peer = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            peer.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            self.came += 1;
            let (stream, _) = self.listener.accept().unwrap();
            (peer, self.connections.open(self.came, Writer::new(stream)))
        }
    }

    fn is_closed(mut peer: &TcpStream) -> bool {
        matches!(peer.read(&mut [0]), Ok(0))
    }

    #[test]
    fn who_has_sent_nothing_goes_first_and_then_who_was_idle_the_longest() {
        let mut crowd = Crowd::new();
        let [(one, first), (two, second), (three, third)] = [(); 3].map(|()| crowd.come());
        crowd.connections.used(&first.unwrap());
        let third = third.unwrap();
        crowd.connections.used(&third);
        let (four, fourth) = crowd.come();
        assert!(is_closed(&two) && !is_closed(&one) && !is_closed(&three));
        drop(second);
        crowd.connections.used(&fourth.unwrap());
        crowd.connections.used(&third);
        let (five, fifth) = crowd.come();
        assert!(is_closed(&one) && !is_closed(&three) && !is_closed(&four));
        crowd.connections.used(&fifth.unwrap());
        let (_six, _sixth) = crowd.come();
        assert!(is_closed(&four) && !is_closed(&three) && !is_closed(&five));
    }

    #[test]
    fn who_is_at_work_is_spared_and_where_all_are_the_new_one_goes() {
        let mut crowd = Crowd::new();
        let came = [(); 3].map(|()| crowd.come());
        let mut at_work: Vec<AtWork> = came
            .iter()
            .map(|(_, connection)| {
                let connection = connection.as_ref().unwrap();
                crowd.connections.used(connection);
                connection.at_work()
            })
            .collect();
        let (stranger, none) = crowd.come();
        assert!(none.is_none() && is_closed(&stranger));
        // The one that was used last.
        drop(at_work.pop());
        assert!(crowd.come().1.is_some());
        assert_eq!(came.each_ref().map(|(peer, _)| is_closed(peer)), [false, false, true]);
    }

    #[test]
    fn part_of_a_first_frame_is_no_work() {
        let mut crowd = Crowd::new();
        let came = [(); 3].map(|()| crowd.come());
        let _at_work: Vec<_> = came.iter().map(|(_, it)| it.as_ref().unwrap().at_work()).collect();
        assert!(crowd.come().1.is_some());
        assert_eq!(came.each_ref().map(|(peer, _)| is_closed(peer)), [true, false, false]);
    }

    #[test]
    fn answer_that_is_not_written_is_work() {
        let mut crowd = Crowd::new();
        let came = [(); 3].map(|()| crowd.come());
        for (_, connection) in &came {
            crowd.connections.used(connection.as_ref().unwrap());
        }
        came[0].1.as_ref().unwrap().writer.add(|out| out.push(1));
        assert!(crowd.come().1.is_some());
        assert_eq!(came.each_ref().map(|(peer, _)| is_closed(peer)), [false, true, false]);
    }
}
