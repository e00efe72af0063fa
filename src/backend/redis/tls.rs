//! TLS by rustls: what is trusted, and one session over a socket.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct,
    RootCertStore, SignatureScheme,
};

use super::stream::{Broken, Socket};
use crate::config::TlsOptions;

/// Plaintext that is taken in before it must have been sent.
const BUFFERED: usize = 256 << 10;

/// Reads the options' files; the text of a failure names the file.
pub fn client_config(options: &TlsOptions) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier: Arc<dyn ServerCertVerifier> = if options.verify {
        Arc::new(Verifier::new(options, &provider)?)
    } else {
        Arc::new(TrustAnything(provider.signature_verification_algorithms))
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match &options.certfile {
        None => Ok(builder.with_no_client_auth()),
        Some(certfile) => {
            // As in OpenSSL, the key may lie in the certificate's file.
            let keyfile = options.keyfile.as_ref().unwrap_or(certfile);
            let chain = certificates(certfile)?;
            let key = PrivateKeyDer::from_pem_file(keyfile)
                .map_err(|error| format!("no private key in {}: {error}", keyfile.display()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                format!("{} does not go with {}: {error}", keyfile.display(), certfile.display())
            })
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    match read() {
        Ok(list) if list.is_empty() => Err(format!("no certificate in {}", path.display())),
        Ok(list) => Ok(list),
        Err(error) => Err(format!("cannot read certificates from {}: {error}", path.display())),
    }
}

/// The authorities to trust, and whether they are the caller's own choice.
fn roots(options: &TlsOptions) -> Result<(Vec<CertificateDer<'static>>, bool), String> {
    let mut list = Vec::new();
    if let Some(file) = &options.ca_certs {
        list.extend(certificates(file)?);
    }
    if let Some(folder) = &options.ca_path {
        list.extend(folder_certificates(folder)?);
    }
    if options.ca_certs.is_some() || options.ca_path.is_some() {
        return Ok((list, true));
    }
    // One bad certificate among the system's is no reason to fail.
    let native = rustls_native_certs::load_native_certs();
    if native.certs.is_empty() {
        let why = native.errors.first().map_or("none found".to_owned(), ToString::to_string);
        return Err(format!("cannot load the platform's trusted certificates: {why}"));
    }
    Ok((native.certs, false))
}

fn folder_certificates(folder: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: io::Error| format!("cannot read {}: {error}", folder.display());
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    // Such folders hold other things too (revocation lists, notes), which OpenSSL passes over.
    let list: Vec<_> = paths.iter().filter_map(|path| certificates(path).ok()).flatten().collect();
    if list.is_empty() {
        return Err(format!("no certificate in {}", folder.display()));
    }
    Ok(list)
}

/// Verifies the chain and, unless told otherwise, the name.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    check_name: bool,
    /// Certificates that the caller trusts in person: one of them may be the server's own, as with OpenSSL.
    pinned: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(options: &TlsOptions, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let (list, own) = roots(options)?;
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(list.iter().cloned());
        if added == 0 {
            return Err("none of the trusted certificates can be used".into());
        }
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
                .build()
                .map_err(|error| error.to_string())?;
        let pinned = if own { list } else { Vec::new() };
        Ok(Self { webpki, check_name: options.check_hostname, pinned })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let verdict = match verdict {
            // webpki takes no authority's certificate as a server's own. It finds that after it has checked the dates.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
                if is_authority(&other)
                    && self.pinned.iter().any(|trusted| trusted == end_entity) =>
            {
                let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)
                    .map(|()| ServerCertVerified::assertion())
            }
            verdict => verdict,
        };
        match verdict {
            // The name is looked at last, when the chain has been found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// `ssl_cert_reqs=none`: any certificate will do. The handshake is still signed.
#[derive(Debug)]
struct TrustAnything(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

pub struct TlsSession {
    connection: ClientConnection,
}

impl TlsSession {
    pub fn new(config: Arc<ClientConfig>, host: &str) -> Result<Self, String> {
        let host = host.split('%').next().unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host} is no name that a certificate can have"))?;
        let mut connection =
            ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        connection.set_buffer_limit(Some(BUFFERED));
        Ok(Self { connection })
    }

    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Takes plaintext in; how much of it.
    pub fn write(&mut self, bytes: &[u8]) -> rustix::io::Result<usize> {
        match self.connection.writer().write(bytes) {
            Ok(0) => Err(Errno::AGAIN),
            Ok(count) => Ok(count),
            Err(_) => Err(Errno::PIPE),
        }
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
        match self.connection.read_tls(&mut Transport(socket)) {
            Ok(0) => Err(Broken::Closed),
            Ok(_) => match self.connection.process_new_packets() {
                Ok(_) => Ok(true),
                Err(error) => {
                    // The peer is told why, if it still listens.
                    let _ = self.flush(socket);
                    Err(broken(&error))
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

/// webpki's word for an authority's certificate in the place of a server's, for which rustls has none of its own.
fn is_authority(error: &rustls::OtherError) -> bool {
    error.to_string().contains("CaUsedAsEndEntity")
}

/// The words of a TLS failure: what a certificate lacks is said plainly.
fn broken(error: &rustls::Error) -> Broken {
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
            other => format!("the server's certificate is refused: {other}"),
        },
        rustls::Error::InvalidMessage(_) => {
            format!("the server does not speak TLS on this port ({error})")
        }
        other => other.to_string(),
    };
    let refused = matches!(error, rustls::Error::AlertReceived(alert) if !matches!(
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
