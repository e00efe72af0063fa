//! How a client introduces itself: HELLO or AUTH, CLIENT SETNAME, SELECT, sent in one write.

use redis::{ProtocolVersion, RedisConnectionInfo};

use super::decode::{Decoder, Inbox, Reply, Tree, Want};
use super::encode::words as append;
use super::replies::{Outcome, Replies, Reuse, kind_of};
use crate::error::{Error, Kind, Result};

/// The same bytes for every connection of a cache. Database 0 needs no SELECT, RESP2 no HELLO.
pub struct Handshake {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// Not to be seen in a message, whatever the server quotes.
    password: String,
    logs_in: bool,
}

#[derive(Clone, Copy)]
enum Step {
    Hello,
    Auth,
    Other,
}

impl Handshake {
    pub fn new(settings: &RedisConnectionInfo, client_name: Option<&str>) -> Self {
        let mut bytes = Vec::new();
        let mut steps = Vec::new();
        let mut add = |step, words: &[&[u8]]| {
            append(&mut bytes, words);
            steps.push(step);
        };
        // As redis-py does it: a user without a password has an empty one.
        let user = settings.username().map(str::as_bytes);
        let password = settings.password().or(settings.username().map(|_| "")).map(str::as_bytes);
        if settings.protocol() == ProtocolVersion::RESP3 {
            let mut words: Vec<&[u8]> = vec![b"HELLO", b"3"];
            if let Some(password) = password {
                words.extend([b"AUTH", user.unwrap_or(b"default"), password]);
            }
            add(Step::Hello, &words);
        } else if let Some(password) = password {
            match user {
                Some(user) => add(Step::Auth, &[b"AUTH", user, password]),
                None => add(Step::Auth, &[b"AUTH", password]),
            }
        }
        if let Some(name) = client_name {
            add(Step::Other, &[b"CLIENT", b"SETNAME", name.as_bytes()]);
        }
        if settings.db() != 0 {
            add(Step::Other, &[b"SELECT", settings.db().to_string().as_bytes()]);
        }
        let password = settings.password().unwrap_or_default().to_owned();
        let logs_in = settings.username().or(settings.password()).is_some();
        Self { bytes, steps, password, logs_in }
    }

    /// Whether it has credentials.
    pub fn logs_in(&self) -> bool {
        self.logs_in
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The server's words without what is secret in them: it quotes the arguments of a command that it does not know. A
    /// very short password is part of ordinary words, where hiding it would only give it away: then only the error's
    /// code is left.
    pub fn censor(&self, text: &str) -> String {
        const SHORT: usize = 4;
        let text = text.split(", with args beginning with").next().unwrap_or_default();
        match self.password.len() {
            0 => text.to_owned(),
            1..SHORT if text.contains(&self.password) => {
                text.split(' ').next().unwrap_or_default().to_owned()
            }
            _ => text.replace(&self.password, "***"),
        }
    }

    /// Takes the replies.
    pub fn replies(&self) -> Accepted<'_> {
        Accepted { handshake: self, steps: &self.steps, decoder: Decoder::new(Want::Tree) }
    }
}

/// Takes the replies to a handshake, which must all be acceptance.
pub struct Accepted<'a> {
    handshake: &'a Handshake,
    /// Those that are still to be answered.
    steps: &'a [Step],
    decoder: Decoder,
}

impl Replies for Accepted<'_> {
    type Output = ();

    fn room<'a>(&'a mut self, inbox: &'a mut Inbox) -> Result<&'a mut Vec<u8>> {
        self.decoder.room(inbox)
    }

    fn advance(&mut self, inbox: &mut Inbox) -> Result<Option<Outcome<()>>> {
        while let Some((step, left)) = self.steps.split_first() {
            let Some(reply) = self.decoder.advance(inbox)? else { return Ok(None) };
            if let Err(error) = step.check(reply, self.handshake) {
                return Ok(Some(Outcome { result: Err(error), reuse: Reuse::Close }));
            }
            self.steps = left;
            self.decoder = Decoder::new(Want::Tree);
        }
        Ok(Some(Outcome { result: Ok(()), reuse: Reuse::Keep }))
    }
}

impl Step {
    fn check(self, reply: Reply, handshake: &Handshake) -> Result<()> {
        let text = match (reply, self) {
            (Reply::Error(text) | Reply::Tree(Tree::Error(text)), _) => text,
            (Reply::Tree(Tree::List(_)), Step::Hello) => return Ok(()),
            (Reply::Tree(Tree::Leaf), Step::Auth | Step::Other) => return Ok(()),
            _ => return Err(Error::protocol("an answer of another type than the handshake has")),
        };
        Err(self.refused(&text, handshake.censor(&text)))
    }

    /// What the server's words come to, and how they are shown.
    fn refused(self, words: &str, shown: String) -> Error {
        let code = words.split(' ').next().unwrap_or_default();
        let error = kind_of(words)(shown);
        let Kind::Server(text) = error.kind else { return error };
        match self {
            // The server is there but busy with something else than this client's credentials.
            _ if ["LOADING", "MASTERDOWN", "BUSY", "DENIED"].contains(&code) => Kind::Server(text),
            Step::Hello if code == "NOPROTO" || words.contains("unknown command") => {
                Kind::Unsupported(format!("the server does not speak RESP3: {text}").into())
            }
            Step::Hello | Step::Auth => Kind::Auth(text),
            Step::Other => Kind::Server(text),
        }
        .into()
    }
}
