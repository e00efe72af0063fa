//! The URL grammar: its tables hold, and no URL makes it panic or tell a password.

use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::path::PathBuf;

use cachetory::config::{Config, Target};
use cachetory::error::Kind;
use cachetory::ffi::cache::{cachetory_close, cachetory_open_url};
use cachetory::ffi::status::{CACHETORY_ERR_INVALID_URL, CACHETORY_ERR_UNSUPPORTED, CACHETORY_OK};
use cachetory::ffi::types::{cachetory_error_t, cachetory_t};
use redis::{ConnectionAddr, ConnectionInfo, ProtocolVersion};

use tables::{BAD, GOOD};

mod tables;

fn describe(url: &str) -> Result<String, String> {
    let config = Config::parse(url).map_err(|error| {
        assert!(matches!(error.kind, Kind::InvalidUrl(_)), "{url}");
        assert!(!error.is_retryable() && !error.maybe_applied, "{url}");
        error.to_string()
    })?;
    let mut text = match &config.target {
        Target::Memory => "memory".to_owned(),
        Target::Dummy => "dummy".to_owned(),
        Target::Redis(info) => address(info) + &login(info),
        Target::Cluster(nodes) => {
            assert!(nodes.iter().all(|node| login(node) == login(&nodes[0])), "{url}");
            format!("cluster [{}]{}", addresses(nodes), login(&nodes[0]))
        }
        Target::Sentinel { sentinels, service, settings } => {
            assert!(sentinels.iter().all(|sentinel| login(sentinel).is_empty()), "{url}");
            format!("sentinel [{}] {service:?}{}", addresses(sentinels), login(settings))
        }
    };
    describe_options(&config, &mut text);
    Ok(text)
}

fn addresses(nodes: &[ConnectionInfo]) -> String {
    nodes.iter().map(address).collect::<Vec<_>>().join(", ")
}

fn address(info: &ConnectionInfo) -> String {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => format!("tcp {host} {port}"),
        ConnectionAddr::TcpTls { host, port, insecure: false, .. } => format!("tls {host} {port}"),
        ConnectionAddr::TcpTls { host, port, .. } => format!("tls insecure {host} {port}"),
        ConnectionAddr::Unix(path) => format!("unix {}", path.display()),
        other => format!("unexpected {other:?}"),
    }
}

fn login(info: &ConnectionInfo) -> String {
    let settings = info.redis_settings();
    let mut text = String::new();
    if settings.db() != 0 {
        write!(text, " db={}", settings.db()).unwrap();
    }
    if let Some(username) = settings.username() {
        write!(text, " username={username:?}").unwrap();
    }
    if let Some(password) = settings.password() {
        write!(text, " password={password:?}").unwrap();
    }
    if settings.protocol() != ProtocolVersion::RESP2 {
        text.push_str(" resp3");
    }
    text
}

/// How a setting is written in the tables.
type Setting = (&'static str, fn(&Config) -> String);

const SETTINGS: [Setting; 17] = [
    ("client_name", |it| format!("{:?}", it.client_name.as_deref().unwrap_or_default())),
    ("timeout", |it| format!("{:?}", it.timeout)),
    ("connect_timeout", |it| format!("{:?}", it.connect_timeout)),
    ("max_connections", |it| it.max_connections.to_string()),
    ("keepalive", |it| it.keepalive.to_string()),
    ("health_check", |it| format!("{:?}", it.health_check_interval.unwrap_or_default())),
    ("verify", |it| it.tls.verify.to_string()),
    ("check_hostname", |it| it.tls.check_hostname.to_string()),
    ("ca_certs", |it| path(&it.tls.ca_certs)),
    ("ca_path", |it| path(&it.tls.ca_path)),
    ("certfile", |it| path(&it.tls.certfile)),
    ("keyfile", |it| path(&it.tls.keyfile)),
    ("prefix", |it| format!("\"{}\"", it.prefix.escape_ascii())),
    ("max_pending", |it| it.max_pending.to_string()),
    ("spin", |it| format!("{:?}", it.spin)),
    ("fail_fast", |it| it.fail_fast.to_string()),
    ("max_bytes", |it| it.max_bytes.to_string()),
];

fn path(path: &Option<PathBuf>) -> String {
    format!("{:?}", path.clone().unwrap_or_default())
}

fn describe_options(config: &Config, text: &mut String) {
    let default = Config::parse("memory://").unwrap_or_else(|error| panic!("{error}"));
    for (name, show) in SETTINGS {
        if show(config) != show(&default) {
            write!(text, " {name}={}", show(config)).unwrap();
        }
    }
}

#[test]
fn good_urls_mean_what_they_say() {
    let wrong: Vec<_> = GOOD
        .iter()
        .map(|&(url, expected)| (url, Ok(expected.to_owned()), describe(url)))
        .filter(|(_, expected, found)| expected != found)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn bad_urls_are_refused_with_what_is_wrong_in_them() {
    let wrong: Vec<_> = BAD
        .iter()
        .map(|&(url, expected)| (url, expected, describe(url)))
        .filter(|(_, expected, found)| !found.as_ref().is_err_and(|text| text.contains(expected)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_message_about_a_bad_url_has_a_piece_of_its_password() {
    for (url, _) in BAD {
        let message = describe(url).unwrap_err();
        assert!(!message.contains("s3cr3t") && !message.contains("w0rd"), "{url}: {message}");
    }
}

#[test]
fn the_default_deadlines_are_finite_and_connections_are_verified() {
    let Ok(config) = Config::parse("redis://") else { panic!("redis:// is a URL") };
    assert_eq!(config.timeout.as_secs(), 5);
    assert_eq!(config.connect_timeout.as_secs(), 2);
    assert!(config.keepalive && config.tls.verify && config.tls.check_hostname);
    assert_eq!(config.health_check_interval, None);
    assert_eq!(config.max_bytes, 0);
    assert_eq!(config.max_pending, 65536);
    assert!(config.fail_fast);
}

/// xorshift: the same sequence at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// Text that a URL may be mangled with.
const HOSTILE: &[&str] = &[
    "@", ":", "/", "#", "?", "&", "=", "%", "%zz", "%4", "%00", "%FF", "%40", "[", "]", ",", "+",
    " ", "\n", "ä", "\u{212a}", "-", "_", ".", "0", "65536", "::", "//", "://", "?db=", "&db=x",
    "?bogus=1", "@h", "/x",
];

fn insert(random: &mut Random, url: &mut String, from: usize) {
    let places: Vec<_> = (from..=url.len()).filter(|at| url.is_char_boundary(*at)).collect();
    let at = places[random.below(places.len())];
    url.insert_str(at, HOSTILE[random.below(HOSTILE.len())]);
}

#[test]
fn whatever_is_put_into_a_url_no_message_has_a_piece_of_the_password() {
    const SECRET: &str = "hQ-zXw9!jKvY";
    let bases = [
        "redis://:hQ-zXw9!jKvY@h:6379/0?db=1",
        "rediss://user:hQ-zXw9!jKvY@h/0?prefix=p&ssl_cert_reqs=none",
        "unix://user:hQ-zXw9!jKvY@/path/to.sock?db=1",
        "redis+cluster://user:hQ-zXw9!jKvY@a:1,b:2",
        "redis+sentinel://user:hQ-zXw9!jKvY@a:1,b:2/main/0",
        "redis://h:6379/0?password=hQ-zXw9!jKvY&db=1",
        "memory://user:hQ-zXw9!jKvY@h/",
    ];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for round in 0..40_000 {
        let base = bases[round % bases.len()];
        let from = base.find("://").unwrap() + 3;
        let mut url = base.to_owned();
        for _ in 0..=random.below(4) {
            insert(&mut random, &mut url, from);
        }
        let Err(message) = describe(&url) else { continue };
        for at in 0..=SECRET.len() - 3 {
            assert!(!message.contains(&SECRET[at..at + 3]), "{url:?}: {message}");
        }
    }
}

#[test]
fn whatever_the_url_reading_it_ends_without_a_panic() {
    let mut random = Random(42);
    for round in 0..40_000 {
        let (base, _) = GOOD[round % GOOD.len()];
        let mut chars: Vec<char> = base.chars().collect();
        for _ in 0..=random.below(4) {
            if !chars.is_empty() && random.below(2) == 0 {
                chars.remove(random.below(chars.len()));
            }
            if random.below(8) == 0 {
                chars.truncate(random.below(chars.len() + 1));
            }
        }
        let mut url: String = chars.into_iter().collect();
        insert(&mut random, &mut url, 0);
        let _ = describe(&url);
    }
}

/// Opens `url` as a C caller does, and closes it again.
fn open(url: &[u8]) -> (i32, String) {
    let url = CString::new(url).unwrap();
    let mut cache = cachetory_t::default();
    let mut error = cachetory_error_t { status: 99, flags: 99, message: [1; 504] };
    // SAFETY: the pointers are to locals.
    let status = unsafe { cachetory_open_url(url.as_ptr(), &mut cache, &mut error) };
    assert_eq!((error.status, error.flags), (status, 0));
    assert_eq!(status == CACHETORY_OK, cache.id != 0);
    assert_eq!(cachetory_close(cache), CACHETORY_OK);
    // SAFETY: the library terminated it.
    let message = unsafe { CStr::from_ptr(error.message.as_ptr()) };
    (status, message.to_str().unwrap().to_owned())
}

#[test]
fn a_c_caller_sees_status_and_message() {
    for url in ["memory://", "dummy://", "redis://u:p@h/1", "rediss://h", "unix:///s?db=1"] {
        assert_eq!(open(url.as_bytes()), (CACHETORY_OK, String::new()), "{url}");
    }
    for (url, expected) in BAD {
        let (status, message) = open(url.as_bytes());
        assert_eq!(status, CACHETORY_ERR_INVALID_URL, "{url}");
        assert!(message.contains(expected), "{url}: {message}");
    }
    assert_eq!(open(b"redis://\xff").0, CACHETORY_ERR_INVALID_URL);
    for url in ["redis+cluster://a,b", "valkeys+sentinel://a/main"] {
        assert_eq!(open(url.as_bytes()).0, CACHETORY_ERR_UNSUPPORTED, "{url}");
    }
    let (status, _) = open(b"redis+cluster://a?bogus=1");
    assert_eq!(status, CACHETORY_ERR_INVALID_URL, "what is wrong is said before what is missing");
}
