//! Which octets does the text stand for? PEM as Envoy, OpenSSL and people write it.

use std::borrow::Cow;

use der::pem::Decoder;

use crate::certificate::CertificateError;

/// The longest text that is looked at, in octets, before anything is decoded.
pub(crate) const MAX_TEXT_OCTETS: usize = 64 * 1024;
/// The longest certificate, in octets of DER.
pub(crate) const MAX_DER_OCTETS: usize = 16 * 1024;

const BEGIN: &[u8] = b"-----BEGIN ";
const LABEL: &str = "CERTIFICATE";

/// The DER of the one `CERTIFICATE` block (RFC 7468, 5) in `text`, which may be URL-encoded as in
/// Envoy's `x-forwarded-client-cert`. Around the block only blanks and line breaks may stand.
pub(crate) fn decode(text: &[u8]) -> Result<Vec<u8>, CertificateError> {
    if text.len() > MAX_TEXT_OCTETS {
        return Err(CertificateError::TooLong);
    }
    let text = url_decoded(text)?;
    let text = text.trim_ascii();
    match text.windows(BEGIN.len()).filter(|at| *at == BEGIN).count() {
        0 => return Err(CertificateError::Pem),
        1 => {}
        _ => return Err(CertificateError::SeveralBlocks),
    }
    // A text before the block is allowed by RFC 7468; nothing that we read has one.
    if !text.starts_with(BEGIN) {
        return Err(CertificateError::Pem);
    }
    let mut decoder = Decoder::new_detect_wrap(text).map_err(|_| CertificateError::Pem)?;
    if decoder.type_label() != LABEL {
        return Err(CertificateError::Label);
    }
    if decoder.remaining_len() > MAX_DER_OCTETS {
        return Err(CertificateError::TooLong);
    }
    let mut der = Vec::with_capacity(decoder.remaining_len());
    decoder
        .decode_to_end(&mut der)
        .map_err(|_| CertificateError::Pem)?;
    Ok(der)
}

/// Undoes URL encoding (RFC 3986, 2.1) where there is any: PEM itself holds no `%`. A `+` stays
/// one, as base64 needs it.
fn url_decoded(text: &[u8]) -> Result<Cow<'_, [u8]>, CertificateError> {
    if !text.contains(&b'%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&octet, tail)) = rest.split_first() {
        if octet == b'%' {
            let (digits, tail) = tail
                .split_at_checked(2)
                .ok_or(CertificateError::UrlEncoding)?;
            let mut value = [0];
            base16ct::mixed::decode(digits, &mut value)
                .map_err(|_| CertificateError::UrlEncoding)?;
            decoded.extend_from_slice(&value);
            rest = tail;
        } else {
            decoded.push(octet);
            rest = tail;
        }
    }
    Ok(Cow::Owned(decoded))
}
