//! Certificates made with the `openssl` command, once for each test process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::dir::TempDir;

/// A certificate and its private key, as PEM files.
#[derive(Clone)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub struct Certs {
    dir: TempDir,
    /// The authority that signed everything below unless said otherwise.
    pub ca: Pair,
    /// Another authority, which signed `stranger`.
    pub other_ca: Pair,
    /// For localhost and 127.0.0.1.
    pub server: Pair,
    /// As `server`, by the other authority.
    pub stranger: Pair,
    /// For another name than the server's.
    pub wrong_name: Pair,
    /// As `server`, but its time is over.
    pub expired: Pair,
    /// For localhost and 127.0.0.1, signed by itself, and not an authority.
    pub self_signed: Pair,
    /// As a plain `openssl req -x509` makes them: signed by itself and marked as an authority.
    pub self_signed_ca: Pair,
    /// The same for another name.
    pub self_signed_elsewhere: Pair,
    pub client: Pair,
    /// A client certificate of the other authority.
    pub strange_client: Pair,
    /// The client's certificate and key in one file.
    pub client_in_one: PathBuf,
    /// A directory with the authority in it, under the name that OpenSSL looks for.
    pub ca_path: PathBuf,
}

const SERVER: &str = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\n\
                      subjectAltName=DNS:localhost,IP:127.0.0.1\n";
const AUTHORITY: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
                         subjectKeyIdentifier=hash\n";
const CLIENT: &str = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth\n";

pub fn certs() -> &'static Certs {
    static CERTS: OnceLock<Certs> = OnceLock::new();
    CERTS.get_or_init(Certs::make)
}

impl Certs {
    fn make() -> Self {
        let dir = TempDir::new();
        let at = dir.path();
        let ca = self_sign(at, "ca", "Cachetory test authority", AUTHORITY);
        let other_ca = self_sign(at, "other-ca", "Cachetory other authority", AUTHORITY);
        let elsewhere = SERVER.replace("DNS:localhost,IP:127.0.0.1", "DNS:elsewhere.example");
        let marked =
            "basicConstraints=critical,CA:TRUE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n";
        let server = sign(at, "server", "localhost", SERVER, &ca, "2");
        let stranger = sign(at, "stranger", "localhost", SERVER, &other_ca, "2");
        let wrong_name = sign(at, "wrong-name", "elsewhere.example", &elsewhere, &ca, "2");
        let expired = sign(at, "expired", "localhost", SERVER, &ca, "-1");
        let self_signed = self_sign(at, "self-signed", "localhost", SERVER);
        let self_signed_ca = self_sign(at, "self-signed-ca", "localhost", marked);
        let marked_elsewhere =
            marked.replace("DNS:localhost,IP:127.0.0.1", "DNS:elsewhere.example");
        let self_signed_elsewhere =
            self_sign(at, "self-signed-elsewhere", "elsewhere.example", &marked_elsewhere);
        let client = sign(at, "client", "a client", CLIENT, &ca, "2");
        let strange_client = sign(at, "strange-client", "a client", CLIENT, &other_ca, "2");
        let client_in_one = at.join("client-in-one.pem");
        let both = [read(&client.cert), read(&client.key)].concat();
        write(&client_in_one, &both);
        let ca_path = at.join("ca.d");
        fs::create_dir(&ca_path).expect("a directory of authorities");
        let hash = openssl(at, &["x509", "-noout", "-hash", "-in", &text(&ca.cert)]);
        write(&ca_path.join(format!("{}.0", hash.trim())), &read(&ca.cert));
        Self {
            ca,
            other_ca,
            server,
            stranger,
            wrong_name,
            expired,
            self_signed,
            self_signed_ca,
            self_signed_elsewhere,
            client,
            strange_client,
            client_in_one,
            ca_path,
            dir,
        }
    }

    /// A file of the caller's making beside the certificates.
    pub fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.dir.join(name);
        write(&path, contents.as_bytes());
        path
    }
}

/// Its own configuration, so that the system's cannot add extensions.
fn config(at: &Path, name: &str, extensions: &str) -> String {
    let path = at.join(format!("{name}.cnf"));
    let text = format!("[req]\ndistinguished_name=dn\n[dn]\n[ext]\n{extensions}");
    write(&path, text.as_bytes());
    path.to_str().expect("a UTF-8 path").to_owned()
}

fn self_sign(at: &Path, name: &str, subject: &str, extensions: &str) -> Pair {
    let pair = pair(at, name);
    let config = config(at, name, extensions);
    let subject = format!("/CN={subject}");
    let (cert, key) = (text(&pair.cert), text(&pair.key));
    let mut args = vec!["req", "-x509", "-extensions", "ext", "-days", "2", "-out", &cert];
    args.extend(request(&config, &subject, &key));
    openssl(at, &args);
    pair
}

fn sign(at: &Path, name: &str, subject: &str, extensions: &str, by: &Pair, days: &str) -> Pair {
    let pair = pair(at, name);
    let config = config(at, name, extensions);
    let subject = format!("/CN={subject}");
    let (cert, key, csr) = (text(&pair.cert), text(&pair.key), format!("{name}.csr"));
    let mut args = vec!["req", "-new", "-out", &csr];
    args.extend(request(&config, &subject, &key));
    openssl(at, &args);
    let (ca, ca_key) = (text(&by.cert), text(&by.key));
    openssl(
        at,
        &[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-extfile",
            &config,
            "-extensions",
            "ext",
            "-days",
            days,
            "-sha256",
            "-out",
            &cert,
        ],
    );
    pair
}

fn request<'a>(config: &'a str, subject: &'a str, key: &'a str) -> [&'a str; 12] {
    [
        "-config",
        config,
        "-subj",
        subject,
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-sha256",
        "-keyout",
        key,
    ]
}

fn pair(at: &Path, name: &str) -> Pair {
    Pair { cert: at.join(format!("{name}.pem")), key: at.join(format!("{name}.key")) }
}

/// Runs the `openssl` command in a directory; what it wrote.
pub fn openssl(at: &Path, args: &[&str]) -> String {
    let output =
        Command::new("openssl").args(args).current_dir(at).output().unwrap_or_else(|error| {
            panic!("cannot run openssl ({error}): apt-get install openssl")
        });
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {args:?}: {complaint}");
    String::from_utf8(output.stdout).expect("text from openssl")
}

fn text(path: &Path) -> String {
    path.to_str().expect("a UTF-8 path").to_owned()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn write(path: &Path, contents: &[u8]) {
    fs::write(path, contents)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
