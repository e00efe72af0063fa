//! Takes a URL apart, and finds out where its user info ends.
//!
//! No text of a user info, nor any other text before the last `@`, is ever put into a message: whatever is malformed,
//! it may be a piece of a password.

use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;

use crate::error::Error;

/// A URL without its scheme and fragment, in pieces that are not decoded yet.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    whole: &'a str,
    /// What stands before the `@` of the authority.
    pub user_info: Option<&'a str>,
    /// `host[:port]`, or several with commas.
    pub hosts: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    query_at: usize,
}

/// What is wrong with a URL, and in which part of it.
pub struct Flaw {
    pub part: Part,
    pub error: Error,
}

/// Whether a message may show a piece of the URL, or it may be a piece of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    Shown,
    Hidden,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    UserInfo,
    Hosts,
    Path,
    Query,
}

impl Part {
    #[cold]
    pub fn flaw(self, text: impl Into<String>) -> Flaw {
        Flaw { part: self, error: Error::invalid_url(text.into()) }
    }
}

impl<'a> Parts<'a> {
    /// Splits as RFC 3986 and Python's `urlsplit` do: the authority ends at the first `/`, `?` or `#`, and its last `@`
    /// ends the user info.
    pub fn split(whole: &'a str) -> Self {
        let at = whole[..authority_end(whole, 0)].rfind('@');
        Self::split_at(whole, at)
    }

    /// Splits with the user info ending at the `@` at `at`, whatever it contains.
    fn split_at(whole: &'a str, at: Option<usize>) -> Self {
        let host_at = at.map_or(0, |at| at + 1);
        let path_at = authority_end(whole, host_at);
        let tail = &whole[path_at..];
        let tail = tail.split_once('#').map_or(tail, |(tail, _)| tail);
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        Self {
            whole,
            user_info: at.map(|at| &whole[..at]),
            hosts: &whole[host_at..path_at],
            path,
            query,
            query_at: path_at + path.len() + 1,
        }
    }

    /// The fields of the query, each with whether it and whether its name may be shown in a message: what follows the
    /// word "password" may belong to one, however it is separated, and a second `=` tells of an option that lost its
    /// `&`. A `name=value` there may be an option all the same.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, Visibility, Visibility)> {
        let shown_from = self.whole.rfind('@').map_or(0, |at| at + 1);
        let mut words = self.query.as_bytes().windows(8);
        let shown_to = words.position(|word| word.eq_ignore_ascii_case(b"password"));
        let shown_to = shown_to.unwrap_or(self.query.len());
        let shown_to = self.query_at + shown_to;
        let mut at = self.query_at;
        self.query.split('&').map(move |field| {
            let equals = field.matches('=').count();
            let shown = at >= shown_from && at + field.len() <= shown_to && equals <= 1;
            let name_shown = shown || at >= shown_from && equals == 1;
            at += field.len() + 1;
            let visible = |shown| if shown { Visibility::Shown } else { Visibility::Hidden };
            (field, visible(shown), visible(name_shown))
        })
    }

    fn may_be_a_password(&self, authority: &str) -> bool {
        self.user_info.is_none()
            && authority.contains(':')
            && !authority.starts_with('[')
            && self.whole[authority.len()..].starts_with('#')
            && self.whole[authority.len()..].contains('@')
    }

    /// Whether a broken escape in the host or the path may be shown in a message.
    pub fn escapes(&self) -> Visibility {
        if self.whole.contains('@') { Visibility::Hidden } else { Visibility::Shown }
    }

    /// Whether the path may be shown in a message: `user:1/word` without its host has a piece of a password there.
    pub fn shows_path(&self) -> bool {
        self.escapes() == Visibility::Shown && !self.hosts.contains(':')
    }
}

fn authority_end(whole: &str, from: usize) -> usize {
    whole[from..].find(['/', '?', '#']).map_or(whole.len(), |end| from + end)
}

/// Reads `whole` with `read`: first as [`Parts::split`] has it, and when that is an error, with a raw `/`, `?` or `#`
/// in the password. What the plain reading understands keeps that meaning. `may_follow` tells which text may stand
/// between the end of a user info and the path, by that text and by what begins with the path.
pub fn read<T>(
    whole: &str,
    may_follow: impl Fn(&str, &str) -> bool,
    read: impl Fn(&Parts) -> Result<T, Flaw>,
    query_is_good: impl Fn(&Parts) -> bool,
) -> Result<T, Error> {
    let plain = Parts::split(whole);
    let authority = &whole[..authority_end(whole, 0)];
    match read(&plain) {
        // `:12#34@host`: a port with a fragment, or a password? Whichever it is taken for, something could go where it
        // should not.
        Ok(_) if plain.may_be_a_password(authority) => {
            let text = "a '#' before the '@': in a password it is percent-encoded as %23";
            Err(Error::invalid_url(text))
        }
        Ok(value) => Ok(value),
        Err(flaw) => {
            let otherwise = Otherwise { whole, plain, authority, flaw };
            otherwise.read(may_follow, read, query_is_good)
        }
    }
}

/// A URL is read in so many ways at most: each takes as long as the URL is.
const MOST_READINGS: u32 = 16;
const AMBIGUOUS: &str =
    "it can be read in too many ways: in a password / ? # @ are written %2F %3F %23 %40";

/// A URL whose plain reading is an error. Its other readings are rare, so they lie apart.
struct Otherwise<'a> {
    whole: &'a str,
    plain: Parts<'a>,
    authority: &'a str,
    flaw: Flaw,
}

impl Otherwise<'_> {
    #[cold]
    fn read<T>(
        self,
        may_follow: impl Fn(&str, &str) -> bool,
        read: impl Fn(&Parts) -> Result<T, Flaw>,
        query_is_good: impl Fn(&Parts) -> bool,
    ) -> Result<T, Error> {
        let Self { whole, plain, authority, flaw } = self;
        // A password follows a colon that is not an IPv6 address's, and an option is no password:
        // `?clientname=me@home` is a mistake in an option.
        let is_password = authority.contains(':')
            && !authority.starts_with('[')
            && match flaw.part {
                Part::UserInfo => false,
                Part::Hosts | Part::Path => true,
                Part::Query => plain.user_info.is_none() && plain.path.is_empty(),
            };
        if !is_password {
            return Err(flaw.error);
        }
        // An `@` in a query that is good belongs to the query.
        let has_good_query = |parts: &Parts| !parts.query.is_empty() && query_is_good(parts);
        let mut end = if has_good_query(&plain) { plain.query_at } else { whole.len() };
        if flaw.part == Part::Query {
            end = whole[plain.query_at..].find('=').map_or(end, |equals| plain.query_at + equals);
        }
        let mut found = Err(flaw.error);
        let mut readings = 0;
        // A host has no `@`, so of those between two delimiters only the last may end a user info.
        let mut from = authority.len();
        while from < whole.len() {
            let to = authority_end(whole, from + 1);
            let at = whole[from..to].rfind('@').map(|at| from + at);
            from = to;
            let Some(at) = at else { continue };
            if at >= end {
                break;
            }
            if !may_follow(&whole[at + 1..to], &whole[to..]) {
                continue;
            }
            readings += 1;
            if readings > MOST_READINGS {
                return Err(Error::invalid_url(AMBIGUOUS));
            }
            let parts = Parts::split_at(whole, Some(at));
            match read(&parts) {
                Ok(value) => {
                    found = Ok(value);
                    if has_good_query(&parts) {
                        end = end.min(parts.query_at);
                    }
                }
                Err(flaw) if found.is_err() => found = Err(flaw.error),
                Err(_) => {}
            }
        }
        found
    }
}

/// `user:password`, decoded. An empty one is none.
#[inline(never)]
pub fn user_info(text: &str) -> Result<(Option<String>, Option<String>), Flaw> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let decoded = |text: &str, what| {
        let text = decode_text(text, what, Visibility::Hidden)
            .map_err(|text| Part::UserInfo.flaw(text))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    };
    Ok((decoded(user, "the user name")?, decoded(password, "the password")?))
}

/// `host[:port]` or `[ipv6][:port]`; an empty host is localhost.
pub fn host_and_port(
    text: &str,
    default_port: u16,
    escapes: Visibility,
) -> Result<(String, u16), Flaw> {
    let flaw = |text| Part::Hosts.flaw(text);
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, port) =
            bracketed.split_once(']').ok_or_else(|| flaw("the host lacks a closing bracket"))?;
        let port = match port.strip_prefix(':') {
            Some(port) => port,
            None if port.is_empty() => port,
            None => return Err(flaw("between the host's closing bracket and its port is text")),
        };
        (ipv6(host)?, port)
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        (host_name(host, escapes)?, port)
    };
    let port = match port {
        "" => default_port,
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().unwrap_or(0),
        _ => 0,
    };
    if port == 0 {
        return Err(flaw(
            "the port must be a number from 1 to 65535 (an IPv6 address stands in brackets; \
             / ? # @ in a password are written %2F %3F %23 %40)",
        ));
    }
    Ok((host, port))
}

fn host_name(text: &str, escapes: Visibility) -> Result<String, Flaw> {
    if text.is_empty() {
        return Ok("localhost".into());
    }
    let flaw = |text: String| Part::Hosts.flaw(text);
    // As Python's `urlsplit` has it: an escaped part keeps its case.
    let escaped_at = text.find('%').unwrap_or(text.len());
    let lower = text[..escaped_at].to_lowercase() + &text[escaped_at..];
    let host = decode_text(&lower, "the host", escapes).map_err(flaw)?;
    if host.contains('\0') || text.contains(['[', ']', ',']) {
        return Err(flaw(
            "the host is not a host name, an IPv4 or a bracketed IPv6 address".into(),
        ));
    }
    Ok(host)
}

/// With a zone as RFC 6874 writes it (`%25eth0`), or as everybody does (`%eth0`).
fn ipv6(text: &str) -> Result<String, Flaw> {
    let flaw = |text: String| Part::Hosts.flaw(text);
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    if address.parse::<Ipv6Addr>().is_err() {
        return Err(flaw("what stands in brackets is not an IPv6 address".into()));
    }
    let address = address.to_lowercase();
    let Some(zone) = zone else { return Ok(address) };
    let zone = match zone.strip_prefix("25") {
        Some(encoded) if !encoded.is_empty() => {
            decode_text(encoded, "the zone of the IPv6 address", Visibility::Hidden)
                .map_err(flaw)?
        }
        _ => zone.to_owned(),
    };
    if zone.is_empty() || zone.contains(['\0', '%']) {
        return Err(flaw("the zone of the IPv6 address is not one".into()));
    }
    Ok(format!("{address}%{zone}"))
}

/// Whether `text` is a host that one would write after a password: the plain reading is more liberal.
pub fn is_plain_host(text: &str) -> bool {
    let name = text.split(':').next().unwrap_or_default();
    let is_named = !name.is_empty()
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '%'));
    (text.starts_with('[') || is_named) && host_and_port(text, 1, Visibility::Hidden).is_ok()
}

/// Decodes the escapes, or returns the first broken one.
pub fn decode(text: &str) -> Result<Vec<u8>, &str> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            let tail = &text[at..];
            let end = tail.char_indices().nth(3).map_or(tail.len(), |(end, _)| end);
            return Err(&tail[..end]);
        }
    }
    Ok(percent_decode_str(text).collect())
}

/// Decodes text that must be UTF-8, or says what is wrong with `what`.
pub fn decode_text(text: &str, what: &str, escapes: Visibility) -> Result<String, String> {
    let bytes = decode(text).map_err(|escape| broken_escape(escape, what, escapes))?;
    String::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"))
}

#[cold]
pub fn broken_escape(escape: &str, what: &str, escapes: Visibility) -> String {
    match escapes {
        Visibility::Shown => format!("broken escape {escape:?} in {what}"),
        Visibility::Hidden => format!("broken escape in {what} (a percent sign is written %25)"),
    }
}
