//! `clear` within a prefix: SCAN for its keys and UNLINK them, a page at a time. A neighbour's key is never touched,
//! whatever the server takes the pattern for.

use super::Redis;
use super::wire::command::is_unknown;
use super::wire::decode::{Reply, Want};
use super::wire::encode::{Outbox, argument, command, reserve};
use super::wire::replies::OneReply;
use crate::completion::Promise;
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::op::{Access, Answer, Op};
use crate::threads::Workers;

/// Keys that the server looks at for one answer to SCAN.
const PAGE: &[u8] = b"1000";

/// What removes keys, and what does so where that is unknown: a server that does not free memory in the background.
const UNLINK: &[u8] = b"UNLINK";
const DEL: &[u8] = b"DEL";

/// Where clears of asynchronous callers are carried out, a few at a time: each is many round trips.
static CLEARERS: Workers = Workers::new(c"cachetory-clear", 4);

/// What is about to be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Scan,
    Unlink,
}

impl Redis {
    /// Each round trip gets the whole of the deadline's span. `before` is asked before each whether to go on.
    pub(super) fn clear_prefix(
        &self,
        deadline: &Deadline,
        before: &mut dyn FnMut(Stage) -> Result<()>,
    ) -> Result<Answer> {
        let mut unlinked = false;
        self.clear_pages(deadline, before, &mut unlinked)
            .map_err(|error| if unlinked { error.maybe_applied() } else { error })
    }

    fn clear_pages(
        &self,
        deadline: &Deadline,
        before: &mut dyn FnMut(Stage) -> Result<()>,
        unlinked: &mut bool,
    ) -> Result<Answer> {
        let node = self.topology.route(&Op::Clear);
        let pattern = pattern(&self.prefix);
        let mut cursor = b"0".to_vec();
        let mut name = UNLINK;
        loop {
            let scan = |out: &mut Outbox<'_, '_>| {
                let out = &mut *out.bytes;
                reserve(out, 6, cursor.len() + pattern.len())?;
                command(out, b"SCAN", 5);
                for word in [&cursor[..], b"MATCH", &pattern, b"COUNT", PAGE] {
                    argument(out, word);
                }
                Ok(())
            };
            before(Stage::Scan)?;
            let reply = node.exchange(
                Access::Read,
                scan,
                || OneReply::new(Want::Page),
                &deadline.renewed(),
            )?;
            let Reply::Page(mut page) = reply else {
                return Err(Error::protocol("an answer to SCAN that is no page"));
            };
            let count = page.retain(&self.prefix);
            if count > 0 {
                let mut remove = |name| {
                    before(Stage::Unlink)?;
                    self.remove(name, count, page.arguments(), &deadline.renewed())
                };
                match remove(name) {
                    // An old server, or a small one. Nothing was removed by that.
                    Err(error) if name == UNLINK && is_unknown(&error) => {
                        name = DEL;
                        remove(name)?;
                    }
                    removed => removed?,
                }
                *unlinked = true;
            }
            if page.cursor == b"0" {
                return Ok(Answer::Done);
            }
            cursor = page.cursor;
        }
    }

    /// Removes keys, which are written as arguments.
    fn remove<'a>(
        &self,
        name: &[u8],
        count: usize,
        keys: &'a [u8],
        deadline: &Deadline,
    ) -> Result<()> {
        let node = self.topology.route(&Op::Clear);
        let request = |out: &mut Outbox<'_, 'a>| {
            reserve(out.bytes, 1, name.len())?;
            command(out.bytes, name, count);
            out.arguments(keys)
        };
        match node.exchange(Access::Write, request, || OneReply::new(Want::Plain), deadline)? {
            Reply::Int(_) => Ok(()),
            _ => Err(Error::protocol("an answer to UNLINK that is no number").maybe_applied()),
        }
    }

    /// The same for an asynchronous caller, on a thread that may wait.
    pub(super) fn submit_clear(&self, call: Promise) -> Result<()> {
        self.not_closed(())?;
        self.topology.route(&Op::Clear).watch_deadlines()?;
        let redis = self.clone();
        let task = move || {
            let mut before = |stage| {
                let goes_on = match stage {
                    Stage::Scan => !call.is_completed(),
                    Stage::Unlink => call.begin_send(),
                };
                if !goes_on {
                    return Err(Kind::Cancelled.into());
                }
                call.renew_deadline(redis.timeout);
                Ok(())
            };
            let deadline = Deadline::after(redis.timeout);
            let result = redis.clear_prefix(&deadline, &mut before);
            call.complete(result);
        };
        CLEARERS
            .run(task)
            .map_err(|error| Error::no_memory(format!("a thread to clear on: {error}")))
    }
}

/// The prefix and anything after it, as a glob (<https://redis.io/docs/latest/commands/keys/>).
fn pattern(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 8);
    for &byte in prefix {
        if b"*?[]\\^-".contains(&byte) {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.push(b'*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_special_in_a_glob_is_escaped() {
        assert_eq!(pattern(b"a:"), b"a:*");
        assert_eq!(pattern(b"a*b?[c]\\"), b"a\\*b\\?\\[c\\]\\\\*");
    }
}
