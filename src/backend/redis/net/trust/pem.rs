//! PEM as OpenSSL takes it: text around it, a byte order mark, any line ends, and labels that others do not know.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// One piece of a PEM file.
pub struct Section {
    pub label: String,
    /// `Proc-Type: 4,ENCRYPTED`: as OpenSSL encrypted keys before there was PKCS#8. What `DEK-Info` says.
    pub encryption: Option<String>,
    pub der: Vec<u8>,
}

/// Why a file is no PEM, in words that follow on its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

/// The sections of a file, in their order.
pub fn sections(bytes: &[u8]) -> Result<Vec<Section>, Broken> {
    let mut sections = Vec::new();
    let mut open: Option<Open> = None;
    for line in bytes.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let line = line.trim_ascii_end();
        match &mut open {
            None => open = begun(line),
            Some(section) if line.starts_with(b"-----END ") => {
                sections.push(section.close(line)?);
                open = None;
            }
            Some(_) if line.starts_with(b"-----BEGIN ") => return Err(CUT_OFF),
            Some(section) => section.add(line),
        }
    }
    if open.is_some() {
        return Err(CUT_OFF);
    }
    if sections.is_empty() && bytes.starts_with(&[0x30]) {
        return Err(Broken("is not PEM but DER"));
    }
    Ok(sections)
}

const CUT_OFF: Broken = Broken("ends in the middle");
const NO_BASE64: Broken = Broken("is broken: not base64");

/// A section whose end has not come.
struct Open {
    label: Vec<u8>,
    is_encrypted: bool,
    encryption: Option<String>,
    base64: Vec<u8>,
}

fn begun(line: &[u8]) -> Option<Open> {
    // Also where files with such a mark were put together.
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let label = line.strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----")?;
    let base64 = FIRST.to_vec();
    Some(Open { label: label.to_vec(), is_encrypted: false, encryption: None, base64 })
}

/// What follows is decoded as any section is, whatever its label.
const FIRST: &[u8] = b"-----BEGIN CERTIFICATE-----\n";
const LAST: &[u8] = b"-----END CERTIFICATE-----\n";

impl Open {
    fn add(&mut self, line: &[u8]) {
        match line.iter().position(|byte| *byte == b':') {
            None => {
                self.base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
                self.base64.push(b'\n');
            }
            Some(colon) => {
                let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
                match name {
                    b"Proc-Type" => self.is_encrypted = value.ends_with(b"ENCRYPTED"),
                    b"DEK-Info" => {
                        self.encryption = Some(String::from_utf8_lossy(value).into_owned());
                    }
                    _ => {}
                }
            }
        }
    }

    fn close(&mut self, line: &[u8]) -> Result<Section, Broken> {
        let end = line.strip_prefix(b"-----END ").and_then(|end| end.strip_suffix(b"-----"));
        if end != Some(&self.label) {
            return Err(CUT_OFF);
        }
        self.base64.extend_from_slice(LAST);
        let der = CertificateDer::from_pem_slice(&self.base64).map_err(|_| NO_BASE64)?.to_vec();
        let encryption = self.encryption.take().unwrap_or_default();
        Ok(Section {
            label: String::from_utf8_lossy(&self.label).into_owned(),
            encryption: self.is_encrypted.then_some(encryption),
            der,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Vec<u8>)>, Broken> {
        let sections = sections(text.as_bytes())?;
        Ok(sections.into_iter().map(|section| (section.label, section.der)).collect())
    }

    fn one(label: &str, der: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Broken> {
        Ok(vec![(label.to_owned(), der.to_vec())])
    }

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";

    #[test]
    fn what_stands_around_it_does_not_matter() {
        assert_eq!(read(CERTIFICATE), one("CERTIFICATE", &[1, 2, 3]));
        for text in [
            format!("\u{feff}{CERTIFICATE}"),
            format!("Subject: somebody\n\n{CERTIFICATE}and more"),
            CERTIFICATE.replace('\n', "\r\n"),
            CERTIFICATE.replace('\n', "\r"),
            CERTIFICATE.replace('\n', "  \n"),
            CERTIFICATE.replace("AQID", "AQ\nID"),
            CERTIFICATE.trim_end().to_owned(),
        ] {
            assert_eq!(read(&text), one("CERTIFICATE", &[1, 2, 3]), "{text:?}");
        }
        assert_eq!(read("nothing"), Ok(Vec::new()));
        assert_eq!(read(""), Ok(Vec::new()));
    }

    #[test]
    fn every_label_is_read() {
        for label in ["TRUSTED CERTIFICATE", "X509 CERTIFICATE", "EC PARAMETERS", "WHATEVER"] {
            assert_eq!(read(&CERTIFICATE.replace("CERTIFICATE", label)), one(label, &[1, 2, 3]));
        }
        let both = format!("{CERTIFICATE}{}", CERTIFICATE.replace("CERTIFICATE", "PRIVATE KEY"));
        assert_eq!(read(&both).unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_whole_is_broken() {
        for cut in 28..CERTIFICATE.len() - 1 {
            assert!(read(&CERTIFICATE[..cut]).is_err(), "{:?}", &CERTIFICATE[..cut]);
        }
        assert_eq!(
            read(&format!("-----BEGIN CERTIFICATE-----\nAQID\n{CERTIFICATE}")),
            Err(CUT_OFF)
        );
        assert_eq!(read(&CERTIFICATE.replace("AQID", "A!ID")), Err(NO_BASE64));
        assert_eq!(read(&CERTIFICATE.replace("END CERT", "END PERT")), Err(CUT_OFF));
        assert_eq!(read("0\x03abc"), Err(Broken("is not PEM but DER")));
    }

    #[test]
    fn the_encryption_of_older_keys_is_told() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,00FF\n\nAQID\n\
                   -----END RSA PRIVATE KEY-----\n";
        let sections = sections(key.as_bytes()).unwrap();
        assert_eq!(sections[0].encryption.as_deref(), Some("DES-EDE3-CBC,00FF"));
        assert_eq!(sections[0].der, [1, 2, 3]);
    }
}
