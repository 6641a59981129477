/// Where `wanted` first stands in a header field's value outside quoted strings (RFC 9110 section 5.6.4),
/// in bytes.
pub(super) fn find_outside(text: &str, wanted: char) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.find(|c| {
        if escaped {
            escaped = false;
        } else if c == '"' {
            quoted = !quoted;
        } else if quoted {
            escaped = c == '\\';
        } else {
            return c == wanted;
        }
        false
    })
}
