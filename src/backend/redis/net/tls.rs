//! One TLS session, by rustls, over a socket.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Error, PeerMisbehaved,
    ProtocolVersion,
};

use super::socket::{Broken, Socket, Tls};
use super::trust::{Reason, was_asked};
use crate::reserve;

/// Plaintext that is taken in before it must have been sent.
const BUFFERED: usize = 256 << 10;

/// What arrives and is no plaintext (tickets, new keys, empty records) is taken in so often before others have their
/// turn.
const MOST_WITHOUT_DATA: u32 = 16;

pub struct TlsSession {
    connection: ClientConnection,
    /// The server has asked for a certificate, and may refuse this client for what it has shown.
    was_asked: bool,
    /// Plaintext has arrived: the server has accepted this client.
    is_accepted: bool,
    /// What the peer, or what it sent, ended the session with. After that nothing else is said of it.
    end: Option<Broken>,
    /// Set when the server refuses this client after the handshake.
    doubt: Arc<AtomicBool>,
}

impl TlsSession {
    pub fn new(
        config: Arc<ClientConfig>,
        host: &str,
        doubt: Arc<AtomicBool>,
    ) -> Result<Self, String> {
        let host = host.split('%').next().unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host} is no name that a certificate can have"))?;
        let mut connection =
            ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        connection.set_buffer_limit(Some(BUFFERED));
        Ok(Self { connection, was_asked: false, is_accepted: false, end: None, doubt })
    }

    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Takes plaintext in; how much of it.
    pub fn write(&mut self, bytes: &[u8]) -> rustix::io::Result<usize> {
        reserve::check().map_err(|_| Errno::NOMEM)?;
        match self.connection.writer().write(bytes) {
            Ok(0) => Err(Errno::AGAIN),
            Ok(count) => Ok(count),
            Err(_) => Err(Errno::PIPE),
        }
    }

    pub fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }

    /// Sends what there is to send; whether all of it went.
    pub fn flush(&mut self, socket: &Socket) -> Result<bool, Broken> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Transport(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(self.last_words(socket).unwrap_or(Broken::Io(error))),
            }
        }
        Ok(true)
    }

    /// Why the peer ended the session, which it may have said before it closed the connection: that is there to be
    /// read though nothing can be sent any more. Plaintext before it is kept, of which there is a bound.
    #[cold]
    fn last_words(&mut self, socket: &Socket) -> Option<Broken> {
        loop {
            match self.advance(socket) {
                Ok(true) => {}
                Err(Broken::Tls(why)) => return Some(Broken::Tls(why)),
                Ok(false) | Err(_) => return None,
            }
        }
    }

    /// Takes in what has arrived; whether there was anything.
    pub fn advance(&mut self, socket: &Socket) -> Result<bool, Broken> {
        if let Some(end) = &self.end {
            return Err(end.again());
        }
        reserve::check().map_err(|_| Errno::NOMEM)?;
        match self.connection.read_tls(&mut Transport(socket)) {
            Ok(0) => Err(Broken::Closed),
            Ok(_) => match self.process() {
                Ok(()) => Ok(true),
                Err(error) => {
                    let end = self.ended(&error);
                    self.end = Some(end.again());
                    // The peer is told why, if it still listens.
                    let _ = self.connection.write_tls(&mut Transport(socket));
                    Err(end)
                }
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(Broken::Io(error)),
        }
    }

    fn process(&mut self) -> Result<(), Error> {
        if !self.connection.is_handshaking() {
            return self.connection.process_new_packets().map(drop);
        }
        was_asked();
        let processed = self.connection.process_new_packets();
        self.was_asked |= was_asked();
        processed.map(drop)
    }

    /// Appends the plaintext that is there, up to the buffer's capacity; `None`: nothing yet. It may be empty where
    /// there was much that is no plaintext.
    pub fn receive(
        &mut self,
        socket: &Socket,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<usize>, Broken> {
        for _ in 0..MOST_WITHOUT_DATA {
            let mut reader = self.connection.reader();
            match reader.fill_buf() {
                Ok([]) => return Err(Broken::Closed),
                Ok(plaintext) => {
                    let count = plaintext.len().min(buffer.capacity() - buffer.len());
                    buffer.extend_from_slice(&plaintext[..count]);
                    reader.consume(count);
                    self.is_accepted = true;
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Broken::Closed);
                }
                Err(error) => return Err(Broken::Io(error)),
            }
            if !self.advance(socket)? {
                return Ok(None);
            }
        }
        Ok(Some(0))
    }

    #[cold]
    fn ended(&mut self, error: &Error) -> Broken {
        let refused = match error {
            Error::AlertReceived(alert) => self.is_refusal(*alert),
            _ => false,
        };
        let is_handshaking = self.connection.is_handshaking();
        if refused && !is_handshaking {
            self.doubt.store(true, Ordering::Relaxed);
        }
        let is_of_handshake = match error {
            Error::AlertReceived(alert) => speaks_of_handshake(*alert),
            Error::InvalidCertificate(_) => true,
            _ => false,
        };
        if !is_handshaking && !is_of_handshake {
            // Something on the way has cut a record, say. Another connection may do better.
            return Broken::Io(io::Error::new(io::ErrorKind::InvalidData, reason(error)));
        }
        let concerns_certificates = is_handshaking && is_of_handshake;
        Broken::Tls(Tls { reason: reason(error), refused, concerns_certificates })
    }

    /// Whether an alert says that the peer has looked at nothing that was sent. In TLS 1.3 a server that has asked for
    /// a client's certificate looks at it when the client takes the handshake to be over. What it sends once it has
    /// accepted the client, tickets or answers, shows that it is over.
    fn is_refusal(&mut self, alert: AlertDescription) -> bool {
        if self.connection.is_handshaking() {
            return true;
        }
        let has_plaintext = matches!(self.connection.reader().fill_buf(), Ok([_, ..]));
        let is_accepted =
            self.is_accepted || has_plaintext || self.connection.tls13_tickets_received() > 0;
        let is_tls13 = self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        is_tls13 && self.was_asked && !is_accepted && speaks_of_handshake(alert)
    }
}

/// Whether an alert is about who somebody is, or what the two have in common, which is nothing that comes up later
/// (RFC 8446, section 6.2). The others may be an answer to any record.
fn speaks_of_handshake(alert: AlertDescription) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, BadCertificateHashValue, BadCertificateStatusResponse,
        CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        CertificateUnobtainable, DecryptError, ExportRestriction, HandshakeFailure,
        InappropriateFallback, InsufficientSecurity, MissingExtension, NoApplicationProtocol,
        NoCertificate, ProtocolVersion, UnknownCA, UnknownPSKIdentity, UnrecognisedName,
        UnsupportedCertificate, UnsupportedExtension,
    };
    matches!(
        alert,
        AccessDenied
            | BadCertificate
            | BadCertificateHashValue
            | BadCertificateStatusResponse
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | CertificateUnobtainable
            | DecryptError
            | ExportRestriction
            | HandshakeFailure
            | InappropriateFallback
            | InsufficientSecurity
            | MissingExtension
            | NoApplicationProtocol
            | NoCertificate
            | ProtocolVersion
            | UnknownCA
            | UnknownPSKIdentity
            | UnrecognisedName
            | UnsupportedCertificate
            | UnsupportedExtension
    )
}

/// The words of a TLS failure: what a certificate lacks is said plainly.
fn reason(error: &Error) -> String {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, UnknownIssuer,
    };
    match error {
        Error::InvalidCertificate(problem) => match problem {
            NotValidForName | NotValidForNameContext { .. } => {
                format!("the server's certificate is for another host name: {problem}")
            }
            UnknownIssuer => {
                "the server's certificate was issued by an authority (CA) that is not trusted"
                    .to_owned()
            }
            Expired | ExpiredContext { .. } => {
                format!("the server's certificate has expired: {problem}")
            }
            CertificateError::Other(other) => match other.0.downcast_ref::<Reason>() {
                Some(reason) => format!("the server's certificate {reason}"),
                None => format!("the server's certificate is refused: {}", other.0),
            },
            other => format!("the server's certificate is refused: {other}"),
        },
        Error::InvalidMessage(_) => {
            format!("the server does not speak TLS on this port ({error})")
        }
        Error::AlertReceived(alert) => format!("{}{error}", hint(*alert)),
        Error::PeerMisbehaved(PeerMisbehaved::SignedKxWithWrongAlgorithm) => {
            "the server's certificate has a key of a kind (RSA-PSS, Ed448) that this client takes only with TLS 1.3"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// What an alert means here, where its name alone does not say.
fn hint(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired => {
            "the server wants a certificate of this client (ssl_certfile, ssl_keyfile): "
        }
        AlertDescription::UnknownCA => {
            "the server does not trust the authority (CA) that issued this client's certificate: "
        }
        AlertDescription::HandshakeFailure => {
            "the server wants a certificate of this client, or has one of a kind that cannot be verified here, or has \
             no cipher in common with this client: "
        }
        _ => "",
    }
}

/// The socket as rustls wants it. Each write is one send: a vectored write would know nothing of MSG_NOSIGNAL.
struct Transport<'a>(&'a Socket);

impl Read for Transport<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.receive_slice(buffer)?)
    }
}

impl Write for Transport<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.send(bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_the_handshake_says_that_nothing_was_read() {
        // By their numbers (IANA's registry of TLS alerts): those not listed may answer any record.
        const OF_THE_HANDSHAKE: [u8; 23] = [
            40, 41, 42, 43, 44, 45, 46, 48, 49, 51, 60, 70, 71, 86, 109, 110, 111, 112, 113, 114,
            115, 116, 120,
        ];
        for number in 0..=u8::MAX {
            let alert = AlertDescription::from(number);
            let expected = OF_THE_HANDSHAKE.contains(&number);
            assert_eq!(speaks_of_handshake(alert), expected, "{alert:?} ({number})");
        }
    }
}
