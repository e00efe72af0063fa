//! One TLS session, by rustls, over a socket.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use rustix::io::Errno;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection};

use super::socket::{Broken, Socket};
use super::trust::is_authority;
use crate::reserve;

/// Plaintext that is taken in before it must have been sent.
const BUFFERED: usize = 256 << 10;

pub struct TlsSession {
    connection: ClientConnection,
    /// Plaintext has arrived: the server has accepted this client.
    accepted: bool,
}

impl TlsSession {
    pub fn new(config: Arc<ClientConfig>, host: &str) -> Result<Self, String> {
        let host = host.split('%').next().unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host} is no name that a certificate can have"))?;
        let mut connection =
            ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        connection.set_buffer_limit(Some(BUFFERED));
        Ok(Self { connection, accepted: false })
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
                Err(error) => return Err(Broken::Io(error)),
            }
        }
        Ok(true)
    }

    /// Takes in what has arrived; whether there was anything.
    pub fn advance(&mut self, socket: &Socket) -> Result<bool, Broken> {
        reserve::check().map_err(|_| Errno::NOMEM)?;
        match self.connection.read_tls(&mut Transport(socket)) {
            Ok(0) => Err(Broken::Closed),
            Ok(_) => match self.connection.process_new_packets() {
                Ok(_) => Ok(true),
                Err(error) => {
                    // The peer is told why, if it still listens.
                    let _ = self.flush(socket);
                    Err(broken(&error, self.accepted))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(Broken::Io(error)),
        }
    }

    /// Appends the plaintext that is there, up to the buffer's capacity; `None`: nothing yet.
    pub fn receive(
        &mut self,
        socket: &Socket,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<usize>, Broken> {
        loop {
            let mut reader = self.connection.reader();
            match reader.fill_buf() {
                Ok([]) => return Err(Broken::Closed),
                Ok(plaintext) => {
                    let count = plaintext.len().min(buffer.capacity() - buffer.len());
                    buffer.extend_from_slice(&plaintext[..count]);
                    reader.consume(count);
                    self.accepted = true;
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
    }
}

/// The words of a TLS failure: what a certificate lacks is said plainly.
fn broken(error: &rustls::Error, accepted: bool) -> Broken {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, UnknownIssuer,
    };
    let reason = match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
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
            CertificateError::Other(other) if is_authority(other) => {
                "the server's certificate is an authority's (CA), or self-signed, and not trusted"
                    .to_owned()
            }
            CertificateError::Other(other) => {
                format!("the server's certificate is refused: {}", other.0)
            }
            other => format!("the server's certificate is refused: {other}"),
        },
        rustls::Error::InvalidMessage(_) => {
            format!("the server does not speak TLS on this port ({error})")
        }
        other => other.to_string(),
    };
    let refused = !accepted
        && matches!(error, rustls::Error::AlertReceived(alert) if !matches!(
            alert,
            AlertDescription::CloseNotify | AlertDescription::InternalError
        ));
    Broken::Tls { reason, refused }
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
