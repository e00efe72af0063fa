//! Files that change under an open cache, and what a child process has of its parent's.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::made::*;
use crate::support::capi::*;
use crate::support::dir::TempDir;
use crate::support::server::{self, Server, Setup};
use crate::support::{patient, poll};
use crate::{OK, refused, trusting, url};

/// Two authorities, each with a server and a client of its own; the files that server and client use are copies.
struct Renewals {
    made: Made,
}

impl Renewals {
    fn new() -> Self {
        let made = Made::new();
        for n in [1, 2] {
            let ca = made.authority(&format!("ca{n}"), P256);
            assert!(ca.cert.exists());
            for role in ["server", "client"] {
                made.certificate(&format!("{role}{n}"), &format!("ca{n}"), P256, Version::Three);
            }
        }
        let renewals = Self { made };
        renewals.server_uses(1);
        renewals.client_uses(1);
        renewals
    }

    fn server_uses(&self, n: u32) {
        self.made.put(&self.made.pair(&format!("ca{n}")), "server-ca");
        self.made.put(&self.made.pair(&format!("server{n}")), "server");
    }

    fn client_uses(&self, n: u32) {
        self.made.put(&self.made.pair(&format!("ca{n}")), "ca");
        self.made.put(&self.made.pair(&format!("client{n}")), "client");
    }

    fn serve(&self) -> Server {
        let (own, ca) = (self.made.pair("server"), self.made.pair("server-ca"));
        Setup::redis().tls(&own, Some(&ca)).start()
    }

    fn options(&self) -> String {
        let client = self.made.pair("client");
        let (cert, key) = (client.cert.display(), client.key.display());
        let ca = trusting(&self.made.pair("ca").cert);
        format!("{ca}&ssl_certfile={cert}&ssl_keyfile={key}")
    }

    fn open(&self, server: &Server) -> Cache {
        let cache = Cache::must_open(&patient(&url(server, &self.options())));
        assert_eq!(cache.set("key", "value"), OK);
        cache
    }
}

/// A call over a new connection, for the server has closed the old.
#[track_caller]
fn goes_on(cache: &Cache, server: &Server) {
    server.restart();
    assert_eq!(cache.get("key"), Ok(None));
}

#[test]
fn renewed_certificates_are_read() {
    let renewals = Renewals::new();
    let server = renewals.serve();
    let cache = renewals.open(&server);
    for n in [2, 1, 2] {
        renewals.client_uses(n);
        renewals.server_uses(n);
        goes_on(&cache, &server);
    }
}

#[test]
fn a_client_certificate_may_be_renewed_alone() {
    let renewals = Renewals::new();
    let server = renewals.serve();
    let cache = renewals.open(&server);
    // The server is still who it was, and takes clients of another authority now.
    let made = &renewals.made;
    copy(&made.pair("ca2").cert, &made.pair("server-ca").cert);
    server.restart();
    let failure = cache.get("key").unwrap_err();
    assert_eq!(failure.status, CACHETORY_ERR_TLS, "{failure:?}");
    made.put(&made.pair("client2"), "client");
    assert_eq!(cache.get("key"), Ok(None));
}

#[test]
fn the_old_stay_in_use_while_the_new_cannot_be_read() {
    let renewals = Renewals::new();
    let server = renewals.serve();
    let cache = renewals.open(&server);
    let made = &renewals.made;
    let (ca, client) = (made.pair("ca").cert, made.pair("client"));
    let whole = fs::read(&ca).unwrap();
    for file in [&ca, &client.cert, &client.key] {
        let half = fs::read(file).unwrap();
        for text in [&half[..half.len() / 2], &b""[..], b"nothing of use"] {
            fs::write(file, text).unwrap();
            goes_on(&cache, &server);
        }
        fs::remove_file(file).unwrap();
        goes_on(&cache, &server);
        fs::create_dir(file).unwrap();
        goes_on(&cache, &server);
        fs::remove_dir(file).unwrap();
    }
    // One half of a pair is not enough.
    fs::write(&ca, whole).unwrap();
    made.put(&made.pair("client1"), "client");
    copy(&made.pair("client2").key, &client.key);
    goes_on(&cache, &server);
    renewals.server_uses(2);
    renewals.client_uses(2);
    goes_on(&cache, &server);
}

/// As Kubernetes replaces what is mounted: by a link of which all others are made.
#[test]
fn files_may_be_replaced_through_links() {
    let renewals = Renewals::new();
    let made = &renewals.made;
    let server = renewals.serve();
    for n in [1, 2] {
        let folder = made.path(&format!("..{n}"));
        fs::create_dir(&folder).unwrap();
        copy(&made.pair(&format!("ca{n}")).cert, &folder.join("ca.pem"));
        copy(&made.pair(&format!("client{n}")).cert, &folder.join("client.pem"));
        copy(&made.pair(&format!("client{n}")).key, &folder.join("client.key"));
    }
    symlink("..1", made.path("..data")).unwrap();
    for name in ["ca.pem", "client.pem", "client.key"] {
        fs::remove_file(made.path(name)).unwrap();
        symlink(Path::new("..data").join(name), made.path(name)).unwrap();
    }
    let cache = renewals.open(&server);
    symlink("..2", made.path("..new")).unwrap();
    fs::rename(made.path("..new"), made.path("..data")).unwrap();
    renewals.server_uses(2);
    goes_on(&cache, &server);
}

#[test]
fn a_folder_of_authorities_is_read_again() {
    let renewals = Renewals::new();
    let made = &renewals.made;
    let server = renewals.serve();
    let folder = made.path("authorities");
    fs::create_dir(&folder).unwrap();
    let first = folder.join("first.pem");
    copy(&made.pair("ca1").cert, &first);
    // What is no file is left alone: nobody ever writes to this one.
    assert!(Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap().success());
    let client = made.pair("client");
    let shown =
        format!("ssl_certfile={}&ssl_keyfile={}", client.cert.display(), client.key.display());
    let options = format!("ssl_ca_path={}&{shown}", folder.display());
    let cache = Cache::must_open(&patient(&url(&server, &options)));
    assert_eq!(cache.set("key", "value"), OK);
    // What is half written is as it was.
    let whole = fs::read(&first).unwrap();
    fs::write(&first, &whole[..whole.len() / 2]).unwrap();
    goes_on(&cache, &server);
    // One more.
    copy(&made.pair("ca2").cert, &folder.join("second.pem"));
    made.put(&made.pair("server2"), "server");
    goes_on(&cache, &server);
    // What is gone is not trusted any more.
    fs::remove_file(folder.join("second.pem")).unwrap();
    server.restart();
    let failure = cache.get("key").unwrap_err();
    assert!(failure.message.contains("not trusted"), "{failure:?}");
}

#[test]
fn what_could_not_be_read_at_first_is_tried_again() {
    let renewals = Renewals::new();
    let server = renewals.serve();
    let ca = renewals.made.pair("ca").cert;
    let elsewhere = ca.with_extension("elsewhere");
    fs::rename(&ca, &elsewhere).unwrap();
    let url = url(&server, &renewals.options());
    refused(&url, &["ca.pem"]);
    let cache = Cache::must_open(&url);
    assert_eq!(cache.ping().unwrap_err().status, CACHETORY_ERR_TLS);
    fs::rename(&elsewhere, &ca).unwrap();
    assert_eq!(cache.ping(), OK);
}

/// What a child process came to, which is 0 where its own assertions hold.
fn in_child(body: impl FnOnce() + std::panic::UnwindSafe) {
    // SAFETY: the child runs `body` and ends; what it uses of the library is made for that.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        let ended = std::panic::catch_unwind(body);
        // SAFETY: nothing of the parent's is to be run.
        unsafe { libc::_exit(i32::from(ended.is_err())) };
    }
    let mut status = 0;
    // SAFETY: a child of ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child failed");
}

/// A worker that has given up the right to its files, as far as a test of any user can have one: they are gone.
#[test]
fn a_child_inherits_what_its_parent_read() {
    let renewals = Renewals::new();
    let server = renewals.serve();
    let cache = renewals.open(&server);
    let away = TempDir::new();
    let files = ["ca.pem", "client.pem", "client.key"];
    let made = &renewals.made;
    for name in files {
        fs::rename(made.path(name), away.join(name)).unwrap();
    }
    let value = Ok(Some(b"value".to_vec()));
    let cache = std::panic::AssertUnwindSafe(&cache);
    in_child(|| {
        assert_eq!(cache.get("key"), value);
        in_child(|| assert_eq!(cache.get("key"), value));
    });
    // A grandchild whose parent made no call.
    in_child(|| in_child(|| assert_eq!(cache.get("key"), value)));
    // What is renewed is read by the child too.
    renewals.client_uses(2);
    renewals.server_uses(2);
    server.restart();
    in_child(|| assert_eq!(cache.get("key"), Ok(None)));
    assert_eq!(cache.get("key"), Ok(None));
}

/// A lock of the parent's is nothing that a child waits for.
#[test]
fn a_child_is_made_while_others_read() {
    let renewals = Renewals::new();
    let server = renewals.serve();
    let cache = renewals.open(&server);
    let is_over = AtomicBool::new(false);
    let goes_on = || !is_over.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        // Each call dials anew, for a file that has just changed.
        scope.spawn(|| {
            while goes_on() {
                let () = server.query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                copy(&renewals.made.pair("ca1").cert, &renewals.made.pair("ca").cert);
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while goes_on() {
                    let _ = cache.get("key");
                }
            });
        }
        for _ in 0..20 {
            let cache = std::panic::AssertUnwindSafe(&cache);
            in_child(|| match cache.get("key") {
                Ok(value) => assert_eq!(value, Some(b"value".to_vec())),
                // Others end connections, of the child's too.
                Err(failure) => assert_ne!(failure.status, CACHETORY_ERR_TLS, "{failure:?}"),
            });
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// A file that is being read has none of the numbers that a program takes for its own, though they are free.
#[test]
fn files_are_read_through_descriptors_above_the_standard_ones() {
    let made = Made::new();
    let pipe = made.path("ca.pem");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Both ends, so that whoever opens it waits for what is written, and not to open it.
    let held = File::options().read(true).write(true).open(&pipe).unwrap();
    // Under a number that the reader does not come to.
    // SAFETY: it is a new one, which is this test's.
    let held = unsafe { OwnedFd::from_raw_fd(libc::fcntl(held.as_raw_fd(), libc::F_DUPFD, 500)) };
    let url = patient(&url(server::with_tls(), &trusting(&pipe)));
    in_child(|| {
        // SAFETY: a child that uses neither; what it says goes to descriptor 2.
        assert_eq!(unsafe { libc::close(0) | libc::close(1) }, 0);
        std::thread::spawn(move || Cache::must_open(&url).ping());
        poll("the file is read", || {
            let mut threads = fs::read_dir("/proc/self/task").unwrap().flatten();
            let reader = threads.find(|thread| {
                let name = fs::read_to_string(thread.path().join("comm"));
                name.is_ok_and(|name| name.trim() == "cachetory-tls")
            })?;
            // Its descriptors are its own.
            let mut open = fs::read_dir(reader.path().join("fd")).ok()?.flatten();
            let of_pipe =
                open.find(|entry| fs::read_link(entry.path()).is_ok_and(|path| path == pipe))?;
            let number: i32 = of_pipe.file_name().to_str()?.parse().ok()?;
            (number > 2 && number != held.as_raw_fd()).then_some(())
        });
    });
}
