//! Aggregates whose elements are not kept, or not as they come: the answer to EXEC, a batch with an error in it, a page
//! of keys.

use super::Reply;
use super::inbox::{Head, Inbox, grow};
use super::skip::{Skip, charge};
use crate::backend::redis::wire::encode::bulk_head;
use crate::error::{Error, Result};
use crate::op::MAX_BULK;

/// What a page of keys may take.
const LARGEST_PAGE: usize = MAX_BULK;
/// The digits of the largest cursor.
const LONGEST_CURSOR: usize = 20;
/// The shortest key is `$0`, CRLF and CRLF.
const SHORTEST_KEY: usize = 6;

/// Errors in the place of elements.
#[derive(Default)]
pub struct Errors {
    pub first: Option<String>,
    pub count: usize,
}

impl Errors {
    /// Takes an error with `head` whose body begins at `body`; `false`: not all of it is there.
    fn take(&mut self, inbox: &mut Inbox, head: &Head, body: usize) -> Result<bool> {
        let Some((from, to, end)) = inbox.error(head, body)? else { return Ok(false) };
        self.count += 1;
        if self.first.is_none() {
            self.first = Some(inbox.text(from, to)?);
        }
        inbox.start += end;
        Ok(true)
    }
}

/// What the elements of an aggregate may be, errors aside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// OK.
    Status,
    /// A bulk string or nil.
    Value,
}

/// Looks at elements, of which nothing is kept but the first error.
pub struct Elements {
    kind: Kind,
    left: usize,
    pub errors: Errors,
    skip: Option<Skip>,
}

impl Elements {
    pub fn new(kind: Kind, left: usize) -> Self {
        Self { kind, left, errors: Errors::default(), skip: None }
    }

    /// Whether all have been seen.
    pub fn advance(&mut self, inbox: &mut Inbox, allowed: &mut usize) -> Result<bool> {
        loop {
            if !pass(&mut self.skip, inbox, allowed)? {
                return Ok(false);
            }
            while self.kind == Kind::Status && self.left > 0 && inbox.ok() {
                self.left -= 1;
            }
            if self.left == 0 {
                return Ok(true);
            }
            let Some((head, body)) = inbox.head(0)? else { return Ok(false) };
            match (&head, self.kind) {
                (Head::OutOfBand(count), _) => {
                    self.skip = Some(out_of_band(inbox, *count, body, allowed)?);
                    continue;
                }
                (Head::Error(..) | Head::BulkError(_), _) => {
                    if !self.errors.take(inbox, &head, body)? {
                        return Ok(false);
                    }
                    self.left -= 1;
                    continue;
                }
                (Head::Bulk(len), Kind::Value) => self.skip = Some(Skip::body(*len)),
                (Head::Nil, Kind::Value) => {}
                (Head::Simple(from, to), Kind::Status) if inbox.bytes[*from..*to] == *b"OK" => {}
                _ => return Err(Error::protocol("an element of another type than the reply has")),
            }
            inbox.start += body;
            self.left -= 1;
        }
    }
}

/// Passes over what is to be skipped; whether nothing is left of it.
fn pass(skip: &mut Option<Skip>, inbox: &mut Inbox, allowed: &mut usize) -> Result<bool> {
    let Some(skipping) = skip else { return Ok(true) };
    let mut at = 0;
    let is_over = skipping.advance(inbox, &mut at, allowed)?;
    inbox.start += at;
    if is_over {
        *skip = None;
    }
    Ok(is_over)
}

/// Takes the head of a push or an attribute, whose elements are skipped.
pub fn out_of_band(
    inbox: &mut Inbox,
    count: usize,
    body: usize,
    allowed: &mut usize,
) -> Result<Skip> {
    charge(allowed, body)?;
    inbox.start += body;
    Skip::elements(count, *allowed)
}

/// An answer to SCAN: where it goes on, and keys, as arguments of a command.
#[derive(Debug, Default)]
pub struct Page {
    pub cursor: Vec<u8>,
    keys: Vec<u8>,
}

impl Page {
    /// Keeps the keys with this prefix; how many there are.
    pub fn retain(&mut self, prefix: &[u8]) -> usize {
        let (mut at, mut kept, mut count) = (0, 0, 0);
        while let Some((len, body)) = head_of(&self.keys[at..]) {
            let end = at + body + len + 2;
            if self.keys[at + body..at + body + len].starts_with(prefix) {
                self.keys.copy_within(at..end, kept);
                kept += end - at;
                count += 1;
            }
            at = end;
        }
        self.keys.truncate(kept);
        count
    }

    /// The keys that are kept, as arguments.
    pub fn arguments(&self) -> &[u8] {
        &self.keys
    }
}

/// The length of a key, and where it begins.
fn head_of(argument: &[u8]) -> Option<(usize, usize)> {
    let line = argument.strip_prefix(b"$")?;
    let end = line.iter().position(|&byte| byte == b'\r')?;
    let digit = |total: usize, byte: &u8| total * 10 + usize::from(byte - b'0');
    Some((line[..end].iter().fold(0, digit), end + 3))
}

/// What of a page comes next.
enum Next {
    Cursor,
    Keys,
    Key,
}

/// Reads a page of keys as it arrives.
pub struct PageReader {
    next: Next,
    page: Page,
    /// Keys still to come.
    left: usize,
    /// What is still to come of a key that has begun, CRLF included.
    body: usize,
    errors: Errors,
    skip: Option<Skip>,
}

impl PageReader {
    pub fn new() -> Self {
        Self {
            next: Next::Cursor,
            page: Page::default(),
            left: 0,
            body: 0,
            errors: Errors::default(),
            skip: None,
        }
    }

    pub fn held(&self) -> usize {
        self.page.keys.capacity()
    }

    /// What it came to.
    pub fn take(&mut self) -> Reply {
        let Errors { first, count } = std::mem::take(&mut self.errors);
        match first {
            None => Reply::Page(std::mem::take(&mut self.page)),
            Some(first) => Reply::Errors { first, count },
        }
    }

    /// Whether it is whole.
    pub fn advance(&mut self, inbox: &mut Inbox, allowed: &mut usize) -> Result<bool> {
        loop {
            if !pass(&mut self.skip, inbox, allowed)? || !self.key(inbox)? {
                return Ok(false);
            }
            if self.left == 0 && matches!(self.next, Next::Key) {
                return Ok(true);
            }
            let Some((head, body)) = inbox.head(0)? else { return Ok(false) };
            if let Head::OutOfBand(count) = head {
                self.skip = Some(out_of_band(inbox, count, body, allowed)?);
                continue;
            }
            if let Head::Error(..) | Head::BulkError(_) = head {
                if !self.errors.take(inbox, &head, body)? {
                    return Ok(false);
                }
                // The page is as good as none.
                self.page.keys = Vec::new();
                match self.next {
                    Next::Cursor => self.next = Next::Keys,
                    Next::Keys => self.next = Next::Key,
                    Next::Key => self.left -= 1,
                }
                continue;
            }
            match (&self.next, head) {
                (Next::Cursor, Head::Bulk(len @ 1..=LONGEST_CURSOR)) => {
                    if !inbox.has_body(body, len)? {
                        return Ok(false);
                    }
                    let cursor = &inbox.undecoded()[body..body + len];
                    if !cursor.iter().all(u8::is_ascii_digit) {
                        return Err(no_page());
                    }
                    self.page.cursor = cursor.to_vec();
                    inbox.start += body + len + 2;
                    self.next = Next::Keys;
                    continue;
                }
                (Next::Keys, Head::Aggregate(count))
                    if count.saturating_mul(SHORTEST_KEY) <= LARGEST_PAGE =>
                {
                    self.left = count;
                    self.next = Next::Key;
                }
                (Next::Key, Head::Bulk(len)) => {
                    self.left -= 1;
                    self.body = len + 2;
                    if self.errors.first.is_some() {
                        (self.skip, self.body) = (Some(Skip::body(len)), 0);
                    } else if self.page.keys.len() > LARGEST_PAGE - len {
                        return Err(Error::protocol("an answer to SCAN that is too large"));
                    } else {
                        grow(&mut self.page.keys, body)?;
                        bulk_head(&mut self.page.keys, len);
                    }
                }
                _ => return Err(no_page()),
            }
            inbox.start += body;
        }
    }

    /// Takes what has arrived of the key that has begun; whether that is over.
    fn key(&mut self, inbox: &mut Inbox) -> Result<bool> {
        if self.body == 0 {
            return Ok(true);
        }
        let keys = &mut self.page.keys;
        let taken = inbox.len().min(self.body);
        grow(keys, taken)?;
        keys.extend_from_slice(&inbox.undecoded()[..taken]);
        inbox.start += taken;
        self.body -= taken;
        if self.body == 0 && !keys.ends_with(b"\r\n") {
            return Err(Error::protocol("a bulk string that does not end in CRLF"));
        }
        Ok(self.body == 0)
    }
}

#[cold]
fn no_page() -> Error {
    Error::protocol("an answer to SCAN that is no cursor and keys")
}
