//! As much DER as it takes to sign a certificate under an issuer's name byte for byte.
//!
//! rcgen keeps a distinguished name as a map from attribute type to value, so `DC=corp, DC=example`
//! (every Active Directory CA) would lose an attribute on its way through, and the leaf's issuer
//! would no longer be the CA's subject. The CA's own bytes are put in instead.

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// `certificate` with `issuer` (a DER `Name`) as its issuer, signed by `sign`. The signature
/// algorithm named in `certificate` stays, so `sign` has to use that one. `None` if the input is
/// not a certificate.
pub(super) fn sign_under<E>(
    certificate: &[u8],
    issuer: &[u8],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Option<Result<Vec<u8>, E>> {
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }
    // TBSCertificate ::= SEQUENCE { [0] version, serialNumber, signature, issuer, … } (RFC 5280 4.1)
    let (certificate, _) = take(certificate)?;
    let (tbs, _) = take(certificate.content)?;
    let (version, rest) = take(tbs.content)?;
    let (serial, rest) = take(rest)?;
    let (algorithm, rest) = take(rest)?;
    let (_placeholder, rest) = take(rest)?;

    let tbs = encode(
        SEQUENCE,
        &[version.whole, serial.whole, algorithm.whole, issuer, rest],
    );
    Some(sign(&tbs).map(|signature| {
        let signature = encode(BIT_STRING, &[&[0], &signature]);
        encode(SEQUENCE, &[&tbs, algorithm.whole, &signature])
    }))
}

struct Value<'a> {
    /// Tag, length and content.
    whole: &'a [u8],
    content: &'a [u8],
}

/// The first value of `input`, and what follows it.
fn take(input: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let first = *input.get(1)?;
    let (header, length) = if first < 0x80 {
        (2, usize::from(first))
    } else {
        let count = usize::from(first & 0x7f);
        // Four bytes of length are 4 GiB; none would be BER's indefinite form.
        if !(1..=4).contains(&count) {
            return None;
        }
        let bytes = input.get(2..2 + count)?;
        let length = bytes
            .iter()
            .fold(0usize, |length, byte| length << 8 | usize::from(*byte));
        (2 + count, length)
    };
    let end = header.checked_add(length)?;
    let whole = input.get(..end)?;
    let value = Value {
        whole,
        content: &whole[header..],
    };
    Some((value, &input[end..]))
}

fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 10);
    out.push(tag);
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let skipped = length.leading_zeros() as usize / 8;
        out.push(0x80 | (bytes.len() - skipped) as u8);
        out.extend_from_slice(&bytes[skipped..]);
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_the_shortest_form_and_read_back() {
        for (length, header) in [(0, 2), (127, 2), (128, 3), (255, 3), (256, 4), (65_536, 5)] {
            let content = vec![7; length];
            let encoded = encode(SEQUENCE, &[&content]);
            assert_eq!(encoded.len(), length + header, "{length}");
            let (value, rest) = take(&encoded).unwrap();
            assert_eq!(value.content, content);
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_value_that_claims_more_than_there_is_is_refused() {
        for input in [
            &[][..],
            &[0x30],
            &[0x30, 5, 1],
            &[0x30, 0x80, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(take(input).is_none(), "{input:?}");
        }
    }
}
