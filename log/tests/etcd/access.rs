//! An etcd that does not let everybody in: TLS with certificates for both sides, and users with passwords.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use etcd_client::{Client, Permission};
use mixlog_log::corfu::{EtcdAccess, EtcdStore, Home, ProjectionStore};
use mixlog_log::{Durability, Position, SharedLog};

use crate::Shared;
use crate::contract::projection;
use crate::server::{Etcd, Tls};
use crate::subject::PATIENCE;
use crate::suite::{append, read_all};
use crate::tcp::TcpLog;

fn openssl(directory: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.current_dir(directory).args(arguments.split(' ')).stdin(Stdio::null());
    let output = command.output().expect("openssl is installed");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// One who vouches for others.
fn authority(directory: &Path, name: &str) -> PathBuf {
    openssl(
        directory,
        &format!("req -x509 {KEY} -days 2 -keyout {name}.key -out {name}.pem -subj /CN={name}"),
    );
    directory.join(format!("{name}.pem"))
}

/// Somebody for whom `authority` vouches.
fn identity(directory: &Path, name: &str, authority: &str) -> (PathBuf, PathBuf) {
    openssl(directory, &format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
    let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
    fs::write(directory.join("extensions"), extensions).unwrap();
    openssl(
        directory,
        &format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 2 \
             -extfile extensions -out {name}.pem"
        ),
    );
    (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")))
}

/// A log on a cluster that is found there works.
fn assert_works(endpoint: String, access: &EtcdAccess) {
    let home =
        Home::Etcd { endpoints: vec![endpoint], prefix: "bank/log".to_owned(), access: access.clone() };
    // As it is written on a command line.
    let home: Home = home.to_string().parse().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = TcpLog::open(&home, directory.path(), Durability::Memory, Box::new(()));
    assert_eq!(append(&log, &[b"an entry"]), Position(0));
    assert_eq!(read_all(&log, Position(0)).len(), 1);
    assert_eq!(log.tail().unwrap().tail, Position(1));
}

pub(crate) fn store_behind_tls_is_reached_with_certificates_and_not_without(_: &Shared) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let [ours, theirs] = ["ours", "theirs"].map(|name| authority(path, name));
    let access = |ca: &PathBuf, identity| EtcdAccess { user: None, ca: Some(ca.clone()), identity };
    let client = identity(path, "client", "ours");
    let tls = Tls {
        server: access(&ours, Some(identity(path, "server", "ours"))),
        client: access(&ours, Some(client.clone())),
    };
    let etcd = Etcd::members(1, Some(&tls)).pop().unwrap();
    assert_works(etcd.endpoint(), &tls.client);

    let connect = |access: &EtcdAccess| {
        EtcdStore::connect(&[etcd.endpoint()], "bank", access, Duration::from_secs(2)).map(drop)
    };
    connect(&tls.client).unwrap();
    for (what, access) in [
        ("no TLS", EtcdAccess::default()),
        ("no certificate", access(&ours, None)),
        ("somebody else's certificate", access(&ours, Some(identity(path, "stranger", "theirs")))),
        ("an authority that does not know etcd", access(&theirs, Some(client))),
    ] {
        let error = connect(&access).expect_err(what);
        assert!(error.to_string().contains(&etcd.endpoint()), "{what}: {error}");
    }
    let error = connect(&access(&path.join("nothing.pem"), None)).unwrap_err();
    assert!(error.to_string().contains("nothing.pem"), "{error}");
}

pub(crate) fn store_with_users_is_reached_with_a_password_and_not_without(_: &Shared) {
    let etcd = Etcd::start();
    let set_up = async {
        let mut client = Client::connect([etcd.endpoint()], None).await?;
        client.user_add("root", "of all evil", None).await?;
        client.role_add("root").await?;
        client.user_grant_role("root", "root").await?;
        client.user_add("ada", "s3cret: with, signs@", None).await?;
        client.role_add("bank").await?;
        let all = Permission::read_write("bank/").with_prefix();
        client.role_grant_permission("bank", all).await?;
        client.user_grant_role("ada", "bank").await?;
        client.auth_enable().await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(set_up).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let password = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        EtcdAccess { user: Some(("ada".to_owned(), path)), ..EtcdAccess::default() }
    };
    let ada = password("right", "s3cret: with, signs@\n");
    assert_works(etcd.endpoint(), &ada);

    let connect =
        |access: &EtcdAccess, prefix: &str| EtcdStore::connect(&[etcd.endpoint()], prefix, access, PATIENCE);
    let store = connect(&ada, "bank/2").unwrap();
    assert!(store.install(&projection(1, 1)).unwrap());
    for (what, access, prefix) in [
        ("no user", &EtcdAccess::default(), "bank/2"),
        ("a wrong password", &password("wrong", "secret"), "bank/2"),
        ("other keys", &ada, "safe"),
    ] {
        let error = connect(access, prefix).map(drop).expect_err(what);
        assert!(error.to_string().contains(&etcd.endpoint()), "{what}: {error}");
    }
    assert_eq!(*store.latest().unwrap().unwrap(), projection(1, 1));
}
