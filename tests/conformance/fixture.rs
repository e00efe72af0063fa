//! What a case is run against, and the runner.

use std::any::type_name;
use std::panic::{self, AssertUnwindSafe};
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use redis::{Connection, FromRedisValue};

use crate::support::capi::{Cache, Face};
use crate::support::server::Server;

pub struct Target {
    url: String,
    server: Option<(&'static Server, i64)>,
    prefix: Vec<u8>,
    resp3: bool,
    face: Face,
}

impl Target {
    pub fn memory(url: &str) -> Self {
        Self::new(url, None)
    }

    pub fn server(server: &'static Server, url: &str, db: i64) -> Self {
        Self::new(url, Some((server, db)))
    }

    fn new(url: &str, server: Option<(&'static Server, i64)>) -> Self {
        let url = url.to_owned();
        Self { url, server, prefix: Vec::new(), resp3: false, face: Face::Synchronous }
    }

    /// Every call on the fixture's cache is made in this way.
    pub fn with(mut self, face: Face) -> Self {
        self.face = face;
        self
    }

    pub fn prefix(mut self, prefix: &[u8]) -> Self {
        self.prefix = prefix.to_vec();
        self
    }

    pub fn resp3(mut self) -> Self {
        self.resp3 = true;
        self
    }

    fn open(&self, url: &str) -> Cache {
        Cache::must_open(url).with(self.face)
    }

    fn fixture(&self) -> Fixture<'_> {
        let fixture = Fixture { target: self, cache: self.open(&self.url) };
        if self.server.is_some() {
            let () = fixture.query(&[b"FLUSHDB"]);
        }
        fixture
    }
}

/// An empty cache, and what it is.
pub struct Fixture<'a> {
    target: &'a Target,
    pub cache: Cache,
}

impl Fixture<'_> {
    pub fn has_server(&self) -> bool {
        self.target.server.is_some()
    }

    pub fn is_resp3(&self) -> bool {
        self.target.resp3
    }

    pub fn prefix(&self) -> &[u8] {
        &self.target.prefix
    }

    /// Another handle of the same URL: on a server the same data, in memory a store of its own.
    pub fn open_again(&self) -> Cache {
        self.target.open(&self.target.url)
    }

    /// The same with other options: of one given twice the first counts.
    pub fn open_with(&self, options: &str) -> Cache {
        let (base, others) = self.target.url.split_once('?').unwrap_or((&self.target.url, ""));
        self.target.open(&format!("{base}?{options}&{others}"))
    }

    /// The independent client, in the cache's database.
    #[track_caller]
    pub fn wire(&self) -> Connection {
        let (server, db) = self.target.server.expect("a server");
        server.client(db)
    }

    /// The independent client in a database that is nobody's.
    #[track_caller]
    pub fn neighbour(&self) -> Connection {
        let (server, db) = self.target.server.expect("a server");
        server.client(db + 32)
    }

    /// One command of the independent client, in the cache's database.
    #[track_caller]
    pub fn query<T: FromRedisValue>(&self, words: &[&[u8]]) -> T {
        query(&mut self.wire(), words)
    }

    /// A key as the server has it.
    pub fn key(&self, key: impl AsRef<[u8]>) -> Vec<u8> {
        [self.prefix(), key.as_ref()].concat()
    }

    /// The milliseconds that a key has left, as the server sees it: -1 for ever, -2 gone.
    #[track_caller]
    pub fn pttl(&self, key: impl AsRef<[u8]>) -> i64 {
        self.query(&[b"PTTL", &self.key(key)])
    }
}

#[track_caller]
pub fn query<T: FromRedisValue>(connection: &mut Connection, words: &[&[u8]]) -> T {
    let mut command = redis::Cmd::new();
    command.arg(words);
    let name = String::from_utf8_lossy(words[0]);
    command.query(connection).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn encode(text: impl AsRef<[u8]>) -> String {
    percent_encode(text.as_ref(), NON_ALPHANUMERIC).to_string()
}

pub fn unix_ms_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(now.as_millis()).expect("a time in range")
}

/// Bytes that show where they were cut or mixed up.
pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ seed.wrapping_mul(97)) as u8).collect()
}

pub struct Case {
    name: &'static str,
    run: Box<dyn Fn(&Fixture)>,
}

/// A case goes by its function's name.
pub fn case<F: Fn(&Fixture) + 'static>(run: F) -> Case {
    let path = type_name::<F>();
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    Case { name, run: Box::new(run) }
}

/// Runs every case.
pub fn run(target: &Target) {
    let mut cases = Vec::new();
    cases.extend(crate::values::cases());
    cases.extend(crate::sizes::cases());
    cases.extend(crate::expiry::cases());
    cases.extend(crate::removal::cases());
    cases.extend(crate::arguments::cases());
    cases.extend(crate::handles::cases());
    cases.extend(crate::threads::cases());
    cases.extend(crate::async_calls::cases());
    cases.extend(crate::async_queues::cases());
    if target.server.is_some() {
        cases.extend(crate::wire::cases());
    }
    run_cases(target, cases);
}

/// Runs each case on a fresh fixture, so that one failure does not hide another.
pub fn run_cases(target: &Target, mut cases: Vec<Case>) {
    let wanted = std::env::var("CACHETORY_CASES").unwrap_or_default();
    cases.retain(|case| case.name.contains(&wanted));
    assert!(!cases.is_empty(), "no case has {wanted:?} in its name");
    let mut failed = Vec::new();
    for case in &cases {
        let run = AssertUnwindSafe(|| (case.run)(&target.fixture()));
        if panic::catch_unwind(run).is_err() {
            println!("that was {}\n", case.name);
            failed.push(case.name);
        }
    }
    let (count, all) = (failed.len(), cases.len());
    assert!(failed.is_empty(), "{count} of {all} cases failed:\n  {}", failed.join("\n  "));
}
