//! Is this DER, and little enough of it? One look over all octets before any of them has a meaning.

use core::cmp::Ordering;

use der::asn1::AnyRef;
use der::{Decode, ErrorKind, Reader, SliceReader, Tag, Tagged};

use crate::certificate::CertificateError;

/// The most elements that one structure may hold, at all depths.
pub(crate) const MAX_ELEMENTS: u32 = 1024;
/// The deepest that elements may be nested.
pub(crate) const MAX_DEPTH: u32 = 16;

/// What `der` found wrong inside a whole structure, as one of our causes.
pub(crate) fn cause(error: &der::Error) -> CertificateError {
    if matches!(error.kind(), ErrorKind::TrailingData { .. }) {
        CertificateError::TrailingData
    } else {
        CertificateError::Der
    }
}

/// Walks every element of the one structure that `octets` is: lengths are definite and minimal,
/// the elements of a `SET OF` ascend (X.690, 10.1, 11.6), and neither depth nor number goes over
/// its budget.
pub(crate) fn check(octets: &[u8]) -> Result<(), CertificateError> {
    let mut reader = SliceReader::new(octets).map_err(|error| cause(&error))?;
    reader.tlv_bytes().map_err(|error| {
        if matches!(error.kind(), ErrorKind::Incomplete { .. }) {
            CertificateError::Truncated
        } else {
            cause(&error)
        }
    })?;
    reader.finish().map_err(|error| cause(&error))?;
    let mut elements_left = MAX_ELEMENTS;
    walk(octets, MAX_DEPTH, false, &mut elements_left)
}

fn walk(
    octets: &[u8],
    depth_left: u32,
    ascending: bool,
    elements_left: &mut u32,
) -> Result<(), CertificateError> {
    let depth_below = depth_left.checked_sub(1).ok_or(CertificateError::Nesting)?;
    let mut reader = SliceReader::new(octets).map_err(|error| cause(&error))?;
    let mut last: &[u8] = &[];
    while !reader.is_finished() {
        *elements_left = elements_left
            .checked_sub(1)
            .ok_or(CertificateError::TooManyElements)?;
        let octets = reader.tlv_bytes().map_err(|error| cause(&error))?;
        let element = AnyRef::from_der(octets).map_err(|error| cause(&error))?;
        if ascending && last.cmp(octets) == Ordering::Greater {
            return Err(CertificateError::Der);
        }
        last = octets;
        let tag = element.tag();
        if tag == Tag::Boolean && !matches!(element.value(), [0x00 | 0xFF]) {
            return Err(CertificateError::Der);
        }
        if tag.is_constructed() {
            walk(element.value(), depth_below, tag == Tag::Set, elements_left)?;
        }
    }
    Ok(())
}

/// The elements of a list: `list` has to have this tag, or else `wrong` is the cause. Their number
/// is bounded by [`check`], which has seen them.
pub(crate) fn elements(
    list: AnyRef<'_>,
    tag: Tag,
    wrong: CertificateError,
) -> Result<Vec<AnyRef<'_>>, CertificateError> {
    if list.tag() != tag {
        return Err(wrong);
    }
    let mut reader = SliceReader::new(list.value()).map_err(|_| wrong)?;
    let mut elements = Vec::new();
    while !reader.is_finished() {
        elements.push(AnyRef::decode(&mut reader).map_err(|_| wrong)?);
    }
    Ok(elements)
}
