//! Where a cluster is found: its projection store, and the address book beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::iter;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use thiserror::Error;

use crate::LogId;

#[cfg(feature = "etcd")]
use super::super::etcd::EtcdStore;
#[cfg(feature = "etcd")]
use super::super::store::ProjectionStore;
use super::super::store::StoreError;
use super::book::Listings;
use super::client::{NetError, open};
use super::frame::{FrameError, Header, Kind};
use super::outgoing::Outgoing;
use super::question::{self, Unanswered};
use super::wire::{self, BookRequest};

const SERVERS: &str = "corfu://";
const ETCD: &str = "corfu+etcd://";

/// The keys' prefix in etcd where none is given.
const PREFIX: &str = "mixlog";

/// Where a cluster is found, as a name that people write:
///
/// ```text
/// corfu://HOST:PORT[,HOST:PORT...]
/// corfu+etcd://[USER@]HOST:PORT[,HOST:PORT...][/PREFIX][?password=FILE&ca=FILE&cert=FILE&key=FILE]
/// ```
///
/// Secrets are named by files and do not stand in it, since it is printed, and given to other processes.
///
/// ```
/// use mixlog_log::corfu::Home;
///
/// let home: Home = "corfu+etcd://10.0.0.1:2379,10.0.0.2:2379/bank".parse()?;
/// assert!(matches!(&home, Home::Etcd { prefix, .. } if prefix == "bank"));
/// assert_eq!(home.to_string(), "corfu+etcd://10.0.0.1:2379,10.0.0.2:2379/bank");
/// # Ok::<(), mixlog_log::corfu::HomeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// A [`Server`](super::Server) of the projection store, each a host and a port; the first one that answers.
    Servers(Vec<String>),
    /// Keys in etcd. Reaching it needs the cargo feature `etcd`.
    Etcd {
        /// Where its members listen, each a host and a port.
        endpoints: Vec<String>,
        /// What all keys of the cluster begin with, without the slash that follows.
        prefix: String,
        /// As whom it is talked to, and how.
        access: EtcdAccess,
    },
}

/// What etcd wants to see of a client. The default is nothing, without TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdAccess {
    /// A user of etcd's, and the file with the password, whose end of line does not count.
    pub user: Option<(String, PathBuf)>,
    /// With TLS: the file with the certificates, in PEM, of those that are believed about who etcd is.
    pub ca: Option<PathBuf>,
    /// With TLS: the files with the client's own certificate and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdAccess {
    /// From a user's name and what follows the question mark; `None` if that makes no sense.
    fn parse(user: Option<&str>, options: Option<&str>) -> Option<Self> {
        let mut found: BTreeMap<&str, PathBuf> = BTreeMap::new();
        for option in options.into_iter().flat_map(|options| options.split('&')) {
            let (name, file) = option.split_once('=').filter(|(_, file)| !file.is_empty())?;
            let is_known = ["password", "ca", "cert", "key"].contains(&name);
            if !is_known || found.insert(name, file.into()).is_some() {
                return None;
            }
        }
        let user = match (user, found.remove("password")) {
            (None, None) => None,
            (Some(user), Some(password)) if !user.is_empty() => Some((user.to_owned(), password)),
            _ => return None,
        };
        let ca = found.remove("ca");
        let identity = match (found.remove("cert"), found.remove("key")) {
            (None, None) => None,
            (Some(cert), Some(key)) if ca.is_some() => Some((cert, key)),
            _ => return None,
        };
        Some(Self { user, ca, identity })
    }

    /// The files, by what they are called in a name.
    fn options(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [
            ("password", self.user.as_ref().map(|(_, password)| password)),
            ("ca", self.ca.as_ref()),
            ("cert", self.identity.as_ref().map(|(cert, _)| cert)),
            ("key", self.identity.as_ref().map(|(_, key)| key)),
        ];
        files.into_iter().filter_map(|(name, file)| file.map(|file| (name, file.as_path())))
    }
}

/// This names no cluster.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0} is no cluster: corfu://HOST:PORT[,HOST:PORT...] is, and corfu+etcd://[USER@]HOST:PORT[,HOST:PORT...][/PREFIX]\
     [?password=FILE&ca=FILE&cert=FILE&key=FILE]"
)]
pub struct HomeError(pub String);

impl Home {
    /// The home at these projection stores, each a host and a port.
    #[must_use]
    pub fn servers<S: ToString>(stores: &[S]) -> Self {
        Self::Servers(stores.iter().map(ToString::to_string).collect())
    }

    /// Whether `text` is meant to name a cluster, well or not.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SERVERS) || text.starts_with(ETCD)
    }
}

impl FromStr for Home {
    type Err = HomeError;

    fn from_str(text: &str) -> Result<Self, HomeError> {
        let refused = || HomeError(text.to_owned());
        if let Some(rest) = text.strip_prefix(SERVERS) {
            let stores = addresses(rest.trim_end_matches('/')).ok_or_else(refused)?;
            return Ok(Self::Servers(stores));
        }
        let rest = text.strip_prefix(ETCD).ok_or_else(refused)?;
        let (rest, options) =
            rest.split_once('?').map_or((rest, None), |(rest, options)| (rest, Some(options)));
        let (endpoints, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { PREFIX } else { prefix };
        let (user, endpoints) =
            endpoints.rsplit_once('@').map_or((None, endpoints), |(user, rest)| (Some(user), rest));
        let endpoints = addresses(endpoints).ok_or_else(refused)?;
        let access = EtcdAccess::parse(user, options).ok_or_else(refused)?;
        Ok(Self::Etcd { endpoints, prefix: prefix.to_owned(), access })
    }
}

/// Hosts and ports with commas between.
fn addresses(text: &str) -> Option<Vec<String>> {
    let is_address = |text: &&str| {
        text.rsplit_once(':').is_some_and(|(host, port)| {
            let in_host = |c: char| c.is_ascii_graphic() && c != '/' && c != '@';
            !host.is_empty() && host.chars().all(in_host) && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    };
    text.split(',').map(|text| Some(text).filter(is_address).map(str::to_owned)).collect()
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Servers(stores) => write!(f, "{SERVERS}{}", stores.join(",")),
            Self::Etcd { endpoints, prefix, access } => {
                f.write_str(ETCD)?;
                if let Some((user, _)) = &access.user {
                    write!(f, "{user}@")?;
                }
                write!(f, "{}/{prefix}", endpoints.join(","))?;
                for (before, (name, file)) in iter::once('?').chain(iter::repeat('&')).zip(access.options()) {
                    write!(f, "{before}{name}={}", file.display())?;
                }
                Ok(())
            }
        }
    }
}

/// A home that can be asked.
pub(super) enum Reached {
    Servers {
        stores: Vec<String>,
        /// The one that answered last.
        last: AtomicUsize,
        patience: Duration,
    },
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdStore>),
}

impl Reached {
    pub(super) fn open(home: &Home, patience: Duration) -> Result<Self, NetError> {
        match home {
            Home::Servers(stores) => {
                assert!(!stores.is_empty(), "a cluster is reached through a projection store");
                Ok(Self::Servers { stores: stores.clone(), last: AtomicUsize::new(0), patience })
            }
            #[cfg(feature = "etcd")]
            Home::Etcd { endpoints, prefix, access } => {
                Ok(Self::Etcd(Box::new(EtcdStore::connect(endpoints, prefix, access, patience)?)))
            }
            #[cfg(not(feature = "etcd"))]
            Home::Etcd { .. } => Err(NetError::NoEtcd),
        }
    }

    /// Asks about the address book; `log`: whose. Tells whose it is, if that is known.
    pub(super) fn ask(
        &self,
        log: Option<LogId>,
        request: &BookRequest,
    ) -> Result<(Listings, Option<LogId>), NetError> {
        match self {
            Self::Servers { stores, last, patience } => {
                let begin = last.load(Ordering::Relaxed);
                let mut failed = None;
                for n in begin..begin + stores.len() {
                    let n = n % stores.len();
                    match ask_server(&stores[n], log, request, *patience) {
                        Ok(answer) => {
                            last.store(n, Ordering::Relaxed);
                            return Ok(answer);
                        }
                        Err(error) => failed = Some(error),
                    }
                }
                Err(failed.expect("there is a store"))
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => {
                let latest = store.latest()?.map(|latest| latest.log);
                if let (Some(ours), Some(theirs)) = (log, latest)
                    && ours != theirs
                {
                    let reason = format!("here is log {theirs}, and not log {ours}");
                    return Err(NetError::Refused { address: "etcd".to_owned(), reason });
                }
                if let BookRequest::Announce(node, listing) = request {
                    store.announce(*node, *listing)?;
                }
                Ok((store.listings()?, latest))
            }
        }
    }

    /// A connection to the server that answered last.
    pub(super) fn connect(&self) -> Result<TcpStream, NetError> {
        match self {
            Self::Servers { stores, last, patience } => {
                let address = &stores[last.load(Ordering::Relaxed)];
                let unreachable = |source| NetError::Unreachable { address: address.clone(), source };
                open(address, *patience).map_err(unreachable)
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => unreachable!("etcd is asked by its own thread"),
        }
    }
}

/// Asks one store about the address book.
fn ask_server(
    store: &str,
    log: Option<LogId>,
    request: &BookRequest,
    patience: Duration,
) -> Result<(Listings, Option<LogId>), NetError> {
    let address = store.to_owned();
    let unreachable = |source| NetError::Unreachable { address: address.clone(), source };
    let stranger = |flaw| NetError::Stranger { address: address.clone(), flaw };
    let stream = open(store, patience).map_err(unreachable)?;
    let header = Header { kind: Kind::BookRequest, log, request: 1, number: 0 };
    let put = |out: &mut Outgoing| wire::put_book_request(out, request);
    let answer = question::ask(stream, header, put, patience, |header, body| match header.kind {
        Kind::BookReply => Ok((wire::listings(body).map_err(stranger)?, header.log)),
        Kind::Failed => {
            let reason = format!("{address}: {}", question::said(&body));
            Err(NetError::Store(StoreError::Io(io::Error::other(reason))))
        }
        Kind::Refused => Err(NetError::Refused { address: address.clone(), reason: question::said(&body) }),
        _ => Err(stranger(FrameError::Body)),
    });
    answer.unwrap_or_else(|unanswered| {
        Err(match unanswered {
            Unanswered::Io(error) => unreachable(error),
            Unanswered::Frame(flaw) => stranger(flaw),
        })
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_of_clusters_are_read_as_they_are_written() {
        let etcd = |endpoints: &[&str], prefix: &str| Home::Etcd {
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            prefix: prefix.to_owned(),
            access: EtcdAccess::default(),
        };
        let guarded = Home::Etcd {
            endpoints: vec!["a:1".to_owned(), "b:2".to_owned()],
            prefix: "bank".to_owned(),
            access: EtcdAccess {
                user: Some(("ada".to_owned(), "/run/password".into())),
                ca: Some("ca.pem".into()),
                identity: Some(("cert.pem".into(), "key.pem".into())),
            },
        };
        let known = Home::Etcd {
            endpoints: vec!["a:1".to_owned()],
            prefix: "mixlog".to_owned(),
            access: EtcdAccess { ca: Some("/etc/ca.pem".into()), ..EtcdAccess::default() },
        };
        let cases = [
            ("corfu://a:1", Home::servers(&["a:1"])),
            ("corfu://10.0.0.1:4500,[::1]:4501/", Home::servers(&["10.0.0.1:4500", "[::1]:4501"])),
            ("corfu+etcd://a:2379", etcd(&["a:2379"], "mixlog")),
            ("corfu+etcd://a:2379/", etcd(&["a:2379"], "mixlog")),
            ("corfu+etcd://a:1,b:2/prod/bank/", etcd(&["a:1", "b:2"], "prod/bank")),
            ("corfu+etcd://a:1?ca=/etc/ca.pem", known),
            (
                "corfu+etcd://ada@a:1,b:2/bank?key=key.pem&cert=cert.pem&ca=ca.pem&password=/run/password",
                guarded,
            ),
        ];
        for (text, home) in cases {
            assert_eq!(text.parse(), Ok(home.clone()), "{text}");
            assert_eq!(home.to_string().parse(), Ok(home), "{text}");
        }
    }

    #[test]
    fn names_of_no_cluster_are_refused() {
        for text in [
            "",
            "corfu://",
            "corfu://host",
            "corfu://host:",
            "corfu://:4500",
            "corfu://host:65536",
            "corfu://host:0",
            "corfu://a:1,,b:2",
            "corfu://a:1/prefix",
            "corfu+etcd://",
            "corfu+etcd:///prefix",
            "corfu+etcd://a b:1",
            "corfu+etcd://ada@a:1",
            "corfu+etcd://@a:1?password=p",
            "corfu+etcd://a:1?password=p",
            "corfu+etcd://a:1?cert=c&key=k",
            "corfu+etcd://a:1?ca=a&key=k",
            "corfu+etcd://a:1?ca=",
            "corfu+etcd://a:1?ca=a&ca=b",
            "corfu+etcd://a:1?insecure=yes",
            "corfu+etcd://a:1?",
            "http://a:1",
        ] {
            assert_eq!(text.parse::<Home>(), Err(HomeError(text.to_owned())));
        }
    }
}
