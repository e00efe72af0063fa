//! URL -> [`Config`]: the one grammar, every option, every complaint.

use std::path::PathBuf;
use std::time::Duration;

use redis::ConnectionInfo;

use self::options::Options;
use self::scheme::Scheme;
use crate::error::{Error, Result};

mod options;
mod scheme;
mod url;

/// Everything a cache is told, by its URL and by nothing else.
#[derive(Clone)]
pub struct Config {
    pub target: Target,
    /// Put before every key.
    pub prefix: Vec<u8>,
    /// `socket_timeout`: the deadline of a whole call.
    pub timeout: Duration,
    /// `socket_connect_timeout`: resolve, connect, TLS and handshake, within the deadline.
    pub connect_timeout: Duration,
    /// Most links to one server; at least 1.
    pub max_connections: usize,
    /// TCP keep-alive.
    pub keepalive: bool,
    /// A link idle for longer is asked `PING` before use; `None`: only looked at for end-of-file.
    pub health_check_interval: Option<Duration>,
    /// Sent as CLIENT SETNAME.
    pub client_name: Option<String>,
    pub tls: TlsOptions,
    /// Most asynchronous calls outstanding on a cache.
    pub max_pending: usize,
    /// How long a call may spin for its reply before it sleeps.
    pub spin: Duration,
    /// A server that is down is known to be; otherwise each call finds out for itself.
    pub fail_fast: bool,
    /// `memory://`: past it the least recently used go first; 0: no bound.
    pub max_bytes: u64,
}

/// What stands behind a cache. A Redis URL becomes the redis crate's `ConnectionInfo` (address, database, credentials,
/// protocol version), so that its Cluster and Sentinel clients can take it as it is.
#[derive(Clone)]
pub enum Target {
    Memory,
    Dummy,
    Redis(ConnectionInfo),
    /// The seed nodes.
    Cluster(Vec<ConnectionInfo>),
    /// `service` is the master's name; `settings` (its address aside) is what to connect to that master with.
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        service: String,
        settings: ConnectionInfo,
    },
}

/// The `ssl_*` options. They concern `rediss://` and its kin only.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// `ssl_cert_reqs`: verify the chain (and, with `check_hostname`, the name).
    pub verify: bool,
    pub check_hostname: bool,
    /// A PEM file of trusted authorities instead of the platform's.
    pub ca_certs: Option<PathBuf>,
    /// A directory of PEM files of trusted authorities instead of the platform's.
    pub ca_path: Option<PathBuf>,
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
}

impl Config {
    /// Few enough for a hundred processes to share a server (its `maxclients` is 10000), and more than threads that
    /// share links ever need: a link is made when it is needed.
    pub const DEFAULT_MAX_CONNECTIONS: usize = 64;
    pub const DEFAULT_MAX_PENDING: usize = 65536;
    /// About what a sleep and a wake-up cost on a virtual machine.
    pub const DEFAULT_SPIN: Duration = Duration::from_micros(50);

    fn with_defaults(target: Target) -> Self {
        Self {
            target,
            prefix: Vec::new(),
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            max_connections: Self::DEFAULT_MAX_CONNECTIONS,
            keepalive: true,
            health_check_interval: None,
            client_name: None,
            tls: TlsOptions {
                verify: true,
                check_hostname: true,
                ca_certs: None,
                ca_path: None,
                certfile: None,
                keyfile: None,
            },
            max_pending: Self::DEFAULT_MAX_PENDING,
            spin: Self::DEFAULT_SPIN,
            fail_fast: true,
            max_bytes: 0,
        }
    }

    /// Reads a URL. No message has a piece of a password in it, however malformed the URL is.
    pub fn parse(url: &str) -> Result<Self> {
        // As Python's `urlsplit`: a URL read from a file may end in a newline.
        let url = url.replace(['\t', '\r', '\n'], "");
        // The standard library's search for a text is made for long ones, and large.
        let end = url.as_bytes().windows(3).position(|three| three == b"://").ok_or_else(|| {
            Error::invalid_url("the URL has no scheme (redis://, unix://, memory://, …)")
        })?;
        let (name, rest) = (&url[..end], &url[end + 3..]);
        let scheme = Scheme::named(name)?;
        if !scheme.has_address() {
            return scheme.read_bare(rest).map_err(|flaw| flaw.error);
        }
        url::read(
            rest,
            |hosts, path| scheme.may_follow_user_info(hosts, path),
            |parts| scheme.read(parts),
            |parts| Options::read(parts).is_ok(),
        )
    }
}
