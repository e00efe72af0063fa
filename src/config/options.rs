//! The options of the query: names, values, complaints.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use redis::ProtocolVersion;

use super::url::{Flaw, Part, Parts, Visibility, broken_escape, decode};
use super::{Config, Target};
use crate::deadline::Deadline;

/// What a query says; what concerns a server rather than this library stands beside the configuration.
pub struct Options {
    pub config: Config,
    pub db: Option<i64>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub protocol: ProtocolVersion,
}

/// More links than a server has ports for would never be made.
const MOST_CONNECTIONS: u64 = 65536;
/// A second of spinning is a mistake in a unit.
const LONGEST_SPIN_US: u64 = 1_000_000;

pub const WHOLE_DB: &str = "a whole number from 0 to 2147483647";

const NAMES: [&str; 21] = [
    "db",
    "username",
    "password",
    "client_name",
    "socket_timeout",
    "socket_connect_timeout",
    "max_connections",
    "socket_keepalive",
    "health_check_interval",
    "protocol",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_keyfile",
    "prefix",
    "max_pending",
    "spin_us",
    "max_bytes",
    "fail_fast",
];

/// Options of redis-py that mean nothing to a library that hands out bytes and keeps its own rules of trying again.
const WITHOUT_EFFECT: [&str; 6] = [
    "decode_responses",
    "encoding",
    "encoding_errors",
    "retry_on_timeout",
    "retry_on_error",
    "timeout",
];

/// What a value must be, and is not.
struct Expected(&'static str);

impl Options {
    /// As redis-py reads a query: an option that is empty is not there, of several the first counts, `+` is a space.
    /// Unlike there, an unknown option is an error.
    pub fn read(parts: &Parts) -> Result<Self, Flaw> {
        let flaw = |text| Part::Query.flaw(text);
        let mut options = Self {
            config: Config::with_defaults(Target::Dummy),
            db: None,
            username: None,
            password: None,
            protocol: ProtocolVersion::RESP2,
        };
        let mut seen = Vec::new();
        // After a password may come the rest of it, if it has a raw `&`.
        let mut after_password = false;
        for (field, shown, name_shown) in parts.fields().filter(|(field, ..)| !field.is_empty()) {
            let shown = if after_password { Visibility::Hidden } else { shown };
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let name = name.replace('+', " ");
            let name = decode(&name)
                .map_err(|escape| flaw(broken_escape(escape, "the name of an option", shown)))?;
            let name =
                String::from_utf8(name).map_err(|_| flaw(unknown("", Visibility::Hidden)))?;
            if !NAMES.contains(&name.as_str()) && !WITHOUT_EFFECT.contains(&name.as_str()) {
                return Err(flaw(not_known(&name, shown, name_shown)));
            }
            after_password |= name == "password";
            let shown = match name.as_str() {
                "username" | "password" => Visibility::Hidden,
                _ => shown,
            };
            let value = value.replace('+', " ");
            let value = decode(&value)
                .map_err(|escape| flaw(broken_escape(escape, &format!("option {name}"), shown)))?;
            if value.is_empty() || seen.contains(&name) {
                continue;
            }
            if let Err(Expected(what)) = options.set(&name, &value) {
                return Err(flaw(not_that(&name, what, &value, shown)));
            }
            seen.push(name);
        }
        Ok(options)
    }

    /// Takes over one value, which is not empty.
    #[inline(never)]
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), Expected> {
        let config = &mut self.config;
        match name {
            "db" => self.db = Some(db(text(value)?).ok_or(Expected(WHOLE_DB))?),
            "username" => self.username = Some(text(value)?.into()),
            "password" => self.password = Some(text(value)?.into()),
            "client_name" => config.client_name = Some(client_name(value)?),
            "socket_timeout" => config.timeout = positive_seconds(value)?,
            "socket_connect_timeout" => config.connect_timeout = positive_seconds(value)?,
            "max_connections" => {
                let most = at_least_one(value)?.min(MOST_CONNECTIONS);
                config.max_connections = usize::try_from(most).unwrap_or(usize::MAX);
            }
            "socket_keepalive" => config.keepalive = boolean(value)?,
            "health_check_interval" => {
                let interval =
                    seconds(text(value)?).ok_or(Expected("a number of seconds, 0 or more"))?;
                config.health_check_interval = Some(interval).filter(|span| !span.is_zero());
            }
            "protocol" => {
                self.protocol = match whole(text(value)?) {
                    Some(2) => ProtocolVersion::RESP2,
                    Some(3) => ProtocolVersion::RESP3,
                    _ => return Err(Expected("2 or 3")),
                }
            }
            "ssl_cert_reqs" => {
                config.tls.verify = match value {
                    b"required" | b"optional" => true,
                    b"none" => false,
                    _ => return Err(Expected("required, optional or none")),
                }
            }
            "ssl_check_hostname" => config.tls.check_hostname = boolean(value)?,
            "ssl_ca_certs" => config.tls.ca_certs = Some(path(value)?),
            "ssl_ca_path" => config.tls.ca_path = Some(path(value)?),
            "ssl_certfile" => config.tls.certfile = Some(path(value)?),
            "ssl_keyfile" => config.tls.keyfile = Some(path(value)?),
            "prefix" => config.prefix = value.to_vec(),
            "max_pending" => {
                config.max_pending = usize::try_from(at_least_one(value)?).unwrap_or(usize::MAX);
            }
            "spin_us" => {
                let spin = whole(text(value)?).filter(|us| *us <= LONGEST_SPIN_US);
                let spin = spin.ok_or(Expected("a whole number from 0 to 1000000"))?;
                config.spin = Duration::from_micros(spin);
            }
            "fail_fast" => config.fail_fast = boolean(value)?,
            "max_bytes" => {
                config.max_bytes = size(text(value)?).ok_or(Expected(
                    "a whole number of bytes below 2^64, or one with the suffix k, m or g",
                ))?;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cold]
fn not_that(name: &str, what: &str, value: &[u8], shown: Visibility) -> String {
    let found = match shown {
        Visibility::Shown => format!(", not {}", quoted(value)),
        Visibility::Hidden => String::new(),
    };
    format!("option {name} must be {what}{found}")
}

#[cold]
fn not_known(name: &str, shown: Visibility, name_shown: Visibility) -> String {
    let known = if name_shown == Visibility::Shown { resembles(name) } else { None };
    match known {
        Some(known) if shown == Visibility::Hidden => {
            format!("unknown option, perhaps {known:?} misspelt")
        }
        _ => unknown(name, shown),
    }
}

/// The option that this may be a misspelling of. Where the text may be a piece of a password, that is all that is said
/// of it.
fn resembles(name: &str) -> Option<&'static str> {
    const ENOUGH: usize = 8;
    let start = name.get(..ENOUGH)?;
    NAMES.iter().copied().find(|known| known.starts_with(start))
}

fn unknown(name: &str, shown: Visibility) -> String {
    let is_identifier = name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if shown == Visibility::Shown && is_identifier {
        format!("unknown option {name:?}")
    } else {
        "unknown option (not shown, for it may be a piece of a password)".into()
    }
}

/// As it stands in a message.
#[cold]
pub fn quoted(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let end = text.char_indices().nth(60).map_or(text.len(), |(end, _)| end);
    format!("{:?}{}", &text[..end], if end < text.len() { "…" } else { "" })
}

fn text(value: &[u8]) -> Result<&str, Expected> {
    std::str::from_utf8(value).map_err(|_| Expected("UTF-8"))
}

/// The number of a database, in a path or an option.
pub fn db(text: &str) -> Option<i64> {
    let db = i32::try_from(whole(text)?).ok()?;
    Some(db.into())
}

/// As the server has it: it refuses any other name.
fn client_name(value: &[u8]) -> Result<String, Expected> {
    if !value.iter().all(u8::is_ascii_graphic) {
        return Err(Expected("printable ASCII without spaces"));
    }
    text(value).map(str::to_owned)
}

fn path(value: &[u8]) -> Result<PathBuf, Expected> {
    if value.contains(&0) {
        return Err(Expected("a path without a NUL"));
    }
    text(value).map(PathBuf::from)
}

/// As redis-py's `to_bool`: what is not a word for false is true.
fn boolean(value: &[u8]) -> Result<bool, Expected> {
    let word = text(value)?.to_uppercase();
    Ok(!["0", "F", "FALSE", "N", "NO"].contains(&word.as_str()))
}

fn at_least_one(value: &[u8]) -> Result<u64, Expected> {
    whole(text(value)?).filter(|n| *n >= 1).ok_or(Expected("a whole number, 1 or more"))
}

fn positive_seconds(value: &[u8]) -> Result<Duration, Expected> {
    seconds(text(value)?)
        .filter(|span| !span.is_zero())
        .ok_or(Expected("a number of seconds above 0"))
}

/// 0 or more, as Python's `int` reads it.
fn whole(text: &str) -> Option<u64> {
    let text = text.trim();
    let text = without_underscores(text.strip_prefix('+').unwrap_or(text))?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// 0 or more, as Python's `float` reads it, but finite. A short time is never none, and a long one never more than a
/// clock can take.
fn seconds(text: &str) -> Option<Duration> {
    let text = without_underscores(text.trim())?;
    // "inf", "infinity", "nan": a number has no such letter.
    let seconds: f64 = if text.contains(['n', 'N']) { None } else { text.parse().ok() }?;
    if seconds < 0.0 {
        return None;
    }
    let longest = Deadline::LONGEST;
    let span = Duration::try_from_secs_f64(seconds).map_or(longest, |span| span.min(longest));
    Some(if seconds > 0.0 { span.max(Duration::from_micros(1)) } else { span })
}

/// Bytes, or units of 1024, 1024² or 1024³ of them.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = match text.chars().last()?.to_ascii_lowercase() {
        'k' => (&text[..text.len() - 1], 1 << 10),
        'm' => (&text[..text.len() - 1], 1 << 20),
        'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    whole(number)?.checked_mul(unit)
}

/// Python's numbers may have an underscore between two digits.
fn without_underscores(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('_') {
        return Some(text.into());
    }
    let is_digit = |at: Option<usize>| {
        at.and_then(|at| text.as_bytes().get(at)).is_some_and(u8::is_ascii_digit)
    };
    let is_between =
        |(at, _): (usize, &str)| is_digit(at.checked_sub(1)) && is_digit(at.checked_add(1));
    text.match_indices('_').all(is_between).then(|| text.replace('_', "").into())
}
