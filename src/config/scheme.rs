//! What each scheme takes from a URL, and the target that it makes of it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};

use super::options::{self, Options};
use super::url::{self, Flaw, Part, Parts};
use super::{Config, Target, TlsOptions};
use crate::error::Error;

#[derive(Clone, Copy)]
pub enum Scheme {
    Memory,
    Dummy,
    Unix,
    Server { tls: bool },
    Cluster { tls: bool },
    Sentinel { tls: bool },
}

impl Scheme {
    pub fn named(name: &str) -> Result<Self, Error> {
        let lower = name.to_ascii_lowercase();
        let redis_name = match lower.strip_prefix("valkey") {
            Some(suffix) => format!("redis{suffix}"),
            None => lower,
        };
        match redis_name.as_str() {
            "memory" => Ok(Self::Memory),
            "dummy" => Ok(Self::Dummy),
            "unix" | "redis+unix" => Ok(Self::Unix),
            "redis" => Ok(Self::Server { tls: false }),
            "rediss" => Ok(Self::Server { tls: true }),
            "redis+cluster" => Ok(Self::Cluster { tls: false }),
            "rediss+cluster" => Ok(Self::Cluster { tls: true }),
            "redis+sentinel" => Ok(Self::Sentinel { tls: false }),
            "rediss+sentinel" => Ok(Self::Sentinel { tls: true }),
            _ => Err(Self::unknown(name)),
        }
    }

    #[cold]
    fn unknown(name: &str) -> Error {
        let is_scheme = name.len() <= 40
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if is_scheme {
            Error::invalid_url(format!("unknown scheme {name:?}"))
        } else {
            Error::invalid_url("unknown scheme")
        }
    }

    pub fn has_address(self) -> bool {
        !matches!(self, Self::Memory | Self::Dummy)
    }

    fn has_tls(self) -> bool {
        match self {
            Self::Memory | Self::Dummy | Self::Unix => false,
            Self::Server { tls } | Self::Cluster { tls } | Self::Sentinel { tls } => tls,
        }
    }

    fn has_many_hosts(self) -> bool {
        matches!(self, Self::Cluster { .. } | Self::Sentinel { .. })
    }

    fn default_port(self) -> u16 {
        if matches!(self, Self::Sentinel { .. }) { 26379 } else { 6379 }
    }

    pub fn may_follow_user_info(self, hosts: &str, rest: &str) -> bool {
        match self {
            Self::Unix => hosts.is_empty() && rest.starts_with('/'),
            _ if self.has_many_hosts() => hosts.split(',').all(url::is_plain_host),
            _ => url::is_plain_host(hosts),
        }
    }

    pub fn read_bare(self, rest: &str) -> Result<Config, Flaw> {
        let parts = Parts::split(rest);
        if parts.user_info.is_some() || !parts.hosts.is_empty() || !parts.path.is_empty() {
            return Err(Part::Hosts.flaw("memory:// and dummy:// take no user, host or path"));
        }
        let mut config = Options::read(&parts)?.config;
        config.target = if matches!(self, Self::Memory) { Target::Memory } else { Target::Dummy };
        Ok(config)
    }

    pub fn read(self, parts: &Parts) -> Result<Config, Flaw> {
        let (username, password) = match parts.user_info {
            Some(text) => url::user_info(text)?,
            None => (None, None),
        };
        let hosts = self.hosts(parts)?;
        let (service, db) = match self {
            Self::Unix => (String::new(), None),
            Self::Sentinel { .. } => service_and_db(parts)?,
            _ => (String::new(), db_in_path(parts.path, parts)?),
        };
        let socket = if matches!(self, Self::Unix) { Some(socket_path(parts)?) } else { None };

        let mut options = Options::read(parts)?;
        self.settle_tls(&mut options.config.tls)?;
        let mut settings = RedisConnectionInfo::default()
            .set_db(options.db.or(db).unwrap_or(0))
            .set_protocol(options.protocol);
        if let Some(username) = username.or(options.username) {
            settings = settings.set_username(username);
        }
        if let Some(password) = password.or(options.password) {
            settings = settings.set_password(password);
        }

        let mut config = options.config;
        let insecure = !config.tls.verify || !config.tls.check_hostname;
        let address = |(host, port): (String, u16)| {
            if self.has_tls() {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params: None }
            } else {
                ConnectionAddr::Tcp(host, port)
            }
        };
        let addresses = hosts.into_iter().map(address).chain(socket.map(ConnectionAddr::Unix));
        let mut nodes = addresses
            .map(IntoConnectionInfo::into_connection_info)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Part::Hosts.flaw("the address cannot be used"))?;
        config.target = match self {
            Self::Cluster { .. } => Target::Cluster(
                nodes.into_iter().map(|it| it.set_redis_settings(settings.clone())).collect(),
            ),
            Self::Sentinel { .. } => {
                // The user info is the master's: a Sentinel has users of its own, and no databases.
                let settings = nodes[0].clone().set_redis_settings(settings);
                Target::Sentinel { sentinels: nodes, service, settings }
            }
            _ => Target::Redis(nodes.swap_remove(0).set_redis_settings(settings)),
        };
        Ok(config)
    }

    fn hosts(self, parts: &Parts) -> Result<Vec<(String, u16)>, Flaw> {
        let (text, escapes) = (parts.hosts, parts.escapes());
        let host = |text| url::host_and_port(text, self.default_port(), escapes);
        if matches!(self, Self::Unix) {
            return match text {
                "" => Ok(Vec::new()),
                _ => Err(Part::Hosts.flaw("the URL of a Unix socket has no host: unix:///path")),
            };
        }
        if self.has_many_hosts() && text.contains(',') {
            if text.split(',').any(str::is_empty) {
                return Err(Part::Hosts.flaw("one of the hosts is empty"));
            }
            return text.split(',').map(host).collect();
        }
        Ok(vec![host(text)?])
    }

    /// A certificate's file may hold the key as well, as in Python's ssl, but a key is nothing without a certificate.
    fn settle_tls(self, tls: &mut TlsOptions) -> Result<(), Flaw> {
        tls.check_hostname &= tls.verify;
        if self.has_tls() && tls.keyfile.is_some() && tls.certfile.is_none() {
            return Err(Part::Query.flaw("option ssl_keyfile needs ssl_certfile"));
        }
        Ok(())
    }
}

fn db_in_path(path: &str, parts: &Parts) -> Result<Option<i64>, Flaw> {
    let flaw = |text| Part::Path.flaw(text);
    let path = url::decode_text(path, "the path", parts.escapes()).map_err(flaw)?;
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Ok(None);
    }
    options::db(path).map(Some).ok_or_else(|| {
        let found = if parts.shows_path() {
            format!(", not {}", options::quoted(path.as_bytes()))
        } else {
            String::new()
        };
        flaw(format!("the path must be a database, {}{found}", options::WHOLE_DB))
    })
}

#[inline(never)]
fn service_and_db(parts: &Parts) -> Result<(String, Option<i64>), Flaw> {
    let path = parts.path.strip_prefix('/').unwrap_or(parts.path);
    let (service, db) = path.split_once('/').unwrap_or((path, ""));
    let service = url::decode_text(service, "the service name", parts.escapes())
        .map_err(|text| Part::Path.flaw(text))?;
    if service.is_empty() || service.contains('\0') {
        return Err(Part::Path.flaw("a Sentinel URL needs the name of a service: …/service[/db]"));
    }
    Ok((service, db_in_path(db, parts)?))
}

/// What `sockaddr_un` has room for, with the NUL that ends it.
const LONGEST_SOCKET_PATH: usize = 107;

fn socket_path(parts: &Parts) -> Result<PathBuf, Flaw> {
    let flaw = |text: String| Part::Path.flaw(text);
    let path = url::decode(parts.path)
        .map_err(|escape| flaw(url::broken_escape(escape, "the path", parts.escapes())))?;
    if path.len() > LONGEST_SOCKET_PATH {
        return Err(flaw(format!(
            "the path of a Unix socket has at most {LONGEST_SOCKET_PATH} bytes"
        )));
    }
    if path.is_empty() || path == b"/" {
        return Err(flaw("the URL of a Unix socket needs a path: unix:///path".into()));
    }
    if path.contains(&0) {
        return Err(flaw("the path of a Unix socket has a NUL in it".into()));
    }
    Ok(PathBuf::from(OsString::from_vec(path)))
}
