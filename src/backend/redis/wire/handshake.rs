//! How a client introduces itself: HELLO or AUTH, CLIENT SETNAME, SELECT, sent in one write.

use redis::{ProtocolVersion, RedisConnectionInfo};

use super::decode::{Decoder, Inbox, Reply, Simple, Want};
use super::encode::words as append;
use super::replies::{Outcome, Replies, Reuse, kind_of};
use crate::error::{Error, Kind, Result};

/// All that a server may say to a handshake, pushes and attributes included.
const MOST_SAID: usize = 64 << 10;

/// The same for every connection of a cache. Database 0 needs no SELECT, RESP2 no HELLO.
pub struct Handshake {
    first: Greeting,
    /// For a server that knows passwords and no users (Redis before 6, and services that are like it).
    without_user: Option<Greeting>,
    /// Not to be seen in a message, whatever the server quotes.
    password: String,
    logs_in: bool,
}

/// What is sent in one write.
#[derive(Default)]
struct Greeting {
    bytes: Vec<u8>,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Hello,
    Auth,
    /// AUTH with a user's name, of which the server need not know.
    AuthUser,
    Other,
}

/// Which of a handshake's greetings is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    First,
    /// AUTH with the password alone, and all that follows it.
    WithoutUser,
}

/// What a greeting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeted {
    Accepted,
    /// The server knows no users: what it said to the rest does not count, and it is greeted without one.
    KnowsNoUsers,
}

impl Greeting {
    fn add(&mut self, step: Step, words: &[&[u8]]) {
        append(&mut self.bytes, words);
        self.steps.push(step);
    }

    /// What follows the login.
    fn settle(&mut self, settings: &RedisConnectionInfo, client_name: Option<&str>) {
        if let Some(name) = client_name {
            self.add(Step::Other, &[b"CLIENT", b"SETNAME", name.as_bytes()]);
        }
        if settings.db() != 0 {
            self.add(Step::Other, &[b"SELECT", settings.db().to_string().as_bytes()]);
        }
    }
}

impl Handshake {
    pub fn new(settings: &RedisConnectionInfo, client_name: Option<&str>) -> Self {
        let mut first = Greeting::default();
        let mut without_user = None;
        // As redis-py does it: a user without a password has an empty one.
        let user = settings.username().map(str::as_bytes);
        let password = settings.password().or(settings.username().map(|_| "")).map(str::as_bytes);
        if settings.protocol() == ProtocolVersion::RESP3 {
            let mut words: Vec<&[u8]> = vec![b"HELLO", b"3"];
            if let Some(password) = password {
                words.extend([b"AUTH", user.unwrap_or(b"default"), password]);
            }
            first.add(Step::Hello, &words);
        } else if let Some(password) = password {
            match user {
                Some(user) => {
                    first.add(Step::AuthUser, &[b"AUTH", user, password]);
                    let mut other = Greeting::default();
                    other.add(Step::Auth, &[b"AUTH", password]);
                    other.settle(settings, client_name);
                    without_user = Some(other);
                }
                None => first.add(Step::Auth, &[b"AUTH", password]),
            }
        }
        first.settle(settings, client_name);
        let password = settings.password().unwrap_or_default().to_owned();
        let logs_in = settings.username().or(settings.password()).is_some();
        Self { first, without_user, password, logs_in }
    }

    /// Whether it has credentials.
    pub fn logs_in(&self) -> bool {
        self.logs_in
    }

    pub fn is_empty(&self) -> bool {
        self.first.steps.is_empty()
    }

    fn greeting(&self, form: Form) -> &Greeting {
        match form {
            Form::First => &self.first,
            Form::WithoutUser => self.without_user.as_ref().unwrap_or(&self.first),
        }
    }

    pub fn bytes(&self, form: Form) -> &[u8] {
        &self.greeting(form).bytes
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
    pub fn replies(&self, form: Form) -> Acceptance<'_> {
        let steps = self.greeting(form).steps.as_slice();
        let decoder = Decoder::new(steps.first().map_or(Want::Plain, |step| step.want()));
        let greeted = Greeted::Accepted;
        Acceptance { handshake: self, steps, decoder, greeted, said: 0 }
    }
}

/// Takes the replies to a handshake, which must all be acceptance.
pub struct Acceptance<'a> {
    handshake: &'a Handshake,
    /// Those that are still to be answered.
    steps: &'a [Step],
    decoder: Decoder,
    greeted: Greeted,
    /// How much the server has said.
    said: usize,
}

impl Replies for Acceptance<'_> {
    type Output = Greeted;

    fn room<'a>(&'a mut self, inbox: &'a mut Inbox) -> Result<&'a mut Vec<u8>> {
        self.decoder.room(inbox)
    }

    fn advance(&mut self, inbox: &mut Inbox) -> Result<Option<Outcome<Greeted>>> {
        while let Some((step, left)) = self.steps.split_first() {
            let before = inbox.len();
            let reply = self.decoder.advance(inbox)?;
            self.said += before - inbox.len();
            if self.said + inbox.len() > MOST_SAID {
                return Err(Error::protocol("more than any handshake is answered with"));
            }
            let Some(reply) = reply else { return Ok(None) };
            match step.check(reply, self.handshake) {
                Ok(greeted) if self.greeted == Greeted::Accepted => self.greeted = greeted,
                Err(Refusal::Says(error)) if self.greeted == Greeted::Accepted => {
                    return Ok(Some(Outcome { result: Err(error), reuse: Reuse::Close }));
                }
                // Who is not logged in yet may be refused.
                Ok(_) | Err(Refusal::Says(_)) => {}
                Err(Refusal::Breach(error)) => return Err(error),
            }
            self.steps = left;
            self.decoder = Decoder::new(left.first().map_or(Want::Plain, |step| step.want()));
        }
        Ok(Some(Outcome { result: Ok(self.greeted), reuse: Reuse::Keep }))
    }
}

/// Why a step is not accepted.
enum Refusal {
    /// The server says so.
    Says(Error),
    /// That is no answer.
    Breach(Error),
}

impl Step {
    fn want(self) -> Want {
        if self == Self::Hello { Want::Map } else { Want::Plain }
    }

    fn check(self, reply: Reply, handshake: &Handshake) -> Result<Greeted, Refusal> {
        match reply {
            Reply::Error(text) if self == Self::AuthUser && takes_no_user(&text) => {
                Ok(Greeted::KnowsNoUsers)
            }
            Reply::Error(text) => Err(Refusal::Says(self.refused(&text, handshake.censor(&text)))),
            Reply::Skipped | Reply::Simple(Simple::Ok) => Ok(Greeted::Accepted),
            _ => Err(Refusal::Breach(Error::protocol("an answer to a handshake that is not OK"))),
        }
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
            Step::Hello | Step::Auth | Step::AuthUser => Kind::Auth(text),
            Step::Other => Kind::Server(text),
        }
        .into()
    }
}

/// What a server answers to AUTH with a user that takes a password only. Nothing else makes it one: to a server that
/// looks at users the password is sent with the user's name, or not at all.
fn takes_no_user(text: &str) -> bool {
    text.to_ascii_lowercase().starts_with("err wrong number of arguments for 'auth'")
}
